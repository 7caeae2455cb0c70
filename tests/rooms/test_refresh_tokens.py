"""Refresh tokens: at most one success for each, whoever asks, however often, in whatever order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import bson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pymongo import AsyncMongoClient
from pymongo.database import Database

from _oauth2_m2m.credentials import fingerprint, is_made_here
from _oauth2_m2m.refresh_tokens import Claim, RefreshToken, RefreshTokens, new_token
from _oauth2_m2m.storage import Storage

if TYPE_CHECKING:
    from tests.rooms.conftest import Commands

T = TypeVar("T")

START = datetime(2030, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
DAY = timedelta(days=1)
NO_GRACE = timedelta(0)
GRACE = timedelta(seconds=10)


def fresh(**changes: Any) -> tuple[str, RefreshToken]:
    """A token that begins a family."""
    arguments: dict[str, Any] = {
        "client_id": "reporter",
        "scope": frozenset({"read", "write"}),
        "epoch": "an-epoch",
        "now": START,
        "lifetime": DAY,
    }
    return new_token(**{**arguments, **changes})


@pytest.fixture
async def tokens(storage: Storage) -> RefreshTokens:
    """The room, prepared."""
    room = RefreshTokens(storage)
    await room.prepare()
    return room


async def found(room: RefreshTokens, text: str) -> RefreshToken:
    """A token that must be there."""
    token = await room.find(text)
    assert token is not None
    return token


# The rule, as a machine


@dataclass
class Known:
    """What the model knows of one token."""

    text: str
    token: RefreshToken
    stored: bool
    used_at: datetime | None = None
    successor: str | None = None


WHICH = st.integers(0, 1000)
GRACES = st.sampled_from([NO_GRACE, GRACE])


@dataclass(frozen=True)
class Place:
    """An event loop with three workers in it, and their database to look at."""

    runner: asyncio.Runner
    workers: list[RefreshTokens]
    database: Database[Any]


class Rotation(RuleBasedStateMachine):
    """Three workers, one database, and a model of what each token is worth."""

    place: Place

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.known: list[Known] = []

    @initialize()
    def begin(self) -> None:
        """There is a token from the start."""
        self.issue(0)

    @rule(worker=WHICH)
    def issue(self, worker: int) -> None:
        """A token that begins a family is found as it was stored."""
        text, token = fresh(now=self.now)
        self.known.append(Known(text, token, stored=False))
        self.store(len(self.known) - 1, worker)

    @rule(which=WHICH, worker=WHICH)
    def store(self, which: int, worker: int) -> None:
        """Storing a token, late or once more, changes nothing about it."""
        known = self.pick(which)
        again = self.run(lambda: self.worker(worker).store(known.token))
        assert again is not known.stored
        known.stored = True

    @rule(seconds=st.sampled_from([0.001, 1, 9.998, 10, 60]))
    def let_time_pass(self, seconds: float) -> None:
        """Time only matters for the grace."""
        self.now += timedelta(seconds=seconds)

    @rule(which=WHICH, worker=WHICH, grace=GRACES)
    def claim(self, which: int, worker: int, grace: timedelta) -> None:
        """The first claim of a token succeeds, and a later one only within the grace."""
        known = self.pick(which)
        if not known.stored and known.used_at is None:
            assert self.run(lambda: self.worker(worker).find(known.text)) is None
            return
        self.settle(known, [self.run(lambda: self.find_and_claim(known, worker, grace))], grace)

    @rule(which=WHICH, grace=GRACES, parallel=st.integers(2, 6))
    def race(self, which: int, grace: timedelta, parallel: int) -> None:
        """Of parallel claims, all of which saw the token unspent, one wins."""
        known = self.pick(which)
        if known.stored or known.used_at is not None:
            self.settle(
                known, self.run(lambda: self.claim_in_parallel(known, parallel, grace)), grace
            )

    @precondition(lambda self: len(self.known) > 1)
    @rule(which=WHICH, other=WHICH, worker=WHICH)
    def claim_without_the_text(self, which: int, other: int, worker: int) -> None:
        """A sealed successor opens to nobody who does not hold the very token."""
        known, text = self.pick(which), self.pick(other).text
        if known.used_at is None or text == known.text:
            return
        wrong = [text, known.token.digest, known.text.swapcase(), known.token.family_id, ""]
        for claim in self.run(lambda: self.claim_with(wrong, known, worker)):
            assert claim.successor is None

    @rule(which=WHICH, worker=WHICH)
    def look_up(self, which: int, worker: int) -> None:
        """Every worker knows of every token whether it is spent; digests find nothing."""
        known = self.pick(which)
        token = self.run(lambda: self.worker(worker).find(known.text))
        if known.stored or known.used_at is not None:
            assert token is not None
            assert token.spent_at == known.used_at
            assert token.family_id == known.token.family_id
            assert token.client_id == known.token.client_id
            assert token.scope == known.token.scope
            assert token.epoch == known.token.epoch
        else:
            assert token is None
        assert self.run(lambda: self.worker(worker).find(known.token.digest)) is None

    def teardown(self) -> None:
        """The database holds no token in the clear, and one claim of each that was spent."""
        digests = {"$in": [known.token.digest for known in self.known]}
        documents = [
            document
            for name in ("tokens", "used_refresh_tokens")
            for document in self.place.database[name].find({"refresh_token": digests})
        ]
        raw = b"".join(map(bson.encode, documents))
        assert not [known for known in self.known if known.text.encode() in raw]
        claims = self.place.database.used_refresh_tokens.count_documents({"refresh_token": digests})
        assert claims == sum(known.used_at is not None for known in self.known)

    def pick(self, which: int) -> Known:
        """One of the tokens."""
        return self.known[which % len(self.known)]

    def worker(self, which: int) -> RefreshTokens:
        """One of the workers."""
        return self.place.workers[which % len(self.place.workers)]

    def run(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Wait for an answer in the machine's event loop."""

        async def wait() -> T:
            return await ask()

        return self.place.runner.run(wait())

    async def find_and_claim(self, known: Known, worker: int, grace: timedelta) -> Claim:
        """What a request does."""
        room = self.worker(worker)
        return await room.claim(known.text, await found(room, known.text), self.now, grace)

    async def claim_in_parallel(self, known: Known, parallel: int, grace: timedelta) -> list[Claim]:
        """What many requests do, none of which knows of the others."""
        rooms = [self.worker(n) for n in range(parallel)]
        tokens = await asyncio.gather(*(found(room, known.text) for room in rooms))
        return await asyncio.gather(
            *(
                room.claim(known.text, token, self.now, grace)
                for room, token in zip(rooms, tokens, strict=True)
            )
        )

    async def claim_with(self, texts: list[str], known: Known, worker: int) -> list[Claim]:
        """What somebody does who can read the database, and has all the time in the world."""
        spent = replace(known.token, spent_at=known.used_at)
        room, grace = self.worker(worker), 365 * DAY
        return [await room.claim(text, spent, self.now, grace) for text in texts]

    def settle(self, known: Known, claims: list[Claim], grace: timedelta) -> None:
        """Compare the claims of one token with the model, and let the successor join it."""
        first = known.used_at is None
        used_at = known.used_at or self.now
        if first:
            winners = [claim for claim in claims if claim.successor is not None]
            assert winners, "nobody got a token that was unspent"
            known.used_at, known.successor = self.now, winners[0].successor
            assert known.successor is not None
            assert is_made_here(known.successor)
            text, token = fresh(now=self.now, text=known.successor, family_id=known.token.family_id)
            assert text not in [other.text for other in self.known]
            self.known.append(Known(text, token, stored=False))
        within_grace = self.now < used_at + grace
        got = [claim.successor for claim in claims]
        if within_grace:
            assert got == [known.successor] * len(claims)
            assert {claim.claimed_at for claim in claims} == {used_at}
        else:
            assert sum(successor is not None for successor in got) == int(first)


@contextmanager
def machine_room(mongo_url: str, name: str) -> Iterator[tuple[asyncio.Runner, list[RefreshTokens]]]:
    """An event loop with three workers in it, for all examples of a machine."""
    with asyncio.Runner() as runner:
        client = AsyncMongoClient[Any](mongo_url)

        async def prepare() -> list[RefreshTokens]:
            workers = [RefreshTokens(Storage(client[name])) for _ in range(3)]
            await workers[0].prepare()
            return workers

        yield runner, runner.run(prepare())
        runner.run(client.close())


def test_a_token_is_redeemed_at_most_once(
    mongo_url: str, database_name: str, database: Database[Any]
) -> None:
    """In any order of claims, by any worker: one success, and within the grace the same again."""
    with machine_room(mongo_url, database_name) as (runner, workers):
        run_state_machine_as_test(
            type("RotationHere", (Rotation,), {"place": Place(runner, workers, database)}),
            settings=settings(max_examples=40, stateful_step_count=12),
        )


# What the machine does not reach


@pytest.mark.parametrize("grace", [NO_GRACE, GRACE], ids=["without grace", "with grace"])
async def test_many_parallel_claims_have_one_winner(storage: Storage, grace: timedelta) -> None:
    """Fifty claims over five workers: one success, and with a grace one and the same successor."""
    workers = [RefreshTokens(storage) for _ in range(5)]
    await workers[0].prepare()
    text, token = fresh()
    assert await workers[0].store(token)
    claims = await asyncio.gather(
        *(workers[n % 5].claim(text, token, START, grace) for n in range(50))
    )
    successors = [claim.successor for claim in claims if claim.successor is not None]
    assert len(successors) == (50 if grace else 1)
    assert len(set(successors)) == 1


async def test_a_lost_answer_is_repeated_until_the_grace_is_over(tokens: RefreshTokens) -> None:
    """The successor of a claim is the same up to the last millisecond of the grace."""
    text, token = fresh()
    await tokens.store(token)
    first = await tokens.claim(text, token, START, GRACE)
    for later, again in [
        (timedelta(0), True),
        (GRACE - timedelta(milliseconds=1), True),
        (GRACE, False),
        (GRACE + DAY, False),
    ]:
        claim = await tokens.claim(text, await found(tokens, text), START + later, GRACE)
        assert claim.successor == (first.successor if again else None)


async def test_a_crash_after_the_claim_loses_nothing_within_the_grace(
    storage: Storage, tokens: RefreshTokens
) -> None:
    """A worker that died between claim and store leaves a claim that another can finish."""
    text, token = fresh()
    await tokens.store(token)
    lost = await tokens.claim(text, token, START, GRACE)
    another = RefreshTokens(storage)
    claim = await another.claim(text, await found(another, text), START + GRACE / 2, GRACE)
    assert claim.successor is not None
    assert claim.successor == lost.successor
    _, successor = fresh(text=claim.successor, family_id=token.family_id)
    assert await another.store(successor)
    assert (await found(tokens, claim.successor)).spent_at is None


async def test_a_sealed_successor_does_not_move_to_another_token(
    tokens: RefreshTokens, database: Database[Any]
) -> None:
    """Whoever writes into the database cannot hand one token's successor to another's holder."""
    texts = []
    for _ in range(2):
        text, token = fresh()
        await tokens.store(token)
        await tokens.claim(text, token, START, GRACE)
        texts.append(text)
    first, second = (database.used_refresh_tokens.find_one({"_id": fingerprint(t)}) for t in texts)
    assert first is not None
    assert second is not None
    database.used_refresh_tokens.update_one(
        {"_id": second["_id"]}, {"$set": {"successor": first["successor"]}}
    )
    claim = await tokens.claim(texts[1], await found(tokens, texts[1]), START, GRACE)
    assert claim.successor is None


@pytest.mark.parametrize("sealed", [None, b"", b"short", b"x" * 100, "text", 7, {}], ids=repr)
async def test_a_damaged_successor_is_no_successor(
    tokens: RefreshTokens, database: Database[Any], sealed: object
) -> None:
    """A claim that cannot be opened counts as spent, and stops nothing."""
    text, token = fresh()
    await tokens.store(token)
    await tokens.claim(text, token, START, GRACE)
    database.used_refresh_tokens.update_one({}, {"$set": {"successor": sealed}})
    claim = await tokens.claim(text, await found(tokens, text), START, GRACE)
    assert claim.successor is None


async def test_what_is_stored_is_what_the_contract_says(
    tokens: RefreshTokens, database: Database[Any]
) -> None:
    """Digests, BSON dates, the family and the scope stand in the fields of the contract."""
    text, token = fresh()
    await tokens.store(token)
    await tokens.claim(text, token, START, NO_GRACE)
    stored = database.tokens.find_one({}, {"_id": 0})
    assert stored == {
        "client_id": "reporter",
        "refresh_token": fingerprint(text),
        "created_at": START,
        "expires_at": START + DAY,
        "family_id": token.family_id,
        "scope": "read write",
        "epoch": "an-epoch",
    }
    used = database.used_refresh_tokens.find_one({})
    assert used is not None
    assert used["_id"] == used["refresh_token"] == fingerprint(text)
    assert (used["used_at"], used["expires_at"]) == (START, START + DAY)
    assert used["family_id"] == token.family_id


async def test_the_indexes_are_those_of_the_contract(
    tokens: RefreshTokens, database: Database[Any]
) -> None:
    """Both collections know a token once, and tidy six hours after its expiry."""
    for name in ("tokens", "used_refresh_tokens"):
        indexes = database[name].index_information()
        assert indexes["refresh_token_1"]["unique"] is True
        assert indexes["expires_at_1"]["expireAfterSeconds"] == 21_600
    assert "family_id_1" in database.tokens.index_information()
    await tokens.prepare()  # and again, as every worker does


@pytest.mark.parametrize(
    "text",
    ["", "unknown", "m2mr_" + "0" * 49, "x" * 5000, "sha256$" + "0" * 64, "a\0b", "scrypt$"],
)
async def test_an_unknown_token_is_not_found(tokens: RefreshTokens, text: str) -> None:
    """What was never stored is nothing, of whatever shape."""
    assert await tokens.find(text) is None


async def test_a_lone_surrogate_is_not_found(tokens: RefreshTokens) -> None:
    """A text that no database can hold is an unknown token like any other."""
    assert await tokens.find("\ud800") is None


async def test_the_end_of_a_family_is_its_last_tokens(tokens: RefreshTokens) -> None:
    """The last expiry of a family counts, other families' do not."""
    _, token = fresh()
    await tokens.store(token)
    _, later = fresh(lifetime=3 * DAY, family_id=token.family_id)
    await tokens.store(later)
    await tokens.store(fresh(lifetime=9 * DAY)[1])
    assert await tokens.last_expiry(token.family_id, START) == START + 3 * DAY
    assert await tokens.last_expiry(token.family_id, START + 5 * DAY) == START + 5 * DAY
    assert await tokens.last_expiry("unknown", START) == START


# Documents of the older shape


@pytest.mark.parametrize(
    ("expires_at", "moment"),
    [
        ("2030-02-01T00:00:00", datetime(2030, 2, 1, tzinfo=UTC)),
        ("2030-02-01T00:00:00.123456", datetime(2030, 2, 1, 0, 0, 0, 123_456, tzinfo=UTC)),
        ("2030-02-01T00:00:00Z", datetime(2030, 2, 1, tzinfo=UTC)),
        ("2030-02-01T02:00:00+02:00", datetime(2030, 2, 1, tzinfo=UTC)),
        (datetime(2030, 2, 1), datetime(2030, 2, 1, tzinfo=UTC)),
    ],
)
async def test_a_plain_token_of_the_older_shape_is_used_once(
    tokens: RefreshTokens,
    database: Database[Any],
    expires_at: object,
    moment: datetime,
) -> None:
    """A token that stands in the clear works once, with its ISO date, and never again."""
    database.tokens.insert_one({
        "client_id": "reporter",
        "refresh_token": "an-older-token",
        "created_at": "2030-01-01T00:00:00",
        "expires_at": expires_at,
    })  # fmt: skip
    token = await found(tokens, "an-older-token")
    assert (token.client_id, token.expires_at, token.scope) == ("reporter", moment, None)
    assert (token.epoch, token.spent_at) == ("", None)
    assert token.digest == fingerprint("an-older-token")
    claims = await asyncio.gather(
        *(tokens.claim("an-older-token", token, START, NO_GRACE) for _ in range(5))
    )
    assert sum(claim.successor is not None for claim in claims) == 1
    again = await found(tokens, "an-older-token")
    assert again.spent_at == START
    assert again.family_id == token.family_id
    assert (await tokens.claim("an-older-token", again, START, NO_GRACE)).successor is None


@pytest.mark.parametrize("kept", [True, False], ids=["kept in tokens", "gone from tokens"])
@pytest.mark.parametrize("details", [{}, {"client_id": "reporter", "expires_at": "nonsense"}])
async def test_a_plain_used_token_of_the_older_shape_stays_spent(
    tokens: RefreshTokens, database: Database[Any], kept: bool, details: dict[str, Any]
) -> None:
    """What the older software spent is spent, and its reuse is seen as reuse."""
    database.used_refresh_tokens.insert_one(
        {"refresh_token": "spent", "used_at": "2030-01-01T00:00:00", **details}
    )
    if kept:
        database.tokens.insert_one(
            {"client_id": "reporter", "refresh_token": "spent", "expires_at": START + DAY}
        )
    token = await found(tokens, "spent")
    assert token.is_reused(START, GRACE)
    for grace in (NO_GRACE, DAY * 365):
        assert (await tokens.claim("spent", token, START, grace)).successor is None


@pytest.mark.parametrize(
    "document",
    [
        {"client_id": "reporter"},
        {"client_id": "reporter", "expires_at": "nonsense"},
        {"client_id": "reporter", "expires_at": 1_900_000_000},
        {"client_id": "reporter", "expires_at": None},
        {"client_id": 7, "expires_at": START},
        {"expires_at": START},
    ],
    ids=repr,
)
async def test_a_document_without_owner_or_end_is_no_token(
    tokens: RefreshTokens, database: Database[Any], document: dict[str, Any]
) -> None:
    """What makes no sense fails closed."""
    database.tokens.insert_one({"refresh_token": "odd", **document})
    assert await tokens.find("odd") is None


@pytest.mark.parametrize("scope", [["read"], 7, 'a"b', None], ids=repr)
async def test_a_malformed_scope_never_widens(
    tokens: RefreshTokens, database: Database[Any], scope: object
) -> None:
    """A scope that is no text means what the client may have; a malformed text means nothing."""
    database.tokens.insert_one(
        {"refresh_token": "odd", "client_id": "reporter", "expires_at": START, "scope": scope}
    )
    assert (await found(tokens, "odd")).scope == (frozenset() if isinstance(scope, str) else None)


@pytest.mark.parametrize(
    ("later", "grace", "reused"),
    [
        (timedelta(0), NO_GRACE, True),
        (-timedelta(seconds=1), NO_GRACE, True),
        (timedelta(0), GRACE, False),
        (GRACE - timedelta(milliseconds=1), GRACE, False),
        (GRACE, GRACE, True),
    ],
)
def test_a_spent_token_is_reused_beyond_its_grace(
    later: timedelta, grace: timedelta, reused: bool
) -> None:
    """Without a grace every second presentation is reuse, also one that began before the first."""
    _, token = fresh()
    assert token.is_reused(START + later, grace) is False
    assert replace(token, spent_at=START).is_reused(START + later, grace) is reused


# In a large collection


async def test_no_question_reads_a_collection_from_end_to_end(
    watched_storage: Storage, commands: Commands, database: Database[Any]
) -> None:
    """Among 20,000 tokens, looking up, claiming and the end of a family read a handful."""
    room = RefreshTokens(watched_storage)
    await room.prepare()
    text, token = fresh()
    for name in ("tokens", "used_refresh_tokens"):
        database[name].insert_many(
            {
                "refresh_token": f"plain-{n}" if n % 2 else fingerprint(str(n)),
                "family_id": f"family-{n // 3}",
                "client_id": "reporter",
                "expires_at": START + timedelta(seconds=n),
            }
            for n in range(20_000)
        )
    await room.store(token)
    commands.sent.clear()
    await room.find(text)
    await room.find("plain-77")
    await room.claim(text, token, START, GRACE)
    await room.claim(text, replace(token, spent_at=START), START, GRACE)
    await room.last_expiry(token.family_id, START)
    await room.last_expiry("family-77", START)
    plans = commands.plans(database)
    assert len(plans) == 7
    assert not [plan for plan in plans if "COLLSCAN" in plan.stages]
    assert not [plan for plan in plans if plan.examined > 3]
