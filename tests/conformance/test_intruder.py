"""What intruders tried: each of these once worked."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from pymongo.database import Database
from starlette.types import Message, Receive, Scope, Send

from _oauth2_m2m import client_assertions
from _oauth2_m2m.compact_tokens import parse_compact
from _oauth2_m2m.remote_documents import FetchRules, fetch_json
from oauth2_m2m import ResourceServer
from tests.assertions import es256_key, fields, jwks
from tests.conformance.conftest import Start
from tests.expectations import early_in_the_minute
from tests.issuers import Issuer, elsewhere, free_port, served
from tests.machine import Machine, basic, new_machine, resigned
from tests.proofs import Key, key
from tests.server import Server
from tests.sites import serving

ISSUER = "http://localhost:8000"
FORM = "application/x-www-form-urlencoded"


async def ask_bound(machine: Machine, holder: Key, url: str, **claims: Any) -> httpx.Response:
    """Ask for a token that is bound to a key."""
    headers = {
        "Content-Type": FORM,
        "Authorization": basic(machine.client_id, machine.client_secret),
        "DPoP": holder.proof("POST", url, **claims),
    }
    body = "grant_type=client_credentials"
    return await machine.http.post("/token", content=body, headers=headers)


def bound(token: str, holder: Key, method: str, url: str, **claims: Any) -> dict[str, str]:
    """The headers that present a bound token."""
    proof = holder.proof(method, url, access_token=token, **claims)
    return {"Authorization": f"DPoP {token}", "DPoP": proof}


async def test_a_token_that_was_seen_revoked_can_be_revoked_again(server: Server) -> None:
    """Also by a worker that has met it at a guarded route since."""
    machine = await new_machine(server)
    tokens = await machine.get_token()
    assert (await machine.revoke_plainly(access_token=tokens.access)).status_code == 200
    assert (await machine.call(tokens)).status_code == 401
    assert (await machine.revoke_plainly(access_token=tokens.access)).status_code == 200
    assert (await machine.call(tokens)).status_code == 401


async def test_a_proof_for_introspection_names_the_issuers_address(start: Start) -> None:
    """The endpoint is the issuer's, wherever the guarded routes are."""
    issuer, audience = "https://auth.example.com", "https://api.example.com"
    server = await start(ISSUER=issuer, AUDIENCE=audience)
    machine, holder = await new_machine(server, scopes=["introspect"]), key("holder")
    response = await ask_bound(machine, holder, f"{issuer}/token")
    token = response.json()["access_token"]
    status = {}
    for base in (issuer, audience):
        headers = bound(token, holder, "POST", f"{base}/introspect")
        response = await machine.http.post("/introspect", data={"token": token}, headers=headers)
        status[base] = response.status_code
    assert status == {issuer: 200, audience: 401}


async def test_bad_tokens_keep_nobody_from_a_nonce(start: Start) -> None:
    """An address that is over its limit of failures is told the nonce that its good proofs lack."""
    server = await start(MAX_REQUESTS_PER_MINUTE=5, DPOP_REQUIRE_NONCE=True)
    await early_in_the_minute()
    machine, holder = await new_machine(server), key("holder")
    nonce = (await ask_bound(machine, holder, f"{ISSUER}/token")).headers["dpop-nonce"]
    response = await ask_bound(machine, holder, f"{ISSUER}/token", nonce=nonce)
    token, url = response.json()["access_token"], f"{ISSUER}/protected"
    for _ in range(6):
        response = await machine.call("garbage")
    assert response.status_code == 429
    without = await machine.http.get("/protected", headers=bound(token, holder, "GET", url))
    assert without.status_code == 401
    assert without.json()["error"] == "use_dpop_nonce"
    headers = bound(token, holder, "GET", url, nonce=without.headers["dpop-nonce"])
    assert (await machine.http.get("/protected", headers=headers)).status_code == 200
    stolen = bound(token, key("thief"), "GET", url)
    assert (await machine.http.get("/protected", headers=stolen)).status_code == 429


async def test_asking_for_nonces_is_charged(start: Start) -> None:
    """The holder of a key who never uses the nonce gets no further than its budget."""
    server = await start(DPOP_REQUIRE_NONCE=True)
    await early_in_the_minute()
    machine, holder = await new_machine(server, max_requests_per_minute=4), key("holder")
    nonce = (await ask_bound(machine, holder, f"{ISSUER}/token")).headers["dpop-nonce"]
    response = await ask_bound(machine, holder, f"{ISSUER}/token", nonce=nonce)
    token, url = response.json()["access_token"], f"{ISSUER}/protected"
    answers = [
        await machine.http.get("/protected", headers=bound(token, holder, "GET", url))
        for _ in range(3)
    ]
    assert [answer.status_code for answer in answers] == [401, 401, 429]


@pytest.mark.parametrize("is_bound", [True, False])
async def test_fapi2_takes_no_unbound_token_of_before(
    start: Start, database: Database[Any], is_bound: bool
) -> None:
    """The metadata says that bound tokens are required, and so they are, from the change on."""
    server = await start(ALGORITHM="ES256")
    machine, holder = await new_machine(server), key("holder")
    if is_bound:
        response = await ask_bound(machine, holder, f"{ISSUER}/token")
        token = response.json()["access_token"]
        headers = bound(token, holder, "GET", f"{ISSUER}/protected")
    else:
        headers = {"Authorization": f"Bearer {(await machine.get_token()).access}"}
        assert (await machine.http.get("/protected", headers=headers)).status_code == 200
    database.config.update_one({}, {"$set": {"PROFILE": "fapi2"}})
    await server.m2m._services.settings.fresh()
    response = await machine.http.get("/protected", headers=headers)
    assert response.status_code == (200 if is_bound else 401)
    if not is_bound:
        assert response.headers["www-authenticate"].startswith("DPoP ")


@pytest.mark.parametrize(
    "header",
    [{}, {"alg": "none"}, {"kid": "another"}, {"kid": 7}, {"typ": "x"}],
    ids=lambda header: "-".join(map(str, header.items())) or "good",
)
async def test_an_assertion_is_read_as_often_whoever_is_claimed(
    server: Server, monkeypatch: pytest.MonkeyPatch, header: dict[str, Any]
) -> None:
    """To take a token apart costs as much as its signature, and shows as much in time."""
    signer = es256_key("signer")
    await server.m2m.clients.register("signer", scopes=["read"], jwks=jwks(signer))
    read = 0

    def counting(text: str) -> Any:
        nonlocal read
        read += 1
        return parse_compact(text)

    monkeypatch.setattr(client_assertions, "parse_compact", counting)
    times = {}
    async with server.http() as http:
        for client_id in ("signer", "nobody"):
            read = 0
            assertion = es256_key("stranger").assertion(client_id, ISSUER, header=header)
            form = fields(assertion, grant_type="client_credentials")
            assert (await http.post("/token", data=form)).status_code == 401
            times[client_id] = read
    assert times["nobody"] == times["signer"]


async def test_what_a_cache_kept_is_no_news_of_revocations(start: Start) -> None:
    """A proxy that keeps what it must not cannot make a follower believe that it keeps up."""
    issuer, audience = Issuer(free_port()), "https://api.example.com"
    server = await start(ISSUER=issuer.url, AUDIENCE=audience, ALGORITHM="ES256")
    kept: dict[bytes, list[Message]] = {}

    async def keeping(scope: Scope, receive: Receive, send: Send) -> None:
        answer = kept.setdefault(scope["query_string"], [])
        if not answer:

            async def keep(message: Message) -> None:
                answer.append(message)

            await server.app(scope, receive, keep)
        for message in answer:
            await send(message)

    issuer.instead["/revocations"] = keeping
    machine = await new_machine(server)
    tokens = await machine.get_token()
    api = ResourceServer(issuer.url, audience=audience, max_lag=timedelta(seconds=1))
    async with served(issuer, server), elsewhere(api) as service:
        await service.settles(tokens.access, 200, within=20)
        async with asyncio.timeout(20):
            while len(kept) < 3:  # noqa: ASYNC110 - until it has asked after a cursor again
                await asyncio.sleep(0.05)
        await machine.revoke(tokens.access)
        await service.settles(tokens.access, 401, within=20)


async def test_a_fetch_asks_for_what_is_newest() -> None:
    """A key that has just been published is found behind a cache, too."""
    async with serving() as site:
        site.reply = site.document({"keys": []})
        await fetch_json(site.url, FetchRules(allow_http=True, allow_private=True))
        assert "cache-control: no-cache" in site.requests[0].lower()


async def test_a_burned_secret_that_is_written_back_stays_burned(
    start: Start, database: Database[Any]
) -> None:
    """However long ago: whoever restores an old config does not restore a leaked key."""
    server = await start()
    machine = await new_machine(server)
    tokens, secret = await machine.get_token(), database.config.find_one({})["SECRET_KEY"]  # type: ignore[index]
    kid = server.m2m._services.keys.ring.signing.kid
    await server.m2m.keys.burn(kid)
    long_ago = datetime.now(UTC) - timedelta(days=365)
    moments = {"burned_at": long_ago, "last_expiry": long_ago}
    database["keys"].update_one({"_id": kid}, {"$set": moments})
    database.revoked_tokens.delete_many({})
    settings = server.m2m._services.settings
    await settings.fresh()
    change = {"$set": {"SECRET_KEY": secret}, "$push": {"PREVIOUS_SECRET_KEYS": secret}}
    database.config.update_one({}, change)
    await settings.fresh()
    now = int(time.time())
    forged = resigned(tokens.access, secret, iat=now, exp=now + 600)
    assert (await machine.call(forged)).status_code == 401


@pytest.mark.parametrize(("age", "status"), [(timedelta(hours=23), 200), (timedelta(days=1), 503)])
async def test_keys_that_were_not_seen_for_a_day_let_nobody_in(
    start: Start, age: timedelta, status: int
) -> None:
    """One may have been burned, and the feed, which is still followed, names it no more."""
    issuer, audience = Issuer(free_port()), "https://api.example.com"
    server = await start(ISSUER=issuer.url, AUDIENCE=audience, ALGORITHM="ES256")
    tokens = await (await new_machine(server)).get_token()

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    api = ResourceServer(issuer.url, audience=audience, environment="development")
    async with served(issuer, server), elsewhere(api) as service:
        assert (await service.call(tokens.access)).status_code == 200
        issuer.instead["/.well-known/jwks.json"] = failing
        key_set = api._judge.documents._key_set
        assert key_set is not None
        key_set._copied_at -= age.total_seconds()
        for _ in range(3):
            assert (await service.call(tokens.access)).status_code == status
            await asyncio.sleep(0.5)
