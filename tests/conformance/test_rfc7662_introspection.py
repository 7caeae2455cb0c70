"""POST /introspect: what a token is worth now, and to whom we say so. RFC 7662."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from pymongo.database import Database

from tests.assertions import es256_key, fields, jwks
from tests.clocks import hasten
from tests.conformance.conftest import Start
from tests.expectations import Log, early_in_the_minute, expect_error, expect_no_store
from tests.machine import Machine, Tokens, claims_of, new_machine, resigned, type_client
from tests.proofs import Key, key
from tests.server import Server

FORM = "application/x-www-form-urlencoded"
OWN = "http://localhost:8000"
NOT_ACTIVE = b'{"active":false}'

#: What a live token of each kind is described by.
OF_ACCESS = {
    "active", "scope", "client_id", "token_type", "iss", "sub", "aud", "exp", "iat", "jti", "roles",
}  # fmt: skip
OF_REFRESH = {"active", "scope", "client_id", "iss", "sub", "exp"}


def described(response: httpx.Response) -> dict[str, Any]:
    """What is said of a token that is alive."""
    assert response.status_code == 200, response.text
    expect_no_store(response)
    assert response.headers["content-type"] == "application/json"
    body: dict[str, Any] = response.json()
    assert body["active"] is True
    return body


def expect_inactive(response: httpx.Response) -> None:
    """Section 2.2: `active` is false, and there is nothing more, in the body or around it."""
    assert response.status_code == 200, response.text
    expect_no_store(response)
    assert response.content == NOT_ACTIVE
    names = {"cache-control", "pragma", "content-length", "content-type"}
    assert set(response.headers) == names


async def ask(machine: Machine, token: str, **more: str) -> httpx.Response:
    """Introspect, authenticated in the machine's way."""
    return await machine.post("/introspect", token=token, **more)


async def ask_as_bearer(
    machine: Machine, bearer: Tokens, token: str, *, proof: str | None = None, **more: str
) -> httpx.Response:
    """Introspect with an access token instead of client authentication."""
    headers = {"Authorization": f"Bearer {bearer.access}"}
    if proof is not None:
        headers = {"Authorization": f"DPoP {bearer.access}", "DPoP": proof}
    return await machine.http.post("/introspect", data={"token": token, **more}, headers=headers)


async def bound_tokens(machine: Machine, holder: Key) -> Tokens:
    """Tokens that are bound to a key."""
    proof = holder.proof("POST", f"{OWN}/token")
    machine.http.headers["DPoP"] = proof
    try:
        return await machine.get_token()
    finally:
        del machine.http.headers["DPoP"]


@pytest.fixture
async def admin(server: Server) -> Machine:
    """A client with the role admin, and no scope that matters here."""
    return await new_machine(server, scopes=["read"], role="admin")


@pytest.fixture
async def introspector(server: Server) -> Machine:
    """A client that may have the scope introspect, such as a service that checks tokens."""
    return await new_machine(server, scopes=["read", "introspect"])


# --- What is said of a live token ---------------------------------------------------------------


async def test_an_access_token_is_described(machine: Machine, log: Log) -> None:
    """Section 2.2: its claims under their names, `token_type`, and nothing of our own."""
    tokens = await machine.get_token("read")
    log.new()
    body = described(await ask(machine, tokens.access))
    assert body.keys() == OF_ACCESS
    claims = claims_of(tokens.access)
    shared = body.keys() - {"active", "token_type"}
    assert {name: body[name] for name in shared} == {name: claims[name] for name in shared}
    assert (body["scope"], body["token_type"]) == ("read", "Bearer")
    assert body["client_id"] == body["sub"] == machine.client_id
    assert (body["iss"], body["aud"], body["roles"]) == (OWN, OWN, ["user"])
    assert body["exp"] > time.time()
    log.expect_nothing()  # to be told of one's own token is no event


async def test_a_refresh_token_is_described(machine: Machine) -> None:
    """What it may be exchanged for, whose it is and until when; it has no `token_type`."""
    tokens = await machine.get_token("write read")
    body = described(await ask(machine, tokens.refresh))
    assert body.keys() == OF_REFRESH
    assert body["scope"] == "read write"
    assert body["client_id"] == body["sub"] == machine.client_id
    assert body["iss"] == OWN
    assert timedelta(days=29) < datetime.fromtimestamp(body["exp"], UTC) - datetime.now(UTC)


async def test_a_bound_token_says_to_which_key(machine: Machine) -> None:
    """RFC 9449 section 6.2: `cnf` and `token_type: DPoP`; a bound refresh token has `cnf` too."""
    holder = key("holder")
    tokens = await bound_tokens(machine, holder)
    body = described(await ask(machine, tokens.access))
    assert body.keys() == OF_ACCESS | {"cnf"}
    assert (body["token_type"], body["cnf"]) == ("DPoP", {"jkt": holder.jkt})
    body = described(await ask(machine, tokens.refresh))
    assert body.keys() == OF_REFRESH | {"cnf"}
    assert body["cnf"] == {"jkt": holder.jkt}


async def test_an_aimed_token_says_at_what(server: Server) -> None:
    """`aud` is what the token says: the resources that it was asked for."""
    machine = await new_machine(server, audience=["https://a.example", "https://b.example"])
    tokens = await machine.get_token(resource="https://b.example")
    assert described(await ask(machine, tokens.access))["aud"] == "https://b.example"


@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "unheard-of", "\x00"])
async def test_a_hint_changes_nothing(machine: Machine, hint: str) -> None:
    """Section 2.1: `token_type_hint` helps to search; a wrong or unknown one hides nothing."""
    tokens = await machine.get_token()
    for token in (tokens.access, tokens.refresh):
        usual = await ask(machine, token)
        described(usual)
        assert (await ask(machine, token, token_type_hint=hint)).content == usual.content


async def test_asking_changes_nothing(machine: Machine, database: Database[Any]) -> None:
    """A token may be introspected as often as one likes, and is used up by none of it."""
    tokens = await machine.get_token()
    before = {name: database[name].count_documents({}) for name in ("tokens", "revoked_tokens")}
    for _ in range(3):
        assert (await ask(machine, tokens.refresh)).content != NOT_ACTIVE
        assert (await ask(machine, tokens.access)).content != NOT_ACTIVE
    assert before == {name: database[name].count_documents({}) for name in before}
    await machine.refresh(tokens)


async def test_a_client_that_lost_a_scope_is_told_what_its_refresh_token_is_worth_now(
    machine: Machine, database: Database[Any]
) -> None:
    """What an exchange would not give any more is not promised."""
    tokens = await machine.get_token("read write")
    database["clients"].update_one({"client_id": machine.client_id}, {"$set": {"scopes": ["read"]}})
    assert described(await ask(machine, tokens.refresh))["scope"] == "read"
    assert (await machine.refresh(tokens)).scope == "read"


# --- What is said of any other token ------------------------------------------------------------


async def test_whatever_is_not_alive_is_inactive(
    server: Server, admin: Machine, machine: Machine, database: Database[Any]
) -> None:
    """Garbage, expired, forged, revoked, spent: one answer of one member, to admins too."""
    tokens, revoked, family = [await machine.get_token() for _ in range(3)]
    secret_key = (database["config"].find_one() or {})["SECRET_KEY"]
    await machine.revoke(revoked.access)
    await machine.revoke(family.refresh)
    successor = await machine.refresh(tokens)
    header, payload, signature = successor.access.split(".")
    dead = {
        "expired": resigned(tokens.access, secret_key, exp=int(time.time()) - 1),
        "forged": resigned(tokens.access, "a foreign key of sufficient length, really"),
        "of another issuer": resigned(tokens.access, secret_key, iss="http://localhost:8000/"),
        "revoked": revoked.access,
        "of a revoked family": family.access,
        "a revoked refresh token": family.refresh,
        "a spent refresh token": tokens.refresh,
        "garbage": "garbage",
        "three parts": "a.b.c",
        "shaped like ours": "m2mr_" + "a" * 49,
        "a stored digest": (database["tokens"].find_one() or {})["refresh_token"],
        "a client's secret": machine.client_secret,
        "long": "x" * 60_000,
        "a NUL": "\x00",
        "beyond ASCII": "\u4e2d.b.c",
        "padded": f"{header}.{payload}.{signature}=",
        "with a line break": successor.access + "\n",
        "not signed": f"{header}.{payload}.",
        "with a space": " " + successor.access,
    }
    for name, token in dead.items():
        for asker in (machine, admin):
            response = await ask(asker, token)
            assert response.content == NOT_ACTIVE, name
            expect_inactive(response)
    described(await ask(machine, successor.access))


async def test_reuse_kills_what_introspection_says_of_the_family(machine: Machine) -> None:
    """The moment a spent token comes back, the tokens of its chain are inactive."""
    first = await machine.get_token()
    second = await machine.refresh(first)
    described(await ask(machine, second.access))
    described(await ask(machine, second.refresh))
    expect_error(await machine.ask_refresh(first), 400, "invalid_grant")
    for token in (first.access, second.access, second.refresh):
        expect_inactive(await ask(machine, token))


@pytest.mark.parametrize("end", ["disable", "remove", "revoke_tokens"])
async def test_a_clients_end_is_seen_at_once(
    server: Server, machine: Machine, admin: Machine, end: str
) -> None:
    """Disabled, removed, or its tokens revoked by our door: all of them are inactive."""
    tokens = await machine.get_token()
    for token in (tokens.access, tokens.refresh):
        described(await ask(admin, token))
    await getattr(server.m2m.clients, end)(machine.client_id)
    for token in (tokens.access, tokens.refresh):
        expect_inactive(await ask(admin, token))


@pytest.mark.parametrize("change", [{"disabled": True}, {"epoch": "typed"}, None], ids=str)
async def test_a_clients_end_by_hand_is_seen_in_time(
    machine: Machine,
    admin: Machine,
    database: Database[Any],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any] | None,
) -> None:
    """What an operator writes into `clients` counts here within 30 s, as at the guarded routes."""
    hasten(monkeypatch, "clients")
    tokens = await machine.get_token()
    for token in (tokens.access, tokens.refresh):
        described(await ask(admin, token))
    mine = {"client_id": machine.client_id}
    if change is None:
        database["clients"].delete_one(mine)
    else:
        database["clients"].update_one(mine, {"$set": change})
    for token in (tokens.access, tokens.refresh):
        expect_inactive(await ask(admin, token))


async def test_an_expired_refresh_token_is_inactive(
    machine: Machine, database: Database[Any]
) -> None:
    """Its own `expires_at` decides, whatever still lies in the database."""
    tokens = await machine.get_token()
    past = datetime.now(UTC) - timedelta(seconds=1)
    database["tokens"].update_many({}, {"$set": {"expires_at": past}})
    expect_inactive(await ask(machine, tokens.refresh))


async def test_an_older_refresh_token_that_was_revoked_whole_is_inactive(
    server: Server, database: Database[Any]
) -> None:
    """Documents of the older shape hold tokens in the clear, in both collections."""
    machine = type_client(server, database, "older", "older-secret")
    in_a_day = datetime.now(UTC) + timedelta(days=1)
    for token in ("an-older-token", "another-older-token"):
        database["tokens"].insert_one(
            {"client_id": "older", "refresh_token": token, "expires_at": in_a_day}
        )
    database["revoked_tokens"].insert_one(
        {"token": "an-older-token", "revoked_at": datetime.now(UTC)}
    )
    expect_inactive(await ask(machine, "an-older-token"))
    described(await ask(machine, "another-older-token"))
    expect_error(await machine.ask_refresh("an-older-token"), 400, "invalid_grant")


# --- Whose tokens -------------------------------------------------------------------------------


async def test_another_clients_token_looks_like_none(server: Server, machine: Machine) -> None:
    """Section 4: a client learns nothing of others' tokens, not even whether they are alive."""
    stranger = await new_machine(server)
    bound = await bound_tokens(machine, key("holder"))
    tokens = await machine.get_token()
    for token in (tokens.access, tokens.refresh, bound.access, bound.refresh):
        expect_inactive(await ask(stranger, token))
        expect_inactive(await ask(stranger, token, token_type_hint="access_token"))
    await machine.refresh(tokens)


async def test_who_may_see_all_sees_all(
    machine: Machine, admin: Machine, introspector: Machine
) -> None:
    """The role admin, or the scope introspect among a client's: they see what the owner sees."""
    tokens = await machine.get_token()
    bound = await bound_tokens(machine, key("holder"))
    for token in (tokens.access, tokens.refresh, bound.access, bound.refresh):
        own = described(await ask(machine, token))
        assert described(await ask(admin, token)) == own
        assert described(await ask(introspector, token)) == own


async def test_the_role_is_read_anew(
    server: Server, admin: Machine, machine: Machine, database: Database[Any]
) -> None:
    """Who is no admin any more sees no more than its own from the next request on."""
    tokens = await machine.get_token()
    described(await ask(admin, tokens.access))
    database["clients"].update_one({"client_id": admin.client_id}, {"$set": {"role": "user"}})
    expect_inactive(await ask(admin, tokens.access))


# --- With an access token -----------------------------------------------------------------------


async def test_an_access_token_with_the_scope_sees_all(
    machine: Machine, introspector: Machine
) -> None:
    """Section 2.1: a bearer token with the scope introspect stands for client authentication."""
    tokens = await machine.get_token()
    bearer = await introspector.get_token("introspect")
    for token in (tokens.access, tokens.refresh, bearer.access):
        seen = await ask_as_bearer(introspector, bearer, token)
        assert described(seen) == described(await ask(introspector, token))
    expect_inactive(await ask_as_bearer(introspector, bearer, "garbage"))


async def test_without_the_scope_it_is_refused(
    introspector: Machine, admin: Machine, log: Log
) -> None:
    """403 insufficient_scope names what is missing; the role admin alone is not enough here."""
    for machine in (introspector, admin):
        bearer = await machine.get_token("read")
        log.new()
        response = await ask_as_bearer(machine, bearer, bearer.access)
        assert response.status_code == 403
        assert response.json()["error"] == "insufficient_scope"
        challenge = response.headers["www-authenticate"]
        assert challenge.startswith('Bearer error="insufficient_scope"')
        assert 'scope="introspect"' in challenge
        expect_no_store(response)
        log.expect("access_denied", client_id=machine.client_id, reason="insufficient_scope")


async def test_a_bad_access_token_is_refused(introspector: Machine, log: Log) -> None:
    """401 invalid_token in a challenge: revoked, garbage or empty, it stands for nobody."""
    bearer = await introspector.get_token("introspect")
    await introspector.revoke(bearer.access)
    for bad in (bearer.access, "garbage", ""):
        log.new()
        response = await introspector.http.post(
            "/introspect",
            data={"token": bearer.access},
            headers={"Authorization": f"Bearer {bad}"},
        )
        expect_error(response, 401, "invalid_token")
        assert response.headers["www-authenticate"].startswith('Bearer error="invalid_token"')
        (record,) = log.new()
        assert record["event_type"] == "token_invalid"


async def test_an_access_token_for_elsewhere_is_refused(server: Server) -> None:
    """A token that was aimed at another resource cannot be turned on us by who holds it there."""
    machine = await new_machine(server, scopes=["introspect"], audience=["https://api.example"])
    bearer = await machine.get_token(resource="https://api.example")
    expect_error(await ask_as_bearer(machine, bearer, bearer.access), 401, "invalid_token")


async def test_a_bound_access_token_needs_its_proof_here_too(introspector: Machine) -> None:
    """RFC 9449 section 7: with a proof for this request it counts, without one it does not."""
    holder, url = key("holder"), f"{OWN}/introspect"
    bound = await bound_tokens(introspector, holder)
    proof = holder.proof("POST", url, access_token=bound.access)
    described(await ask_as_bearer(introspector, bound, bound.access, proof=proof))
    expect_error(await ask_as_bearer(introspector, bound, bound.access), 401, "invalid_token")
    for bad in (
        proof,  # used before
        key("other").proof("POST", url, access_token=bound.access),
        holder.proof("POST", f"{OWN}/token", access_token=bound.access),
        holder.proof("POST", url),
    ):
        response = await ask_as_bearer(introspector, bound, bound.access, proof=bad)
        expect_error(response, 401, "invalid_dpop_proof")
        assert response.headers["www-authenticate"].startswith("DPoP ")


# --- Who asks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["basic", "post"])
async def test_a_client_authenticates_by_its_secret(machine: Machine, method: str) -> None:
    """Section 2.1: by each way in which it may authenticate at the token endpoint."""
    tokens = await machine.get_token()
    described(await ask(machine.using(method=method), tokens.access))


async def test_a_client_authenticates_by_its_key(server: Server) -> None:
    """private_key_jwt counts here as at the token endpoint, each assertion once."""
    signing = es256_key("one")
    registered = await server.m2m.clients.register(scopes=["read"], jwks=jwks(signing))
    client_id, http = registered.client.client_id, server.http()

    async def send(path: str, assertion: str, **more: str) -> httpx.Response:
        return await http.post(path, data=fields(assertion, **more))

    grant = {"grant_type": "client_credentials"}
    tokens = Tokens.of(await send("/token", signing.assertion(client_id, OWN), **grant))
    assertion = signing.assertion(client_id, OWN)
    described(await send("/introspect", assertion, token=tokens.access))
    expect_error(await send("/introspect", assertion, token=tokens.access), 401, "invalid_client")
    stranger = es256_key("stranger").assertion(client_id, OWN)
    expect_error(await send("/introspect", stranger, token=tokens.access), 401, "invalid_client")


async def test_without_authentication_nothing_is_said(machine: Machine, log: Log) -> None:
    """No credentials, wrong ones, or username and password: 401, recorded, not a word more."""
    token = (await machine.get_token()).access
    plain = {"username": machine.client_id, "password": machine.client_secret}
    for stranger, client_id, more in (
        (machine.using(method="none"), None, {}),
        (machine.using(client_secret="wrong"), machine.client_id, {}),
        (machine.using(client_secret="wrong", method="post"), machine.client_id, {}),
        (machine.using(client_id="nobody"), "nobody", {}),
        (machine.using(method="none"), None, plain),
    ):
        log.new()
        response = await ask(stranger, token, **more)
        expect_error(response, 401, "invalid_client")
        assert ("www-authenticate" in response.headers) == (stranger.method == "basic")
        log.expect("token_invalid", client_id=client_id, hiding=[machine.client_secret, token])


async def test_two_ways_of_authenticating_at_once_are_malformed(
    introspector: Machine, log: Log
) -> None:
    """RFC 6749 section 2.3: Basic beside a secret, or an access token beside one, are too many."""
    bearer = await introspector.get_token("introspect")
    both = {
        "client_id": introspector.client_id,
        "client_secret": introspector.client_secret,
    }
    log.new()
    expect_error(await ask(introspector, bearer.access, **both), 400, "invalid_request")
    (record,) = log.new()
    assert record["event_type"] == "token_invalid"
    for more in (both, fields("a.b.c")):
        response = await ask_as_bearer(introspector, bearer, bearer.access, **more)
        expect_error(response, 400, "invalid_request")
        log.expect("access_denied", client_id=introspector.client_id, reason="one way")


@pytest.mark.parametrize("more", [{}, {"token": ""}, {"token_type_hint": "access_token"}])
async def test_a_missing_token_is_malformed(
    introspector: Machine, log: Log, more: dict[str, str]
) -> None:
    """Section 2.1: `token` is required, whoever asks."""
    bearer = await introspector.get_token("introspect")
    log.new()
    expect_error(await introspector.post("/introspect", **more), 400, "invalid_request")
    log.expect("token_invalid", client_id=introspector.client_id, reason="token is missing")
    response = await introspector.http.post(
        "/introspect",
        data={"x": "y", **more},
        headers={"Authorization": f"Bearer {bearer.access}"},
    )
    expect_error(response, 400, "invalid_request")
    log.expect("access_denied", client_id=introspector.client_id, reason="token is missing")


async def test_a_get_is_405(machine: Machine) -> None:
    """Section 2.1: tokens do not belong in addresses, which end up in logs."""
    tokens = await machine.get_token()
    for method in ("GET", "PUT", "DELETE"):
        response = await machine.http.request(method, f"/introspect?token={tokens.access}")
        expect_error(response, 405, "invalid_request")


# --- Limits -------------------------------------------------------------------------------------


async def test_a_client_has_one_budget_for_all_it_does(start: Start, log: Log) -> None:
    """Questions count in it as tokens do, whichever way the client proves itself."""
    server = await start(MAX_REQUESTS_PER_MINUTE=6)
    machine = await new_machine(server, scopes=["introspect"])
    await early_in_the_minute()
    tokens = await machine.get_token()  # the first
    for _ in range(2):
        described(await ask(machine, tokens.access))
        described(await ask_as_bearer(machine, tokens, tokens.access))
    expect_inactive(await ask(machine, "garbage"))  # the sixth
    log.new()
    for response in (
        await ask(machine, tokens.access),
        await ask_as_bearer(machine, tokens, tokens.access),
        await machine.ask_token(),
    ):
        expect_error(response, 429, "rate_limit_exceeded")
        assert response.headers["ratelimit-limit"] == "6"
    record = log.expect("rate_limit_exceeded", client_id=machine.client_id)
    assert record["count"] == 3


async def test_failures_are_limited_apart(start: Start, log: Log) -> None:
    """Wrong secrets and bad access tokens fill windows of their own, and no client's budget."""
    server = await start(MAX_REQUESTS_PER_MINUTE=3)
    machine = await new_machine(server, scopes=["introspect"])
    await early_in_the_minute()
    tokens = await machine.get_token()
    guesser = machine.using(client_secret="wrong" * 12)
    assert [(await ask(guesser, "x")).status_code for _ in range(5)] == [401] * 3 + [429] * 2
    headers = {"Authorization": "Bearer garbage"}
    answers = [
        (await machine.http.post("/introspect", data={"token": "x"}, headers=headers)).status_code
        for _ in range(5)
    ]
    assert answers == [401] * 3 + [429] * 2
    described(await ask_as_bearer(machine, tokens, tokens.access))


async def test_many_questions_at_once_have_each_its_answer(
    machine: Machine, admin: Machine
) -> None:
    """Requests that share a round to the database do not share their answers."""
    tokens = [await machine.get_token() for _ in range(6)]
    for dead in tokens[::2]:
        await machine.revoke(dead.access)
    answers = await asyncio.gather(*(ask(admin, each.access) for each in tokens * 4))
    assert [answer.json()["active"] for answer in answers] == [False, True] * 12
    alive = [answer.json() for answer in answers if answer.json()["active"]]
    assert [body["jti"] for body in alive] == [
        claims_of(each.access)["jti"] for each in tokens[1::2] * 4
    ]
