"""What operators do with keys: rotate, burn and list them, while many workers sign and verify."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import cycle
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from pymongo.database import Database

from _oauth2_m2m.access_tokens import AccessToken, sign_access_token
from _oauth2_m2m.config import MOST_PREVIOUS_KEYS, Environment
from _oauth2_m2m.errors import InvalidToken, KeyNotFound, TemporarilyUnavailable, TooManyKeys
from _oauth2_m2m.key_management import KeyInfo, KeyManagement
from _oauth2_m2m.key_sealing import KeySealer
from _oauth2_m2m.key_sets import MOST_KEYS as MOST_PUBLISHED
from _oauth2_m2m.revocation import Question
from _oauth2_m2m.services import Services
from _oauth2_m2m.signatures import new_private_key, private_signing_key
from _oauth2_m2m.storage import AnyDatabase

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
ALGORITHMS = ["HS256", "ES256", "RS256"]
#: RSA keys take long to make; no test here needs more.
RSA_KEYS = [new_private_key("RS256") for _ in range(4)]
#: They are handed out again and again, for making one takes long.
POOLED = {private_signing_key(key, "RS256").kid for key in RSA_KEYS}


class Time:
    """The time of the rooms that read it: it moves when it is told to."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.began = self.now

    def let_pass(self, length: timedelta) -> None:
        """Move on."""
        self.now += length

    def monotonic(self) -> float:
        """As the module `time` has it."""
        return 1000 + (self.now - self.began).total_seconds()


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """The time, which stands still, and no waiting between two readings."""
    time = Time()
    calendar = SimpleNamespace(now=lambda zone: time.now)
    monkeypatch.setattr("_oauth2_m2m.settings.time", time)
    monkeypatch.setattr("_oauth2_m2m.settings.datetime", calendar)
    monkeypatch.setattr("_oauth2_m2m.settings.REREAD_SECONDS", 0.0)
    monkeypatch.setattr("_oauth2_m2m.key_management.datetime", calendar)
    rsa_keys: Iterator[bytes] = cycle(RSA_KEYS)

    def make(algorithm: str) -> bytes:
        return next(rsa_keys) if algorithm == "RS256" else new_private_key(algorithm)

    monkeypatch.setattr("_oauth2_m2m.keys.new_private_key", make)
    return time


@dataclass(frozen=True)
class Signed:
    """A token that was handed out."""

    text: str
    kid: str
    expires_at: datetime


class Worker:
    """A process that signs and verifies."""

    def __init__(self, database: AnyDatabase, time: Time) -> None:
        self.services = Services(database, Environment.DEVELOPMENT, KeySealer())
        self.keys = KeyManagement(self.services)
        self.time = time

    async def sign(self, lifetime: timedelta = 15 * MINUTE) -> Signed:
        """Issue a token, as `issuing` does."""
        settings = await self.services.ready()
        ring = await self.services.keys.ring_until(self.time.now + lifetime)
        token = sign_access_token(
            settings=settings, keys=ring, now=self.time.now, client_id="billing",
            scope=frozenset(), roles=[], lifetime=lifetime,
        )  # fmt: skip
        return Signed(token.text, ring.signing.kid, self.time.now + lifetime)

    async def read(self, token: Signed) -> AccessToken | None:
        """Check a token, as guards do; `None` when it is refused."""
        settings = await self.services.ready()
        try:
            read = await self.services.read_access_token(token.text, settings, self.time.now)
        except InvalidToken:
            return None
        revoked = await self.services.revocation.is_revoked(Question(read.marks()))
        return None if revoked else read

    async def signs(self) -> str:
        """The key that signs, as it stands now."""
        (signing,) = [key for key in await self.keys.list() if key.signs]
        return signing.kid

    async def info(self, kid: str) -> KeyInfo | None:
        """What is told of a key."""
        return {key.kid: key for key in await self.keys.list()}.get(kid)


def configure(database: Database[Any], algorithm: str, **fields: Any) -> None:
    document = {"SECRET_KEY": "s" * 40, "ALGORITHM": algorithm, **fields}
    database["config"].replace_one({"_id": "jwt_config"}, document, upsert=True)


@pytest.fixture
def workers(async_database: AnyDatabase, time: Time) -> list[Worker]:
    """Two workers on one database."""
    return [Worker(async_database, time) for _ in range(2)]


def key_events(database: Database[Any]) -> list[str]:
    return [d["reason"] for d in database["audit_logs"].find({"event_type": "key_rotated"})]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_rotation_is_at_once_and_ends_no_token(
    workers: list[Worker], database: Database[Any], algorithm: str
) -> None:
    """The next key signs when it returns; whoever has not noticed yet verifies its tokens too."""
    configure(database, algorithm)
    one, other = workers
    before = await one.sign()
    assert await other.read(before)
    recorded = len(key_events(database))
    await one.keys.rotate()
    after = await one.sign()
    assert after.kid == await one.signs() != before.kid
    late = await other.sign()  # has remembered the old ring for a moment
    assert late.kid == before.kid
    for token in (before, after, late):
        assert await other.read(token)
        assert await one.read(token)
    assert await other.signs() == after.kid
    assert len(key_events(database)) == recorded + 1


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
async def test_a_rotation_can_be_announced(
    workers: list[Worker], database: Database[Any], time: Time, algorithm: str
) -> None:
    """The next key is published at once, and signs when it was said."""
    configure(database, algorithm)
    one, other = workers
    first = await one.signs()
    await one.keys.rotate(announce=2 * HOUR)
    assert await one.signs() == first
    assert len(one.services.keys.ring.published()) == 2
    time.let_pass(2 * HOUR - MINUTE)
    assert await other.signs() == first
    time.let_pass(MINUTE)
    assert await other.signs() != first


async def test_a_rotation_takes_the_key_that_is_announced(
    workers: list[Worker], database: Database[Any]
) -> None:
    """So nothing is made in vain, and those who fetched the key set know it already."""
    configure(database, "ES256")
    one, other = workers
    first = await one.signs()
    await one.keys.rotate(announce=DAY)
    ((announced,)) = [key.kid for key in await one.keys.list() if key.kid != first]
    await other.keys.rotate()
    assert await other.signs() == announced
    info = await other.info(announced)
    assert info is not None
    assert info.signs_from == other.time.now
    assert database["keys"].count_documents({}) == 2
    assert key_events(database)[-1] == f"ES256 key {announced} brought forward"


async def test_one_rotation_after_another_is_two(
    workers: list[Worker], database: Database[Any]
) -> None:
    """However long ago the second operator's process has looked at the keys."""
    for algorithm in ALGORITHMS:
        configure(database, algorithm)
        seen = [await worker.signs() for worker in workers]
        for worker in (*workers, *workers):
            await worker.keys.rotate()
            seen.append(await worker.signs())
        assert len(set(seen)) == 5 or algorithm == "RS256"  # of which there are four here


async def test_rotation_follows_the_algorithm_as_it_stands(
    workers: list[Worker], database: Database[Any]
) -> None:
    """A process that has not seen the change of ALGORITHM yet rotates the new one."""
    configure(database, "ES256")
    first = await workers[0].signs()
    configure(database, "HS256")
    await workers[0].keys.rotate()
    assert database["keys"].count_documents({}) == 1
    assert await workers[0].signs() != first


async def test_a_rotation_is_not_announced_into_the_past(workers: list[Worker]) -> None:
    """It is a mistake of the caller."""
    with pytest.raises(ValueError, match="negative"):
        await workers[0].keys.rotate(announce=-MINUTE)


async def test_the_key_set_stays_small_enough_for_everybody(
    workers: list[Worker], database: Database[Any], time: Time
) -> None:
    """Rotation stops while two more keys have room; when the old ones have gone, it goes on."""
    configure(database, "ES256")
    keys = workers[0].keys
    for _ in range(MOST_PUBLISHED - 3):
        await keys.rotate()
    assert len(workers[0].services.keys.ring.published()) == MOST_PUBLISHED - 2
    with pytest.raises(TooManyKeys, match="wait"):
        await keys.rotate()
    assert len(workers[0].services.keys.ring.published()) == MOST_PUBLISHED - 2
    time.let_pass(2 * HOUR)
    await keys.rotate()
    await keys.rotate()


async def test_no_shared_secret_is_pushed_out_while_its_tokens_live(
    workers: list[Worker], database: Database[Any], time: Time
) -> None:
    """Rotation stops when PREVIOUS_SECRET_KEYS is full of those; later the oldest makes room."""
    configure(database, "HS256")
    worker = workers[0]
    tokens = [await worker.sign()]
    for _ in range(MOST_PREVIOUS_KEYS):
        await worker.keys.rotate()
        tokens.append(await worker.sign())
    with pytest.raises(TooManyKeys, match="PREVIOUS_SECRET_KEYS"):
        await worker.keys.rotate()
    for token in tokens:
        assert await workers[1].read(token)
    time.let_pass(3 * HOUR)
    await worker.keys.rotate()
    config = database["config"].find_one()
    assert config is not None
    assert len(config["PREVIOUS_SECRET_KEYS"]) == MOST_PREVIOUS_KEYS


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_burning_ends_all_that_a_key_signed_at_once(
    workers: list[Worker], database: Database[Any], algorithm: str
) -> None:
    """At workers too that have not read the keys since; tokens of other keys stay."""
    configure(database, algorithm)
    one, other = workers
    older = await one.sign()
    await one.keys.rotate()
    burned = [await one.sign(), await one.sign(DAY)]
    for token in (older, *burned):
        assert await other.read(token)
    await one.keys.burn(burned[0].kid)
    for worker in workers:
        assert [await worker.read(token) for token in burned] == [None, None]
        assert await worker.read(older)
    fresh = await one.sign()
    assert fresh.kid not in {older.kid, burned[0].kid}
    assert await other.read(fresh)
    assert await other.signs() == fresh.kid
    assert f"{algorithm} key {burned[0].kid} burned" in key_events(database)
    assert {key["kid"] for key in one.services.keys.ring.published()}.isdisjoint({burned[0].kid})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_burning_a_superseded_key_leaves_the_one_that_signs(
    workers: list[Worker], database: Database[Any], algorithm: str
) -> None:
    """Its tokens end, and nothing else."""
    configure(database, algorithm)
    one, other = workers
    old = await one.sign()
    await one.keys.rotate()
    new = await one.sign()
    await other.keys.burn(old.kid)
    for worker in workers:
        assert await worker.read(old) is None
        assert await worker.read(new)
        assert await worker.signs() == new.kid


async def test_a_burned_secret_never_comes_back(
    workers: list[Worker], database: Database[Any], time: Time
) -> None:
    """It leaves the config, also when another process had rotated it away a moment before."""
    configure(database, "HS256")
    one, other = workers
    token = await other.sign(DAY)
    await one.keys.rotate()
    await other.keys.burn(token.kid)
    config = database["config"].find_one()
    assert config is not None
    assert "s" * 40 not in {config["SECRET_KEY"], *config["PREVIOUS_SECRET_KEYS"]}
    time.let_pass(timedelta(hours=23))
    assert await one.read(token) is None


async def test_burning_again_changes_nothing(
    workers: list[Worker], database: Database[Any]
) -> None:
    """An operator who is not sure may say it twice."""
    for algorithm in ("HS256", "ES256"):
        configure(database, algorithm)
        kid = await workers[0].signs()
        await workers[0].keys.burn(kid)
        signing = await workers[0].signs()
        await workers[1].keys.burn(kid)
        assert await workers[1].signs() == signing


async def test_burning_the_key_that_is_announced_lets_the_old_one_go_on(
    workers: list[Worker], database: Database[Any], time: Time
) -> None:
    """And another successor is made when it is due."""
    configure(database, "ES256")
    worker = workers[0]
    first = await worker.signs()
    await worker.keys.rotate(announce=DAY)
    (announced,) = [key.kid for key in await worker.keys.list() if not key.signs]
    await worker.keys.burn(announced)
    time.let_pass(2 * DAY)
    assert await worker.signs() == first
    time.let_pass(88 * DAY)
    time.let_pass(2 * DAY)
    assert await worker.signs() == first  # late: its successor is announced for a day now
    time.let_pass(DAY)
    assert await worker.signs() not in {first, announced}


@pytest.mark.parametrize("kid", ["", "no-such-key", "$ne", "ключ"])
async def test_a_key_that_is_not_there_cannot_be_burned(
    workers: list[Worker], database: Database[Any], kid: str
) -> None:
    """It is said, and no mark is set."""
    with pytest.raises(KeyNotFound):
        await workers[0].keys.burn(kid)
    assert database["revoked_tokens"].count_documents({}) == 0


async def test_the_list_tells_the_life_of_each_key(
    workers: list[Worker], database: Database[Any], time: Time
) -> None:
    """Which one signs, from when, until when it is needed, and which was burned."""
    configure(database, "HS256")
    worker = workers[0]
    (shared,) = await worker.keys.list()
    assert shared == KeyInfo(shared.kid, "HS256", signs=True)
    await worker.sign()
    configure(database, "ES256")
    first = await worker.signs()
    await worker.keys.rotate(announce=HOUR)
    await worker.keys.burn(first)
    keys = {key.kid: key for key in await worker.keys.list()}
    assert len(keys) == 3
    assert keys[first].burned_at == time.now
    assert not keys[first].signs
    assert [key.signs_from for key in keys.values() if key.signs] == [time.now + HOUR]
    noted = keys[shared.kid]
    assert (noted.algorithm, noted.signs, noted.signs_from) == ("HS256", False, None)
    assert noted.last_expiry is not None
    assert noted.last_expiry >= time.now + 15 * MINUTE


# What follows plays any sequence of events over workers that lag behind.

LIFETIMES = (MINUTE, 15 * MINUTE, DAY)
LENGTHS = (timedelta(seconds=1), timedelta(seconds=20), timedelta(seconds=40), 20 * MINUTE,
           2 * HOUR, timedelta(hours=13), DAY, 3 * DAY, 89 * DAY, 400 * DAY)  # fmt: skip
WHO = st.integers(0, 2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("sign"), WHO, st.integers(0, len(LIFETIMES) - 1)),
        st.tuples(st.just("pass"), WHO, st.integers(0, len(LENGTHS) - 1)),
        st.tuples(st.just("rotate"), WHO, st.integers(0, 2)),
        st.tuples(st.just("burn"), WHO, st.integers(0, 4)),
        st.tuples(st.just("algorithm"), WHO, st.integers(0, 2)),
        st.tuples(st.just("restart"), WHO, st.just(0)),
    ),
    min_size=3,
    max_size=25,
)
Step = tuple[str, int, int]


@dataclass
class World:
    """Three workers, what they signed, and what must never happen again."""

    database: Database[Any]
    time: Time
    workers: list[Worker] = field(default_factory=list)
    tokens: list[Signed] = field(default_factory=list)
    burned: set[str] = field(default_factory=set)
    signing: dict[str, str] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)

    async def play(self, steps: list[Step]) -> None:
        """Do one step after another, and look at everything after each."""
        for name in ("config", "keys", "revoked_tokens", "audit_logs"):
            self.database[name].delete_many({})
        configure(self.database, "HS256")
        self.workers = [Worker(self.database, self.time) for _ in range(3)]
        do: dict[str, Callable[[int, int], Awaitable[None]]] = {
            "sign": self.sign, "pass": self.let_pass, "rotate": self.rotate,
            "burn": self.burn, "algorithm": self.change_algorithm, "restart": self.restart,
        }  # fmt: skip
        for name, who, what in steps:
            await do[name](who, what)
            await self.check_tokens()
            await self.check_signing()

    async def sign(self, who: int, what: int) -> None:
        """A token from each worker; one whose key has gone has it at the second attempt."""
        for place in range(len(self.workers)):
            worker = self.workers[(who + place) % len(self.workers)]
            try:
                self.tokens.append(await worker.sign(LIFETIMES[what]))
            except TemporarilyUnavailable:
                self.tokens.append(await worker.sign(LIFETIMES[what]))

    async def let_pass(self, who: int, what: int) -> None:
        """Time passes for all."""
        self.time.let_pass(LENGTHS[what])

    async def rotate(self, who: int, what: int) -> None:
        """Rotate, now or later."""
        try:
            await self.workers[who].keys.rotate(announce=what * HOUR)
        except TooManyKeys:
            return

    async def burn(self, who: int, what: int) -> None:
        """Burn one of those that are listed."""
        listed = await self.workers[who].keys.list()
        kid = listed[what % len(listed)].kid
        await self.workers[who].keys.burn(kid)
        self.burned.add(kid)

    async def change_algorithm(self, who: int, what: int) -> None:
        """As an operator does, in mongosh."""
        self.database["config"].update_one({}, {"$set": {"ALGORITHM": ALGORITHMS[what]}})

    async def restart(self, who: int, what: int) -> None:
        """A worker that knows nothing takes another's place."""
        self.workers[who] = Worker(self.database, self.time)

    async def check_tokens(self) -> None:
        """Good tokens are good everywhere, those of burned keys nowhere."""
        self.tokens = [token for token in self.tokens if self.time.now < token.expires_at]
        pairs = [(worker, token) for token in self.tokens for worker in self.workers]
        found = await asyncio.gather(*(worker.read(token) for worker, token in pairs))
        assert [read is None for read in found] == [t.kid in self.burned for _, t in pairs]

    async def check_signing(self) -> None:
        """All who read the ring now sign with the same key, and with none of the past."""
        gone = POOLED - {document["_id"] for document in self.database["keys"].find()}
        self.done, self.burned = self.done - gone, self.burned - gone  # made anew, it is new
        probes = [Worker(self.database, self.time).services for _ in range(2)]
        await asyncio.gather(*(probe.settings.load() for probe in probes))
        (kid,) = {probe.keys.ring.signing.kid for probe in probes}
        algorithm = probes[0].keys.ring.signing.algorithm
        before = self.signing.get(algorithm, kid)
        if kid != before:
            self.done.add(before)
        self.signing[algorithm] = kid
        assert kid not in self.done | self.burned


@bounds(max_examples=25)
@given(STEPS)
@example([("algorithm", 0, 1), ("sign", 0, 2), ("burn", 0, 1), ("pass", 0, 2), ("sign", 1, 1)])
@example(
    [  # who steps in for a burned key is superseded before its own time
        ("algorithm", 0, 1),
        ("pass", 0, 2),
        ("rotate", 0, 2),
        ("burn", 0, 0),
        ("rotate", 1, 0),
        ("sign", 0, 2),
        ("pass", 0, 4),
        ("pass", 0, 4),
        ("sign", 0, 1),
    ]
)
@example(
    [  # a successor that signed nothing, while its predecessor's tokens live
        ("algorithm", 0, 1),
        ("pass", 0, 2),
        ("sign", 0, 2),
        ("rotate", 0, 0),
        ("algorithm", 0, 0),
        ("pass", 0, 4),
        ("sign", 0, 0),
        ("algorithm", 0, 1),
        ("pass", 0, 2),
        ("sign", 0, 0),
    ]
)
@example([  # more keys than the pool of the test holds
    ("algorithm", 1, 2), ("sign", 2, 2), ("pass", 1, 2), ("rotate", 1, 2), ("pass", 1, 2),
    ("rotate", 2, 1), ("pass", 2, 8), ("sign", 0, 1), ("rotate", 0, 1), ("pass", 0, 8),
    ("rotate", 2, 1), ("sign", 2, 2), ("rotate", 1, 0), ("pass", 2, 1), ("sign", 1, 2),
    ("rotate", 1, 2),
])  # fmt: skip
@example([  # secrets that were rotated by one and burned by another
    ("sign", 0, 2), ("rotate", 0, 0), ("sign", 1, 2), ("burn", 1, 0), ("rotate", 2, 0),
    ("pass", 0, 5), ("pass", 0, 5), ("algorithm", 0, 2), ("pass", 0, 2), ("sign", 2, 1),
])  # fmt: skip
def test_whatever_happens_no_good_token_is_refused(
    database: Database[Any], time: Time, steps: list[Step]
) -> None:
    """One key signs for all who look, none that was given up; none is forgotten while needed."""
    asyncio.run(World(database, time).play(steps))
