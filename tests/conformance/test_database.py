"""Contract section 4: what stands in MongoDB, who may write it by hand, and what then happens."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from pymongo import AsyncMongoClient, MongoClient, monitoring
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database
from pymongo.uri_parser import parse_uri

from oauth2_m2m import ConfigurationError, OAuth2M2M, TemporarilyUnavailable
from tests.clocks import hasten
from tests.conformance.conftest import Start
from tests.machine import Document, Machine, Tokens, audit, events, new_machine
from tests.server import HOME, Server, configure, guarded_app, running

SIX_HOURS, A_DAY = 6 * 3600, 24 * 3600
KEY = "a-key-of-the-tests-that-is-long-enough-for-HS256"
HTTPS = "https://auth.example.com"
CONFIG = "jwt_config"


def fingerprint(text: str) -> str:
    """The digest of a made token or secret, computed here anew."""
    return "sha256$" + hashlib.sha256(text.encode()).hexdigest()


def claims_of(tokens: Tokens) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(tokens.access, options={"verify_signature": False})
    return claims


def config_of(database: Database[Any]) -> Document:
    (config,) = database["config"].find()
    assert isinstance(config, dict)
    return config


def type_client(database: Database[Any], **fields: Any) -> None:
    """Type a client by hand, as in mongosh."""
    document = {"client_id": "typed", "client_secret": "by hand", "scopes": ["read"], **fields}
    database["clients"].insert_one(document)


def typed_machine(server: Server) -> Machine:
    return Machine(server.http(), "typed", "by hand")


# --- The documents ------------------------------------------------------------------------------


async def test_the_documents_have_the_promised_fields(
    server: Server, machine: Machine, database: Database[Any]
) -> None:
    """Operators read and write these names; secrets and tokens stand there as digests only."""
    first = await machine.get_token()
    second = await machine.refresh(first)
    assert (await machine.revoke(second.access)).status_code == 200
    family, client_id = claims_of(first)["family_id"], machine.client_id

    client = database["clients"].find_one({"client_id": client_id})
    assert client is not None
    assert client["client_secret"] == fingerprint(machine.client_secret)
    assert client["scopes"] == ["read", "write"]
    assert client["role"] == "user"
    assert isinstance(client["created_at"], datetime)

    stored = {token["refresh_token"]: token for token in database["tokens"].find()}
    assert stored.keys() == {fingerprint(first.refresh), fingerprint(second.refresh)}
    for token in stored.values():
        names = {"client_id", "refresh_token", "created_at", "expires_at", "family_id", "scope"}
        assert names <= token.keys()
        assert token["client_id"] == client_id
        assert token["family_id"] == family
        assert token["scope"] == "read write"
        assert token["expires_at"] - token["created_at"] == timedelta(days=30)

    (used,) = database["used_refresh_tokens"].find()
    assert used["_id"] == used["refresh_token"] == fingerprint(first.refresh)
    assert used["family_id"] == family
    assert used["used_at"] < used["expires_at"]

    (revoked,) = database["revoked_tokens"].find()
    assert revoked["_id"] == claims_of(second)["jti"]
    assert revoked["token"] == fingerprint(second.access)
    assert revoked["revoked_at"] < revoked["expires_at"]
    assert revoked["expires_at"].timestamp() >= claims_of(second)["exp"]

    for count in database["rate_limits"].find():
        assert re.fullmatch(rf"{re.escape(client_id)}:{re.escape(HOME)}:\d{{12}}", count["_id"])
        assert isinstance(count["timestamp"], datetime)
        assert isinstance(count["count"], int)


async def test_every_moment_is_a_bson_date(machine: Machine, database: Database[Any]) -> None:
    """A text or a number in place of a date would never be tidied, nor sort with the others."""
    tokens = await machine.refresh(await machine.get_token())
    await machine.revoke_plainly(refresh_token=tokens.refresh)
    moments = {
        "clients": ["created_at"],
        "tokens": ["created_at", "expires_at"],
        "used_refresh_tokens": ["used_at", "expires_at"],
        "revoked_tokens": ["revoked_at", "expires_at"],
        "rate_limits": ["timestamp"],
        "audit_logs": ["timestamp"],
    }
    for name, fields in moments.items():
        assert database[name].count_documents({}) > 0
        for field in fields:
            assert database[name].count_documents({field: {"$not": {"$type": "date"}}}) == 0


async def test_nothing_that_a_caller_holds_stands_in_the_clear(
    server: Server, database: Database[Any], start: Start
) -> None:
    """Whoever reads the whole database finds no token and no secret, the typed ones included."""
    type_client(database)
    made, typed = await new_machine(server), typed_machine(server)
    held = [made.client_secret, "by hand"]
    for machine in (made, typed):
        first = await machine.get_token()
        second = await machine.refresh(first)
        await machine.revoke(second.access)
        await machine.revoke(second.refresh)
        held += [first.access, first.refresh, second.access, second.refresh]
    assert set(database.list_collection_names()) == {
        "audit_checkpoints",
        "audit_keys",
        "audit_logs",
        "client_usage",
        "clients",
        "config",
        "keys",
        "rate_limits",
        "revoked_tokens",
        "tokens",
        "used_assertions",
        "used_dpop_proofs",
        "used_refresh_tokens",
    }
    everything = str([list(database[name].find()) for name in database.list_collection_names()])
    assert made.client_id in everything
    for text in held:
        assert text not in everything


INDEXES: dict[str, set[tuple[Any, ...]]] = {
    "config": set(),
    "clients": {("client_id", "unique")},
    "client_usage": {
        ("client_id", "kind", "name", "unique"),
        ("last_used_at", 400 * A_DAY),
    },
    "tokens": {("refresh_token", "unique"), ("family_id",), ("expires_at", SIX_HOURS)},
    # The second finds documents of the older shape, which hold the whole token.
    "revoked_tokens": {("expires_at", SIX_HOURS), ("token", "partial"), ("seq", "partial")},
    "used_refresh_tokens": {("refresh_token", "unique"), ("expires_at", SIX_HOURS)},
    "rate_limits": {("timestamp", A_DAY)},
    "used_assertions": {("expires_at", SIX_HOURS)},
    "used_dpop_proofs": {("expires_at", SIX_HOURS)},
    # One worker makes the next key.
    "keys": {("algorithm", "number", "unique", "partial")},
    "audit_logs": {
        ("timestamp", 90 * A_DAY),
        ("client_id", "timestamp"),
        ("event_type", "timestamp"),
        ("ip", "timestamp"),
        ("request_id",),
        ("error_id", "partial"),
        # Refusals that are counted, until they are sealed.
        ("sealed", "partial"),
    },
    "audit_checkpoints": {("time", 92 * A_DAY), ("writer", "seq")},
    "audit_keys": {("kid", "unique")},
}


def indexes(database: Database[Any]) -> dict[str, set[tuple[Any, ...]]]:
    """Every index but that of `_id`: its fields, and what is special about it."""
    found: dict[str, set[tuple[Any, ...]]] = {}
    for name in database.list_collection_names():
        found[name] = set()
        for index in database[name].index_information().values():
            marks: list[Any] = [field for field, _ in index["key"]]
            if marks == ["_id"]:
                continue
            marks += ["unique"] if index.get("unique") else []
            marks += ["partial"] if "partialFilterExpression" in index else []
            marks += [index["expireAfterSeconds"]] if "expireAfterSeconds" in index else []
            found[name].add(tuple(marks))
    return found


async def test_the_indexes_are_exactly_the_promised_ones(
    server: Server, database: Database[Any]
) -> None:
    """None is missing, and none is kept up for nothing."""
    assert indexes(database) == INDEXES


async def test_a_changed_retention_is_set_on_the_index_there_is(
    start: Start, database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a start, and in a running worker; the records themselves stay."""
    await start(AUDIT_RETENTION_DAYS=7)
    assert ("timestamp", 7 * A_DAY) in indexes(database)["audit_logs"]
    server = await start(AUDIT_RETENTION_DAYS=8)
    assert ("timestamp", 8 * A_DAY) in indexes(database)["audit_logs"]
    hasten(monkeypatch, "settings")
    database["config"].update_one({}, {"$set": {"AUDIT_RETENTION_DAYS": 9}})
    await server.http().get("/protected")
    assert ("timestamp", 9 * A_DAY) in indexes(database)["audit_logs"]
    assert ("time", 11 * A_DAY) in indexes(database)["audit_checkpoints"]
    assert len(indexes(database)["audit_logs"]) == len(INDEXES["audit_logs"])


async def test_two_documents_of_one_client_stop_the_start(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """Which of the two would count is a question that nobody should have to ask."""
    for secret in ("one", "two"):
        type_client(database, client_secret=secret)
    with pytest.raises(ConfigurationError, match="client") as refused:
        await start_once(async_database)
    assert "\n" not in str(refused.value)


# --- The config ---------------------------------------------------------------------------------


async def start_once(database: AsyncDatabase[Any], environment: str = "development") -> None:
    async with running(database, environment=environment):
        pass


async def test_parallel_starters_make_one_config(
    mongo_url: str, database_name: str, database: Database[Any]
) -> None:
    """Eight workers on a fresh database agree on one key, and none of them fails."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(AsyncMongoClient[dict[str, Any]](mongo_url))
            for _ in range(8)
        ]
        started = (stack.enter_async_context(running(c[database_name])) for c in clients)
        servers = await asyncio.gather(*started)
        config = config_of(database)
        assert indexes(database) == INDEXES
        machine = await new_machine(servers[0])
        tokens = await machine.get_token()
        for server in servers:
            assert (await machine.using(http=server.http()).call(tokens)).status_code == 200
    assert config.keys() == {
        "_id",
        "SECRET_KEY",
        "ALGORITHM",
        "ACCESS_TOKEN_EXPIRE_MINUTES",
        "MAX_REQUESTS_PER_MINUTE",
    }
    assert config["_id"] == CONFIG
    assert config["ALGORITHM"] == "HS256"
    assert config["ACCESS_TOKEN_EXPIRE_MINUTES"] == 15
    assert config["MAX_REQUESTS_PER_MINUTE"] == 60
    assert re.fullmatch(r"[\w-]{43,}", config["SECRET_KEY"])


async def test_two_fresh_databases_have_two_keys(
    server: Server, database: Database[Any], mongo_url: str, database_name: str
) -> None:
    """A key that is the same everywhere would be everybody's."""
    async with AsyncMongoClient[dict[str, Any]](mongo_url) as client:
        try:
            await start_once(client[f"{database_name}_b"])
            with MongoClient[dict[str, Any]](mongo_url) as looking:
                other = config_of(looking[f"{database_name}_b"])
        finally:
            await client.drop_database(f"{database_name}_b")
    assert other["SECRET_KEY"] != config_of(database)["SECRET_KEY"]


async def test_a_config_typed_by_hand_is_honoured_and_left_as_it_is(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """Every field of it, fields that we do not know included."""
    typed = {
        "_id": CONFIG,
        "SECRET_KEY": KEY,
        "ALGORITHM": "HS256",
        "ACCESS_TOKEN_EXPIRE_MINUTES": 7.0,  # as older shells write numbers
        "MAX_REQUESTS_PER_MINUTE": 1000,
        "ISSUER": HTTPS,
        "AUDIENCE": "https://api.example.com",
        "REFRESH_TOKEN_EXPIRE_DAYS": 3,
        "NOTE": "typed by hand",
    }
    database["config"].insert_one(typed)
    async with running(async_database) as server:
        tokens = await (await new_machine(server)).get_token()
    claims = jwt.decode(
        tokens.access, KEY, ["HS256"], audience="https://api.example.com", issuer=HTTPS
    )
    assert claims["exp"] - claims["iat"] == 7 * 60
    (stored,) = database["tokens"].find()
    assert stored["expires_at"] - stored["created_at"] == timedelta(days=3)
    assert config_of(database) == typed


async def test_a_config_typed_in_part_gets_a_key_and_the_defaults(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """Who types only what matters to them is not asked to make up a key."""
    database["config"].insert_one({"_id": CONFIG, "ACCESS_TOKEN_EXPIRE_MINUTES": 7})
    async with AsyncExitStack() as stack:
        started = (stack.enter_async_context(running(async_database)) for _ in range(4))
        servers = await asyncio.gather(*started)
        machine = await new_machine(servers[0])
        tokens = await machine.get_token()
        for server in servers:
            assert (await machine.using(http=server.http()).call(tokens)).status_code == 200
    config = config_of(database)
    assert len(config["SECRET_KEY"]) >= 43
    assert config["ACCESS_TOKEN_EXPIRE_MINUTES"] == 7
    assert tokens.body["expires_in"] == 7 * 60


@pytest.mark.parametrize(
    "fields",
    [
        {"ALGORITHM": "none"},
        {"ALGORITHM": "hs256"},
        {"ALGORITHM": 256},
        {"SECRET_KEY": ""},
        {"SECRET_KEY": 42},
        {"SECRET_KEY": ["a"]},
        {"ACCESS_TOKEN_EXPIRE_MINUTES": -1},
        {"ACCESS_TOKEN_EXPIRE_MINUTES": 0},
        {"ACCESS_TOKEN_EXPIRE_MINUTES": "15"},
        {"ACCESS_TOKEN_EXPIRE_MINUTES": 1.5},
        {"ACCESS_TOKEN_EXPIRE_MINUTES": True},
        {"ACCESS_TOKEN_EXPIRE_MINUTES": float("nan")},
        {"ACCESS_TOKEN_EXPIRE_MINUTES": float("inf")},
        {"MAX_REQUESTS_PER_MINUTE": -5},
        {"MAX_REQUESTS_PER_MINUTE": "sixty"},
        {"MAX_REQUESTS_PER_MINUTE": {"$gt": 1}},
        {"REFRESH_TOKEN_EXPIRE_DAYS": -1},
        {"REFRESH_GRACE_SECONDS": -1},
        {"REFRESH_REQUIRES_CLIENT_AUTH": "yes"},
        {"ISSUE_REFRESH_TOKENS": 1},
        {"AUDIT_RETENTION_DAYS": 0},
        {"LEEWAY_SECONDS": -1},
        {"ISSUER": "not a url"},
        {"ISSUER": "https://auth.example.com/?a=b"},
        {"ISSUER": "ftp://auth.example.com"},
        {"ISSUER": 5},
        {"AUDIENCE": 5},
        {"PREVIOUS_SECRET_KEYS": "one"},
        {"PREVIOUS_SECRET_KEYS": [1]},
    ],
    ids=str,
)
async def test_nonsense_in_the_config_stops_the_start_naming_the_field(
    async_database: AsyncDatabase[Any], database: Database[Any], fields: dict[str, Any]
) -> None:
    """One line that says which field and what to do, and does not quote a key."""
    typed = {"_id": CONFIG, "SECRET_KEY": KEY, **fields}
    database["config"].insert_one(typed)
    (field,) = fields
    with pytest.raises(ConfigurationError, match=rf"\b{field}\b") as refused:
        await start_once(async_database)
    assert "\n" not in str(refused.value)
    assert KEY not in str(refused.value)
    assert str(config_of(database)) == str(typed)


async def test_a_change_to_nonsense_keeps_the_last_good_config(
    server: Server,
    machine: Machine,
    database: Database[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Tokens go on being issued and believed; the log says once why the change was refused."""
    hasten(monkeypatch, "settings")
    tokens = await machine.get_token()
    good = config_of(database)
    nonsense: list[Document] = [{"ALGORITHM": "none"}, {"ACCESS_TOKEN_EXPIRE_MINUTES": "soon"}]
    for fields in nonsense:
        database["config"].replace_one({}, good | fields)
        for _ in range(3):
            assert (await machine.call(tokens)).status_code == 200
            assert (await machine.get_token()).body["expires_in"] == 15 * 60
        *_, record = audit(database, event_type="config_changed")
        assert next(iter(fields)) in record["reason"]
    database["config"].delete_one({})
    assert (await machine.call(tokens)).status_code == 200
    assert len(audit(database, event_type="config_changed")) == 3
    assert good["SECRET_KEY"] not in caplog.text
    assert database["config"].count_documents({}) == 0

    mended = good | {"ACCESS_TOKEN_EXPIRE_MINUTES": 3}
    database["config"].insert_one(mended)
    assert (await machine.get_token()).body["expires_in"] == 3 * 60


async def test_a_change_is_seen_by_running_workers(
    server: Server,
    machine: Machine,
    database: Database[Any],
    async_database: AsyncDatabase[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By all of them, once what they remember has lapsed, which is after less than 30 s."""
    async with running(async_database) as another:
        there = machine.using(http=another.http())
        await there.get_token()
        database["config"].update_one({}, {"$set": {"ACCESS_TOKEN_EXPIRE_MINUTES": 2}})
        hasten(monkeypatch, "settings")
        for worker in (machine, there):
            assert (await worker.get_token()).body["expires_in"] == 2 * 60


# --- Production ---------------------------------------------------------------------------------

WEAK: list[tuple[Document, str]] = [
    ({"SECRET_KEY": "short", "ISSUER": HTTPS}, "SECRET_KEY"),
    ({"SECRET_KEY": "x" * 31, "ISSUER": HTTPS}, "SECRET_KEY"),
    (
        {"SECRET_KEY": "replace-this-with-32-or-more-random-bytes", "ISSUER": HTTPS},
        "SECRET_KEY",
    ),
    ({"SECRET_KEY": KEY, "PREVIOUS_SECRET_KEYS": ["short"], "ISSUER": HTTPS}, "SECRET_KEY"),
    ({"SECRET_KEY": KEY, "ISSUER": "http://auth.example.com"}, "ISSUER"),
    ({"SECRET_KEY": KEY}, "ISSUER"),
]


@pytest.mark.parametrize(("config", "field"), WEAK, ids=str)
async def test_production_refuses_to_start_with_a_weak_config(
    async_database: AsyncDatabase[Any],
    database: Database[Any],
    caplog: pytest.LogCaptureFixture,
    config: Document,
    field: str,
) -> None:
    """One line says which field and what to do; in development the same is a warning."""
    database["config"].insert_one({"_id": CONFIG, **config})
    with pytest.raises(ConfigurationError, match=field) as refused:
        await start_once(async_database, "production")
    assert "\n" not in str(refused.value)
    assert KEY not in str(refused.value)
    caplog.clear()
    await start_once(async_database, "development")
    warnings = [r for r in caplog.records if r.name == "oauth2_m2m" and r.levelname == "WARNING"]
    assert any(field in record.getMessage() for record in warnings)


async def test_production_starts_with_a_strong_config(
    async_database: AsyncDatabase[Any], database: Database[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The key that is made by itself and an https issuer are enough, and nothing is warned of."""
    database["config"].insert_one({"_id": CONFIG, "ISSUER": HTTPS})
    async with running(async_database, environment="production") as server:
        machine = await new_machine(server)
        assert (await machine.call(await machine.get_token())).status_code == 200
    assert [record for record in caplog.records if record.name == "oauth2_m2m"] == []


async def test_without_lifespan_a_weak_config_in_production_is_answered_503(
    async_database: AsyncDatabase[Any], database: Database[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is issued; the log says in a line what to mend, and the caller is not told."""
    database["config"].insert_one({"_id": CONFIG, "SECRET_KEY": "short", "ISSUER": HTTPS})
    m2m = OAuth2M2M(async_database, environment="production")
    http = Server(guarded_app(m2m), m2m).http()
    credentials = {"username": "a", "password": "b"}
    for response in (
        await http.post("/token", data=credentials),
        await http.get("/protected"),
        await http.get("/health/ready"),
    ):
        assert response.status_code == 503
        assert "SECRET_KEY" not in response.text
    (record, *_) = [r for r in caplog.records if "SECRET_KEY" in r.getMessage()]
    assert record.levelno == logging.ERROR
    assert "\n" not in record.getMessage()
    assert not any(record.exc_info for record in caplog.records)


async def test_a_change_to_a_weak_config_in_production_is_refused_too(
    async_database: AsyncDatabase[Any], database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would have stopped the start does not come in by the back door."""
    database["config"].insert_one({"_id": CONFIG, "SECRET_KEY": KEY, "ISSUER": HTTPS})
    hasten(monkeypatch, "settings")
    async with running(async_database, environment="production") as server:
        machine = await new_machine(server)
        database["config"].update_one({}, {"$set": {"SECRET_KEY": "short"}})
        tokens = await machine.get_token()
        jwt.decode(tokens.access, KEY, ["HS256"], audience=HTTPS)
    (record,) = audit(database, event_type="config_changed")
    assert "SECRET_KEY" in record["reason"]


# --- Clients typed by hand ----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["basic", "post", "plain"])
async def test_a_typed_client_works_and_its_secret_is_hashed_in_place(
    server: Server, database: Database[Any], method: str
) -> None:
    """The first success replaces the text by a slow hash; the rest of the document stays."""
    type_client(database, note="kept")
    machine = typed_machine(server).using(method=method)
    assert (await machine.using(client_secret="by hanD").ask_token()).status_code == 401
    before = database["clients"].find_one({"client_id": "typed"})
    assert before is not None
    assert before["client_secret"] == "by hand"
    for _ in range(2):
        tokens = await machine.get_token()
        assert (await machine.call(tokens)).status_code == 200
    after = database["clients"].find_one({"client_id": "typed"})
    assert after is not None
    hashed = after.pop("client_secret")
    assert re.match(r"scrypt\$|\$argon2id\$", hashed)
    assert after == {name: value for name, value in before.items() if name != "client_secret"}
    assert (await machine.using(client_secret=hashed).ask_token()).status_code == 401
    assert (await machine.using(client_secret="by hanD").ask_token()).status_code == 401


async def test_a_typed_client_without_role_is_a_user(
    server: Server, database: Database[Any]
) -> None:
    """`role` is optional, and what is left out allows nothing more."""
    type_client(database)
    tokens = await typed_machine(server).get_token()
    assert claims_of(tokens)["roles"] == ["user"]
    assert tokens.scope == "read"


@pytest.mark.parametrize(
    "fields",
    [
        {"scopes": "read"},
        {"scopes": [1]},
        {"scopes": ["two words"]},
        {"role": 5},
        {"disabled": "no"},
        {"client_secret": None},
        {"client_secret": ""},
        {"client_secret": {"$ne": None}},
        {"allowed_networks": ["nowhere"]},
        {"allowed_networks": ["198.51.100.0/24"]},
        {"access_token_expire_minutes": 0},
        {"max_requests_per_minute": -1},
        {"secrets": "by hand"},
        {"disabled": True},
    ],
    ids=str,
)
async def test_a_mistyped_client_is_refused_like_any_other(
    server: Server, database: Database[Any], fields: dict[str, Any]
) -> None:
    """The caller learns nothing; the log tells the operator which field it is."""
    type_client(database, **fields)
    response = await typed_machine(server).ask_token()
    unknown = await typed_machine(server).using(client_id="nobody").ask_token()
    # The same but for its id, which is random and names its own record.
    told, others = (
        {name: value for name, value in each.json().items() if name != "error_id"}
        for each in (response, unknown)
    )
    assert (response.status_code, told) == (401, others)
    first, _ = audit(database, event_type="login_failure")
    assert first["client_id"] == "typed"
    assert "by hand" not in first["reason"]


async def test_several_typed_secrets_work_until_they_expire(
    server: Server, database: Database[Any]
) -> None:
    """`secrets` holds more of them, each with its own end, as a date or as ISO text."""
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    secrets = [
        {"id": "a", "secret": "second", "expires_at": now + hour},
        {"id": "b", "secret": "third", "expires_at": (now + hour).isoformat()},
        {"id": "c", "secret": "too old", "expires_at": now - hour},
        {"id": "d", "secret": "too old as text", "expires_at": (now - hour).isoformat()},
    ]
    type_client(database, secrets=secrets)
    machine = typed_machine(server)
    for secret in ("by hand", "second", "third"):
        assert (await machine.using(client_secret=secret).ask_token()).status_code == 200, secret
    for secret in ("too old", "too old as text"):
        assert (await machine.using(client_secret=secret).ask_token()).status_code == 401, secret


# --- Clients that are stopped -------------------------------------------------------------------


@asynccontextmanager
async def elsewhere(database: AsyncDatabase[Any], machine: Machine) -> AsyncIterator[Machine]:
    """The machine at another instance, which has served it already and remembers it."""
    async with running(database) as another:
        there = machine.using(http=another.http())
        assert (await there.call(await there.get_token())).status_code == 200
        yield there


Stop = Callable[[Server, str], Awaitable[Any]]
STOPS: dict[str, Stop] = {
    "disable": lambda server, client_id: server.m2m.clients.disable(client_id),
    "remove": lambda server, client_id: server.m2m.clients.remove(client_id),
    "revoke_tokens": lambda server, client_id: server.m2m.clients.revoke_tokens(client_id),
    "rotate_secret": lambda server, client_id: server.m2m.clients.rotate_secret(client_id),
}


@pytest.mark.parametrize("typed", [False, True], ids=["registered", "typed"])
@pytest.mark.parametrize("how", STOPS)
async def test_a_client_stopped_at_the_door_stops_at_once_everywhere(
    server: Server,
    database: Database[Any],
    async_database: AsyncDatabase[Any],
    how: str,
    typed: bool,
) -> None:
    """Its live tokens are refused by an instance that knew it a moment ago."""
    type_client(database, scopes=["read", "write"])
    machine = typed_machine(server) if typed else await new_machine(server)
    tokens = await machine.get_token()
    async with elsewhere(async_database, machine) as there:
        await STOPS[how](server, machine.client_id)
        for place in (there, machine):
            assert (await place.call(tokens)).status_code == 401
            assert (await place.ask_refresh_plainly(tokens)).status_code == 401
        goes_on = how == "revoke_tokens"
        assert (await there.ask_token()).status_code == (200 if goes_on else 401)


async def test_a_client_enabled_again_works_with_new_tokens_only(
    server: Server, machine: Machine, async_database: AsyncDatabase[Any]
) -> None:
    """What was stolen before it was disabled stays dead."""
    tokens = await machine.get_token()
    async with elsewhere(async_database, machine) as there:
        await server.m2m.clients.disable(machine.client_id)
        assert (await there.ask_token()).status_code == 401
        await server.m2m.clients.enable(machine.client_id)
        assert (await there.call(tokens)).status_code == 401
        assert (await there.ask_refresh(tokens)).status_code == 400
        assert (await there.call(await there.get_token())).status_code == 200


async def test_a_client_removed_by_hand_and_registered_anew_inherits_nothing(
    server: Server,
    machine: Machine,
    database: Database[Any],
    async_database: AsyncDatabase[Any],
) -> None:
    """An instance that remembers the old client takes the new one's tokens, and only those."""
    old = await machine.get_token()
    async with elsewhere(async_database, machine) as there:
        database["clients"].delete_one({"client_id": machine.client_id})
        again = await server.m2m.clients.register(machine.client_id, scopes=["read"])
        there = there.using(client_secret=again.client_secret)
        new = await there.get_token()
        for _ in range(2):
            assert (await there.call(new)).status_code == 200
            assert (await there.call(old)).status_code == 401
        assert (await there.ask_refresh_plainly(old)).status_code == 401
        assert (await there.call(await there.refresh(new))).status_code == 200


async def test_a_rotation_with_overlap_stops_nothing(server: Server, machine: Machine) -> None:
    """Both secrets work for that long, and the tokens of the old one live on."""
    tokens = await machine.get_token()
    rotated = await server.m2m.clients.rotate_secret(
        machine.client_id, overlap=timedelta(minutes=5)
    )
    assert (await machine.call(tokens)).status_code == 200
    for secret in (machine.client_secret, rotated.client_secret):
        assert (await machine.using(client_secret=secret).ask_token()).status_code == 200


@pytest.mark.parametrize(
    "update", [{"$set": {"disabled": True}}, None], ids=["disabled", "removed"]
)
async def test_a_client_stopped_by_hand_stops_within_the_remembered_time(
    machine: Machine,
    database: Database[Any],
    async_database: AsyncDatabase[Any],
    monkeypatch: pytest.MonkeyPatch,
    update: Document | None,
) -> None:
    """New tokens at once, live ones as soon as what is remembered of the client has lapsed."""
    tokens = await machine.get_token()
    async with elsewhere(async_database, machine) as there:
        if update is None:
            database["clients"].delete_one({"client_id": machine.client_id})
        else:
            database["clients"].update_one({"client_id": machine.client_id}, update)
        hasten(monkeypatch, "clients")
        for place in (machine, there):
            assert (await place.ask_token()).status_code == 401
            assert (await place.ask_refresh_plainly(tokens)).status_code == 401
            assert (await place.call(tokens)).status_code == 401


async def test_a_typed_client_that_was_removed_can_be_typed_again(
    server: Server, database: Database[Any]
) -> None:
    """Its new tokens are good; those of its earlier life stay dead."""
    type_client(database)
    machine = typed_machine(server)
    tokens = await machine.get_token()
    await server.m2m.clients.remove("typed")
    type_client(database)
    assert (await machine.call(tokens)).status_code == 401
    assert (await machine.call(await machine.get_token())).status_code == 200


# --- Documents of the older shape ---------------------------------------------------------------


def iso(days: int) -> str:
    """A moment as the older shape holds it: ISO text, mostly without a zone."""
    return (datetime.now(UTC) + timedelta(days=days)).replace(tzinfo=None).isoformat()


async def test_a_token_revoked_in_the_older_shape_stays_revoked(
    machine: Machine, database: Database[Any]
) -> None:
    """The whole JWT stands in `token`; dates are texts; no other token is touched."""
    tokens, other = await machine.get_token(), await machine.get_token()
    assert (await machine.call(tokens)).status_code == 200
    document = {"token": tokens.access, "revoked_at": iso(0), "expires_at": iso(1)}
    database["revoked_tokens"].insert_one(document)
    assert (await machine.call(tokens)).status_code == 401
    assert (await machine.call(other)).status_code == 200


@pytest.mark.parametrize("door", ["json", "form"])
async def test_a_refresh_token_of_the_older_shape_works_once(
    server: Server, database: Database[Any], door: str
) -> None:
    """Stored in the clear with ISO dates, it is exchanged for one of the present shape."""
    type_client(database, scopes=["read", "write"])
    document = {"client_id": "typed", "refresh_token": "an-older-token"}
    dates = {"created_at": iso(-1), "expires_at": iso(7)}
    database["tokens"].insert_one(document | dates)
    machine = typed_machine(server)
    ask = machine.ask_refresh if door == "form" else machine.ask_refresh_plainly
    renewed = Tokens.of(await ask("an-older-token"))
    assert renewed.scope == "read write"
    assert (await machine.call(renewed)).status_code == 200
    again = Tokens.of(await ask(renewed.refresh))
    assert (await ask("an-older-token")).status_code == (400 if door == "form" else 401)
    assert events(database)[-1] == "refresh_token_reuse"
    assert (await machine.call(again)).status_code == 401
    assert (await ask(again.refresh)).status_code in {400, 401}


async def test_parallel_refreshes_of_an_older_token_have_one_success(
    server: Server, database: Database[Any]
) -> None:
    """The commit point is the same one."""
    type_client(database)
    database["tokens"].insert_one(
        {"client_id": "typed", "refresh_token": "an-older-token", "expires_at": iso(7)}
    )
    machine = typed_machine(server)
    responses = await asyncio.gather(
        *(machine.ask_refresh_plainly("an-older-token") for _ in range(20))
    )
    assert sorted(response.status_code for response in responses) == [200] + [401] * 19


@pytest.mark.parametrize(
    "expires_at",
    ["2020-01-31T12:00:00", "2020-01-31T12:00:00.5Z", "2020-01-31T12:00:00+02:00", "soon", 5, None],
)
async def test_an_older_refresh_token_that_has_expired_is_refused(
    server: Server, database: Database[Any], expires_at: object
) -> None:
    """ISO text is read as a moment; what cannot be read is no token at all."""
    type_client(database)
    document = {"client_id": "typed", "refresh_token": "an-older-token", "expires_at": expires_at}
    database["tokens"].insert_one(document)
    machine = typed_machine(server)
    assert (await machine.ask_refresh_plainly("an-older-token")).status_code == 401


async def test_an_older_used_refresh_token_stays_used(
    server: Server, database: Database[Any]
) -> None:
    """It was spent before we came, so it is refused, even though `tokens` still holds it."""
    type_client(database)
    database["tokens"].insert_one(
        {"client_id": "typed", "refresh_token": "an-older-token", "expires_at": iso(7)}
    )
    database["used_refresh_tokens"].insert_one(
        {"refresh_token": "an-older-token", "used_at": iso(-1)}
    )
    machine = typed_machine(server)
    assert (await machine.ask_refresh_plainly("an-older-token")).status_code == 401
    assert (await machine.ask_refresh_plainly("an-older-token")).status_code == 401


async def test_a_stored_digest_is_no_token(machine: Machine, database: Database[Any]) -> None:
    """Whoever reads the database cannot log in with what it finds there."""
    await machine.get_token()
    (stored,) = database["tokens"].find()
    assert (await machine.ask_refresh(stored["refresh_token"])).status_code == 400
    assert (await machine.ask_refresh_plainly(stored["refresh_token"])).status_code == 401
    digest = fingerprint(machine.client_secret)
    assert (await machine.using(client_secret=digest).ask_token()).status_code == 401


# --- Without MongoDB ----------------------------------------------------------------------------


def silent_port() -> socket.socket:
    """A server that takes connections and says nothing: the cruellest kind of outage."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.listen(100)
    return listener


@pytest.mark.parametrize("kind", ["asynchronous", "synchronous"])
@pytest.mark.parametrize("outage", ["refused", "silent"])
async def test_without_mongodb_every_answer_is_503_within_five_seconds(
    kind: str, outage: str
) -> None:
    """With `Retry-After`, from each endpoint and guard, and never a hang; live stays alive."""
    with silent_port() as listener:
        port = listener.getsockname()[1] if outage == "silent" else 1
        url = f"mongodb://127.0.0.1:{port}"
        async with AsyncMongoClient[dict[str, Any]](url) as asynchronous:
            with MongoClient[dict[str, Any]](url, connect=False) as synchronous:
                client: Any = asynchronous if kind == "asynchronous" else synchronous
                m2m = OAuth2M2M(client.oauth2_m2m)
                http = Server(guarded_app(m2m), m2m).http()
                requests = {
                    "token": http.post("/token", data={"username": "a", "password": "b"}),
                    "refresh": http.post("/refresh", json={"refresh_token": "m2mr_x"}),
                    "revoke": http.post("/revoke", json={"refresh_token": "m2mr_x"}),
                    "guard": http.get("/protected", headers={"Authorization": "Bearer x"}),
                    "ready": http.get("/health/ready"),
                    "health": http.get("/health"),
                }
                begun = time.monotonic()
                answers = await asyncio.gather(*requests.values())
                assert time.monotonic() - begun < 5.5  # the busy machine's half second included
                for name, response in zip(requests, answers, strict=True):
                    assert response.status_code == 503, name
                    assert response.json()["error"] == "temporarily_unavailable", name
                    assert int(response.headers["retry-after"]) >= 1, name
                    assert "127.0.0.1" not in response.text, name
                for response in answers[-2:]:
                    assert "mongodb" in response.json()["detail"]
                assert (await http.get("/health/live")).status_code == 200


class Wire:
    """The wire between the app and MongoDB, to be cut: connected, `cut`, or `silent`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._ends: set[asyncio.StreamWriter] = set()
        self.state = "connected"

    async def serve(self, stack: AsyncExitStack) -> int:
        """Listen, until the stack is left; the port."""
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)

        async def close() -> None:
            server.close()
            self.change("cut")

        stack.push_async_callback(close)
        port: int = server.sockets[0].getsockname()[1]
        return port

    def change(self, state: str) -> None:
        """Cut the wire, silence it or mend it; a mended one needs new connections."""
        if state != "silent":
            for end in self._ends:
                end.close()
        self.state = state

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.state == "cut":
            writer.close()
            return
        from_server, to_server = await asyncio.open_connection(*self._target)
        self._ends |= {writer, to_server}
        await asyncio.gather(self._pass(reader, to_server), self._pass(from_server, writer))
        self._ends -= {writer, to_server}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                if self.state == "connected":
                    writer.write(data)
        except ConnectionError:
            pass
        writer.close()


@pytest.mark.parametrize("outage", ["cut", "silent"])
async def test_an_outage_costs_503s_and_is_over_when_mongodb_is_back(
    mongo_url: str, database_name: str, outage: str
) -> None:
    """A server that worked a moment ago fails closed within 5 s, and recovers by itself."""
    wire = Wire(*parse_uri(mongo_url)["nodelist"][0])
    async with AsyncExitStack() as stack:
        url = f"mongodb://127.0.0.1:{await wire.serve(stack)}/?directConnection=true"
        client = await stack.enter_async_context(AsyncMongoClient[dict[str, Any]](url))
        server = await stack.enter_async_context(running(client[database_name]))
        machine = await new_machine(server)
        tokens = await machine.get_token()

        wire.change(outage)
        begun = time.monotonic()
        requests = {
            "token": machine.ask_token(),
            "refresh": machine.ask_refresh_plainly(tokens),
            "revoke": machine.revoke_plainly(access_token=tokens.access),
            "good token": machine.call(tokens),
            "bad token": machine.call("x"),
            "ready": machine.http.get("/health/ready"),
        }
        answers = await asyncio.gather(*requests.values())
        assert time.monotonic() - begun < 5.5  # the busy machine's half second included
        for name, response in zip(requests, answers, strict=True):
            assert response.status_code == 503, name
            assert int(response.headers["retry-after"]) >= 1, name
        checks = answers[-1].json()["checks"]
        assert checks["mongodb"] != "ok"
        assert checks["signing_key"] == "ok"
        assert (await machine.http.get("/health/live")).status_code == 200

        wire.change("cut")
        wire.change("connected")
        for _ in range(50):
            if (await machine.ask_token()).status_code == 200:
                break
            await asyncio.sleep(0.1)
        assert (await machine.call(await machine.get_token())).status_code == 200
        assert (await machine.http.get("/health/ready")).status_code == 200


async def test_ready_answers_quickly_and_names_what_fails() -> None:
    """A load balancer does not wait for five seconds, and a person reads which part it is."""
    async with AsyncMongoClient[dict[str, Any]]("mongodb://127.0.0.1:1") as client:
        m2m = OAuth2M2M(client.oauth2_m2m)
        http = Server(guarded_app(m2m), m2m).http()
        begun = time.monotonic()
        response = await http.get("/health/ready")
        assert time.monotonic() - begun < 2.5
        assert response.json()["checks"]["mongodb"] != "ok"
        assert response.json()["status"] != "ok"


@pytest.mark.parametrize("environment", ["development", "production"])
async def test_the_start_without_mongodb_fails_in_one_line(environment: str) -> None:
    """An unreachable database stops the start in either environment, and says what to do."""
    async with AsyncMongoClient[dict[str, Any]]("mongodb://127.0.0.1:1") as client:
        with pytest.raises(ConfigurationError, match="MongoDB") as refused:
            await start_once(client.oauth2_m2m, environment)
    assert "\n" not in str(refused.value)


async def test_the_operators_calls_fail_with_an_error_of_ours() -> None:
    """No PyMongo error reaches a user of the door."""
    async with AsyncMongoClient[dict[str, Any]]("mongodb://127.0.0.1:1") as client:
        m2m = OAuth2M2M(client.oauth2_m2m)
        calls = [m2m.clients.list(), m2m.revoke("x"), m2m.clients.disable("x")]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, TemporarilyUnavailable)


# --- How strictly revocation is read ------------------------------------------------------------


class Levels(monitoring.CommandListener):
    """Keeps the read concerns with which revocations are read."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Look at every command, as it is sent."""
        if event.command.get("find") == "revoked_tokens":
            self.seen.append(event.command["readConcern"]["level"])

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing to do."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing to do."""


@pytest.mark.parametrize("level", ["majority", "linearizable"])
async def test_revocation_is_read_as_strictly_as_is_set(
    mongo_url: str, database: Database[Any], level: str
) -> None:
    """At a guard and at a refresh, whatever the level, and all endpoints work with it."""
    configure(database, REVOCATION_READ_CONCERN=level)
    levels = Levels()
    async with (
        AsyncMongoClient[Document](mongo_url, event_listeners=[levels]) as client,
        running(client[database.name]) as server,
    ):
        machine = await new_machine(server)
        tokens = await machine.get_token()
        levels.seen.clear()
        assert (await machine.call(tokens)).status_code == 200
        assert levels.seen == [level]
        later = await machine.refresh_plainly(tokens)
        assert levels.seen == [level, level]
        assert (await machine.revoke_plainly(access_token=later.access)).status_code == 200
        assert (await machine.call(later)).status_code == 401
        assert (await machine.call(tokens)).status_code == 200
        assert (await machine.ask_refresh(tokens)).status_code == 400  # reuse
        assert (await machine.call(tokens)).status_code == 401
        assert (await machine.ask_refresh(later)).status_code == 400
