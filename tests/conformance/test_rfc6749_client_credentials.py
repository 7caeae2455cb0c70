"""POST /token with grant_type=client_credentials. RFC 6749 sections 4.4 and 5."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.database import Database

from oauth2_m2m import OAuth2M2M
from tests.conformance.conftest import Start
from tests.expectations import Log, early_in_the_minute, expect_error, expect_tokens
from tests.machine import Machine, Tokens, claims_of, new_machine
from tests.server import Server, guarded_app

#: Nothing listens there.
NO_DATABASE = "mongodb://127.0.0.1:9/?directConnection=true"


async def test_a_client_gets_tokens_and_the_log_says_so(machine: Machine, log: Log) -> None:
    """The answer is RFC 6749 section 5.1's, and its record names the token by its id."""
    log.new()
    body = expect_tokens(await machine.ask_token())
    assert (body["expires_in"], body["scope"]) == (900, "read write")
    assert (await machine.call(body["access_token"])).status_code == 200
    record = log.expect("login_success", client_id=machine.client_id, reason="scope: read write")
    assert record["jti"] == claims_of(body["access_token"])["jti"]


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        (None, "read write"),
        ("", "read write"),
        ("read", "read"),
        ("write read", "read write"),
        ("read read", "read"),
    ],
)
async def test_the_scope_is_what_was_asked_for(
    machine: Machine, asked: str | None, granted: str
) -> None:
    """A client gets the scope that it asks for, or all of its own when it asks for none."""
    tokens = await machine.get_token(asked)
    assert (tokens.scope, claims_of(tokens.access)["scope"]) == (granted, granted)


@pytest.mark.parametrize(
    "scope",
    [
        "admin", "read admin", "READ", "read  write", " read", "read ", "read\twrite",
        "read,write", 'read"', "read\\", "r\u00e9ad", "read\x00", "read%", "x" * 5000,
    ],
)  # fmt: skip
async def test_a_scope_beyond_the_clients_is_refused(
    machine: Machine, log: Log, scope: str
) -> None:
    """A scope that is malformed or not the client's is invalid_scope, and recorded."""
    log.new()
    expect_error(await machine.ask_token(scope), 400, "invalid_scope")
    log.expect("access_denied", client_id=machine.client_id, reason="invalid_scope")


@pytest.mark.parametrize(
    "grant_type",
    [
        "authorization_code", "implicit", "urn:ietf:params:oauth:grant-type:device_code",
        "Client_Credentials", "client_credentials ", "client_credentials\x00",
        "$where", "__class__",
    ],
)  # fmt: skip
async def test_an_unknown_grant_is_refused(machine: Machine, log: Log, grant_type: str) -> None:
    """A grant that the server does not offer is unsupported_grant_type, and recorded."""
    log.new()
    response = await machine.ask_token(grant_type=grant_type)
    expect_error(response, 400, "unsupported_grant_type")
    log.expect("access_denied", client_id=machine.client_id, reason="unsupported_grant_type")


@pytest.mark.parametrize("fields", [{}, {"scope": "read"}, {"grant_type": ""}])
async def test_a_grant_must_be_named(machine: Machine, log: Log, fields: dict[str, str]) -> None:
    """A form without grant_type is invalid_request, unless it speaks the plain dialect."""
    log.new()
    expect_error(await machine.post("/token", **fields), 400, "invalid_request")
    log.expect("login_failure", client_id=None, reason="invalid_request")


@pytest.mark.parametrize(
    ("grant_types", "method", "allowed"),
    [
        (["client_credentials"], "basic", True),
        (["client_credentials"], "plain", True),
        (["password"], "basic", False),
        (["password"], "plain", True),
        (["refresh_token"], "basic", False),
        (["refresh_token"], "plain", False),
        ([], "basic", False),
    ],
)
async def test_a_client_uses_its_own_grants_only(
    server: Server, log: Log, grant_types: list[str], method: str, allowed: bool
) -> None:
    """A grant that is not among the client's is unauthorized_client, and recorded."""
    machine = await new_machine(server, grant_types=grant_types, method=method)
    log.new()
    response = await machine.ask_token()
    if allowed:
        expect_tokens(response, refresh=False)
    else:
        expect_error(response, 400, "unauthorized_client")
        log.expect("access_denied", client_id=machine.client_id, reason="unauthorized_client")


@pytest.mark.parametrize(
    ("setting", "of_the_client", "issued"),
    [
        (True, None, True),
        (True, False, False),
        (False, None, False),
        (False, True, True),
    ],
)
async def test_refresh_tokens_can_be_switched_off(
    start: Start, setting: bool, of_the_client: bool | None, issued: bool
) -> None:
    """A refresh token comes with the answer as the setting says, or the client's own choice."""
    server = await start(ISSUE_REFRESH_TOKENS=setting)
    machine = await new_machine(server, issue_refresh_tokens=of_the_client)
    body = expect_tokens(await machine.ask_token(), refresh=issued)
    assert (await machine.call(Tokens.of(await machine.ask_token()))).status_code == 200
    assert ("family_id" in claims_of(body["access_token"])) == issued


async def test_a_client_has_its_own_lifetime_of_tokens(start: Start) -> None:
    """`expires_in` is the setting's, or the client's own, and the token says the same."""
    server = await start(ACCESS_TOKEN_EXPIRE_MINUTES=7)
    for own, seconds in ((None, 420), (2, 120)):
        machine = await new_machine(server, access_token_expire_minutes=own)
        tokens = await machine.get_token()
        claims = claims_of(tokens.access)
        assert tokens.body["expires_in"] == claims["exp"] - claims["iat"] == seconds


async def test_a_client_without_scopes_gets_a_token_that_opens_nothing(server: Server) -> None:
    """The empty scope is a scope: the token is good, and 403 wherever a scope is asked for."""
    machine = await new_machine(server, scopes=[])
    tokens = await machine.get_token()
    assert tokens.scope == ""
    assert (await machine.call(tokens)).status_code == 403


async def test_unknown_parameters_are_ignored(machine: Machine) -> None:
    """RFC 6749 section 3.2: the server ignores parameters that it does not know."""
    await machine.get_token(foo="bar", **{"$where": "1", "constructor": "x"})


async def test_credentials_in_the_address_count_for_nothing(machine: Machine, log: Log) -> None:
    """RFC 6749 section 2.3.1: credentials in the request URI are not read, nor recorded."""
    log.new()
    query = {"username": machine.client_id, "password": machine.client_secret}
    response = await machine.http.post("/token", params=query, data={"scope": "read"})
    expect_error(response, 400, "invalid_request")
    log.expect("login_failure", client_id=None, hiding=[machine.client_secret])


@pytest.mark.parametrize(
    "forwarded", [{"X-Forwarded-For": "203.0.113.9"}, {"Forwarded": "for=203.0.113.9"}]
)
async def test_the_log_names_the_peers_address(
    machine: Machine, log: Log, forwarded: dict[str, str]
) -> None:
    """The address in the record is the peer's, whatever a header claims."""
    log.new()
    machine.http.headers.update(forwarded)
    await machine.get_token()
    log.expect("login_success", client_id=machine.client_id)


@pytest.mark.parametrize(
    ("peer", "recorded"),
    [
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("not-an-address", "unknown"),
    ],
)
async def test_the_log_spells_an_address_in_one_way(
    server: Server, log: Log, peer: str, recorded: str
) -> None:
    """An address is recorded canonically, and what is none as unknown."""
    machine = await new_machine(server, ip=peer)
    log.new()
    await machine.get_token()
    log.expect("login_success", client_id=machine.client_id, ip=recorded)


async def test_a_request_id_is_kept_when_it_is_harmless(machine: Machine, log: Log) -> None:
    """The record carries the caller's X-Request-ID and User-Agent, unless they could do harm."""
    log.new()
    machine.http.headers.update({"X-Request-ID": "abc-1.2_3", "User-Agent": "probe/1"})
    await machine.get_token()
    record = log.expect("login_success", client_id=machine.client_id)
    assert (record["request_id"], record["user_agent"]) == ("abc-1.2_3", "probe/1")
    machine.http.headers.update({"X-Request-ID": "a b", "User-Agent": "x\ty" + "z" * 500})
    await machine.get_token()
    record = log.expect("login_success", client_id=machine.client_id)
    assert record["request_id"] not in {"", "a b"}
    assert "\t" not in record["user_agent"]
    assert len(record["user_agent"]) <= 200


async def test_a_client_over_its_budget_is_told_when_to_come_back(
    start: Start, database: Database[Any], log: Log
) -> None:
    """Past the limit: 429 with its four headers, and one record for all refusals of the minute."""
    server = await start(MAX_REQUESTS_PER_MINUTE=3)
    machine = await new_machine(server)
    await early_in_the_minute()
    log.new()
    for _ in range(3):
        await machine.get_token()
    assert {record["event_type"] for record in log.new()} == {"login_success"}
    for _ in range(3):
        response = await machine.ask_token()
        expect_error(response, 429, "rate_limit_exceeded")
        assert response.headers["ratelimit-limit"] == "3"
        assert response.headers["ratelimit-remaining"] == "0"
        assert 1 <= int(response.headers["ratelimit-reset"]) <= 60
        assert response.headers["retry-after"] == response.headers["ratelimit-reset"]
    record = log.expect("rate_limit_exceeded", client_id=machine.client_id)
    assert record["count"] == 3
    counted = database["rate_limits"].find_one({"_id": {"$regex": f"^{machine.client_id}:"}})
    assert counted is not None
    assert counted["_id"].rpartition(":")[0] == f"{machine.client_id}:192.0.2.1"


async def test_failures_over_the_limit_are_refused_before_any_secret_is_checked(
    start: Start, log: Log
) -> None:
    """After too many failures even the right secret is 429 from there, and works elsewhere."""
    server = await start(MAX_REQUESTS_PER_MINUTE=3)
    machine = await new_machine(server)
    guesser = machine.using(client_secret="wrong" * 12)
    await early_in_the_minute()
    log.new()
    answers = [(await guesser.ask_token()).status_code for _ in range(5)]
    assert answers == [401, 401, 401, 429, 429]
    expect_error(await machine.ask_token(), 429, "rate_limit_exceeded")
    *failures, refusals = log.new()
    assert [failure["event_type"] for failure in failures] == ["login_failure"] * 3
    assert (refusals["event_type"], refusals["count"]) == ("rate_limit_exceeded", 3)
    assert refusals["client_id"] is None
    await machine.using(http=server.http("192.0.2.99")).get_token()


async def test_a_database_that_is_gone_is_503_within_five_seconds() -> None:
    """Every endpoint and a guarded route answer 503 with Retry-After, and none of them hangs."""
    async with AsyncMongoClient[dict[str, Any]](NO_DATABASE) as mongo:
        m2m = OAuth2M2M(mongo["nowhere"])
        server = Server(guarded_app(m2m), m2m)
        http = server.http()
        form = {"username": "a", "password": "b"}
        began = time.monotonic()
        answers = await asyncio.gather(
            http.post("/token", data=form),
            http.post("/refresh", json={"refresh_token": "a"}),
            http.post("/revoke", json={"access_token": "a"}),
            http.post("/revoke", data={"token": "a"}, auth=("a", "b")),
            http.get("/protected", headers={"Authorization": "Bearer a"}),
        )
        assert time.monotonic() - began < 6  # 5 s, and a moment for a busy machine
    for answer in answers:
        expect_error(answer, 503, "temporarily_unavailable")
