"""Signing keys as others see them: the key set (RFC 7517, 7638), their lives, keys at rest."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import load_der_private_key
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import KeySet
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from _oauth2_m2m.config import Secret
from _oauth2_m2m.key_sealing import KeySealer
from _oauth2_m2m.signatures import hs256_key
from oauth2_m2m import ConfigurationError
from tests.clocks import hasten
from tests.expectations import expect_error
from tests.machine import Tokens, audit, claims_of, new_machine, resigned
from tests.server import Server, configure, running

Document = dict[str, Any]
Start = Callable[..., Awaitable[Server]]

ALGORITHMS = ["HS256", "ES256", "RS256"]
ASYMMETRIC = ["ES256", "RS256"]
JWKS = "/.well-known/jwks.json"
SECRET_KEY = "a-secret-key-of-the-tests-with-more-than-32-bytes"
#: What a published key holds, and nothing else.
MEMBERS = {
    "ES256": {"kty", "crv", "x", "y", "kid", "use", "alg"},
    "RS256": {"kty", "n", "e", "kid", "use", "alg"},
}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are read again without a pause, which is for those who present unknown ones."""
    monkeypatch.setattr("_oauth2_m2m.settings.REREAD_SECONDS", 0.01)


def header_of(tokens: Tokens) -> Document:
    text = tokens.access.partition(".")[0]
    header: Document = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return header


def kid_of(tokens: Tokens) -> str:
    return str(header_of(tokens)["kid"])


async def jwks_of(server: Server) -> list[Document]:
    async with server.http() as http:
        response = await http.get(JWKS)
        assert response.status_code == 200
        keys: list[Document] = response.json()["keys"]
        return keys


async def published_by(server: Server) -> set[str]:
    return {key["kid"] for key in await jwks_of(server)}


async def is_good(server: Server, tokens: Tokens) -> bool:
    """Whether a server lets a token pass; if not, it says why as RFC 6750 asks."""
    async with server.http() as http:
        response = await http.get(
            "/protected", headers={"Authorization": f"Bearer {tokens.access}"}
        )
    if response.status_code != 200:
        assert response.status_code == 401
        assert 'error="invalid_token"' in response.headers["www-authenticate"]
    return response.status_code == 200


def let_pass(database: Database[Any], length: timedelta) -> None:
    """Time passes for the keys: all that their documents tell happened so much earlier."""
    for document in database["keys"].find():
        moments = {
            name: document[name] - length
            for name in ("created_at", "signs_from", "signs_until", "last_expiry", "burned_at")
            if document.get(name) is not None
        }
        database["keys"].update_one({"_id": document["_id"]}, {"$set": moments})


# RFC 7517, RFC 7638


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
async def test_servers_that_start_at_once_have_one_key(
    async_database: AsyncDatabase[Any], database: Database[Any], algorithm: str
) -> None:
    """On an empty database one of them makes it, and each takes the tokens of any."""
    configure(database, ALGORITHM=algorithm)
    async with AsyncExitStack() as stack:
        starting = (stack.enter_async_context(running(async_database)) for _ in range(4))
        servers = await asyncio.gather(*starting)
        assert database["keys"].count_documents({}) == 1
        assert len({json.dumps(await jwks_of(server)) for server in servers}) == 1
        first = await new_machine(servers[0])
        for issuing in servers:
            tokens = await first.using(http=issuing.http()).get_token()
            assert [await is_good(server, tokens) for server in servers] == [True] * 4


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
async def test_a_key_is_named_by_its_thumbprint(start: Start, algorithm: str) -> None:
    """RFC 7638 section 3: of its required members, in order, hashed by SHA-256."""
    server = await start(ALGORITHM=algorithm)
    (key,) = await jwks_of(server)
    names = ["crv", "kty", "x", "y"] if algorithm == "ES256" else ["e", "kty", "n"]
    canonical = "{" + ",".join(f'"{name}":"{key[name]}"' for name in names) + "}"
    digest = hashlib.sha256(canonical.encode()).digest()
    assert key["kid"] == base64.urlsafe_b64encode(digest).decode().rstrip("=")
    tokens = await (await new_machine(server)).get_token()
    assert header_of(tokens) == {"typ": "at+jwt", "alg": algorithm, "kid": key["kid"]}


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
async def test_tokens_verify_offline(start: Start, algorithm: str) -> None:
    """With nothing but the key set, by libraries that nobody here wrote."""
    server = await start(ALGORITHM=algorithm, ISSUER="https://auth.example.com")
    machine = await new_machine(server)
    tokens = await machine.get_token()
    keys = await jwks_of(server)
    key = jwt.PyJWKSet.from_dict({"keys": keys})[kid_of(tokens)]
    claims = jwt.decode(
        tokens.access, key, algorithms=[algorithm],
        audience="https://auth.example.com", issuer="https://auth.example.com",
    )  # fmt: skip
    assert claims["client_id"] == machine.client_id
    token = joserfc_jwt.decode(
        tokens.access,
        KeySet.import_key_set({"keys": keys}),
        algorithms=[algorithm],
    )
    assert token.claims == claims


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
async def test_only_public_members_are_published(
    start: Start, database: Database[Any], algorithm: str
) -> None:
    """Whatever a key's state: announced, signing or superseded."""
    server = await start(ALGORITHM=algorithm)
    await server.m2m.keys.rotate()
    await server.m2m.keys.rotate(announce=timedelta(days=1))
    keys = await jwks_of(server)
    assert len(keys) == 3
    for key in keys:
        assert key.keys() == MEMBERS[algorithm]
        assert (key["use"], key["alg"]) == ("sig", algorithm)
        assert all(isinstance(value, str) for value in key.values())


async def test_a_shared_secret_is_never_published(
    start: Start, database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither while it signs, nor as a previous one, nor when another algorithm signs."""
    hasten(monkeypatch, "settings")
    server = await start(SECRET_KEY=SECRET_KEY, PREVIOUS_SECRET_KEYS=["p" * 40])
    machine = await new_machine(server)
    tokens = await machine.get_token()
    assert await jwks_of(server) == []
    database["config"].update_one({}, {"$set": {"ALGORITHM": "ES256"}})
    assert await is_good(server, tokens)
    (key,) = await jwks_of(server)
    assert key["alg"] == "ES256"


async def test_the_key_set_may_be_kept_for_a_while(start: Start) -> None:
    """It says how long, by name of its version; who has that is told that it has not changed."""
    server = await start(ALGORITHM="ES256")
    async with server.http() as http:
        response = await http.get(JWKS)
        assert response.headers["content-type"] == "application/json"
        cache_control = response.headers.get_list("cache-control")
        assert cache_control == ["public, max-age=300"]
        etag = response.headers["etag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            unchanged = await http.get(JWKS, headers={"If-None-Match": known})
            assert unchanged.status_code == 304, known
            assert unchanged.content == b""
            assert unchanged.headers["etag"] == etag
            assert unchanged.headers.get_list("cache-control") == cache_control
        for other in ('"other"', etag.strip('"'), ""):
            assert (await http.get(JWKS, headers={"If-None-Match": other})).status_code == 200
        await server.m2m.keys.rotate()
        changed = await http.get(JWKS, headers={"If-None-Match": etag})
        assert changed.status_code == 200
        assert changed.headers["etag"] != etag


# The life of a key


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
async def test_a_key_is_announced_before_it_signs_and_kept_after(
    start: Start, database: Database[Any], monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    """In the key set a day ahead, signing for 90 days, and gone after its last token."""
    hasten(monkeypatch, "settings")
    server = await start(ALGORITHM=algorithm)
    machine = await new_machine(server)
    first = kid_of(await machine.get_token())
    let_pass(database, timedelta(days=88))
    assert await published_by(server) == {first}

    let_pass(database, timedelta(days=1, hours=1))
    both = await published_by(server)
    (second,) = both - {first}
    old = await machine.get_token()
    assert kid_of(old) == first

    let_pass(database, timedelta(days=1))
    new = await machine.get_token()
    assert kid_of(new) == second
    assert await is_good(server, old)
    assert await published_by(server) == both

    # The last expiry is written down an hour ahead, and the key is kept for an hour after it.
    let_pass(database, timedelta(hours=2))
    assert await published_by(server) == both
    let_pass(database, timedelta(minutes=16))
    await published_by(server)
    assert await published_by(server) == {second}
    assert database["keys"].count_documents({}) == 1
    assert await is_good(server, new)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_rotation_ends_no_token_on_any_server(
    start: Start, async_database: AsyncDatabase[Any], database: Database[Any], algorithm: str
) -> None:
    """A server that has not noticed takes the new key's tokens at once, and its own are taken."""
    one = await start(ALGORITHM=algorithm)
    async with running(async_database) as other:
        machine = await new_machine(one)
        before = await machine.get_token()
        assert await is_good(other, before)
        await one.m2m.keys.rotate()
        after = await machine.get_token()
        late = await machine.using(http=other.http()).get_token()
        assert kid_of(after) != kid_of(before)
        for server in (one, other):
            for tokens in (before, after, late):
                assert await is_good(server, tokens)
        assert await published_by(one) == await published_by(other)
        assert kid_of(await machine.using(http=other.http()).get_token()) == kid_of(after)
    assert audit(database, event_type="key_rotated")[-1]["reason"].startswith(f"{algorithm} key ")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_burning_ends_all_tokens_of_a_key_on_every_server_at_once(
    start: Start, async_database: AsyncDatabase[Any], database: Database[Any], algorithm: str
) -> None:
    """Guards and introspection refuse them; refresh tokens, which no key signs, get good ones."""
    one = await start(ALGORITHM=algorithm)
    async with running(async_database) as other:
        machine = await new_machine(one)
        there = machine.using(http=other.http())
        kept = await machine.get_token()
        await one.m2m.keys.rotate()
        burned = [await machine.get_token() for _ in range(3)]
        assert [await is_good(other, tokens) for tokens in (kept, *burned)] == [True] * 4
        await one.m2m.keys.burn(kid_of(burned[0]))
        for server in (other, one):
            assert [await is_good(server, tokens) for tokens in burned] == [False] * 3
            assert await is_good(server, kept)
        asked = await there.post("/introspect", token=burned[0].access)
        assert asked.json() == {"active": False}
        renewed = await machine.refresh(burned[1])
        assert kid_of(renewed) not in {kid_of(kept), kid_of(burned[0])}
        assert [await is_good(server, renewed) for server in (one, other)] == [True, True]
        assert kid_of(burned[0]) not in await published_by(one)
    if algorithm != "HS256":
        document = database["keys"].find_one({"_id": kid_of(burned[0])})
        assert document is not None
        assert "private" not in document


PAIRS = [(old, new) for old in ALGORITHMS for new in ALGORITHMS if old != new]


@pytest.mark.parametrize(("old", "new"), PAIRS)
async def test_a_changed_algorithm_ends_no_token(
    start: Start, async_database: AsyncDatabase[Any], database: Database[Any], old: str, new: str
) -> None:
    """Running servers, those that have seen it and those that have not, take tokens of both."""
    one = await start(ALGORITHM=old, SECRET_KEY=SECRET_KEY)
    async with running(async_database) as other:
        machine = await new_machine(one)
        before = await machine.get_token()
        database["config"].update_one({}, {"$set": {"ALGORITHM": new}})
        await one.m2m.keys.list()  # reads the config anew
        after = await machine.get_token()
        late = await machine.using(http=other.http()).get_token()
        algorithms = [header_of(tokens)["alg"] for tokens in (before, after, late)]
        assert algorithms == [old, new, old]
        for server in (one, other):
            for tokens in (before, after, late):
                assert await is_good(server, tokens)
        await other.m2m.keys.list()
        assert await is_good(other, before)
        assert header_of(await machine.using(http=other.http()).get_token())["alg"] == new


async def test_a_key_of_another_algorithm_goes_when_its_last_token_has_ended(
    start: Start, database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that it signs is good from then on, whoever has it."""
    hasten(monkeypatch, "settings")
    server = await start(ALGORITHM="HS256", SECRET_KEY=SECRET_KEY)
    tokens = await (await new_machine(server)).get_token()
    database["config"].update_one({}, {"$set": {"ALGORITHM": "ES256"}})
    assert await is_good(server, tokens)
    let_pass(database, timedelta(hours=3))
    assert not await is_good(server, tokens)


async def test_the_secret_key_verifies_nothing_while_another_algorithm_signs(start: Start) -> None:
    """It stands in the config in any case, but no token of it can be alive."""
    server = await start(ALGORITHM="ES256", SECRET_KEY=SECRET_KEY)
    claims = claims_of((await (await new_machine(server)).get_token()).access)
    header = {"typ": "at+jwt", "kid": hs256_key(Secret(SECRET_KEY)).kid}
    forged = jwt.encode(claims, SECRET_KEY, "HS256", header)
    assert not await is_good(server, Tokens(forged, "", "", {}))


async def test_nothing_new_is_forged_with_a_burned_secret(start: Start) -> None:
    """Whoever has it can sign with it for ever, to no avail."""
    server = await start(SECRET_KEY=SECRET_KEY)
    tokens = await (await new_machine(server)).get_token()
    forged = Tokens(resigned(tokens.access, SECRET_KEY, jti="another-id-of-a-token"), "", "", {})
    assert await is_good(server, forged)
    await server.m2m.keys.burn(kid_of(tokens))
    assert not await is_good(server, forged)


async def test_previous_secret_keys_verify_as_long_as_they_are_named(
    start: Start, database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator who rotates by hand ends no token before the old key is taken out."""
    hasten(monkeypatch, "settings")
    server = await start(SECRET_KEY=SECRET_KEY)
    machine = await new_machine(server)
    before = await machine.get_token()
    changed = {"SECRET_KEY": "n" * 40, "PREVIOUS_SECRET_KEYS": [SECRET_KEY]}
    database["config"].update_one({}, {"$set": changed})
    after = await machine.get_token()
    assert kid_of(after) != kid_of(before)
    assert await is_good(server, before)
    database["config"].update_one({}, {"$set": {"PREVIOUS_SECRET_KEYS": []}})
    assert not await is_good(server, before)
    assert await is_good(server, after)


# At rest

VARIABLE = "OAUTH2_M2M_KEY_ENCRYPTION_KEY"
ONE, TWO = b"1" * 32, b"2" * 32


def variable(*keys: bytes) -> str:
    return ",".join(base64.urlsafe_b64encode(key).decode() for key in keys)


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
async def test_nothing_of_a_private_key_lies_in_the_clear(
    async_database: AsyncDatabase[Any], database: Database[Any],
    monkeypatch: pytest.MonkeyPatch, algorithm: str,
) -> None:  # fmt: skip
    """Not its encoding, and not one of the numbers that make it, in any document there is."""
    monkeypatch.setenv(VARIABLE, variable(ONE))
    configure(database, ALGORITHM=algorithm)
    async with running(async_database) as server:
        await server.m2m.keys.rotate(announce=timedelta(days=1))
        await (await new_machine(server)).get_token()
    stored = b"".join(
        bson.encode(document)
        for name in database.list_collection_names()
        for document in database[name].find()
    )
    documents = list(database["keys"].find())
    assert len(documents) == 2
    for document in documents:
        der = KeySealer([ONE]).open(document["private"], document["_id"], document["sealed_with"])
        private: Any = load_der_private_key(der, None)
        numbers = private.private_numbers()
        names = ["private_value"] if algorithm == "ES256" else ["d", "p", "q", "dmp1", "dmq1"]
        secrets = [getattr(numbers, name) for name in names]
        for secret in secrets:
            raw = secret.to_bytes((secret.bit_length() + 7) // 8)
            spelled = [raw, base64.b64encode(raw), base64.urlsafe_b64encode(raw).rstrip(b"=")]
            assert not [text for text in (*spelled, raw.hex().encode()) if text in stored]
        assert der not in stored


async def test_the_first_encryption_key_seals_and_the_others_open(
    async_database: AsyncDatabase[Any], database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is changed and no token ends: put before the old one, rotate, drop the old one."""
    configure(database, ALGORITHM="ES256")
    monkeypatch.setenv(VARIABLE, variable(ONE))
    async with running(async_database) as server:
        machine = await new_machine(server)
        before = await machine.get_token()
        await server.m2m.keys.rotate(announce=timedelta(days=1))  # it would not open any more
    monkeypatch.setenv(VARIABLE, variable(TWO, ONE))
    async with running(async_database) as server:
        assert kid_of(await machine.using(http=server.http()).get_token()) == kid_of(before)
        await server.m2m.keys.rotate()
        (_, _, newest) = sorted(database["keys"].find(), key=lambda key: int(key["number"]))
        assert newest["signs_from"] <= datetime.now(UTC)
    monkeypatch.setenv(VARIABLE, variable(TWO))
    async with running(async_database) as server:
        assert await is_good(server, before)
        after = await machine.using(http=server.http()).get_token()
        assert kid_of(after) != kid_of(before)
        assert await is_good(server, after)


@pytest.mark.parametrize("value", [None, variable(TWO)])
async def test_a_key_that_does_not_open_stops_the_start(
    async_database: AsyncDatabase[Any], database: Database[Any],
    monkeypatch: pytest.MonkeyPatch, value: str | None,
) -> None:  # fmt: skip
    """One line says which key, and what to do; nothing is made in its place."""
    configure(database, ALGORITHM="ES256")
    monkeypatch.setenv(VARIABLE, variable(ONE))
    async with running(async_database) as server:
        (key,) = await server.m2m.keys.list()
    if value is None:
        monkeypatch.delenv(VARIABLE)
    else:
        monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ConfigurationError) as raised:
        async with running(async_database):
            pass
    line = str(raised.value)
    assert key.kid in line
    assert f"add that key to {VARIABLE}" in line
    assert "\n" not in line
    assert [document["_id"] for document in database["keys"].find()] == [key.kid]


async def test_a_variable_that_holds_no_key_stops_the_start(
    async_database: AsyncDatabase[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Better than to leave the keys in the clear; what was given is not quoted."""
    monkeypatch.setenv(VARIABLE, "not-thirty-two-bytes")
    with pytest.raises(ConfigurationError, match=VARIABLE) as raised:
        async with running(async_database):
            pass
    assert "not-thirty-two-bytes" not in str(raised.value)


async def test_a_running_server_keeps_its_keys_when_they_cannot_be_read_again(
    async_database: AsyncDatabase[Any], database: Database[Any],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """It signs and verifies with those it has, and logs an error; no new key is made."""
    hasten(monkeypatch, "settings")
    monkeypatch.setenv(VARIABLE, variable(ONE))
    configure(database, ALGORITHM="ES256")
    async with running(async_database) as server:
        machine = await new_machine(server)
        before = await machine.get_token()
        monkeypatch.setenv(VARIABLE, variable(TWO, ONE))
        async with running(async_database) as newer:
            await newer.m2m.keys.rotate(announce=timedelta(days=1))  # sealed with the other key
        with caplog.at_level(logging.ERROR, "oauth2_m2m"):
            after = await machine.get_token()
        assert kid_of(after) == kid_of(before)
        assert await is_good(server, before)
        assert "the keys are refused, the last good ones stay: signing key" in caplog.text
        assert database["keys"].count_documents({}) == 2


# What the endpoint refuses


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_the_key_set_is_only_read(server: Server, method: str) -> None:
    """405, as everywhere."""
    async with server.http() as http:
        response: httpx.Response = await http.request(method, JWKS)
    expect_error(response, 405, "invalid_request")
