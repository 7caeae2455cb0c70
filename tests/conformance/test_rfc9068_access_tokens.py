"""RFC 9068: what an access token says, read by a JWT library that is not ours."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from pymongo import AsyncMongoClient, monitoring
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from tests.clocks import Clock, hasten
from tests.conformance.conftest import Start
from tests.machine import Machine, Tokens, claims_of, new_machine, type_client
from tests.proofs import compact, key
from tests.server import Server, configure, running

#: Not ASCII, so that a key that is anything but the text's UTF-8 bytes is found out.
KEY = "schlüssel-der-prüfungen-länger-als-32-bytes-🔑"
ISSUER = "https://auth.example.com/m2m"

REQUIRED = ["iss", "sub", "client_id", "aud", "exp", "iat", "jti", "scope", "roles"]


def decoded(token: str, key: str, *, issuer: str, audience: str) -> dict[str, Any]:
    """The claims, checked the way that a resource server in another language would."""
    claims: dict[str, Any] = jwt.decode(
        token,
        key.encode("utf-8"),
        algorithms=["HS256"],
        issuer=issuer,
        audience=audience,
        options={"require": ["exp", "iat", "iss", "aud", "sub", "jti"], "strict_aud": True},
    )
    return claims


def verifies(token: str, key: str) -> bool:
    """Whether a library that is not ours accepts the signature under this key."""
    try:
        jwt.decode(token, key.encode(), algorithms=["HS256"], options={"verify_aud": False})
    except jwt.InvalidSignatureError:
        return False
    return True


def kid(tokens: Tokens) -> str:
    found: str = jwt.get_unverified_header(tokens.access)["kid"]
    return found


@pytest.mark.parametrize("method", ["basic", "post", "plain"])
async def test_a_token_says_what_rfc_9068_asks_for(start: Start, method: str) -> None:
    """Header and claims are the profile's, by each of the ways to authenticate."""
    server = await start(SECRET_KEY=KEY, ISSUER=ISSUER, AUDIENCE="https://api.example.com")
    machine = await new_machine(
        server, scopes=["write", "read"], role="auditor", method=method, client_id="reporter"
    )
    before = int(time.time())
    tokens = await machine.get_token()
    after = int(time.time())

    header = jwt.get_unverified_header(tokens.access)
    assert header.keys() == {"typ", "alg", "kid"}
    assert header["typ"] == "at+jwt"
    assert header["alg"] == "HS256"
    assert re.fullmatch(r"[\w.-]{8,64}", header["kid"])

    claims = decoded(tokens.access, KEY, issuer=ISSUER, audience="https://api.example.com")
    assert set(REQUIRED) <= claims.keys()
    assert claims["sub"] == claims["client_id"] == "reporter"
    assert claims["aud"] == "https://api.example.com"
    assert type(claims["iat"]) is type(claims["exp"]) is int
    assert before <= claims["iat"] <= after
    assert claims["exp"] - claims["iat"] == tokens.body["expires_in"] == 15 * 60
    assert claims["scope"].split(" ") == ["read", "write"]
    assert claims["scope"] == tokens.scope
    assert claims["roles"] == ["auditor"]


async def test_by_itself_the_audience_is_the_issuer(start: Start) -> None:
    """Without AUDIENCE a token is meant for whoever trusts this issuer alone."""
    server = await start(SECRET_KEY=KEY, ISSUER=ISSUER)
    machine = await new_machine(server)
    decoded((await machine.get_token()).access, KEY, issuer=ISSUER, audience=ISSUER)


async def test_in_development_the_issuer_is_localhost_whatever_the_host_header(
    start: Start,
) -> None:
    """The `Host` header and its forwarded relatives never decide who issued a token."""
    server = await start(SECRET_KEY=KEY)
    machine = await new_machine(server)
    machine.http.headers.update({
        "Host": "evil.example",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
        "Forwarded": "host=evil.example;proto=https",
    })  # fmt: skip
    token = (await machine.get_token()).access
    localhost = "http://localhost:8000"
    decoded(token, KEY, issuer=localhost, audience=localhost)


async def test_a_jti_holds_128_random_bits_and_is_never_seen_twice(machine: Machine) -> None:
    """Nobody guesses the id by which a token is revoked, and no two tokens share one."""
    tokens = [await machine.get_token() for _ in range(20)]
    tokens += [await machine.refresh(tokens[0])]
    ids = [jwt.decode(t.access, options={"verify_signature": False})["jti"] for t in tokens]
    assert len(set(ids)) == len(ids)
    for jti in ids:
        assert re.fullmatch(r"[0-9A-Za-z_-]{22,}", jti)  # 22 of 62 characters are 131 bits
    # Each place of the id varies: none of its characters is a constant, a counter or a clock.
    assert all(len(set(place)) > 5 for place in zip(*ids, strict=True))


async def test_a_narrowed_scope_is_in_the_token_and_in_the_answer(machine: Machine) -> None:
    """What was not asked for is not granted."""
    tokens = await machine.get_token("write")
    claims = jwt.decode(tokens.access, options={"verify_signature": False})
    assert claims["scope"] == tokens.scope == "write"


async def test_a_refreshed_token_says_the_same_of_its_client(machine: Machine) -> None:
    """Only its id and its times are new."""
    first = await machine.get_token()
    second = await machine.refresh_plainly(first)
    before, after = (
        jwt.decode(tokens.access, options={"verify_signature": False}) for tokens in (first, second)
    )
    assert before.pop("jti") != after.pop("jti")
    for claims in (before, after):
        assert claims.pop("exp") - claims.pop("iat") == 15 * 60
    assert before == after


@pytest.mark.parametrize(
    ("setting", "own", "expected"),
    [(None, None, 15), (1, None, 1), (60, 5, 5), (5, 60, 60), (1440, None, 1440)],
)
async def test_the_lifetime_is_the_clients_or_the_settings(
    start: Start, setting: int | None, own: int | None, expected: int
) -> None:
    """`exp` and `expires_in` agree on it."""
    server = await start(**({} if setting is None else {"ACCESS_TOKEN_EXPIRE_MINUTES": setting}))
    machine = await new_machine(server, access_token_expire_minutes=own)
    tokens = await machine.get_token()
    claims = jwt.decode(tokens.access, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == tokens.body["expires_in"] == expected * 60


async def test_the_key_is_the_utf8_bytes_of_secret_key(start: Start) -> None:
    """No derivation, no decoding: another library with the same text verifies and signs too."""
    base64_like = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    server = await start(SECRET_KEY=base64_like)
    machine = await new_machine(server)
    tokens = await machine.get_token()
    assert verifies(tokens.access, base64_like)
    assert not verifies(tokens.access, base64_like + "\n")
    claims = jwt.decode(tokens.access, options={"verify_signature": False})
    headers = {"typ": "at+jwt", "kid": kid(tokens)}
    foreign = jwt.encode(claims | {"jti": "made-elsewhere"}, base64_like, "HS256", headers)
    assert (await machine.call(foreign)).json()["jti"] == "made-elsewhere"


async def test_a_key_made_by_itself_verifies_too(machine: Machine, database: Database[Any]) -> None:
    """A resource server is configured with the text that stands in the config document."""
    config = database["config"].find_one({"_id": "jwt_config"})
    assert config is not None
    assert len(config["SECRET_KEY"]) >= 43  # 256 bits in base64url
    localhost = "http://localhost:8000"
    token = (await machine.get_token()).access
    decoded(token, config["SECRET_KEY"], issuer=localhost, audience=localhost)


async def test_previous_keys_go_on_verifying_and_no_others(
    async_database: AsyncDatabase[Any], database: Database[Any], start: Start
) -> None:
    """A worker that started after the change signs with the new key and believes the old one."""
    old, new = KEY, "the-key-after-it-with-more-than-32-bytes"
    before = await start(SECRET_KEY=old)
    machine = await new_machine(before)
    earlier = await machine.get_token()

    configure(database, SECRET_KEY=new, PREVIOUS_SECRET_KEYS=[old])
    async with running(async_database) as after:
        there = machine.using(http=after.http())
        later = await there.get_token()
        assert verifies(later.access, new)
        assert not verifies(later.access, old)
        assert kid(later) != kid(earlier)
        assert (await there.call(later)).status_code == 200
        assert (await there.call(earlier)).status_code == 200
        renewed = await there.refresh(earlier)
        assert verifies(renewed.access, new)
        await there.revoke(earlier.access)
        assert (await there.call(earlier)).status_code == 401

        # A key id is no promise: each key is tried under its own id only.
        claims = jwt.decode(later.access, options={"verify_signature": False})
        for key, key_id in [(old, kid(later)), (new, kid(earlier))]:
            crossed = jwt.encode(claims, key, "HS256", {"typ": "at+jwt", "kid": key_id})
            assert (await there.call(crossed)).status_code == 401

    configure(database, SECRET_KEY=new)
    async with running(async_database) as without:
        there = machine.using(http=without.http())
        assert (await there.call(later)).status_code == 200
        assert (await there.call(await machine.get_token())).status_code == 401


async def test_a_running_worker_takes_over_a_changed_key(
    start: Start, database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its memory of the settings has lapsed, it signs with the new key without a restart."""
    server = await start(SECRET_KEY=KEY)
    machine = await new_machine(server)
    earlier = await machine.get_token()
    new = "the-key-after-it-with-more-than-32-bytes"
    configure(database, SECRET_KEY=new, PREVIOUS_SECRET_KEYS=[KEY])
    hasten(monkeypatch, "settings")
    later = await machine.get_token()
    assert verifies(later.access, new)
    assert (await machine.call(later)).status_code == 200
    assert (await machine.call(earlier)).status_code == 200


class Reads(monitoring.CommandListener):
    """Counts how often the config is read."""

    def __init__(self) -> None:
        self.number = 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Look at every command, as it is sent."""
        self.number += event.command.get("find") == "config"

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing to do."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing to do."""


@asynccontextmanager
async def watched(mongo_url: str, database: Database[Any]) -> AsyncIterator[tuple[Reads, Machine]]:
    """A server whose readings of the config are counted, and a client of it."""
    reads = Reads()
    configure(database, SECRET_KEY=KEY)
    async with (
        AsyncMongoClient[dict[str, Any]](mongo_url, event_listeners=[reads]) as client,
        running(client[database.name]) as server,
    ):
        yield reads, await new_machine(server)


async def test_a_key_that_another_instance_has_just_begun_to_use_is_looked_for(
    async_database: AsyncDatabase[Any],
    database: Database[Any],
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A token of the new key is good here too, long before the settings are read again."""
    clock = Clock(monkeypatch, "settings")
    server = await start(SECRET_KEY=KEY)
    machine = await new_machine(server)
    earlier = await machine.get_token()
    new = "the-key-after-it-with-more-than-32-bytes"
    configure(database, SECRET_KEY=new, PREVIOUS_SECRET_KEYS=[KEY])
    async with running(async_database) as another:
        clock.let_pass(1.5)
        there = machine.using(http=another.http())
        later, doomed = await there.get_token(), await there.get_token()
        assert verifies(later.access, new)
        assert (await machine.call(later)).status_code == 200
        assert (await machine.call(earlier)).status_code == 200
        assert (await machine.revoke_plainly(access_token=doomed.access)).status_code == 200
        assert (await there.call(doomed)).status_code == 401


async def test_made_up_keys_have_the_settings_read_once_a_second(
    mongo_url: str, database: Database[Any]
) -> None:
    """However many tokens with made-up kids come, the database is asked once for all of them."""
    async with watched(mongo_url, database) as (reads, machine):
        claims = claims_of((await machine.get_token()).access)

        def made_up(number: int) -> str:
            return jwt.encode(claims, KEY, "HS256", {"typ": "at+jwt", "kid": str(number)})

        began, reads.number = time.monotonic(), 0
        for rounds in (1, 2, 3):
            answers = await asyncio.gather(*(machine.call(made_up(n)) for n in range(50)))
            assert {answer.status_code for answer in answers} == {401}
            assert reads.number == rounds
        assert time.monotonic() - began > 2  # whoever came within the second has waited for it


async def test_a_token_that_names_no_key_has_nothing_read(
    mongo_url: str, database: Database[Any]
) -> None:
    """It cannot mean a key that is new, so it is refused without a look at the config."""
    async with watched(mongo_url, database) as (reads, machine):
        claims = claims_of((await machine.get_token()).access)
        reads.number = 0
        for header in ({}, {"kid": None}, {"kid": 1}, {"kid": ["x"]}):
            named = {"typ": "at+jwt", "alg": "HS256", **header}
            token = compact(named, claims, key("stranger"))
            assert (await machine.call(token)).status_code == 401
        assert reads.number == 0


async def test_the_largest_client_there_may_be_gets_tokens_that_are_good(
    server: Server, database: Database[Any]
) -> None:
    """No document that is well-formed is so large that the guard refuses what it gets."""
    words = ["read", *(f"{n:03}".ljust(20, "x") for n in range(194)), *"abcde"]
    words[-1] += "y" * (4096 - len(" ".join(words)))
    assert (len(words), len(" ".join(words))) == (200, 4096)
    largest = {"scopes": words, "role": "~" * 255, "epoch": "e" * 8}
    machine = type_client(server, database, "\N{KEY}" * 255, "by hand", **largest)
    tokens = await machine.get_token()
    assert sorted(tokens.scope.split()) == sorted(words)
    assert (await machine.call(tokens)).status_code == 200
    assert (await machine.call(await machine.refresh(tokens))).status_code == 200


@pytest.mark.parametrize(("leeway", "status"), [(0, 401), (60, 200)])
async def test_an_expired_token_is_good_for_the_leeway_only(
    start: Start, leeway: int, status: int
) -> None:
    """LEEWAY_SECONDS is for clocks that disagree; there is none unless it is set."""
    server = await start(SECRET_KEY=KEY, LEEWAY_SECONDS=leeway)
    machine = await new_machine(server)
    tokens = await machine.get_token()
    claims = jwt.decode(tokens.access, options={"verify_signature": False})
    headers = {"typ": "at+jwt", "kid": kid(tokens)}
    for age, expected in [(timedelta(seconds=2), status), (timedelta(seconds=61), 401)]:
        expired = int((datetime.now(UTC) - age).timestamp())
        token = jwt.encode(claims | {"exp": expired}, KEY, "HS256", headers)
        assert (await machine.call(token)).status_code == expected


async def test_every_live_instance_accepts_the_token(
    server: Server, async_database: AsyncDatabase[Any]
) -> None:
    """Workers share the key through the database and nothing else."""
    machine = await new_machine(server)
    tokens = await machine.get_token()
    async with running(async_database) as another:
        assert (await machine.using(http=another.http()).call(tokens)).status_code == 200
