"""POST /revoke with a form: RFC 7009."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from pymongo.database import Database

from tests.assertions import es256_key, jwks
from tests.assertions import fields as signed
from tests.expectations import Log, expect_error, expect_no_store
from tests.machine import Machine, Tokens, claims_of, new_machine, resigned
from tests.proofs import Key, key
from tests.server import Server

OWN = "http://localhost:8000"


def expect_revoked(response: httpx.Response) -> None:
    """Section 2.2: 200, and the content of the body is of no use to anybody."""
    assert response.status_code == 200, response.text
    expect_no_store(response)
    assert response.content == b""


@pytest.mark.parametrize("method", ["basic", "post"])
@pytest.mark.parametrize("hint", [None, "access_token", "refresh_token", "unheard-of"])
async def test_an_access_token_is_revoked(
    machine: Machine, log: Log, method: str, hint: str | None
) -> None:
    """Its owner ends it, whatever the hint; the rest of its family lives on."""
    tokens = await machine.get_token()
    other = await machine.refresh(tokens)
    log.new()
    hints = {"token_type_hint": hint} if hint else {}
    expect_revoked(await machine.using(method=method).revoke(tokens.access, **hints))
    record = log.expect("token_revoked", client_id=machine.client_id, hiding=[tokens.access])
    assert record["jti"]
    assert (await machine.call(tokens)).status_code == 401
    assert (await machine.call(other)).status_code == 200
    await machine.refresh(other)


@pytest.mark.parametrize("hint", [None, "access_token", "refresh_token", "unheard-of"])
async def test_a_refresh_token_is_revoked_with_its_family(
    machine: Machine, log: Log, hint: str | None
) -> None:
    """Section 2.1: the access tokens of the same grant end with it; other families do not."""
    first = await machine.get_token()
    tokens = await machine.refresh(first)
    bystander = await machine.get_token()
    log.new()
    hints = {"token_type_hint": hint} if hint else {}
    expect_revoked(await machine.revoke(tokens.refresh, **hints))
    log.expect("token_revoked", client_id=machine.client_id, hiding=[tokens.refresh])
    for dead in (first, tokens):
        assert (await machine.call(dead)).status_code == 401
    expect_error(await machine.ask_refresh(tokens), 400, "invalid_grant")
    assert (await machine.call(bystander)).status_code == 200


async def test_revoking_twice_is_200_again(machine: Machine, log: Log) -> None:
    """Section 2.2: a token that is invalid already is no error, nor news for the log."""
    tokens = await machine.get_token()
    for token in (tokens.access, tokens.refresh):
        log.new()
        expect_revoked(await machine.revoke(token))
        log.expect("token_revoked", client_id=machine.client_id)
        expect_revoked(await machine.revoke(token))
        log.expect_nothing()


async def test_a_spent_refresh_token_ends_its_family(machine: Machine) -> None:
    """Whoever revokes an old token of a chain means the chain."""
    first = await machine.get_token()
    tokens = await machine.refresh(first)
    expect_revoked(await machine.revoke(first.refresh))
    assert (await machine.call(tokens)).status_code == 401
    expect_error(await machine.ask_refresh(tokens), 400, "invalid_grant")


@pytest.mark.parametrize(
    "token", ["garbage", "a.b.c", "m2mr_" + "a" * 49, "x" * 20_000, "\x00", "..", "\u4e2d.b.c"]
)
async def test_garbage_is_200_and_recorded(machine: Machine, log: Log, token: str) -> None:
    """Section 2.2: an invalid token is no error to the client; the log says what it was."""
    log.new()
    expect_revoked(await machine.revoke(token))
    log.expect("token_invalid", client_id=machine.client_id, reason="nothing to revoke")


async def test_an_expired_or_forged_access_token_is_200(
    machine: Machine, database: Database[Any], log: Log
) -> None:
    """Neither is worth a mark, so none is written."""
    tokens = await machine.get_token()
    config = database["config"].find_one() or {}
    past = int(time.time()) - 1
    for text in (
        resigned(tokens.access, config["SECRET_KEY"], exp=past),
        resigned(tokens.access, "a foreign key of sufficient length, really"),
    ):
        log.new()
        expect_revoked(await machine.revoke(text))
        log.expect("token_invalid", client_id=machine.client_id, hiding=[text])
    assert database["revoked_tokens"].count_documents({}) == 0
    assert (await machine.call(tokens)).status_code == 200


async def test_a_strangers_token_lives_on(server: Server, machine: Machine, log: Log) -> None:
    """Only the owner's tokens are revoked; to the stranger it looks like any other token."""
    stranger = await new_machine(server)
    tokens = await machine.get_token()
    for token in (tokens.access, tokens.refresh):
        log.new()
        expect_revoked(await stranger.revoke(token))
        log.expect("token_invalid", client_id=stranger.client_id, reason="another client")
    assert (await machine.call(tokens)).status_code == 200
    await machine.refresh(tokens)


@pytest.mark.parametrize("hint", [{}, {"token_type_hint": "access_token"}])
async def test_a_missing_token_is_malformed(
    machine: Machine, log: Log, hint: dict[str, str]
) -> None:
    """Without `token` there is nothing to revoke: 400 invalid_request."""
    for fields in (hint, {**hint, "token": ""}):
        log.new()
        expect_error(await machine.post("/revoke", **fields), 400, "invalid_request")
        log.expect("token_invalid", client_id=machine.client_id, reason="token is missing")


async def test_without_authentication_nothing_is_revoked(machine: Machine, log: Log) -> None:
    """No credentials, wrong ones, or username and password: 401, and the token lives."""
    tokens = await machine.get_token()
    strangers = [
        (machine.using(method="none"), {}, None, 401),
        (machine.using(client_secret="wrong"), {}, machine.client_id, 401),
        (machine.using(client_secret="wrong", method="post"), {}, machine.client_id, 401),
        (
            machine.using(method="none"),
            {"username": machine.client_id, "password": machine.client_secret},
            None,
            401,
        ),
    ]
    for stranger, fields, client_id, status in strangers:
        log.new()
        response = await stranger.post("/revoke", token=tokens.access, **fields)
        expect_error(response, status, "invalid_client")
        assert ("www-authenticate" in response.headers) == (stranger.method == "basic")
        log.expect("token_invalid", client_id=client_id, hiding=[machine.client_secret])
    assert (await machine.call(tokens)).status_code == 200


async def test_two_ways_of_authenticating_at_once_revoke_nothing(
    machine: Machine, log: Log
) -> None:
    """Basic beside client_secret, and a repeated parameter, are invalid_request."""
    tokens = await machine.get_token()
    credentials = {"client_id": machine.client_id, "client_secret": machine.client_secret}
    log.new()
    response = await machine.post("/revoke", token=tokens.access, **credentials)
    expect_error(response, 400, "invalid_request")
    log.expect("token_invalid", client_id=None)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    body = f"token={tokens.access}&token={tokens.access}"
    response = await machine.http.post("/revoke", content=body, headers=headers)
    expect_error(response, 400, "invalid_request")
    log.expect("token_invalid", client_id=None)
    assert (await machine.call(tokens)).status_code == 200


async def test_a_bound_token_is_revoked_without_its_key(machine: Machine) -> None:
    """Whoever has lost the key can still end the token: no proof is asked for, and none hinders."""
    holder = key("holder")
    for hint in (None, "access_token", "refresh_token", "unheard-of"):
        hints = {} if hint is None else {"token_type_hint": hint}
        machine.http.headers["DPoP"] = holder.proof("POST", f"{OWN}/token")
        tokens = await machine.get_token()
        del machine.http.headers["DPoP"]
        expect_revoked(await machine.revoke(tokens.access, **hints))
        await expect_dead(machine, tokens.access, holder)

        machine.http.headers["DPoP"] = holder.proof("POST", f"{OWN}/token")
        tokens = await machine.get_token()
        machine.http.headers["DPoP"] = "no proof at all"
        expect_revoked(await machine.revoke(tokens.refresh, **hints))
        machine.http.headers["DPoP"] = holder.proof("POST", f"{OWN}/token")
        expect_error(await machine.ask_refresh(tokens), 400, "invalid_grant")
        del machine.http.headers["DPoP"]
        await expect_dead(machine, tokens.access, holder)


async def expect_dead(machine: Machine, token: str, holder: Key) -> None:
    """A bound token is refused though its holder proves to have the key."""
    proof = holder.proof("GET", f"{OWN}/protected", access_token=token)
    headers = {"Authorization": f"DPoP {token}", "DPoP": proof}
    expect_error(await machine.http.get("/protected", headers=headers), 401, "invalid_token")


async def test_a_token_for_elsewhere_is_revoked(server: Server, database: Database[Any]) -> None:
    """Whom a token is aimed at does not matter: services there learn of it from the feed."""
    machine = await new_machine(server, audience=["https://a.example", "https://b.example"])
    tokens = await machine.get_token(resource="https://a.example", audience="https://b.example")
    expect_revoked(await machine.revoke(tokens.access))
    assert (await machine.post("/introspect", token=tokens.access)).json() == {"active": False}
    assert database["revoked_tokens"].find_one({"_id": claims_of(tokens.access)["jti"]})
    expect_revoked(await machine.revoke(tokens.refresh))
    expect_error(await machine.ask_refresh(tokens), 400, "invalid_grant")


async def test_a_client_revokes_by_its_signature(server: Server, log: Log) -> None:
    """private_key_jwt counts here as at the token endpoint: each assertion once, and its own."""
    one, two = es256_key("one"), es256_key("two")
    ids = [
        (await server.m2m.clients.register(scopes=["read"], jwks=jwks(each))).client.client_id
        for each in (one, two)
    ]
    http = server.http()
    grant = signed(one.assertion(ids[0], OWN), grant_type="client_credentials")
    tokens = Tokens.of(await http.post("/token", data=grant))
    assertion = two.assertion(ids[1], OWN)
    log.new()
    for wrong in (
        one.assertion(ids[1], OWN),
        two.assertion(ids[0], OWN),
        one.assertion(ids[0], "https://other.example"),
        grant["client_assertion"],  # used before
    ):
        response = await http.post("/revoke", data=signed(wrong, token=tokens.access))
        expect_error(response, 401, "invalid_client")
        (record,) = log.new()
        assert record["event_type"] == "token_invalid"
    expect_revoked(await http.post("/revoke", data=signed(assertion, token=tokens.access)))
    log.expect("token_invalid", client_id=ids[1], reason="another client")
    bearer = {"Authorization": f"Bearer {tokens.access}"}
    assert (await http.get("/protected", headers=bearer)).status_code == 200
    for token in (tokens.access, tokens.refresh):
        log.new()
        assertion = one.assertion(ids[0], OWN)
        expect_revoked(await http.post("/revoke", data=signed(assertion, token=token)))
        log.expect("token_revoked", client_id=ids[0], hiding=[assertion, token])
    assert (await http.get("/protected", headers=bearer)).status_code == 401


async def test_an_access_token_is_no_authentication_here(machine: Machine) -> None:
    """RFC 7009 section 2.1 asks for the client's credentials; a token of its own is none."""
    tokens = await machine.get_token()
    headers = {"Authorization": f"Bearer {tokens.access}"}
    response = await machine.http.post("/revoke", data={"token": tokens.access}, headers=headers)
    expect_error(response, 401, "invalid_client")
    assert (await machine.call(tokens)).status_code == 200


async def test_the_operators_door_revokes_too(server: Server, machine: Machine, log: Log) -> None:
    """`m2m.revoke` ends an access token, or a refresh token with its family, and records it."""
    tokens, other = await machine.get_token(), await machine.get_token()
    log.new()
    await server.m2m.revoke(tokens.access)
    log.expect("token_revoked", client_id=machine.client_id, ip=None)
    assert (await machine.call(tokens)).status_code == 401
    log.new()
    await server.m2m.revoke(other.refresh)
    log.expect("token_revoked", client_id=machine.client_id, ip=None)
    assert (await machine.call(other)).status_code == 401
