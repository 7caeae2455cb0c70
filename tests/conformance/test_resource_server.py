"""A service elsewhere, guarded by the name of its issuer alone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse, RedirectResponse, Response
from prometheus_client import CollectorRegistry

from oauth2_m2m import ConfigurationError, IntrospectionCredentials, ResourceServer
from tests.conformance.conftest import Start
from tests.expectations import wording
from tests.issuers import Elsewhere, Issuer, elsewhere, free_port, hang, served
from tests.machine import Machine, claims_of, new_machine, secret_of
from tests.proofs import Key, compact
from tests.server import Server

#: For tests in which nothing may be late on a busy machine.
MAX_LAG = timedelta(seconds=20)
#: For tests that wait for it to pass.
SHORT_LAG = timedelta(seconds=1)
PATIENCE = 30.0

Open = Callable[..., Awaitable[Elsewhere]]


@pytest.fixture
async def issuer() -> Issuer:
    """An address for the test's issuer."""
    return Issuer(port=free_port())


@pytest.fixture
async def auth(start: Start, issuer: Issuer) -> AsyncIterator[Server]:
    """An authorization server that signs with ES256, served at the issuer's address."""
    server = await start(ISSUER=issuer.url, ALGORITHM="ES256")
    async with served(issuer, server):
        yield server


@pytest.fixture
async def client(auth: Server) -> Machine:
    """A client of it with the scopes read and write."""
    return await new_machine(auth)


@pytest.fixture
async def open_service(issuer: Issuer) -> AsyncIterator[Open]:
    """To start a service elsewhere, with arguments of `ResourceServer`."""
    async with AsyncExitStack() as stack:

        async def open_one(*, lifespan: bool = True, **arguments: Any) -> Elsewhere:
            given = {"audience": issuer.url, "max_lag": MAX_LAG, **arguments}
            api = ResourceServer(given.pop("issuer", issuer.url), **given)
            return await stack.enter_async_context(elsewhere(api, lifespan=lifespan))

        yield open_one


@pytest.fixture
async def service(auth: Server, open_service: Open) -> Elsewhere:
    """A service elsewhere."""
    return await open_service()


# --- A good token, and refusals that look like those at home -------------------------------------


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
@pytest.mark.parametrize("lifespan", [True, False])
async def test_a_good_token_is_let_through(
    start: Start, issuer: Issuer, open_service: Open, algorithm: str, lifespan: bool
) -> None:
    """With the lifespan or without, by the issuer's name alone."""
    server = await start(ISSUER=issuer.url, ALGORITHM=algorithm)
    async with served(issuer, server):
        client = await new_machine(server)
        tokens = await client.get_token()
        service = await open_service(lifespan=lifespan)
        response = await service.call(tokens.access)
        assert response.status_code == 200
        jti = claims_of(tokens.access)["jti"]
        expected = {"client_id": client.client_id, "scopes": ["read", "write"], "jti": jti}
        assert response.json() == expected


REQUESTS: dict[str, dict[str, str]] = {
    "nothing": {},
    "another scheme": {"Authorization": "Basic dXNlcjpwYXNz"},
    "no token": {"Authorization": "Bearer"},
    "malformed": {"Authorization": "Bearer x.y.z"},
    "altered": {"Authorization": "Bearer {read}x"},
    "a token without the scope": {"Authorization": "Bearer {write}"},
    "a bearer token as if it were bound": {"Authorization": "DPoP {read}", "DPoP": "x.y.z"},
    "a bound one without a proof": {"Authorization": "DPoP {read}"},
    "good": {"Authorization": "Bearer {read}"},
}


@pytest.mark.parametrize("path", ["/protected", "/admin-only"])
@pytest.mark.parametrize("case", REQUESTS)
async def test_a_refusal_looks_like_one_at_home(
    client: Machine, service: Elsewhere, case: str, path: str
) -> None:
    """Status, body, challenge and cache rules are those of the issuer's own guard."""
    texts = {scope: (await client.get_token(scope)).access for scope in ("read", "write")}
    headers = {name: value.format(**texts) for name, value in REQUESTS[case].items()}
    there = await service.http.get(path, headers=headers)
    home = await client.http.get(path, headers=headers)
    assert (there.status_code, wording(there)) == (home.status_code, wording(home))
    for name in ("www-authenticate", "cache-control"):
        assert there.headers.get_list(name) == home.headers.get_list(name)


@pytest.mark.parametrize(("scopes", "role"), [(["admin"], "user"), (["read"], "admin")])
async def test_a_missing_role_looks_as_at_home(
    auth: Server, service: Elsewhere, scopes: list[str], role: str
) -> None:
    """What is missing, the scope or the role, is named in the same words."""
    machine = await new_machine(auth, scopes=scopes, role=role)
    token = (await machine.get_token()).access
    there = await service.call(token, "/admin-only")
    home = await machine.call(token, "/admin-only")
    assert (there.status_code, wording(there)) == (403, wording(home))
    assert there.headers["www-authenticate"] == home.headers["www-authenticate"]
    admin = await new_machine(auth, scopes=["admin"], role="admin")
    assert (await service.call((await admin.get_token()).access, "/admin-only")).status_code == 200


async def test_a_token_for_another_audience_is_invalid(client: Machine, open_service: Open) -> None:
    """The same token is good at the service that it is meant for, and at no other."""
    token = (await client.get_token()).access
    other = await open_service(audience="https://other.example.com")
    response = await other.call(token)
    assert response.status_code == 401
    assert response.json()["error"] == "invalid_token"
    assert (await (await open_service()).call(token)).status_code == 200


async def test_a_token_for_a_resource_is_good_there(auth: Server, open_service: Open) -> None:
    """RFC 8707: what a client asked for with `resource` is a service's audience."""
    resource = "https://reports.example.com"
    machine = await new_machine(auth, audience=[resource])
    token = (await machine.get_token(resource=resource)).access
    assert (await (await open_service(audience=resource)).call(token)).status_code == 200
    assert (await (await open_service()).call(token)).status_code == 401


async def test_another_issuers_token_is_invalid(
    auth: Server, start: Start, issuer: Issuer, service: Elsewhere
) -> None:
    """A server with keys of its own signs nothing that is good here, whatever it calls itself."""
    other = await start(ISSUER="http://127.0.0.1:9", AUDIENCE=issuer.url, ALGORITHM="HS256")
    token = (await (await new_machine(other)).get_token()).access
    assert (await service.call(token)).status_code == 401


# --- Revocation ----------------------------------------------------------------------------------


async def revoke_token(auth: Server, machine: Machine, access: str, refresh: str) -> None:
    assert (await machine.revoke(access)).status_code == 200


async def revoke_family(auth: Server, machine: Machine, access: str, refresh: str) -> None:
    assert (await machine.revoke(refresh)).status_code == 200


async def end_tokens(auth: Server, machine: Machine, access: str, refresh: str) -> None:
    await auth.m2m.clients.revoke_tokens(machine.client_id)


async def disable(auth: Server, machine: Machine, access: str, refresh: str) -> None:
    await auth.m2m.clients.disable(machine.client_id)


async def burn_key(auth: Server, machine: Machine, access: str, refresh: str) -> None:
    (key,) = [key for key in await auth.m2m.keys.list() if key.signs]
    await auth.m2m.keys.burn(key.kid)


@pytest.mark.parametrize("end", [revoke_token, revoke_family, end_tokens, disable, burn_key])
async def test_what_ends_a_token_at_home_ends_it_elsewhere(
    auth: Server, client: Machine, open_service: Open, end: Callable[..., Awaitable[None]]
) -> None:
    """A mark of any kind is seen by a service that follows, and says no more than invalid."""
    service = await open_service(max_lag=timedelta(seconds=2))
    doomed, other = await client.get_token(), await new_machine(auth)
    untouched = await other.get_token()
    assert (await service.call(doomed.access)).status_code == 200
    await end(auth, client, doomed.access, doomed.refresh)
    await service.settles(doomed.access, 401, PATIENCE)
    assert (await service.call(doomed.access)).json()["error"] == "invalid_token"
    if end is not burn_key:
        assert (await service.call(untouched.access)).status_code == 200
    assert service.api.health().revocations == 1


async def test_a_revocation_is_seen_within_the_lag(
    auth: Server, client: Machine, open_service: Open
) -> None:
    """Once the lag has passed, no revoked token is let through: it is known, or all is refused."""
    service = await open_service(max_lag=SHORT_LAG)
    for _ in range(3):
        tokens = await client.get_token()
        await client.revoke(tokens.access)
        await asyncio.sleep(SHORT_LAG.total_seconds())
        assert (await service.call(tokens.access)).status_code in {401, 503}


async def test_what_was_revoked_before_the_start_is_known_at_once(
    auth: Server, client: Machine, open_service: Open
) -> None:
    """Neither with the lifespan nor without does the first request come too early."""
    tokens = await client.get_token()
    await client.revoke(tokens.access)
    for lifespan in (True, False):
        service = await open_service(lifespan=lifespan)
        assert (await service.call(tokens.access)).status_code == 401


async def test_without_the_feed_tokens_live_until_they_expire(
    auth: Server, client: Machine, issuer: Issuer, open_service: Open
) -> None:
    """Whoever switches it off is not asked about it."""
    service = await open_service(revocations=False)
    tokens = await client.get_token()
    await client.revoke(tokens.access)
    assert (await service.call(tokens.access)).status_code == 200
    assert "/revocations" not in issuer.asked
    assert service.api.health().revocations_lag is None


async def test_many_revocations_come_in_pages(
    auth: Server, client: Machine, open_service: Open, database: Any
) -> None:
    """A service that starts reads all that is alive, page by page."""
    tokens = await client.get_token()
    await client.revoke(tokens.access)
    (mark,) = database.revoked_tokens.find()
    database.revoked_tokens.insert_many(
        {**mark, "_id": f"jti-{n}", "seq": type(mark["seq"])(mark["seq"].time + 1, n)}
        for n in range(4_500)
    )
    service = await open_service()
    assert service.api.health().revocations == 4_501
    assert (await service.call(tokens.access)).status_code == 401


# --- An issuer that fails ------------------------------------------------------------------------


@pytest.mark.parametrize(("when_lagging", "status"), [("refuse", 503), ("accept", 200)])
async def test_beyond_the_lag_it_refuses_or_accepts(
    auth: Server,
    client: Machine,
    issuer: Issuer,
    open_service: Open,
    when_lagging: str,
    status: int,
) -> None:
    """With the last good keys, and by what was known of revocations; and recovers by itself."""
    service = await open_service(max_lag=SHORT_LAG, when_lagging=when_lagging)
    good, bad = await client.get_token(), await client.get_token()
    await client.revoke(bad.access)
    await service.settles(bad.access, 401, PATIENCE)
    await issuer.stop()
    await service.settles(good.access, status, PATIENCE)
    await asyncio.sleep(SHORT_LAG.total_seconds())
    response = await service.call(good.access)
    assert response.status_code == status
    health = service.api.health()
    assert health.is_ready is (status == 200)
    assert health.revocations_lag is not None
    assert health.revocations_lag > SHORT_LAG
    assert health.problems
    if status == 503:
        assert response.json()["error"] == "temporarily_unavailable"
        assert response.headers["retry-after"]
    else:
        assert (await service.call(bad.access)).status_code == 401
    assert (await service.call("x.y.z")).status_code == 401
    await issuer.start()
    await service.settles(good.access, 200, PATIENCE)


async def test_an_issuer_that_comes_later_is_found(
    start: Start, issuer: Issuer, open_service: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """A service that starts first answers 503 until its issuer is there, and says so once."""
    caplog.set_level(logging.WARNING, "oauth2_m2m")
    service = await open_service(max_lag=SHORT_LAG)
    server = await start(ISSUER=issuer.url, ALGORITHM="ES256")
    token = (await (await new_machine(server)).get_token()).access
    for _ in range(3):
        assert (await service.call(token)).status_code == 503
    assert (await service.http.get("/protected")).status_code == 401
    assert service.api.health().is_ready is False
    async with served(issuer, server):
        await service.settles(token, 200, PATIENCE)
    assert service.api.health().is_ready is True
    warnings = [record.getMessage() for record in caplog.records]
    assert sum("cannot be followed" in warning for warning in warnings) == 1
    assert sum("followed again" in warning for warning in warnings) == 1
    assert not [warning for warning in warnings if token in warning]


BAD_PAGES: dict[str, Any] = {
    "hangs": hang,
    "an error": Response(status_code=500),
    "not JSON": Response("<html>"),
    "no page": JSONResponse({}),
    "a list": JSONResponse([]),
    "no hash": JSONResponse({"revoked": [["x", 4102444800]], "cursor": "a", "more": False}),
    "no second": JSONResponse({"revoked": [["A" * 22, "x"]], "cursor": "a", "more": False}),
    "no flag": JSONResponse({"revoked": [], "cursor": "a", "more": 0}),
    "a huge cursor": JSONResponse({"revoked": [], "cursor": "a" * 256, "more": False}),
    "a huge answer": Response(
        b'{"revoked": [], "cursor": "a", "more": false}' + b" " * 1024 * 1024
    ),
    "elsewhere": RedirectResponse("/revocations2"),
    "no end": JSONResponse({"revoked": [], "cursor": "a", "more": True}),
}


@pytest.mark.parametrize("case", BAD_PAGES)
async def test_a_feed_that_fails_is_no_knowledge(
    auth: Server, client: Machine, issuer: Issuer, open_service: Open, case: str
) -> None:
    """Whatever comes instead of a page, the knowledge ages, and beyond the lag all is refused."""
    service = await open_service(max_lag=SHORT_LAG)
    token = (await client.get_token()).access
    assert (await service.call(token)).status_code == 200
    issuer.instead["/revocations"] = BAD_PAGES[case]
    await service.settles(token, 503, PATIENCE)
    issuer.instead.clear()
    await service.settles(token, 200, PATIENCE)
    assert "/revocations2" not in issuer.asked


async def test_a_cursor_that_is_refused_begins_anew(
    auth: Server, client: Machine, issuer: Issuer, open_service: Open
) -> None:
    """A feed that changed its cursors is read from its beginning."""
    service = await open_service(max_lag=SHORT_LAG)
    answer = {"revoked": [], "cursor": "of another kind", "more": False}
    issuer.instead["/revocations"] = JSONResponse(answer)
    asked = len(issuer.asked)
    async with asyncio.timeout(PATIENCE):
        while len(issuer.asked) < asked + 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    tokens = await client.get_token()
    await client.revoke(tokens.access)
    issuer.instead.clear()
    await service.settles(tokens.access, 401, PATIENCE)
    assert (await service.call((await client.get_token()).access)).status_code == 200


# --- Keys ----------------------------------------------------------------------------------------


async def test_a_key_that_is_rotated_at_once_refuses_no_good_token(
    auth: Server, client: Machine, service: Elsewhere
) -> None:
    """Tokens of the key before and of one that nobody has seen are good at once."""
    before = await client.get_token()
    assert (await service.call(before.access)).status_code == 200
    for _ in range(2):
        await auth.m2m.keys.rotate()
        after = await client.get_token()
        answers = await asyncio.gather(*(service.call(after.access) for _ in range(5)))
        assert [answer.status_code for answer in answers] == [200] * 5
    assert (await service.call(before.access)).status_code == 200


async def test_unknown_keys_are_looked_for_once_a_second(
    auth: Server, client: Machine, issuer: Issuer, service: Elsewhere
) -> None:
    """Thirty made-up keys at once cost the issuer a fetch or two, and are all invalid."""
    assert (await service.call((await client.get_token()).access)).status_code == 200
    fetched = issuer.asked.count("/.well-known/jwks.json")
    claims = claims_of((await client.get_token()).access)
    forged = [forged_token(claims, f"kid-{n}") for n in range(30)]
    answers = await asyncio.gather(*(service.call(token) for token in forged))
    assert {answer.status_code for answer in answers} == {401}
    assert issuer.asked.count("/.well-known/jwks.json") - fetched <= 2


async def test_an_unknown_key_while_the_issuer_is_away_is_no_fault_of_the_token(
    auth: Server, client: Machine, issuer: Issuer, service: Elsewhere
) -> None:
    """Nobody can know whether it is good: 503, while tokens of known keys are let through."""
    known = await client.get_token()
    assert (await service.call(known.access)).status_code == 200
    await auth.m2m.keys.rotate()
    unknown = await client.get_token()
    await issuer.stop()
    assert (await service.call(unknown.access)).status_code == 503
    assert (await service.call(known.access)).status_code == 200
    await issuer.start()
    await service.settles(unknown.access, 200, PATIENCE)


def forged_token(claims: dict[str, Any], kid: str) -> str:
    """A token of a key that the issuer never had."""
    return compact({"typ": "at+jwt", "alg": "ES256", "kid": kid}, claims, Key())


# --- Discovery -----------------------------------------------------------------------------------


async def test_an_issuer_below_a_path_is_found(
    start: Start, issuer: Issuer, open_service: Open
) -> None:
    """RFC 8414 puts the well-known path before the issuer's; an app that is mounted cannot."""
    name = f"{issuer.url}/auth"
    server = await start(ISSUER=name, ALGORITHM="ES256")
    around = FastAPI()
    around.mount("/auth", server.app)
    async with served(issuer, Server(around, server.m2m)):
        token = (await (await new_machine(server)).get_token()).access
        service = await open_service(issuer=name, audience=name)
        assert (await service.call(token)).status_code == 200
    assert "/.well-known/oauth-authorization-server/auth" in issuer.asked
    assert "/auth/.well-known/oauth-authorization-server" in issuer.asked


@pytest.mark.parametrize("change", ["/", "?", "x"])
async def test_metadata_of_another_issuer_is_not_taken(
    auth: Server, client: Machine, issuer: Issuer, open_service: Open, change: str
) -> None:
    """RFC 8414 section 3.3: the name in the document is the very name that was given."""
    metadata = (await client.http.get("/.well-known/oauth-authorization-server")).json()
    metadata["issuer"] += change
    issuer.instead["/.well-known/oauth-authorization-server"] = JSONResponse(metadata)
    service = await open_service()
    assert (await service.call((await client.get_token()).access)).status_code == 503
    assert any("another issuer" in problem for problem in service.api.health().problems)


async def test_an_issuer_with_a_shared_secret_stops_the_start(
    start: Start, issuer: Issuer, open_service: Open
) -> None:
    """HS256 can be verified by the issuer alone: the error says what to do."""
    server = await start(ISSUER=issuer.url, ALGORITHM="HS256")
    async with served(issuer, server):
        with pytest.raises(ConfigurationError, match=r"HS256.*ES256 or RS256.*introspection"):
            await open_service()


async def test_without_the_lifespan_a_shared_secret_is_logged_once(
    start: Start, issuer: Issuer, open_service: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests are answered 503, and the log says what to do."""
    server = await start(ISSUER=issuer.url, ALGORITHM="HS256")
    async with served(issuer, server):
        token = (await (await new_machine(server)).get_token()).access
        service = await open_service(lifespan=False)
        for _ in range(3):
            assert (await service.call(token)).status_code == 503
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len([error for error in errors if "HS256" in error]) == 1


async def test_an_issuer_without_a_feed_stops_the_start(
    auth: Server, client: Machine, issuer: Issuer, open_service: Open
) -> None:
    """Nobody shall believe that revocations are followed where there are none to follow."""
    metadata = (await client.http.get("/.well-known/oauth-authorization-server")).json()
    del metadata["revocations_endpoint"]
    issuer.instead["/.well-known/oauth-authorization-server"] = JSONResponse(metadata)
    with pytest.raises(ConfigurationError, match="revocations=False"):
        await open_service()
    token = (await client.get_token()).access
    assert (await (await open_service(revocations=False)).call(token)).status_code == 200
    service = await open_service(lifespan=False)
    assert (await service.call(token)).status_code == 503


# --- Tokens that are bound to a key --------------------------------------------------------------

API = "https://api.example.com/v1"


async def bound_token(client: Machine, key: Key) -> str:
    """An access token that only the holder of a key can use."""
    proof = key.proof("POST", f"{client.http.base_url}token")
    http = httpx.AsyncClient(
        transport=client.http._transport, base_url=client.http.base_url, headers={"DPoP": proof}
    )
    return (await client.using(http=http).get_token(resource=API)).access


async def call_bound(
    service: Elsewhere, token: str, proof: str, scheme: str = "DPoP"
) -> httpx.Response:
    headers = {"Authorization": f"{scheme} {token}", "DPoP": proof}
    return await service.http.get("/protected", headers=headers)


@pytest.fixture
async def holder(auth: Server, issuer: Issuer) -> Machine:
    """A client whose requests are addressed to the issuer, as proofs must be."""
    machine = await new_machine(auth, audience=[API])
    return machine.using(http=auth.http(base_url=issuer.url + "/"))


@pytest.mark.parametrize("url", ["https://api.example.com/protected", API + "/protected"])
async def test_a_bound_token_is_good_with_its_proof(
    holder: Machine, open_service: Open, url: str
) -> None:
    """RFC 9449 section 7.1: at the service's address, whether or not a gateway cuts its path."""
    service, key = await open_service(audience=API), Key()
    token = await bound_token(holder, key)
    response = await call_bound(service, token, key.proof("GET", url, access_token=token))
    assert response.status_code == 200


async def test_the_address_can_be_given(holder: Machine, open_service: Open) -> None:
    """A service whose audience is not where it is called says where that is."""
    service, key = await open_service(audience=API, url="http://internal:8080"), Key()
    token = await bound_token(holder, key)
    for url, status in (("http://internal:8080", 200), ("https://api.example.com", 401)):
        proof = key.proof("GET", f"{url}/protected", access_token=token)
        assert (await call_bound(service, token, proof)).status_code == status


@pytest.mark.parametrize(
    "fault", ["none", "bearer", "another key", "another method", "another address", "another token"]
)
async def test_a_bound_token_without_its_proof_is_refused(
    holder: Machine, open_service: Open, fault: str
) -> None:
    """The challenge asks for DPoP, and says whether it is the token or the proof."""
    service, key = await open_service(audience=API), Key()
    token, url = await bound_token(holder, key), API + "/protected"
    signer = Key() if fault == "another key" else key
    method = "POST" if fault == "another method" else "GET"
    url = url.replace("api.", "evil.") if fault == "another address" else url
    hashed = token + "x" if fault == "another token" else token
    proof = signer.proof(method, url, access_token=hashed)
    if fault in {"none", "bearer"}:
        headers = {"Authorization": f"{'Bearer' if fault == 'bearer' else 'DPoP'} {token}"}
        response = await service.http.get("/protected", headers=headers)
    else:
        response = await call_bound(service, token, proof)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("DPoP error=")
    expected = "invalid_token" if fault == "bearer" else "invalid_dpop_proof"
    assert response.json()["error"] == expected


async def test_a_proof_is_good_once(holder: Machine, open_service: Open) -> None:
    """Ten requests with one proof at once: one is let through, in this process."""
    service, key = await open_service(audience=API), Key()
    token = await bound_token(holder, key)
    proof = key.proof("GET", API + "/protected", access_token=token)
    answers = await asyncio.gather(*(call_bound(service, token, proof) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 9
    another = key.proof("GET", API + "/protected", access_token=token)
    assert (await call_bound(service, token, another)).status_code == 200


# --- Introspection -------------------------------------------------------------------------------


async def credentials(server: Server, **given: Any) -> IntrospectionCredentials:
    """A client that may ask about everybody's tokens."""
    registered = await server.m2m.clients.register(scopes=["introspect"])
    return IntrospectionCredentials(
        client_id=registered.client.client_id, client_secret=secret_of(registered), **given
    )


@pytest.mark.parametrize("algorithm", ["HS256", "ES256"])
async def test_introspection_asks_the_issuer(
    start: Start, issuer: Issuer, open_service: Open, algorithm: str
) -> None:
    """Also one that signs with a shared secret; a revoked token is refused as its answers age."""
    server = await start(ISSUER=issuer.url, ALGORITHM=algorithm)
    async with served(issuer, server):
        asker = await credentials(server, max_age=timedelta(seconds=0.2))
        service = await open_service(introspection=asker, revocations=False)
        machine = await new_machine(server)
        tokens = await machine.get_token()
        assert (await service.call(tokens.access)).json()["client_id"] == machine.client_id
        await server.m2m.clients.disable(machine.client_id)
        await service.settles(tokens.access, 401, PATIENCE)
        claims = claims_of(tokens.access)
        forged = forged_token(claims, "a-kid")
        assert (await service.call(forged)).status_code == 401
        assert service.api.health().is_ready is True


async def test_many_requests_share_one_introspection(
    auth: Server, client: Machine, issuer: Issuer, open_service: Open
) -> None:
    """Forty requests with one token ask once; later ones believe the answer while it is young."""
    asker = await credentials(auth, max_age=timedelta(minutes=5))
    service = await open_service(introspection=asker)
    token = (await client.get_token()).access
    answers = await asyncio.gather(*(service.call(token) for _ in range(40)))
    assert {answer.status_code for answer in answers} == {200}
    assert (await service.call(token)).status_code == 200
    assert issuer.asked.count("/introspect") == 1


async def test_a_token_that_is_none_is_not_asked_about(
    auth: Server, client: Machine, issuer: Issuer, open_service: Open
) -> None:
    """What cannot be this issuer's, or is for somebody else, costs the issuer nothing."""
    service = await open_service(introspection=await credentials(auth))
    for text in ("x.y.z", "", "m2mr_x", (await client.get_token()).access + "A"):
        assert (await service.call(text)).status_code == 401
    other = await open_service(introspection=await credentials(auth), audience="urn:other")
    assert (await other.call((await client.get_token()).access)).status_code == 401
    assert "/introspect" not in issuer.asked


INTROSPECTIONS: dict[str, Any] = {
    "hangs": hang,
    "an error": Response(status_code=503),
    "wrong credentials": JSONResponse({"error": "invalid_client"}, 401),
    "not JSON": Response("x"),
    "a list": JSONResponse([]),
    "no word": JSONResponse({}),
    "an odd word": JSONResponse({"active": "true"}),
}


@pytest.mark.parametrize("case", INTROSPECTIONS)
async def test_without_an_answer_there_is_no_access(
    auth: Server, client: Machine, issuer: Issuer, open_service: Open, case: str
) -> None:
    """An issuer that cannot be asked refuses nobody's token, and lets nobody in."""
    service = await open_service(introspection=await credentials(auth))
    token = (await client.get_token()).access
    issuer.instead["/introspect"] = INTROSPECTIONS[case]
    assert (await service.call(token)).status_code == 503
    issuer.instead["/introspect"] = JSONResponse({"active": True, "jti": "another"})
    assert (await service.call(token)).status_code == 401


# --- Health, documents, arguments ----------------------------------------------------------------


async def test_health_says_how_old_the_knowledge_is(
    auth: Server, client: Machine, service: Elsewhere
) -> None:
    """Ready, with the age of the keys and the lag of the revocations."""
    await client.revoke((await client.get_token()).access)
    async with asyncio.timeout(PATIENCE):
        while service.api.health().revocations != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    health = service.api.health()
    assert health.is_ready
    assert health.problems == ()
    assert health.keys_age is not None
    assert health.revocations_lag is not None
    assert timedelta(0) <= health.revocations_lag <= MAX_LAG
    with pytest.raises(AttributeError):
        health.is_ready = False  # type: ignore[misc]


async def test_metrics_say_since_when_revocations_are_not_known(
    auth: Server, client: Machine, issuer: Issuer, open_service: Open
) -> None:
    """They are moments, so the age grows by itself while the issuer is away; checks are counted."""
    service = await open_service(max_lag=SHORT_LAG, when_lagging="accept")
    token = (await client.get_token()).access
    assert (await service.call(token)).status_code == 200
    assert (await service.call("x.y.z")).status_code == 401
    registry = CollectorRegistry(auto_describe=True)
    registry.register(service.api.metrics)

    def value(name: str, **labels: str) -> float:
        return registry.get_sample_value(f"oauth2_m2m_{name}", labels) or 0.0

    async def next_failure() -> None:
        failures = value("feed_polls_total", issuer=issuer.url, outcome="failed")
        async with asyncio.timeout(PATIENCE):
            while value("feed_polls_total", issuer=issuer.url, outcome="failed") == failures:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    assert value("guard_checks_total", outcome="success") == 1
    assert value("guard_checks_total", outcome="invalid_token") == 1
    assert 0 < value("issuer_keys_seen_timestamp_seconds", issuer=issuer.url) <= time.time()
    await issuer.stop()
    await next_failure()
    known = value("revocations_known_timestamp_seconds", issuer=issuer.url)
    await next_failure()
    later = value("revocations_known_timestamp_seconds", issuer=issuer.url)
    assert later == pytest.approx(known, abs=0.01)
    assert 0 < later < time.time()


@pytest.mark.parametrize("audience", ["https://api.example.com", "https://api.example.com/v1"])
async def test_the_metadata_names_the_issuer(
    auth: Server, open_service: Open, issuer: Issuer, audience: str
) -> None:
    """RFC 9728: where the path of the resource stands behind the well-known one."""
    service = await open_service(audience=audience, scopes={"read": "Read reports"})
    path = "/.well-known/oauth-protected-resource" + httpx.URL(audience).path.rstrip("/")
    response = await service.http.get(path)
    assert response.json() == {
        "resource": audience,
        "authorization_servers": [issuer.url],
        "scopes_supported": ["read"],
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": ["ES256", "RS256"],
    }


async def test_the_openapi_document_names_scheme_scopes_and_refusals(service: Elsewhere) -> None:
    """As at home: the flow with the issuer's token endpoint, and what a guard may answer."""
    document = (await service.http.get("/openapi.json")).json()
    flow = document["components"]["securitySchemes"]["oauth2_m2m"]["flows"]["clientCredentials"]
    assert flow["tokenUrl"].endswith("/token")
    assert flow["scopes"].keys() == {"read", "admin"}
    responses = document["paths"]["/protected"]["get"]["responses"]
    assert responses.keys() >= {"200", "401", "403", "503"}


BAD_ARGUMENTS: dict[str, dict[str, Any]] = {
    "no URL": {"issuer": "auth.example.com"},
    "a fragment": {"issuer": "https://auth.example.com/#x"},
    "no TLS in production": {"issuer": "http://auth.example.com", "environment": "production"},
    "an unknown environment": {"environment": "prod"},
    "no audience": {"audience": ""},
    "half an address": {"audience": "https:foo"},
    "an address that is none": {"audience": "http://[x"},
    "a negative leeway": {"leeway": timedelta(seconds=-1)},
    "a long leeway": {"leeway": timedelta(minutes=6)},
    "a short lag": {"max_lag": timedelta(seconds=0.5)},
    "a long lag": {"max_lag": timedelta(hours=2)},
    "a number": {"max_lag": 5},
    "neither": {"when_lagging": "open"},
    "a long memory": {
        "introspection": IntrospectionCredentials(
            client_id="x", client_secret="y", max_age=timedelta(hours=1)
        )
    },
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_arguments_that_make_no_sense_are_refused(case: str) -> None:
    """At once, in one line."""
    given = {"issuer": "https://auth.example.com", "audience": "x", **BAD_ARGUMENTS[case]}
    with pytest.raises(ConfigurationError) as refused:
        ResourceServer(given.pop("issuer"), **given)
    assert "\n" not in str(refused.value)


def test_a_name_that_is_no_address_has_no_metadata() -> None:
    """Nobody could look them up, so the router offers none. RFC 9728 section 3."""
    assert ResourceServer("https://auth.example.com", audience="orders").router.routes == []


def test_credentials_do_not_show_the_secret() -> None:
    """Whoever logs them learns the client alone."""
    shown = repr(IntrospectionCredentials(client_id="reporter", client_secret="m2ms_x"))
    assert "reporter" in shown
    assert "m2ms_x" not in shown
