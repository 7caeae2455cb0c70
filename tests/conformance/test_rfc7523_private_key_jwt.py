"""Clients that sign who they are: private_key_jwt. RFC 7523 sections 2.2 and 3, RFC 7521."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pymongo.database import Database

from tests.assertions import ABSENT, ASSERTION_TYPE, ClientKey, es256_key, fields, jwks, rs256_key
from tests.clocks import Clock
from tests.conformance.conftest import Start
from tests.expectations import Log, early_in_the_minute, expect_error, expect_tokens, wording
from tests.machine import Machine, basic, claims_of, new_machine
from tests.server import HOME, Server
from tests.sites import Site, serving

ISSUER = "http://localhost:8000"  # what a server in development calls itself
GRANT = {"grant_type": "client_credentials"}
KEY, OTHER, STRANGER = es256_key("one"), es256_key("two"), es256_key("stranger")
RSA_KEY = rs256_key("rsa")
KEYS = {"ES256": KEY, "RS256": RSA_KEY}
#: What every client gets to hear whom we do not believe, but for the random id.
ONE_ANSWER = (
    b'{"error":"invalid_client","error_description":"Client authentication failed",'
    b'"detail":"Client authentication failed","error_id":"..."}'
)


@dataclass(frozen=True)
class Signer:
    """A client that signs who it is."""

    http: httpx.AsyncClient
    client_id: str
    key: ClientKey = KEY

    def using(self, **changes: Any) -> Signer:
        """The same client with another key, id or address."""
        return replace(self, **changes)

    def assertion(self, **changes: Any) -> str:
        """A new assertion that is good, but for these changes; a timedelta is so long from now."""
        audience = changes.pop("aud", ISSUER)
        for name, value in changes.items():
            if isinstance(value, timedelta):
                changes[name] = time.time() + value.total_seconds()
        return self.key.assertion(self.client_id, audience, **changes)

    async def ask(self, assertion: str | None = None, **more: str) -> httpx.Response:
        """Ask for a token."""
        return await self.post("/token", assertion, **GRANT, **more)

    async def post(self, path: str, assertion: str | None = None, **more: str) -> httpx.Response:
        """Send a form with an assertion."""
        text = self.assertion() if assertion is None else assertion
        return await self.http.post(path, data=fields(text, **more))


async def new_signer(
    server: Server, *, key: ClientKey = KEY, ip: str = HOME, **registration: Any
) -> Signer:
    """Register a client with a public key, unless it is said where its keys are."""
    if "jwks_uri" not in registration:
        registration = {"jwks": jwks(key), **registration}
    registered = await server.m2m.clients.register(scopes=["read", "write"], **registration)
    return Signer(server.http(ip), registered.client.client_id, key)


@pytest.fixture
async def signer(server: Server, log: Log) -> Signer:
    """A client whose document holds the key `KEY`."""
    signer = await new_signer(server)
    log.new()
    return signer


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A web server of the client's, where it publishes `KEY`."""
    async with serving() as site:
        site.reply = site.document(jwks(KEY))
        yield site


@pytest.fixture
async def near(start: Start) -> Server:
    """A server that may fetch keys from addresses inside its network, such as these tests'."""
    return await start(JWKS_URI_PRIVATE_ADDRESSES=True)


def refused(response: httpx.Response) -> None:
    """The one answer, without a challenge, for nobody tried Basic."""
    expect_error(response, 401, "invalid_client")
    assert wording(response) == ONE_ANSWER
    names = {"cache-control", "pragma", "content-length", "content-type", "x-error-id"}
    assert set(response.headers) == names


# --- What is accepted ---------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize("published", [False, True], ids=["jwks", "jwks_uri"])
async def test_a_client_signs_for_its_tokens(
    near: Server, log: Log, site: Site, algorithm: str, published: bool
) -> None:
    """With ES256 or RS256, by a key in its document or one that it publishes itself."""
    key = KEYS[algorithm]
    site.reply = site.document(jwks(key))
    keys = {"jwks_uri": site.url} if published else {"jwks": jwks(key)}
    signer = await new_signer(near, key=key, **keys)
    log.new()
    for _ in range(3):
        body = expect_tokens(await signer.ask(scope="read"))
        claims = claims_of(body["access_token"])
        assert claims["sub"] == claims["client_id"] == signer.client_id
        log.expect("login_success", client_id=signer.client_id)
    assert len(site.requests) == published


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": f"{ISSUER}/token"},
        {"aud": [ISSUER]},
        {"aud": ["https://other.example", f"{ISSUER}/token"]},
        {"header": {"typ": ABSENT}},
        {"header": {"typ": "client-authentication+jwt"}},
        {"header": {"kid": ABSENT}},
        {"iat": ABSENT},
        {"exp": timedelta(minutes=4)},
    ],
    ids=range(8),
)
async def test_assertions_of_other_shapes_are_good_too(
    signer: Signer, changes: dict[str, Any]
) -> None:
    """Whatever RFC 7523 leaves to the client."""
    expect_tokens(await signer.ask(signer.assertion(**changes)))


async def test_a_client_may_say_its_id_twice(signer: Signer) -> None:
    """`client_id` in the form agrees with the assertion. RFC 7521 section 4.2."""
    expect_tokens(await signer.ask(client_id=signer.client_id))


async def test_keys_typed_by_hand_count_at_the_next_request(
    server: Server, database: Database[Any]
) -> None:
    """As everything that an operator writes into `clients`."""
    typed = {"client_id": "typed by hand", "scopes": ["read"], "jwks": jwks(KEY)}
    database["clients"].insert_one(typed)
    signer = Signer(server.http(), "typed by hand")
    expect_tokens(await signer.ask())
    database["clients"].update_one({}, {"$set": {"jwks": jwks(OTHER)}})
    refused(await signer.ask())
    expect_tokens(await signer.using(key=OTHER).ask())


# --- What is refused: one answer ----------------------------------------------------------------

#: The changes to an assertion, and words of the audit log.
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "alg none": ({"header": {"alg": "none"}}, "alg"),
    "a shared secret": ({"header": {"alg": "HS256"}}, "alg"),
    "crit": ({"header": {"crit": ["b64"], "b64": True}}, "crit"),
    "an access token's typ": ({"header": {"typ": "at+jwt"}}, "typ"),
    "an unknown kid": ({"header": {"kid": "seven"}}, "none of the client's keys"),
    "no sub": ({"sub": ABSENT}, "sub"),
    "no iss": ({"iss": ABSENT}, "iss"),
    "another sub": ({"sub": "somebody else"}, "differ"),
    "no aud": ({"aud": ABSENT}, "aud"),
    "another aud": ({"aud": "https://other.example"}, "aud"),
    "another endpoint": ({"aud": f"{ISSUER}/introspect"}, "aud"),
    "no exp": ({"exp": ABSENT}, "exp"),
    "expired": ({"exp": timedelta(seconds=-1)}, "expired"),
    "expired five minutes ago": ({"exp": timedelta(minutes=-5)}, "expired"),
    "good for an hour": ({"exp": timedelta(hours=1)}, "too far"),
    "not yet": ({"nbf": timedelta(hours=1)}, "nbf"),
    "made in the future": ({"iat": timedelta(hours=1)}, "iat"),
    "no jti": ({"jti": ABSENT}, "jti"),
    "jti as a number": ({"jti": 7}, "jti"),
}


@pytest.mark.parametrize(("changes", "reason"), BAD.values(), ids=BAD)
async def test_a_bad_assertion_gets_the_one_answer(
    signer: Signer, log: Log, database: Database[Any], changes: dict[str, Any], reason: str
) -> None:
    """Whatever is wrong, the answer is the same to the byte; only the audit log tells why."""
    assertion = signer.assertion(**changes)
    refused(await signer.ask(assertion))
    claimed = None if {"sub", "iss"} & changes.keys() or reason == "crit" else signer.client_id
    log.expect("login_failure", client_id=claimed, reason=reason, hiding=assertion.split("."))
    assert database["used_assertions"].count_documents({}) == 0


async def test_nobody_signs_for_another(server: Server, signer: Signer, log: Log) -> None:
    """A stranger's key, another client's key, and a key that the assertion brings along."""
    other = await new_signer(server, key=OTHER)
    log.new()
    for header in ({}, {"kid": "one"}, {"kid": ABSENT}, {"jwk": STRANGER.jwk(), "kid": ABSENT}):
        for key in (STRANGER, other.key):
            forged = signer.using(key=key).assertion(header=header)
            refused(await signer.ask(forged))
            log.expect("login_failure", client_id=signer.client_id, reason="client's keys")
    refused(await signer.ask(other.assertion(iss=signer.client_id)))


@pytest.mark.parametrize(
    ("registration", "ip", "reason"),
    [
        ({"disabled": True}, HOME, "disabled"),
        ({"allowed_networks": ["10.0.0.0/8"]}, HOME, "networks"),
        ({"jwks": {"keys": []}}, HOME, "malformed client document: jwks"),
        ({"jwks": jwks(KEY.jwk(d="AQ"))}, HOME, "private"),
        ({"jwks_uri": "https://a.example/"}, HOME, "exclude each other"),
        ({"jwks": None}, HOME, "may not use"),
        ({"token_endpoint_auth_methods": ["client_secret_basic"]}, HOME, "may not use"),
        ({"client_id": "another id"}, HOME, "unknown client"),
    ],
)
async def test_a_good_assertion_of_a_client_that_may_not_gets_the_one_answer(
    signer: Signer,
    log: Log,
    database: Database[Any],
    registration: dict[str, Any],
    ip: str,
    reason: str,
) -> None:
    """Disabled, elsewhere, malformed, without keys, unknown: nobody learns which."""
    database["clients"].update_one({"client_id": signer.client_id}, {"$set": registration})
    refused(await signer.ask())
    log.expect("login_failure", client_id=signer.client_id, reason=reason)


PARAMETERS: dict[str, Mapping[str, str]] = {
    "no type": {"client_assertion_type": ""},
    "another type": {
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"
    },
    "no assertion": {"client_assertion": ""},
    "no JWT": {"client_assertion": "an assertion"},
    "another client's id": {"client_id": "somebody else"},
}


@pytest.mark.parametrize("changes", PARAMETERS.values(), ids=PARAMETERS)
async def test_half_an_assertion_is_no_client(
    signer: Signer, log: Log, changes: Mapping[str, str]
) -> None:
    """A missing or unknown type, no assertion, an id that disagrees. RFC 7521 section 4.2.1."""
    form = {**GRANT, **fields(signer.assertion()), **changes}
    refused(await signer.http.post("/token", data=form))
    log.expect("login_failure", client_id=None, reason="client assertion")


# --- Once ---------------------------------------------------------------------------------------


async def test_an_assertion_is_good_once(signer: Signer, log: Log, database: Database[Any]) -> None:
    """At whatever endpoint it comes again; its `jti` lies here as a digest only."""
    assertion = signer.assertion()
    expect_tokens(await signer.ask(assertion))
    log.expect("login_success", client_id=signer.client_id)
    refused(await signer.ask(assertion))
    log.expect("login_failure", client_id=signer.client_id, reason="used before")
    refused(await signer.post("/revoke", assertion, token="x"))
    log.expect("token_invalid", client_id=signer.client_id, reason="used before")
    (mark,) = database["used_assertions"].find()
    assert mark.keys() == {"_id", "expires_at"}


async def test_of_many_replays_at_once_exactly_one_wins(
    start: Start, database: Database[Any]
) -> None:
    """Over two servers, as a thief who is as fast as the client would try."""
    servers = [await start(), await start()]
    signer = await new_signer(servers[0])
    elsewhere = signer.using(http=servers[1].http())
    assertion = signer.assertion()
    asking = [each.ask(assertion) for _ in range(10) for each in (signer, elsewhere)]
    answers = await asyncio.gather(*asking)
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 19
    assert database["audit_logs"].count_documents({"event_type": "login_success"}) == 1


async def test_the_same_jti_of_two_clients_is_two_assertions(server: Server) -> None:
    """Ids are unique to their maker only, so nobody can spend another's."""
    for signer in (await new_signer(server), await new_signer(server, key=OTHER)):
        expect_tokens(await signer.ask(signer.assertion(jti="the same")))
        refused(await signer.ask(signer.assertion(jti="the same")))


# --- In the ways that the client's document allows ----------------------------------------------


async def test_a_client_with_keys_uses_no_secret(
    server: Server, database: Database[Any], log: Log
) -> None:
    """Not even a right one that its document holds, in any of the ways to send one."""
    signer = await new_signer(server, client_secret="a secret beside the keys")
    machine = Machine(signer.http, signer.client_id, "a secret beside the keys")
    log.new()
    for method in ("basic", "post", "plain"):
        response = await machine.using(method=method).ask_token()
        expect_error(response, 401, "invalid_client")
        log.expect("login_failure", client_id=signer.client_id, reason="may not use")
    expect_tokens(await signer.ask())


async def test_a_client_with_a_secret_uses_no_keys(machine: Machine, log: Log) -> None:
    """It has none; whoever signs for it is refused."""
    log.new()
    refused(await Signer(machine.http, machine.client_id).ask())
    log.expect("login_failure", client_id=machine.client_id, reason="may not use")


async def test_a_client_uses_both_when_its_document_says_so(server: Server) -> None:
    """Each of the methods that are named, and no other."""
    methods = ["client_secret_post", "private_key_jwt"]
    machine = await new_machine(server, jwks=jwks(KEY), token_endpoint_auth_methods=methods)
    expect_tokens(await Signer(machine.http, machine.client_id).ask())
    for method, status in (("post", 200), ("plain", 200), ("basic", 401)):
        assert (await machine.using(method=method).ask_token()).status_code == status


async def test_two_methods_at_once_are_an_invalid_request(server: Server, log: Log) -> None:
    """RFC 6749 section 2.3: one method a request, though both would be right."""
    methods = ["client_secret_basic", "client_secret_post", "private_key_jwt"]
    machine = await new_machine(server, jwks=jwks(KEY), token_endpoint_auth_methods=methods)
    signer = Signer(machine.http, machine.client_id)
    post = {"client_id": machine.client_id, "client_secret": machine.client_secret}
    plain = {"username": machine.client_id, "password": machine.client_secret}
    header = {"Authorization": basic(machine.client_id, machine.client_secret)}
    log.new()
    for form, headers in (
        ({**GRANT, **post}, {}),
        ({**GRANT, "client_secret": machine.client_secret}, {}),
        ({**GRANT}, header),
        (plain, {}),
        ({**plain, "grant_type": "password"}, {}),
    ):
        form = {**form, **fields(signer.assertion())}
        response = await machine.http.post("/token", data=form, headers=headers)
        expect_error(response, 400, "invalid_request")
        log.expect("login_failure", client_id=None, hiding=[machine.client_secret])
    response = await machine.http.post(
        "/token",
        content=f"client_assertion=x&client_assertion=x&client_assertion_type={ASSERTION_TYPE}",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    expect_error(response, 400, "invalid_request")


# --- Published keys -----------------------------------------------------------------------------


async def test_a_client_rotates_its_keys_by_itself(
    near: Server, site: Site, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new key works at its first use, and a removed one is forgotten within 5 minutes."""
    clock = Clock(monkeypatch, "remote_documents")
    signer = await new_signer(near, jwks_uri=site.url)
    expect_tokens(await signer.ask())
    site.reply = site.document(jwks(KEY, OTHER))
    clock.let_pass(31)
    expect_tokens(await signer.using(key=OTHER).ask())
    expect_tokens(await signer.ask())
    site.reply = site.document(jwks(OTHER))
    clock.let_pass(301)
    refused(await signer.ask())
    expect_tokens(await signer.using(key=OTHER).ask())
    assert len(site.requests) == 3


async def test_unknown_keys_are_looked_for_once_however_many_come(
    near: Server, site: Site, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So whoever knows a client's id cannot make us flood its server."""
    clock = Clock(monkeypatch, "remote_documents")
    signer = await new_signer(near, jwks_uri=site.url)
    expect_tokens(await signer.ask())
    clock.let_pass(31)
    stranger = signer.using(key=STRANGER)
    answers = await asyncio.gather(*[stranger.ask() for _ in range(50)])
    assert {wording(answer) for answer in answers} == {ONE_ANSWER}
    assert len(site.requests) == 2
    expect_tokens(await signer.ask())


async def test_an_outage_of_the_clients_server_stops_nobody_who_is_known(
    near: Server, site: Site, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys that were read last go on working; without any the answer is the usual one."""
    clock = Clock(monkeypatch, "remote_documents")
    signer = await new_signer(near, jwks_uri=site.url)
    expect_tokens(await signer.ask())
    site.reply = site.body(b"", "503 Down")
    late = await new_signer(near, jwks_uri=f"{site.url}?another")
    for _ in range(3):
        clock.let_pass(301)
        expect_tokens(await signer.ask())
        log.new()
        refused(await late.ask())
        log.expect("login_failure", client_id=late.client_id, reason="jwks_uri: the answer is 503")


@pytest.mark.parametrize(
    "fields_of_document",
    [
        {"disabled": True},
        {"allowed_networks": ["10.0.0.0/8"]},
        {"token_endpoint_auth_methods": ["client_secret_basic"]},
        {"scopes": "malformed"},
    ],
    ids=range(4),
)
async def test_nothing_is_fetched_for_a_client_that_may_not_come_in(
    near: Server, site: Site, database: Database[Any], fields_of_document: dict[str, Any]
) -> None:
    """Disabled, elsewhere, by another method, malformed: its server hears nothing of it."""
    signer = await new_signer(near, jwks_uri=site.url)
    database["clients"].update_one({}, {"$set": fields_of_document})
    refused(await signer.ask())
    assert site.requests == []


async def test_a_private_address_is_fetched_only_where_the_config_allows_it(
    server: Server, site: Site, log: Log
) -> None:
    """A client's document must not send us around inside our own network."""
    for url in (site.url, site.url.replace("127.0.0.1", "localhost"), "https://10.0.0.1/keys"):
        signer = await new_signer(server, jwks_uri=url)
        log.new()
        refused(await signer.ask())
        log.expect("login_failure", client_id=signer.client_id, reason="not public")
    assert site.requests == []


# --- At every endpoint --------------------------------------------------------------------------


async def test_a_signature_refreshes_revokes_and_introspects(start: Start) -> None:
    """Wherever a client authenticates, each time with a new assertion."""
    server = await start(REFRESH_REQUIRES_CLIENT_AUTH=True)
    signer = await new_signer(server)
    first = expect_tokens(await signer.ask())
    again = await signer.post(
        "/token", grant_type="refresh_token", refresh_token=first["refresh_token"]
    )
    second = expect_tokens(again)
    body = {"refresh_token": second["refresh_token"]}
    expect_error(await signer.http.post("/refresh", json=body), 401, "invalid_client")
    wrong = {**body, **fields(signer.using(key=STRANGER).assertion())}
    refused(await signer.http.post("/refresh", json=wrong))
    body = {**body, **fields(signer.assertion())}
    third = expect_tokens(await signer.http.post("/refresh", json=body))

    token = third["access_token"]
    described = await signer.post("/introspect", token=token)
    assert described.json()["active"] is True
    assert (await signer.post("/revoke", token=token)).status_code == 200
    described = await signer.post("/introspect", token=token)
    assert described.json() == {"active": False}
    for path in ("/introspect", "/revoke"):
        refused(await signer.using(key=STRANGER).post(path, token=token))


async def test_a_signer_is_limited_like_everybody(start: Start) -> None:
    """Its own requests use up its budget, and forged ones the bucket of failures."""
    await early_in_the_minute()
    server = await start(MAX_REQUESTS_PER_MINUTE=3)
    signer = await new_signer(server)
    statuses = [(await signer.ask()).status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    victim = await new_signer(server)
    forger = victim.using(key=STRANGER)
    statuses = [(await forger.ask()).status_code for _ in range(5)]
    assert statuses == [401, 401, 401, 429, 429]


async def test_a_replay_takes_no_place_in_the_budget(start: Start) -> None:
    """The place that is taken ahead for a client that was good a moment ago is given back."""
    await early_in_the_minute()
    server = await start(MAX_REQUESTS_PER_MINUTE=3)
    signer = await new_signer(server)
    used = signer.assertion()
    sent = [used, used, used, signer.assertion(), signer.assertion(), signer.assertion()]
    statuses = [(await signer.ask(assertion)).status_code for assertion in sent]
    assert statuses == [200, 401, 401, 200, 200, 429]


# --- FAPI 2.0 -----------------------------------------------------------------------------------


async def test_the_endpoint_that_is_asked_may_be_named(signer: Signer) -> None:
    """Libraries name the address that they send to; at another endpoint that is no name of ours."""
    for path in ("/introspect", "/revoke"):
        statuses = []
        for named in (path, "/token", "/nowhere"):
            assertion = signer.assertion(aud=f"{ISSUER}{named}")
            statuses.append((await signer.post(path, assertion, token="any")).status_code)
        assert statuses == [200, 200, 401]


@pytest.mark.parametrize("path", ["/token", "/revoke", "/introspect"])
async def test_fapi2_takes_signatures_only(start: Start, log: Log, path: str) -> None:
    """A client whose document allows a secret gets the one answer for it, at every endpoint."""
    server = await start(PROFILE="fapi2")
    machine = await new_machine(server)
    for method in ("basic", "post"):
        log.new()
        response = await machine.using(method=method).post(path, **GRANT, token="x")
        expect_error(response, 401, "invalid_client")
        assert wording(response) == ONE_ANSWER
        assert [record["client_id"] for record in log.new()] == [machine.client_id]


async def test_fapi2_takes_es256_for_the_issuer_alone(start: Start) -> None:
    """FAPI 2.0 Security Profile section 5.3.2.1: `aud` is one text, and is the issuer."""
    server = await start(PROFILE="fapi2")
    signer = await new_signer(server, jwks=jwks(KEY, RSA_KEY))
    described = await signer.post("/introspect", token="x")
    assert described.json() == {"active": False}
    refused(await signer.using(key=RSA_KEY).post("/introspect", token="x"))
    for audience in ([ISSUER], f"{ISSUER}/token", f"{ISSUER}/introspect", [ISSUER, "x"]):
        assertion = signer.assertion(aud=audience)
        refused(await signer.post("/introspect", assertion, token="x"))
