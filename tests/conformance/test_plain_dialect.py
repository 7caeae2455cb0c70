"""The dialect that people type with curl: username and password, and JSON bodies."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from pymongo.database import Database

from tests.conformance.conftest import Start
from tests.expectations import Log, expect_error, expect_no_store, expect_tokens
from tests.machine import Machine, basic, claims_of, new_machine, resigned
from tests.server import Server

REVOKED = {"message": "Token revoked successfully"}


@pytest.fixture
async def machine(server: Server) -> Machine:
    """A client that speaks the plain dialect."""
    return await new_machine(server, method="plain")


# --- POST /token --------------------------------------------------------------------------------


@pytest.mark.parametrize("grant", [{}, {"grant_type": "password"}, {"grant_type": ""}])
@pytest.mark.parametrize(("scope", "granted"), [(None, "read write"), ("read", "read")])
async def test_username_and_password_get_tokens(
    machine: Machine, log: Log, grant: dict[str, str], scope: str | None, granted: str
) -> None:
    """The id and the secret are enough, with or without grant_type=password and a scope."""
    log.new()
    body = expect_tokens(await machine.ask_token(scope, **grant))
    assert body["scope"] == granted
    assert (await machine.call(body["access_token"])).status_code == 200
    record = log.expect("login_success", client_id=machine.client_id)
    assert record["jti"] == claims_of(body["access_token"])["jti"]


async def test_what_swagger_ui_sends_is_accepted(machine: Machine) -> None:
    """The password form of Swagger UI sends empty client fields beside the rest."""
    empty = {"client_id": "", "client_secret": "", "scope": ""}
    expect_tokens(await machine.ask_token(grant_type="password", **empty))


@pytest.mark.parametrize("header", ["Basic Og==", " Basic Og== "])
async def test_the_empty_basic_of_swagger_ui_is_no_second_way(
    machine: Machine, header: str
) -> None:
    """Its password form sends an empty id and secret by Basic, which authenticates nobody."""
    form = {"username": machine.client_id, "password": machine.client_secret}
    form["grant_type"] = "password"
    headers = {"Authorization": header}
    expect_tokens(await machine.http.post("/token", data=form, headers=headers))
    form = {"grant_type": "client_credentials"}
    response = await machine.http.post("/token", data=form, headers=headers)
    expect_error(response, 401, "invalid_client")


@pytest.mark.parametrize("missing", ["username", "password"])
@pytest.mark.parametrize("grant", [{}, {"grant_type": "password"}])
async def test_a_missing_field_is_422(
    machine: Machine, log: Log, missing: str, grant: dict[str, str]
) -> None:
    """The plain dialect with a field missing or empty: 422 that names it, recorded."""
    whole = {"username": machine.client_id, "password": machine.client_secret, **grant}
    for form in (
        {name: value for name, value in whole.items() if name != missing},
        {**whole, missing: ""},
    ):
        log.new()
        body = expect_error(await machine.http.post("/token", data=form), 422, "invalid_request")
        assert body["detail"][0]["type"] == "missing"
        assert body["detail"][0]["loc"] == ["body", missing]
        log.expect("login_failure", client_id=None, hiding=[machine.client_secret])


async def test_grant_type_password_alone_is_422(machine: Machine) -> None:
    """It speaks the plain dialect, and lacks both fields."""
    response = await machine.http.post("/token", data={"grant_type": "password"})
    expect_error(response, 422, "invalid_request")


async def test_a_scope_beyond_the_clients_is_refused(machine: Machine, log: Log) -> None:
    """The plain dialect has the same scopes as the standard one."""
    log.new()
    expect_error(await machine.ask_token("admin"), 400, "invalid_scope")
    log.expect("access_denied", client_id=machine.client_id, reason="invalid_scope")


# --- POST /refresh ------------------------------------------------------------------------------


async def test_a_refresh_token_alone_is_enough(machine: Machine, log: Log) -> None:
    """JSON with the refresh token gets the same answer as /token, and the log says whose it is."""
    tokens = await machine.get_token()
    log.new()
    body = expect_tokens(await machine.ask_refresh_plainly(tokens))
    assert body["refresh_token"] != tokens.refresh
    assert (await machine.call(body["access_token"])).status_code == 200
    record = log.expect("token_refreshed", client_id=machine.client_id)
    assert record["jti"] == claims_of(body["access_token"])["jti"]


async def test_unknown_members_are_ignored(machine: Machine) -> None:
    """JSON members that the server does not know change nothing, nor does a charset."""
    tokens = await machine.get_token()
    headers = {"Content-Type": 'Application/JSON; charset="utf-8"'}
    body = f'{{"refresh_token": "{tokens.refresh}", "foo": {{"$ne": [null]}}, "scope": null}}'
    expect_tokens(await machine.http.post("/refresh", content=body, headers=headers))


@pytest.mark.parametrize("token", ["", "garbage", "m2mr_" + "a" * 49, "\x00", "\u4e2d", "$ne"])
async def test_an_unknown_refresh_token_is_401(machine: Machine, log: Log, token: str) -> None:
    """Nobody's token is invalid_grant with 401, for it is the only credential here."""
    log.new()
    response = await machine.ask_refresh_plainly(token)
    if token:
        expect_error(response, 401, "invalid_grant")
    else:
        assert response.status_code in {401, 422}
    log.expect("refresh_token_invalid", client_id=None)


@pytest.mark.parametrize("by_hand", [False, True])
async def test_the_token_of_a_disabled_client_is_401(
    server: Server, machine: Machine, database: Database[Any], log: Log, by_hand: bool
) -> None:
    """A client that was disabled, by our door or by hand, refreshes nothing."""
    tokens = await machine.get_token()
    if by_hand:
        database["clients"].update_one({}, {"$set": {"disabled": True}})
    else:
        await server.m2m.clients.disable(machine.client_id)
    log.new()
    expect_error(await machine.ask_refresh_plainly(tokens), 401, "invalid_grant")
    log.expect("refresh_token_invalid", client_id=machine.client_id, reason="disabled")


async def test_the_token_of_a_removed_client_is_401(
    server: Server, machine: Machine, log: Log
) -> None:
    """A client that is gone has no tokens, not even when its id is registered anew."""
    tokens = await machine.get_token()
    await server.m2m.clients.remove(machine.client_id)
    log.new()
    expect_error(await machine.ask_refresh_plainly(tokens), 401, "invalid_grant")
    log.expect("refresh_token_invalid", client_id=machine.client_id)
    await server.m2m.clients.register(machine.client_id, scopes=["read"])
    expect_error(await machine.ask_refresh_plainly(tokens), 401, "invalid_grant")
    assert (await machine.call(tokens)).status_code == 401


async def test_client_authentication_can_be_asked_for(start: Start, log: Log) -> None:
    """REFRESH_REQUIRES_CLIENT_AUTH: without credentials 401, and nothing is spent or burnt."""
    server = await start(REFRESH_REQUIRES_CLIENT_AUTH=True)
    machine, stranger = await new_machine(server), await new_machine(server)
    tokens = await machine.get_token()
    log.new()
    expect_error(await machine.ask_refresh_plainly(tokens), 401, "invalid_client")
    log.expect("refresh_token_invalid", client_id=None, hiding=[tokens.refresh])

    wrong = {"client_id": machine.client_id, "client_secret": stranger.client_secret}
    expect_error(await machine.ask_refresh_plainly(tokens, **wrong), 401, "invalid_client")
    log.expect("refresh_token_invalid", client_id=machine.client_id)

    foreign = {"client_id": stranger.client_id, "client_secret": stranger.client_secret}
    expect_error(await machine.ask_refresh_plainly(tokens, **foreign), 401, "invalid_grant")
    log.expect("refresh_token_invalid", client_id=stranger.client_id, reason="another client")

    own = {"client_id": machine.client_id, "client_secret": machine.client_secret}
    tokens = await machine.refresh_plainly(tokens, **own)
    response = await machine.http.post(
        "/refresh",
        json={"refresh_token": tokens.refresh},
        headers={"Authorization": basic(machine.client_id, machine.client_secret)},
    )
    tokens_again = expect_tokens(response)
    assert (await machine.call(tokens_again["access_token"])).status_code == 200


@pytest.mark.parametrize("required", [False, True], ids=["alone", "authenticated"])
async def test_a_refresh_token_is_good_in_its_clients_networks_only(
    start: Start, log: Log, required: bool
) -> None:
    """Stolen and brought from elsewhere it is refused, and neither spent nor burnt by that."""
    server = await start(REFRESH_REQUIRES_CLIENT_AUTH=required)
    machine = await new_machine(server, method="plain", allowed_networks=["192.0.2.0/25"])
    proof: dict[str, str] = {}
    if required:
        proof = {"client_id": machine.client_id, "client_secret": machine.client_secret}
    tokens = await machine.get_token()
    thief = machine.using(http=server.http("192.0.2.128"))
    error = "invalid_client" if required else "invalid_grant"
    for _ in range(2):
        log.new()
        expect_error(await thief.ask_refresh_plainly(tokens, **proof), 401, error)
        log.expect(
            "refresh_token_invalid",
            client_id=machine.client_id,
            reason="networks",
            ip="192.0.2.128",
        )
    await machine.refresh_plainly(tokens, **proof)


# --- POST /revoke -------------------------------------------------------------------------------


def expect_revoked(response: httpx.Response) -> None:
    """200 and the message."""
    assert response.status_code == 200, response.text
    expect_no_store(response)
    assert response.json() == REVOKED


async def test_an_access_token_is_revoked(machine: Machine, log: Log) -> None:
    """Who holds it may end it; the next request with it is refused, the refresh token lives."""
    tokens = await machine.get_token()
    log.new()
    expect_revoked(await machine.revoke_plainly(access_token=tokens.access))
    record = log.expect("token_revoked", client_id=machine.client_id)
    assert record["jti"] == claims_of(tokens.access)["jti"]
    assert (await machine.call(tokens)).status_code == 401
    await machine.refresh_plainly(tokens)


async def test_a_refresh_token_is_revoked_with_its_family(machine: Machine, log: Log) -> None:
    """The refresh token's chain ends, its access tokens included."""
    first = await machine.get_token()
    tokens = await machine.refresh_plainly(first)
    log.new()
    expect_revoked(await machine.revoke_plainly(refresh_token=tokens.refresh))
    log.expect("token_revoked", client_id=machine.client_id)
    for dead in (first, tokens):
        assert (await machine.call(dead)).status_code == 401
    expect_error(await machine.ask_refresh_plainly(tokens), 401, "invalid_grant")


async def test_revoking_twice_is_200_again(machine: Machine) -> None:
    """A token that is revoked already can be revoked again, of both kinds."""
    tokens = await machine.get_token()
    for _ in range(2):
        expect_revoked(await machine.revoke_plainly(access_token=tokens.access))
    for _ in range(2):
        expect_revoked(await machine.revoke_plainly(refresh_token=tokens.refresh))


@pytest.mark.parametrize("member", ["access_token", "refresh_token"])
@pytest.mark.parametrize("token", ["", "garbage", "a.b.c", "m2mr_" + "a" * 49, "\x00", "\u4e2d"])
async def test_garbage_is_401(machine: Machine, log: Log, member: str, token: str) -> None:
    """What is no token of this server is invalid_token, and recorded without it."""
    log.new()
    response = await machine.revoke_plainly(**{member: token})
    if token:
        expect_error(response, 401, "invalid_token")
    else:
        assert response.status_code in {401, 422}
    log.expect("token_invalid", client_id=None)


async def test_expired_and_foreign_tokens_are_401(
    machine: Machine, database: Database[Any], log: Log
) -> None:
    """Expired, signed with another key, or re-spelled: invalid_token, and no mark is written."""
    tokens = await machine.get_token()
    config = database["config"].find_one() or {}
    past = int(time.time()) - 1
    for text in (
        resigned(tokens.access, config["SECRET_KEY"], exp=past),
        resigned(tokens.access, "a foreign key of sufficient length, really"),
        tokens.access + "=",
        tokens.access + " ",
    ):
        log.new()
        response = await machine.revoke_plainly(access_token=text)
        expect_error(response, 401, "invalid_token")
        log.expect("token_invalid", client_id=None, hiding=[text])
    assert database["revoked_tokens"].count_documents({}) == 0


async def test_a_token_is_revoked_by_its_id_not_by_its_spelling(
    machine: Machine, database: Database[Any]
) -> None:
    """Another token with the same jti falls with it."""
    tokens = await machine.get_token()
    config = database["config"].find_one() or {}
    twin = resigned(tokens.access, config["SECRET_KEY"], extra="claim")
    assert (await machine.call(twin)).status_code == 200
    expect_revoked(await machine.revoke_plainly(access_token=tokens.access))
    assert (await machine.call(twin)).status_code == 401


async def test_one_kind_does_not_pass_for_the_other(machine: Machine) -> None:
    """A token under the name of the other kind is invalid_token, and lives on."""
    tokens = await machine.get_token()
    for members in ({"access_token": tokens.refresh}, {"refresh_token": tokens.access}):
        expect_error(await machine.revoke_plainly(**members), 401, "invalid_token")
    assert (await machine.call(tokens)).status_code == 200
    await machine.refresh_plainly(tokens)


async def test_two_tokens_or_none_are_422(machine: Machine, log: Log) -> None:
    """Exactly one of the two members names the token."""
    tokens = await machine.get_token()
    for members in (
        {},
        {"token": tokens.access},
        {"access_token": tokens.access, "refresh_token": tokens.refresh},
    ):
        log.new()
        response = await machine.revoke_plainly(**members)
        expect_error(response, 422, "invalid_request")
        log.expect("token_invalid", client_id=None, hiding=[tokens.refresh])
    assert (await machine.call(tokens)).status_code == 200


@pytest.mark.parametrize("kind", ["access", "refresh"])
async def test_revoking_again_is_no_news(machine: Machine, log: Log, kind: str) -> None:
    """Whoever holds one token cannot fill the audit log with it: fifty times is one record."""
    tokens = await machine.get_token()
    log.new()
    for _ in range(50):
        response = await machine.revoke_plainly(**{f"{kind}_token": getattr(tokens, kind)})
        assert (response.status_code, response.json()) == (200, REVOKED)
    log.expect("token_revoked", client_id=machine.client_id)
