"""grant_type=refresh_token at /token: rotation. RFC 6749 section 6, RFC 9700 section 4.14."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from _oauth2_m2m.credentials import fingerprint
from tests.conformance.conftest import Start
from tests.expectations import Log, expect_error, expect_tokens
from tests.machine import Machine, Tokens, claims_of, new_machine
from tests.server import Server, running


async def test_a_refresh_token_is_exchanged_for_new_tokens(machine: Machine, log: Log) -> None:
    """Both tokens are new, both old access and new access token work, and the log says so."""
    first = await machine.get_token()
    log.new()
    body = expect_tokens(await machine.ask_refresh(first))
    assert body["access_token"] != first.access
    assert body["refresh_token"] != first.refresh
    assert (body["scope"], body["expires_in"]) == ("read write", 900)
    for token in (first.access, body["access_token"]):
        assert (await machine.call(token)).status_code == 200
    record = log.expect("token_refreshed", client_id=machine.client_id)
    assert record["jti"] == claims_of(body["access_token"])["jti"]


async def test_a_chain_of_refreshes_goes_on(machine: Machine) -> None:
    """Every successor can be refreshed in its turn, in either dialect."""
    tokens = await machine.get_token()
    for _ in range(3):
        tokens = await machine.refresh(tokens)
        tokens = await machine.refresh_plainly(tokens)
    assert (await machine.call(tokens)).status_code == 200


@pytest.mark.parametrize("method", ["basic", "post"])
async def test_refreshing_needs_client_authentication(
    machine: Machine, log: Log, method: str
) -> None:
    """At /token the client proves itself, and a failure to do so spends nothing."""
    tokens = await machine.get_token()
    log.new()
    stranger = machine.using(client_secret="not the secret", method=method)
    expect_error(await stranger.ask_refresh(tokens), 401, "invalid_client")
    log.expect("login_failure", client_id=machine.client_id, hiding=[tokens.refresh])
    nobody = machine.using(method="none")
    expect_error(await nobody.ask_refresh(tokens), 401, "invalid_client")
    log.expect("login_failure", client_id=None, hiding=[tokens.refresh])
    await machine.using(method=method).refresh(tokens)


async def test_a_refresh_without_a_token_is_malformed(machine: Machine, log: Log) -> None:
    """A missing or empty refresh_token is invalid_request, and recorded."""
    for fields in ({}, {"refresh_token": ""}):
        log.new()
        response = await machine.post("/token", grant_type="refresh_token", **fields)
        expect_error(response, 400, "invalid_request")
        log.expect("access_denied", client_id=machine.client_id, reason="refresh_token")


@pytest.mark.parametrize(
    "token", ["garbage", "m2mr_" + "a" * 49, "a" * 10_000, "\x00", "{$ne: null}", "\u4e2d"]
)
async def test_an_unknown_refresh_token_is_refused(machine: Machine, log: Log, token: str) -> None:
    """A refresh token that nobody issued is invalid_grant, and recorded without it."""
    log.new()
    expect_error(await machine.ask_refresh(token), 400, "invalid_grant")
    client_id = machine.client_id
    record = log.expect("refresh_token_invalid", client_id=client_id, reason="unknown")
    assert token not in record["reason"]


async def test_an_expired_refresh_token_is_refused(
    machine: Machine, database: Database[Any], log: Log
) -> None:
    """`expires_at` is the true moment, however long the document stays."""
    tokens = await machine.get_token()
    past = datetime.now(UTC) - timedelta(seconds=1)
    database["tokens"].update_one({}, {"$set": {"expires_at": past}})
    log.new()
    expect_error(await machine.ask_refresh(tokens), 400, "invalid_grant")
    log.expect("refresh_token_invalid", client_id=machine.client_id, reason="expired")
    expect_error(await machine.ask_refresh_plainly(tokens), 401, "invalid_grant")


async def test_a_stored_digest_is_no_refresh_token(
    machine: Machine, database: Database[Any]
) -> None:
    """The database is no list of working tokens, of those that are spent neither."""
    tokens = await machine.get_token()
    successor = await machine.refresh(tokens)
    stored = [
        document["refresh_token"]
        for name in ("tokens", "used_refresh_tokens")
        for document in database[name].find()
    ]
    assert len(stored) == 3
    for digest in stored:
        expect_error(await machine.ask_refresh(digest), 400, "invalid_grant")
        expect_error(await machine.ask_refresh_plainly(digest), 401, "invalid_grant")
        await machine.revoke(digest)
    await machine.refresh(successor)


async def test_an_access_token_is_no_refresh_token(machine: Machine) -> None:
    """The one cannot be used as the other, either way round."""
    tokens = await machine.get_token()
    expect_error(await machine.ask_refresh(tokens.access), 400, "invalid_grant")
    assert (await machine.call(tokens.refresh)).status_code == 401


# --- Reuse --------------------------------------------------------------------------------------


@pytest.mark.parametrize("plainly", [False, True])
async def test_reuse_kills_the_whole_family(machine: Machine, log: Log, plainly: bool) -> None:
    """A spent token that comes back ends every refresh and access token of its chain at once."""
    chain = [await machine.get_token()]
    for _ in range(2):
        chain.append(await machine.refresh(chain[-1]))
    bystander = await machine.get_token()
    log.new()
    if plainly:
        expect_error(await machine.ask_refresh_plainly(chain[0]), 401, "invalid_grant")
    else:
        expect_error(await machine.ask_refresh(chain[0]), 400, "invalid_grant")
    secrets = [chain[0].refresh]
    log.expect("refresh_token_reuse", client_id=machine.client_id, hiding=secrets)
    for tokens in chain:
        assert (await machine.call(tokens)).status_code == 401
        expect_error(await machine.ask_refresh(tokens), 400, "invalid_grant")
        expect_error(await machine.ask_refresh_plainly(tokens), 401, "invalid_grant")
    assert (await machine.call(bystander)).status_code == 200
    await machine.refresh(bystander)


@pytest.mark.parametrize("plainly", [False, True])
@pytest.mark.parametrize("veil", ["malformed scope", "wide scope", "expired", "tidied"])
async def test_nothing_veils_reuse(
    machine: Machine, database: Database[Any], log: Log, plainly: bool, veil: str
) -> None:
    """A spent token is known as such with a bad scope beside it, or when it has expired since."""
    spent = await machine.get_token()
    tokens = await machine.refresh(spent)
    fields = {"malformed scope": {"scope": "read  write"}, "wide scope": {"scope": "admin"}}
    if veil == "expired":
        past = {"$set": {"expires_at": datetime.now(UTC) - timedelta(seconds=1)}}
        database["used_refresh_tokens"].update_one({}, past)
        database["tokens"].update_one({"refresh_token": fingerprint(spent.refresh)}, past)
    elif veil == "tidied":
        database["tokens"].delete_one({"refresh_token": fingerprint(spent.refresh)})
    log.new()
    ask = Machine.ask_refresh_plainly if plainly else Machine.ask_refresh
    response = await ask(machine, spent, **fields.get(veil, {}))
    expect_error(response, 401 if plainly else 400, "invalid_grant")
    log.expect("refresh_token_reuse", client_id=machine.client_id, hiding=[spent.refresh])
    assert (await machine.call(tokens)).status_code == 401
    expect_error(await machine.ask_refresh(tokens), 400, "invalid_grant")


async def test_a_stranger_can_neither_spend_nor_burn_a_refresh_token(
    server: Server, machine: Machine, log: Log
) -> None:
    """Another client's refresh token is invalid_grant, and goes on working for its owner."""
    stranger = await new_machine(server)
    spent = await machine.get_token()
    tokens = await machine.refresh(spent)
    log.new()
    for text in (spent.refresh, tokens.refresh):
        expect_error(await stranger.ask_refresh(text), 400, "invalid_grant")
        log.expect("refresh_token_invalid", client_id=stranger.client_id, reason="another client")
    assert (await machine.call(tokens)).status_code == 200
    await machine.refresh(tokens)


@pytest.mark.parametrize("plainly", [False, True])
async def test_of_fifty_parallel_refreshes_one_succeeds(
    async_database: AsyncDatabase[Any], server: Server, machine: Machine, plainly: bool
) -> None:
    """The claim is one unique insert, for all servers on one database; the rest is reuse."""
    async with running(async_database) as second:
        twins = [machine, machine.using(http=second.http())]
        tokens = await machine.get_token()
        ask = Machine.ask_refresh_plainly if plainly else Machine.ask_refresh
        answers = await asyncio.gather(*(ask(twins[n % 2], tokens) for n in range(50)))
        refused = 401 if plainly else 400
        assert Counter(answer.status_code for answer in answers) == {200: 1, refused: 49}
        for answer in answers:
            if answer.status_code == refused:
                expect_error(answer, refused, "invalid_grant")
            else:
                winner = Tokens.of(answer)
        for twin in twins:
            assert (await twin.call(winner)).status_code == 401
            expect_error(await twin.ask_refresh(winner), 400, "invalid_grant")


async def test_without_a_grace_clocks_that_disagree_excuse_no_reuse(
    machine: Machine, database: Database[Any], log: Log
) -> None:
    """A spent token is spent, even for a host whose clock is behind that of whoever spent it."""
    tokens = await machine.get_token()
    await machine.refresh(tokens)
    ahead = datetime.now(UTC) + timedelta(seconds=5)
    database["used_refresh_tokens"].update_one({}, {"$set": {"used_at": ahead}})
    log.new()
    expect_error(await machine.ask_refresh(tokens), 400, "invalid_grant")
    log.expect("refresh_token_reuse", client_id=machine.client_id)


# --- The grace ----------------------------------------------------------------------------------


async def test_within_the_grace_the_same_successor_comes_again(
    start: Start, database: Database[Any], log: Log
) -> None:
    """REFRESH_GRACE_SECONDS lets a client repeat a lost response; after it, that is reuse."""
    machine = await new_machine(await start(REFRESH_GRACE_SECONDS=600))
    first = await machine.get_token()
    successor = await machine.refresh(first)
    log.new()
    again = await machine.refresh(first)
    log.expect("token_refreshed", client_id=machine.client_id)
    assert again.refresh == successor.refresh
    assert (await machine.refresh_plainly(first)).refresh == successor.refresh
    assert (await machine.call(again)).status_code == 200
    assert database["tokens"].count_documents({}) == 2

    database["used_refresh_tokens"].update_one(
        {}, {"$set": {"used_at": datetime.now(UTC) - timedelta(seconds=601)}}
    )
    log.new()
    expect_error(await machine.ask_refresh(first), 400, "invalid_grant")
    log.expect("refresh_token_reuse", client_id=machine.client_id)
    assert (await machine.call(again)).status_code == 401
    expect_error(await machine.ask_refresh(successor), 400, "invalid_grant")


async def test_within_the_grace_fifty_at_once_get_one_successor(start: Start) -> None:
    """A token is redeemed at most once: all parallel retries hold the same next token."""
    machine = await new_machine(await start(REFRESH_GRACE_SECONDS=600))
    tokens = await machine.get_token()
    answers = await asyncio.gather(*(machine.refresh(tokens) for _ in range(50)))
    (successor,) = {answer.refresh for answer in answers}
    await machine.refresh(successor)


async def test_the_grace_is_for_the_same_client_only(start: Start) -> None:
    """A stranger who found the token gets nothing within the grace either."""
    server = await start(REFRESH_GRACE_SECONDS=600)
    machine, stranger = await new_machine(server), await new_machine(server)
    tokens = await machine.get_token()
    successor = await machine.refresh(tokens)
    expect_error(await stranger.ask_refresh(tokens), 400, "invalid_grant")
    await machine.refresh(successor)


# --- Scope --------------------------------------------------------------------------------------


async def test_a_refresh_may_narrow_the_scope_and_the_successor_keeps_it_whole(
    machine: Machine,
) -> None:
    """RFC 6749 section 6: the narrowed scope is the access token's, not the next refresh's."""
    tokens = await machine.refresh(await machine.get_token(), "write")
    assert (tokens.scope, claims_of(tokens.access)["scope"]) == ("write", "write")
    assert (await machine.call(tokens)).status_code == 403
    tokens = await machine.refresh_plainly(tokens, scope="read")
    assert tokens.scope == "read"
    assert (await machine.refresh(tokens)).scope == "read write"


@pytest.mark.parametrize("scope", ["write", "read write", "read admin", "read  read", '"'])
async def test_a_refresh_never_widens_the_scope(machine: Machine, log: Log, scope: str) -> None:
    """More than the token was issued for is invalid_scope, and spends nothing."""
    tokens = await machine.get_token("read")
    log.new()
    expect_error(await machine.ask_refresh(tokens, scope), 400, "invalid_scope")
    (record,) = log.new()
    assert record["client_id"] == machine.client_id
    assert "invalid_scope" in record["reason"]
    expect_error(await machine.ask_refresh_plainly(tokens, scope=scope), 400, "invalid_scope")
    assert (await machine.refresh(tokens)).scope == "read"


async def test_a_scope_that_the_client_lost_is_not_given_again(
    server: Server, machine: Machine, database: Database[Any]
) -> None:
    """A refresh grants what the token and the client both still allow."""
    tokens = await machine.get_token()
    database["clients"].update_one(
        {"client_id": machine.client_id}, {"$set": {"scopes": ["read", "admin"]}}
    )
    tokens = await machine.refresh(tokens)
    assert tokens.scope == "read"


# --- Clients that changed -----------------------------------------------------------------------


async def test_a_client_without_the_grant_cannot_refresh(
    machine: Machine, database: Database[Any], log: Log
) -> None:
    """A client whose grant_types no longer hold refresh_token is unauthorized_client."""
    tokens = await machine.get_token()
    database["clients"].update_one(
        {"client_id": machine.client_id}, {"$set": {"grant_types": ["client_credentials"]}}
    )
    log.new()
    expect_error(await machine.ask_refresh(tokens), 400, "unauthorized_client")
    log.expect("access_denied", client_id=machine.client_id, reason="unauthorized_client")
    expect_error(await machine.ask_refresh_plainly(tokens), 401, "invalid_grant")


async def test_all_tokens_of_a_client_can_be_revoked_at_once(
    server: Server, machine: Machine
) -> None:
    """Revoking a client's tokens ends access and refresh tokens; the client goes on working."""
    tokens = await machine.get_token()
    await server.m2m.clients.revoke_tokens(machine.client_id)
    assert (await machine.call(tokens)).status_code == 401
    expect_error(await machine.ask_refresh(tokens), 400, "invalid_grant")
    expect_error(await machine.ask_refresh_plainly(tokens), 401, "invalid_grant")
    assert (await machine.call(await machine.get_token())).status_code == 200


async def test_a_refresh_token_of_the_older_shape_can_be_used_once(
    server: Server, machine: Machine, database: Database[Any]
) -> None:
    """A plain refresh token with ISO dates is read, spent, and known as spent afterwards."""
    database["clients"].update_one({}, {"$unset": {"epoch": ""}})
    now = datetime.now(UTC)
    database["tokens"].insert_one({
        "client_id": machine.client_id,
        "refresh_token": "an-older-token",
        "created_at": now.isoformat(),
        "expires_at": (now + timedelta(days=1)).isoformat(),
    })  # fmt: skip
    tokens = await machine.refresh("an-older-token")
    assert tokens.scope == "read write"
    assert (await machine.call(tokens)).status_code == 200
    expect_error(await machine.ask_refresh("an-older-token"), 400, "invalid_grant")
    assert (await machine.call(tokens)).status_code == 401
