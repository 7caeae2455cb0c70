"""Clients: registered, rotated, disabled and removed, whoever else does so at the same time."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database

from _oauth2_m2m import credentials
from _oauth2_m2m.audit import AuditLog
from _oauth2_m2m.client_documents import MOST_SECRETS, Client, RegisteredClient, client_from
from _oauth2_m2m.clients import LARGEST_PAGE, Clients
from _oauth2_m2m.credentials import SecretChecker, fingerprint, is_digest, is_made_here
from _oauth2_m2m.errors import (
    ClientChanged,
    ClientExists,
    ClientNotFound,
    InvalidToken,
    LastSecret,
    SecretNotFound,
)
from _oauth2_m2m.revocation import Question, Revocation, epoch_mark
from _oauth2_m2m.storage import Storage
from tests.assertions import es256_key, jwks
from tests.clocks import Clock
from tests.machine import secret_of

if TYPE_CHECKING:
    from tests.rooms.conftest import Commands

HOUR = timedelta(hours=1)


def new_room(storage: Storage) -> Clients:
    """A worker's room, with all that it stands on."""
    return Clients(storage, AuditLog(storage), Revocation(storage), SecretChecker())


@pytest.fixture
async def clients(storage: Storage) -> Clients:
    """The room, prepared."""
    room = new_room(storage)
    await room.prepare()
    return room


def events(database: Database[Any], client_id: str) -> list[str]:
    return [d["event_type"] for d in database.audit_logs.find({"client_id": client_id})]


async def works(room: Clients, client_id: str, secret: str) -> bool:
    """Whether a secret is among the live ones of a client."""
    document = await room.find(client_id)
    assert document is not None
    stored = client_from(document).live_secrets(datetime.now(UTC))
    return (await SecretChecker().match(secret, stored, "192.0.2.7")).stored is not None


async def epoch_is_dead(storage: Storage, client: Client) -> bool:
    question = Question((epoch_mark(client.client_id, client.epoch),))
    return await Revocation(storage).is_revoked(question)


class Meddled(SecretChecker):
    """Lets somebody else act, once, while a typed secret is being hashed."""

    def __init__(self, act: Callable[[], Awaitable[RegisteredClient]]) -> None:
        super().__init__()
        self._acts = [act]
        self.outcome: RegisteredClient

    async def digest(self, secret: str, beside: Iterable[str] = ()) -> str:
        """Hash it, after the other has acted."""
        while self._acts:
            self.outcome = await self._acts.pop()()
        return await super().digest(secret, beside)


class Overtaken(Revocation):
    """Lets somebody else act, once, after the next mark was set."""

    def __init__(self, storage: Storage, act: Callable[[], Awaitable[None]]) -> None:
        super().__init__(storage)
        self._acts = [act]

    async def revoke(
        self, mark: str, now: datetime, expires_at: datetime, token: str | None = None
    ) -> None:
        """Set the mark, and let the other act."""
        await super().revoke(mark, now, expires_at, token)
        while self._acts:
            await self._acts.pop()()


async def test_a_registered_client_is_found_as_it_was_registered(
    clients: Clients, database: Database[Any]
) -> None:
    """Everything that was said of it is stored, its secret as a digest only, and audited."""
    registered = await clients.register(
        "reporter",
        scopes=["write", "read"],
        role="admin",
        name="The reporter",
        access_token_expire_minutes=5,
        max_requests_per_minute=7,
        max_requests_per_hour=100,
        max_requests_per_day=0,
        allowed_networks=["10.0.0.0/8"],
        grant_types=["client_credentials"],
        issue_refresh_tokens=False,
    )
    found = await clients.get("reporter")
    assert found.scopes == {"read", "write"}
    assert (found.role, found.name) == ("admin", "The reporter")
    assert found.access_token_lifetime == timedelta(minutes=5)
    assert found.max_requests_per_minute == 7
    assert (found.max_requests_per_hour, found.max_requests_per_day) == (100, 0)
    assert found.grant_types == frozenset({"client_credentials"})
    assert found.issue_refresh_tokens is False
    assert found.epoch == registered.client.epoch != ""
    document = database.clients.find_one({})
    assert document is not None
    assert document["client_secret"] == fingerprint(secret_of(registered))
    assert document["scopes"] == ["read", "write"]
    assert is_made_here(secret_of(registered))
    assert secret_of(registered) not in repr(registered)
    assert events(database, "reporter") == ["client_created"]


async def test_a_client_with_keys_has_no_secret(clients: Clients, database: Database[Any]) -> None:
    """None is made, none is stored and none can be rotated in; its keys are stored as given."""
    keys = jwks(es256_key("one"))
    registered = await clients.register(
        "signer",
        scopes=["read"],
        jwks=keys,
        audience=["https://api.example/"],
        dpop_bound_access_tokens=True,
    )
    assert registered.client_secret is None
    assert [key.kid for key in registered.client.jwks] == ["one"]
    assert (await clients.get("signer")).jwks == registered.client.jwks
    assert registered.client.audience == ("https://api.example/",)
    assert registered.client.dpop_bound_access_tokens
    document = database.clients.find_one({}) or {}
    assert document["jwks"] == keys
    assert not {"client_secret", "secrets", "jwks_uri"} & document.keys()
    with pytest.raises(ValueError, match="uses keys"):
        await clients.rotate_secret("signer")
    elsewhere = await clients.register(scopes=[], jwks_uri="https://signer.example/keys")
    assert elsewhere.client_secret is None
    assert elsewhere.client.jwks_uri == "https://signer.example/keys"


@pytest.mark.parametrize(
    ("arguments", "has_secret"),
    [
        ({"client_secret": "a chosen secret"}, True),
        ({"token_endpoint_auth_methods": ["private_key_jwt"]}, False),
        ({"token_endpoint_auth_methods": ["private_key_jwt", "client_secret_post"]}, True),
    ],
)
async def test_a_client_with_keys_has_a_secret_when_somebody_says_so(
    clients: Clients, arguments: dict[str, Any], has_secret: bool
) -> None:
    """By choosing one, or by allowing a method that needs one."""
    registered = await clients.register(
        "signer", scopes=[], jwks=jwks(es256_key("one")), **arguments
    )
    assert (registered.client_secret is not None) is has_secret
    assert bool(registered.client.secrets) is has_secret


async def test_an_id_is_made_where_there_is_none(clients: Clients) -> None:
    """Two clients without an id are two clients."""
    first, second = [await clients.register(scopes=["read"]) for _ in range(2)]
    assert first.client.client_id != second.client.client_id
    assert (await clients.get(first.client.client_id)).role == "user"


async def test_a_typed_secret_is_stored_as_its_digest(
    clients: Clients, database: Database[Any]
) -> None:
    """A secret that somebody chose works, and stands nowhere in the clear."""
    await clients.register("test_client", scopes=[], client_secret="test_secret")
    document = database.clients.find_one({})
    assert document is not None
    assert document["client_secret"].startswith("scrypt$")
    assert b"test_secret" not in bson.encode(document)
    assert await works(clients, "test_client", "test_secret")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"client_id": ""}, "client_id"),
        ({"client_id": "a b"}, "client_id"),
        ({"client_id": "a:b"}, "client_id"),
        ({"client_id": "a%"}, "client_id"),
        ({"client_id": "~a"}, "client_id"),
        ({"client_id": "a\n"}, "client_id"),
        ({"client_id": "\u00e9"}, "client_id"),
        ({"client_id": "x" * 129}, "client_id"),
        ({"client_secret": ""}, "client_secret"),
        ({"jwks": {}}, "jwks"),
        ({"jwks": {"keys": []}}, "jwks"),
        ({"jwks": jwks(es256_key("one").jwk(d="AQ"))}, "private"),
        ({"jwks_uri": "keys"}, "jwks_uri"),
        ({"jwks": jwks(es256_key("one")), "jwks_uri": "https://a.example/keys"}, "exclude"),
        ({"token_endpoint_auth_methods": []}, "token_endpoint_auth_methods"),
        ({"audience": ["here"]}, "audience"),
        ({"client_secret": "x" * 1025}, "client_secret"),
        ({"client_secret": fingerprint("x")}, "digest"),
        ({"client_secret": "scrypt$x"}, "digest"),
        ({"scopes": ["a b"]}, "scopes"),
        ({"scopes": [""]}, "scopes"),
        ({"role": "two words"}, "role"),
        ({"access_token_expire_minutes": 0}, "access_token_expire_minutes"),
        ({"max_requests_per_minute": -1}, "max_requests_per_minute"),
        ({"max_requests_per_day": -1}, "max_requests_per_day"),
        ({"allowed_networks": ["10.0.0.1/8"]}, "allowed_networks"),
        ({"name": 7}, "name"),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_what_cannot_be_stored_is_refused(
    clients: Clients, database: Database[Any], changes: dict[str, Any], word: str
) -> None:
    """The message says which argument is at fault, and nothing is stored or audited."""
    with pytest.raises(ValueError, match=word):
        await clients.register(**{"client_id": "reporter", "scopes": ["read"], **changes})
    assert database.clients.count_documents({}) == database.audit_logs.count_documents({}) == 0


async def test_an_id_is_taken_once(storage: Storage, database: Database[Any]) -> None:
    """Of parallel registrations on a fresh database one succeeds, the others are told."""
    outcomes = await asyncio.gather(
        *(new_room(storage).register("reporter", scopes=[str(n)]) for n in range(8)),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, ClientExists) for outcome in outcomes) == 7
    assert database.clients.count_documents({}) == 1
    assert events(database, "reporter") == ["client_created"]


async def test_rotating_without_overlap_ends_the_old_secret_and_its_tokens(
    storage: Storage, clients: Clients, database: Database[Any]
) -> None:
    """The old secret and every live token stop at once; the new secret works."""
    old = await clients.register("reporter", scopes=["read"])
    new = await clients.rotate_secret("reporter")
    assert not await works(clients, "reporter", secret_of(old))
    assert await works(clients, "reporter", secret_of(new))
    assert new.client.epoch != old.client.epoch
    assert await epoch_is_dead(storage, old.client)
    assert not await epoch_is_dead(storage, new.client)
    assert events(database, "reporter") == ["client_created", "secret_rotated"]


async def test_rotating_with_overlap_keeps_the_old_secret_for_a_while(
    storage: Storage, clients: Clients, database: Database[Any]
) -> None:
    """Both secrets work side by side until the overlap is over, and no token dies."""
    secrets = [secret_of(await clients.register("reporter", scopes=["read"]))]
    for _ in range(2):
        secrets.append(secret_of(await clients.rotate_secret("reporter", overlap=HOUR)))
    assert [await works(clients, "reporter", secret) for secret in secrets] == [True] * 3
    client = await clients.get("reporter")
    assert not await epoch_is_dead(storage, client)
    later = datetime.now(UTC) + HOUR
    assert client.live_secrets(later) == [fingerprint(secrets[-1])]
    await clients.rotate_secret("reporter")
    assert [await works(clients, "reporter", secret) for secret in secrets] == [False] * 3
    assert b"m2ms_" not in b"".join(map(bson.encode, database.clients.find()))


async def test_an_overlap_never_prolongs_a_secret(clients: Clients) -> None:
    """A secret that ends in an hour still does after a rotation with a longer overlap."""
    await clients.register("reporter", scopes=["read"])
    await clients.rotate_secret("reporter", overlap=HOUR)
    await clients.rotate_secret("reporter", overlap=10 * HOUR)
    client = await clients.get("reporter")
    assert len(client.live_secrets(datetime.now(UTC))) == 3
    assert len(client.live_secrets(datetime.now(UTC) + 2 * HOUR)) == 2


async def test_parallel_rotations_lose_no_secret(storage: Storage, clients: Clients) -> None:
    """Each rotation that succeeds hands out a secret that works, however many run at once."""
    await clients.register("reporter", scopes=["read"])
    outcomes = await asyncio.gather(
        *(new_room(storage).rotate_secret("reporter", overlap=HOUR) for _ in range(4)),
        return_exceptions=True,
    )
    rotated = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert rotated
    assert [await works(clients, "reporter", secret_of(r)) for r in rotated] == [True] * len(
        rotated
    )


async def test_a_rotation_that_another_overtakes_hands_out_nothing(
    storage: Storage, clients: Clients, database: Database[Any]
) -> None:
    """It is told that the client was changed, and the other's secret works beside the old one."""
    database.clients.insert_one({"client_id": "typed", "client_secret": "plain", "scopes": []})
    other = Meddled(lambda: new_room(storage).rotate_secret("typed", overlap=HOUR))
    room = Clients(storage, AuditLog(storage), Revocation(storage), other)
    with pytest.raises(ClientChanged):
        await room.rotate_secret("typed", overlap=HOUR)
    assert await works(clients, "typed", secret_of(other.outcome))
    assert await works(clients, "typed", "plain")
    client = await clients.get("typed")
    assert len(client.live_secrets(datetime.now(UTC))) == 2
    assert events(database, "typed") == ["secret_rotated"]


@pytest.mark.parametrize("overlap", [HOUR, timedelta(0)], ids=["overlap", "none"])
async def test_every_secret_that_was_handed_out_works_or_its_rotation_failed(
    storage: Storage, clients: Clients, overlap: timedelta
) -> None:
    """Of parallel rotations nothing else comes than a new secret or `ClientChanged`."""
    await clients.register("reporter", scopes=["read"])
    for _ in range(3):
        outcomes = await asyncio.gather(
            *(new_room(storage).rotate_secret("reporter", overlap=overlap) for _ in range(6)),
            return_exceptions=True,
        )
        failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        rotated = [outcome for outcome in outcomes if isinstance(outcome, RegisteredClient)]
        assert rotated
        assert {type(failure) for failure in failed} <= {ClientChanged}
        lasting = rotated if overlap else [r for r in rotated if r is rotated[-1]]
        works_now = [await works(clients, "reporter", secret_of(r)) for r in rotated]
        assert sum(works_now) == len(lasting)


async def test_a_typed_secret_that_an_overlap_keeps_is_stored_as_a_digest(
    clients: Clients, database: Database[Any]
) -> None:
    """Both typed secrets go on working, and neither stands anywhere in the clear."""
    others = [{"id": "b", "secret": "second by hand", "expires_at": None}]
    typed = {"client_id": "typed", "client_secret": "first by hand", "scopes": []}
    database.clients.insert_one({**typed, "secrets": others})
    await clients.rotate_secret("typed", overlap=HOUR)
    assert b"by hand" not in b"".join(map(bson.encode, database.clients.find()))
    stored = (await clients.get("typed")).live_secrets(datetime.now(UTC))
    assert len(stored) == 3
    assert all(map(is_digest, stored))
    for secret in ("first by hand", "second by hand"):
        assert await works(clients, "typed", secret)


async def test_a_removal_that_a_revocation_overtakes_is_told(
    storage: Storage, clients: Clients, database: Database[Any]
) -> None:
    """No client is forgotten with an epoch whose tokens nobody has ended."""
    before = (await clients.register("reporter", scopes=["read"])).client
    other = Overtaken(storage, lambda: clients.revoke_tokens("reporter"))
    room = Clients(storage, AuditLog(storage), other, SecretChecker())
    with pytest.raises(ClientChanged):
        await room.remove("reporter")
    between = await clients.get("reporter")
    assert between.epoch != before.epoch
    await room.remove("reporter")
    for client in (before, between):
        assert await epoch_is_dead(storage, client)
    expected = ["client_created", "token_revoked", "client_disabled"]
    assert events(database, "reporter") == expected


async def test_a_revocation_that_a_removal_overtakes_is_told(
    storage: Storage, clients: Clients, database: Database[Any]
) -> None:
    """A client that is gone gets no new epoch, and its tokens are dead."""
    before = (await clients.register("reporter", scopes=["read"])).client
    other = Overtaken(storage, lambda: clients.remove("reporter"))
    room = Clients(storage, AuditLog(storage), other, SecretChecker())
    with pytest.raises(ClientChanged):
        await room.revoke_tokens("reporter")
    assert database.clients.count_documents({}) == 0
    assert await epoch_is_dead(storage, before)


async def test_the_number_of_live_secrets_is_bounded(
    clients: Clients, database: Database[Any]
) -> None:
    """One more than there may be is refused, and expired ones make room."""
    await clients.register("reporter", scopes=["read"])
    end = datetime.now(UTC) + HOUR
    full = [
        {"id": str(n), "secret": fingerprint(str(n)), "expires_at": end}
        for n in range(MOST_SECRETS - 1)
    ]
    database.clients.update_one({}, {"$set": {"secrets": full}})
    with pytest.raises(ValueError, match="live secrets"):
        await clients.rotate_secret("reporter", overlap=HOUR)
    database.clients.update_one({}, {"$set": {"secrets.0.expires_at": end - 2 * HOUR}})
    await clients.rotate_secret("reporter", overlap=HOUR)
    with pytest.raises(ValueError, match="negative"):
        await clients.rotate_secret("reporter", overlap=-HOUR)


async def held(clients: Clients, client_id: str, epoch: str) -> Client | None:
    """The client that may use tokens of this epoch, if there is one."""
    try:
        return await clients.holder(client_id, epoch)
    except InvalidToken:
        return None


async def test_a_disabled_client_stops_and_an_enabled_one_starts_anew(
    storage: Storage, clients: Clients, database: Database[Any]
) -> None:
    """Its live tokens are dead at once, on every worker, and stay dead when it is enabled."""
    before = (await clients.register("reporter", scopes=["read"])).client
    known = await held(clients, "reporter", before.epoch)
    assert known is not None
    assert known.client_id == "reporter"
    disabled = await clients.disable("reporter")
    assert disabled.disabled
    for epoch in (before.epoch, disabled.epoch):
        assert await held(clients, "reporter", epoch) is None
    assert await epoch_is_dead(storage, before)
    enabled = await clients.enable("reporter")
    assert not enabled.disabled
    assert enabled.epoch != before.epoch
    assert await epoch_is_dead(storage, before)
    assert not await epoch_is_dead(storage, enabled)
    assert await held(clients, "reporter", enabled.epoch) == enabled
    assert await held(clients, "reporter", before.epoch) is None
    expected = ["client_created", "client_disabled", "client_updated"]
    assert events(database, "reporter") == expected


async def test_a_removed_client_is_gone_with_its_tokens(
    storage: Storage, clients: Clients, database: Database[Any]
) -> None:
    """Nothing of it is left but the mark on its tokens; the id is free again."""
    before = (await clients.register("reporter", scopes=["read"])).client
    await held(clients, "reporter", before.epoch)
    await clients.remove("reporter")
    assert database.clients.count_documents({}) == 0
    assert await held(clients, "reporter", before.epoch) is None
    assert await epoch_is_dead(storage, before)
    again = (await clients.register("reporter", scopes=["read"])).client
    assert not await epoch_is_dead(storage, again)


async def test_all_tokens_of_a_client_can_be_revoked(
    storage: Storage, clients: Clients, database: Database[Any]
) -> None:
    """The client and its secret go on working, in a new epoch."""
    before = await clients.register("reporter", scopes=["read"])
    await clients.revoke_tokens("reporter")
    assert await epoch_is_dead(storage, before.client)
    assert not await epoch_is_dead(storage, await clients.get("reporter"))
    assert await works(clients, "reporter", secret_of(before))
    assert events(database, "reporter") == ["client_created", "token_revoked"]


@pytest.mark.parametrize("epoch", [{}, {"epoch": None}, {"epoch": ""}], ids=repr)
async def test_a_client_typed_by_hand_is_managed_like_any_other(
    clients: Clients, database: Database[Any], epoch: dict[str, Any]
) -> None:
    """A document without an epoch can be disabled, enabled and rotated."""
    typed = {"client_id": "typed", "client_secret": "test_secret", "scopes": ["read"]}
    database.clients.insert_one({**typed, "role": "user", **epoch})
    assert (await clients.disable("typed")).disabled
    assert not (await clients.enable("typed")).disabled
    rotated = await clients.rotate_secret("typed", overlap=HOUR)
    assert await works(clients, "typed", secret_of(rotated))
    assert await works(clients, "typed", "test_secret")


@pytest.mark.parametrize(
    "method",
    [
        "get",
        "add_secret",
        "rotate_secret",
        "secrets",
        "disable",
        "enable",
        "remove",
        "revoke_tokens",
    ],
)
async def test_an_unknown_client_is_told(
    clients: Clients, database: Database[Any], method: str
) -> None:
    """Every call says that there is no such client, and records nothing."""
    with pytest.raises(ClientNotFound, match="nobody"):
        await getattr(clients, method)("nobody")
    assert database.audit_logs.count_documents({}) == 0
    assert database.revoked_tokens.count_documents({}) == 0


async def test_clients_are_listed_a_page_at_a_time(clients: Clients) -> None:
    """In the order of their ids, each once."""
    for name in ("d", "a", "c", "b", "e"):
        await clients.register(name, scopes=[])
    first = await clients.list(limit=2)
    second = await clients.list(after=first[-1].client_id, limit=10)
    assert [client.client_id for client in first + second] == list("abcde")
    assert await clients.list(after="e") == []
    for limit in (0, -1, LARGEST_PAGE + 1):
        with pytest.raises(ValueError, match="limit"):
            await clients.list(limit=limit)


async def test_questions_that_come_together_have_their_own_answers(
    clients: Clients, commands: Commands, database: Database[Any]
) -> None:
    """Each asker gets its own client's document, or nothing."""
    for name in "abc":
        await clients.register(name, scopes=[name])

    async def find(name: str) -> Any:
        return await clients.find(name)

    names = ["a", "nobody", "c", "a", "b", "", "A"]
    found = await asyncio.gather(*map(find, names))
    assert [d and d["client_id"] for d in found] == ["a", None, "c", "a", "b", None, None]


async def test_ids_without_end_fail_no_batch(clients: Clients) -> None:
    """Requests share a command: ids that nobody can have are not asked for, others are found."""
    await clients.register("billing", scopes=["read"])
    # Together they are longer than a command of MongoDB may be.
    endless = [f"{number:0>60000}" for number in range(300)]
    found = await clients.find_all(["billing", *endless])
    assert [document and document["client_id"] for document in found] == ["billing"] + [None] * 300


FAR = bson.DatetimeMS(8_640_000_000_000_000)


@pytest.mark.parametrize(
    "odd",
    [
        {"client_id": ["odd", "more"]},
        {"client_id": "odd", "created_at": FAR},
        {"client_id": "odd", "secrets": [{"secret": "x", "expires_at": FAR}]},
        {"client_id": "odd", "access_token_expire_minutes": bson.Int64(2**62)},
        {"client_id": "odd", "scopes": 7},
    ],
    ids=repr,
)
async def test_an_odd_document_harms_no_other_client(
    clients: Clients, database: Database[Any], odd: dict[str, Any]
) -> None:
    """A document that somebody mistyped is their client's trouble alone."""
    reporter = (await clients.register("reporter", scopes=["read"])).client
    database.clients.insert_one(RawBSONDocument(bson.encode({"_id": 1, **odd})))

    good, _ = await asyncio.gather(
        held(clients, "reporter", reporter.epoch), held(clients, "odd", "")
    )
    assert good is not None
    assert good.client_id == "reporter"


async def test_good_news_is_remembered_for_less_than_30_seconds(
    clients: Clients, database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client disabled by hand is refused in time; one that was enabled works at once."""
    clock = Clock(monkeypatch, "clients")
    epoch = (await clients.register("reporter", scopes=["read"])).client.epoch
    assert await held(clients, "reporter", epoch) is not None
    database.clients.update_one({}, {"$set": {"disabled": True}})
    assert await held(clients, "reporter", epoch) is not None
    clock.let_pass(30)
    assert await held(clients, "reporter", epoch) is None
    database.clients.update_one({}, {"$set": {"disabled": False}})
    assert await held(clients, "reporter", epoch) is not None
    database.clients.delete_many({})
    clock.let_pass(30)
    assert await held(clients, "reporter", epoch) is None


async def test_two_typed_secrets_cost_one_slow_digest_after_a_rotation(
    clients: Clients, database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever this software makes of typed secrets, a guess costs what it costs elsewhere."""
    monkeypatch.setattr(credentials, "_SCRYPT_N", 16)
    typed = {"client_id": "typed", "client_secret": "one", "scopes": []}
    database.clients.insert_one({**typed, "secrets": [{"secret": "two"}]})
    await clients.rotate_secret("typed", overlap=HOUR)
    stored = (await clients.get("typed")).live_secrets(datetime.now(UTC))
    assert len(stored) == 3
    computed = 0
    slow = hashlib.scrypt

    def counting(*args: Any, **options: Any) -> bytes:
        nonlocal computed
        computed += 1
        return slow(*args, **options)

    monkeypatch.setattr(hashlib, "scrypt", counting)
    assert (await SecretChecker().match("a guess", stored, "192.0.2.7")).stored is None
    assert computed == 1


async def test_a_typed_secret_is_replaced_wherever_it_stands(
    clients: Clients, database: Database[Any]
) -> None:
    """The plain text gives way to its digest, and a secret that was changed meanwhile stays."""
    others = [{"secret": "other"}, {"secret": "plain"}]
    typed = {"client_id": "typed", "client_secret": "plain", "scopes": [], "secrets": others}
    database.clients.insert_one(typed)
    client = await clients.get("typed")
    adopted = await clients.adopt(client, "plain", "scrypt$digest")
    assert adopted.live_secrets(datetime.now(UTC)) == ["scrypt$digest", "other", "scrypt$digest"]
    await clients.adopt(client, "gone", "scrypt$wrong")
    found = database.clients.find_one({})
    assert found is not None
    assert found["client_secret"] == "scrypt$digest"
    assert [secret["secret"] for secret in found["secrets"]] == ["other", "scrypt$digest"]
    assert is_digest(found["client_secret"])


async def test_a_client_that_was_removed_and_typed_anew_has_an_epoch_of_its_own(
    storage: Storage, clients: Clients, database: Database[Any]
) -> None:
    """What is typed anew after a removal works with new tokens; the old ones stay dead."""
    typed = {"client_id": "typed", "client_secret": "plain", "scopes": []}
    database.clients.insert_one(dict(typed))
    before = await clients.get("typed")
    await clients.remove("typed")
    database.clients.insert_one(dict(typed))
    after = await clients.adopt(await clients.get("typed"), "plain", "scrypt$digest")
    assert await epoch_is_dead(storage, before)
    assert not await epoch_is_dead(storage, after)


async def test_ids_are_unique_by_index(clients: Clients, database: Database[Any]) -> None:
    """The index of the contract stands, and can be made again."""
    await clients.prepare()
    assert database.clients.index_information()["client_id_1"]["unique"] is True


async def test_no_look_up_reads_the_collection_from_end_to_end(
    watched_storage: Storage, commands: Commands, database: Database[Any]
) -> None:
    """Among 20,000 clients, looking some up and a page of them read no more than those."""
    room = new_room(watched_storage)
    await room.prepare()
    database.clients.insert_many(
        {"client_id": f"client-{n:05}", "client_secret": f"sha256${n}", "scopes": ["read"]}
        for n in range(20_000)
    )
    commands.sent.clear()

    async def find(n: int) -> Any:
        return await room.find(f"client-{n:05}")

    assert None not in await asyncio.gather(*map(find, range(50)))
    await room.get("client-00007")
    await room.list(after="client-10000", limit=50)
    await room.adopt(await room.get("client-00009"), "sha256$9", "sha256$8")
    await room.rotate_secret("client-00011", overlap=HOUR)
    plans = commands.plans(database)
    assert len(plans) >= 8
    assert not [plan for plan in plans if "COLLSCAN" in plan.stages]
    assert all(plan.examined <= 51 for plan in plans)


async def test_a_secret_is_added_beside_the_others(
    clients: Clients, database: Database[Any]
) -> None:
    """All of them work, each with its id, its label and its end, and the addition is audited."""
    first = await clients.register("reporter", scopes=["read"])
    second = await clients.add_secret("reporter", label="the other host", expires_in=HOUR)
    for registered in (first, second):
        assert await works(clients, "reporter", secret_of(registered))
    new, old = await clients.secrets("reporter")
    assert (new.id, old.id) == (second.secret_id, first.secret_id)
    assert (new.label, new.stored, new.live) == ("the other host", "made", True)
    assert new.expires_at is not None
    assert new.created_at is not None
    assert old.expires_at is None
    assert new.created_at + HOUR == new.expires_at
    assert events(database, "reporter") == ["client_created", "secret_rotated"]
    record = database.audit_logs.find_one({"event_type": "secret_rotated"}) or {}
    assert second.secret_id in record["reason"]


async def test_one_secret_is_retired_and_tokens_live_on(
    storage: Storage, clients: Clients, database: Database[Any]
) -> None:
    """It stops at once; no token dies, unless it leaked and somebody says so."""
    old = await clients.register("reporter", scopes=["read"])
    new = await clients.rotate_secret("reporter", overlap=HOUR)
    await clients.retire_secret("reporter", str(old.secret_id))
    assert not await works(clients, "reporter", secret_of(old))
    assert await works(clients, "reporter", secret_of(new))
    assert not await epoch_is_dead(storage, old.client)
    assert [secret.id for secret in await clients.secrets("reporter")] == [new.secret_id]
    newest = await clients.add_secret("reporter")
    await clients.retire_secret("reporter", str(new.secret_id), end_tokens=True)
    assert await epoch_is_dead(storage, old.client)
    assert await works(clients, "reporter", secret_of(newest))
    assert events(database, "reporter")[1:] == ["secret_rotated"] * 4


async def test_the_last_secret_cannot_be_retired(clients: Clients, database: Database[Any]) -> None:
    """That would be a client that nobody can be: it is told, and nothing is changed or recorded."""
    only = await clients.register("reporter", scopes=["read"])
    with pytest.raises(LastSecret):
        await clients.retire_secret("reporter", str(only.secret_id))
    with pytest.raises(SecretNotFound):
        await clients.retire_secret("reporter", "another")
    assert await works(clients, "reporter", secret_of(only))
    assert events(database, "reporter") == ["client_created"]


async def test_old_secrets_end_when_they_are_idle(
    clients: Clients, database: Database[Any]
) -> None:
    """One that is used lives on without end, one that nobody uses ends, and no token dies."""
    used = await clients.register("reporter", scopes=["read"])
    idle = await clients.add_secret("reporter")
    new = await clients.rotate_secret("reporter", retire_when_idle=HOUR)
    client = await clients.get("reporter")
    assert client.epoch == used.client.epoch
    secret = client.secret_stored_as(fingerprint(secret_of(used)))
    assert secret is not None
    assert secret.expires_at is None
    later = datetime.now(UTC) + 100 * HOUR
    await clients.prolong(client, secret.stored, later + timedelta(seconds=1))
    live = (await clients.get("reporter")).live_secrets(later)
    assert live == [fingerprint(secret_of(each)) for each in (new, used)]
    assert fingerprint(secret_of(idle)) not in live
    await clients.prolong(client, secret.stored, later - 50 * HOUR)  # from a worker that is late
    assert (await clients.get("reporter")).live_secrets(later) == live


async def test_a_use_that_is_written_meanwhile_is_not_undone(
    storage: Storage, clients: Clients
) -> None:
    """A change of the secrets that rests on an older state is told instead."""
    first = await clients.register("reporter", scopes=["read"])
    await clients.rotate_secret("reporter", retire_when_idle=HOUR)
    document = await clients.find("reporter")
    client = await clients.get("reporter")
    secret = client.secret_stored_as(fingerprint(secret_of(first)))
    assert document is not None
    assert secret is not None
    await clients.prolong(client, secret.stored, datetime.now(UTC) + 50 * HOUR)
    read = {name: document.get(name) for name in ("client_secret", "secrets")}
    with pytest.raises(ClientChanged):
        await clients._update(client, {"secrets": []}, **read)


async def test_when_clients_were_last_here_is_kept(
    clients: Clients, database: Database[Any]
) -> None:
    """On the document too, as far as there is one: who was removed is not made again."""
    now = datetime.now(UTC).replace(microsecond=0)
    await clients.register("reporter", scopes=["read"])
    for client_id in ("reporter", "removed"):
        clients.used.note_login(client_id, now, "192.0.2.7")
    await clients.drain()
    assert (await clients.get("reporter")).last_used_at == now
    assert database.clients.count_documents({}) == 1


async def test_who_still_uses_a_secret_is_told(clients: Clients) -> None:
    """By the last use and the addresses, for each of the secrets."""
    now = datetime.now(UTC).replace(microsecond=0)
    old = await clients.register("reporter", scopes=["read"])
    await clients.rotate_secret("reporter", overlap=HOUR)
    clients.used.note_login("reporter", now, "192.0.2.7", old.secret_id)
    await clients.drain()
    unused, used = await clients.secrets("reporter")
    assert (used.last_used_at, used.last_used_from) == (now, {"192.0.2.7": now})
    assert (unused.last_used_at, unused.last_used_from) == (None, {})
