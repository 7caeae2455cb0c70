"""The profile `fapi2`, against the OpenID Foundation's plan for its authorization servers.

The plan "FAPI2SP OP Client Credentials Grant, private key + DPoP" has 14 modules. Each has its test
here, by its name without `fapi2-security-profile-final-`; what they leave open comes after them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from pymongo.database import Database

from oauth2_m2m import ConfigurationError
from tests.assertions import ClientKey, es256_key, fields, jwks, rs256_key
from tests.conformance.conftest import Start
from tests.expectations import Log, expect_error, expect_no_store
from tests.machine import claims_of, new_machine
from tests.proofs import MISSING, Key, b64, key
from tests.server import Server

ISSUER = "https://auth.example"
TOKEN, PROTECTED = f"{ISSUER}/token", f"{ISSUER}/protected"
FORM = "application/x-www-form-urlencoded"
METADATA = "/.well-known/oauth-authorization-server"
RESOURCE_METADATA = "/.well-known/oauth-protected-resource"

Document = dict[str, Any]


@dataclass(frozen=True)
class Participant:
    """A client of the profile: it signs who it is, and holds a key that its tokens are bound to."""

    http: httpx.AsyncClient
    client_id: str
    signing: ClientKey
    holder: Key

    def using(self, **changes: Any) -> Participant:
        """The same client with another key or id."""
        return replace(self, **changes)

    def assertion(self, audience: str | list[str] = ISSUER, **changes: Any) -> str:
        """A new assertion that is good, but for these changes."""
        return self.signing.assertion(self.client_id, audience, **changes)

    def token_proof(self, **changes: Any) -> str:
        """A new proof for a token request that is good, but for these changes."""
        return self.holder.proof("POST", TOKEN, **changes)

    def call_proof(self, token: str, **changes: Any) -> str:
        """The same for a call of the guarded route."""
        return self.holder.proof("GET", PROTECTED, access_token=token, **changes)

    async def ask(self, *proofs: str, assertion: str | None = None, **more: str) -> httpx.Response:
        """Ask for a token with these proofs, and with a good assertion unless there is another."""
        signed = fields(self.assertion() if assertion is None else assertion)
        return await self.send({"grant_type": "client_credentials", **signed, **more}, *proofs)

    async def send(
        self, form: Mapping[str, str], *proofs: str, path: str = "/token"
    ) -> httpx.Response:
        """Send a form as it is."""
        headers = [("Content-Type", FORM), *(("DPoP", proof) for proof in proofs)]
        return await self.http.post(path, content=urlencode(form), headers=headers)

    async def get_token(self, **more: str) -> str:
        """Get an access token."""
        return str(expect_bound(await self.ask(self.token_proof(), **more), self)["access_token"])

    async def call(self, token: str, *proofs: str, scheme: str = "DPoP") -> httpx.Response:
        """Call the guarded route with these proofs."""
        headers = [("Authorization", f"{scheme} {token}"), *(("DPoP", each) for each in proofs)]
        return await self.http.get("/protected", headers=headers)


async def new_participant(server: Server, name: str = "one", **registration: Any) -> Participant:
    """Register a client with a public key, and give it a key for its tokens."""
    signing = es256_key(f"fapi2 {name}")
    registration = {"scopes": ["read", "write"], "jwks": jwks(signing), **registration}
    registered = await server.m2m.clients.register(**registration)
    client_id = registered.client.client_id
    return Participant(server.http(), client_id, signing, key(f"holder {name}"))


def expect_bound(response: httpx.Response, participant: Participant) -> Document:
    """A token response whose token is bound to the participant's key; no refresh token."""
    assert response.status_code == 200, response.text
    expect_no_store(response)
    body: Document = response.json()
    assert body.keys() == {"access_token", "token_type", "expires_in", "scope"}
    assert body["token_type"] == "DPoP"
    assert claims_of(body["access_token"])["cnf"] == {"jkt": participant.holder.jkt}
    return body


def expect_challenge(response: httpx.Response, error: str) -> None:
    """The guarded route refuses, and asks for DPoP. RFC 9449 section 7.1."""
    assert response.status_code == 401, response.text
    expect_no_store(response)
    assert response.headers["www-authenticate"].startswith(f'DPoP error="{error}"')
    assert response.json()["error"] == error


@pytest.fixture
async def server(start: Start) -> Server:
    """A server of the profile, at an address such as production has."""
    return await start(PROFILE="fapi2", ISSUER=ISSUER)


@pytest.fixture
async def client(server: Server, log: Log) -> Participant:
    """A client of it."""
    client = await new_participant(server)
    log.new()
    return client


# --- The modules of the plan --------------------------------------------------------------------


async def test_discovery_end_point_verification(client: Participant) -> None:
    """The metadata name the issuer as it was asked for, and what FAPI 2.0 requires of machines."""
    response = await client.http.get(METADATA)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    metadata = response.json()
    assert metadata["issuer"] == ISSUER
    assert metadata["token_endpoint"] == TOKEN
    addresses = [value for name, value in metadata.items() if name.endswith(("_endpoint", "_uri"))]
    assert len(addresses) >= 4
    assert all(address.startswith(f"{ISSUER}/") for address in addresses)
    assert "client_credentials" in metadata["grant_types_supported"]
    assert metadata["dpop_signing_alg_values_supported"] == ["ES256"]
    for name in ("token", "revocation", "introspection"):
        start = f"{name}_endpoint_auth"
        assert metadata[f"{start}_methods_supported"] == ["private_key_jwt"]
        assert metadata[f"{start}_signing_alg_values_supported"] == ["ES256"]
    keys = (await client.http.get(metadata["jwks_uri"].removeprefix(ISSUER))).json()["keys"]
    assert keys
    for jwk in keys:
        assert (jwk["kty"], jwk["crv"], jwk["alg"], jwk["use"]) == ("EC", "P-256", "ES256", "sig")
        assert "d" not in jwk


async def test_happy_flow(server: Server, client: Participant, log: Log) -> None:
    """Two clients get tokens and call with them; neither can use the other's token or key."""
    other = await new_participant(server, "two")
    log.new()
    tokens = {}
    for each in (client, other):
        tokens[each] = await each.get_token(scope="read")
        log.expect("login_success", client_id=each.client_id)
        claims = claims_of(tokens[each])
        assert (claims["iss"], claims["aud"], claims["scope"]) == (ISSUER, ISSUER, "read")
        assert claims["client_id"] == claims["sub"] == each.client_id
        for _ in range(2):
            response = await each.call(tokens[each], each.call_proof(tokens[each]))
            assert response.status_code == 200, response.text
            assert response.json()["client_id"] == each.client_id
    token = tokens[client]
    expect_challenge(await other.call(token, other.call_proof(token)), "invalid_dpop_proof")
    log.expect("token_invalid", client_id=client.client_id, reason="key of the token")


async def test_access_token_type_header_case_sensitivity(client: Participant) -> None:
    """RFC 9110 section 11.1: the scheme is read in any case."""
    token = await client.get_token()
    for scheme in ("DPoP", "dPOp", "dpop", "DPOP", "Dpop"):
        response = await client.call(token, client.call_proof(token), scheme=scheme)
        assert response.status_code == 200, scheme


async def test_check_dpop_proof_nbf_exp(client: Participant) -> None:
    """A proof may hold `nbf` and `exp`; it is good between them."""
    now = int(time.time())
    span = {"nbf": now - 10, "exp": now + 60}
    token = expect_bound(await client.ask(client.token_proof(**span)), client)["access_token"]
    response = await client.call(token, client.call_proof(token, **span))
    assert response.status_code == 200, response.text
    for outside in ({"exp": now - 60}, {"nbf": now + 3600}):
        bad = client.token_proof(**outside)
        expect_error(await client.ask(bad), 400, "invalid_dpop_proof")
        bad = client.call_proof(token, **outside)
        expect_challenge(await client.call(token, bad), "invalid_dpop_proof")


async def _works_with_proofs_made(client: Participant, seconds: int) -> None:
    made = int(time.time()) + seconds
    response = await client.ask(client.token_proof(iat=made))
    token = expect_bound(response, client)["access_token"]
    response = await client.call(token, client.call_proof(token, iat=int(time.time()) + seconds))
    assert response.status_code == 200, response.text


async def test_ensure_dpopproof_with_iat_10seconds_before_succeeds(client: Participant) -> None:
    """A proof that was 10 s on its way is good, at the token endpoint and at the resource."""
    await _works_with_proofs_made(client, -10)


async def test_ensure_dpopproof_with_iat_10seconds_after_succeeds(client: Participant) -> None:
    """So is one from a clock that is 10 s ahead."""
    await _works_with_proofs_made(client, +10)


async def test_ensure_client_id_in_token_endpoint(
    server: Server, client: Participant, log: Log
) -> None:
    """`client_id` beside an assertion must be its client's; nobody signs for another."""
    other = await new_participant(server, "two")
    expect_bound(await client.ask(client.token_proof(), client_id=client.client_id), client)
    for who, changes, more in (
        (client, {}, {"client_id": other.client_id}),
        (client, {}, {"client_id": "nobody"}),
        (other.using(signing=client.signing), {}, {}),
        (client, {"iss": other.client_id}, {}),
        (client, {"sub": other.client_id}, {}),
    ):
        log.new()
        assertion = who.assertion(**changes)
        response = await who.ask(who.token_proof(), assertion=assertion, **more)
        expect_error(response, 401, "invalid_client")
        (record,) = log.new()
        assert record["event_type"] == "login_failure"


async def test_ensure_holder_of_key_required(client: Participant, log: Log) -> None:
    """Without a proof there is no token, and with a token and no good proof there is no answer."""
    expect_error(await client.ask(), 400, "invalid_dpop_proof")
    log.expect("access_denied", client_id=client.client_id, reason="invalid_dpop_proof")
    token = await client.get_token()
    proof = client.call_proof(token)
    expect_challenge(await client.call(token), "invalid_dpop_proof")
    expect_challenge(await client.call(token, scheme="Bearer"), "invalid_token")
    expect_challenge(await client.call(token, proof, scheme="Bearer"), "invalid_token")
    thief = client.using(holder=key("thief"))
    expect_challenge(await client.call(token, thief.call_proof(token)), "invalid_dpop_proof")
    response = await client.call(token, proof)
    assert response.status_code == 200, response.text


async def _refuses(client: Participant, log: Log, assertion: str, reason: str) -> None:
    """An assertion is refused, recorded, and a good one is taken afterwards."""
    log.new()
    expect_error(await client.ask(client.token_proof(), assertion=assertion), 401, "invalid_client")
    (record,) = log.new()
    assert record["event_type"] == "login_failure"
    assert reason in record["reason"]
    expect_bound(await client.ask(client.token_proof()), client)


async def test_ensure_signed_client_assertion_with_rs256_fails(server: Server, log: Log) -> None:
    """FAPI 2.0 allows no RS256, not even with a key that the client has registered."""
    rsa = rs256_key("rsa")
    client = await new_participant(server, jwks=jwks(es256_key("fapi2 one"), rsa))
    await _refuses(client, log, client.using(signing=rsa).assertion(), "alg")
    for alg in ("none", "HS256", "PS256", "ES384"):
        await _refuses(client, log, client.assertion(header={"alg": alg}), "alg")


async def test_ensure_client_assertion_in_token_endpoint(client: Participant, log: Log) -> None:
    """Without an assertion nobody is anybody, whatever else is sent."""
    grant = {"grant_type": "client_credentials"}
    kind = {"client_assertion_type": fields("")["client_assertion_type"]}
    for form in (
        grant,
        {**grant, "client_id": client.client_id},
        {**grant, "client_id": client.client_id, **kind},
        {**grant, **kind, "client_assertion": ""},
        {**grant, "client_assertion": client.assertion()},
        {**grant, "client_assertion": client.assertion(), "client_assertion_type": "jwt-bearer"},
    ):
        log.new()
        response = await client.send(form, client.token_proof())
        expect_error(response, 401, "invalid_client")
        (record,) = log.new()
        assert record["event_type"] == "login_failure"


async def test_ensure_client_assertion_with_exp_is_5_minutes_in_past_fails(
    client: Participant, log: Log
) -> None:
    """What has expired proves nothing, however recently."""
    now = int(time.time())
    for seconds in (300, 60, 1):
        await _refuses(client, log, client.assertion(exp=now - seconds), "expired")
    await _refuses(client, log, client.assertion(exp=now - 300, iat=now - 360), "expired")


async def test_ensure_client_assertion_with_wrong_aud_fails(client: Participant, log: Log) -> None:
    """`aud` is the issuer, as a string: not an endpoint, not a list, not another spelling."""
    for audience in (
        "https://other.example",
        TOKEN,
        f"{ISSUER}/",
        ISSUER.upper(),
        "http://auth.example",
        f"{ISSUER}:443",
        client.client_id,
        [ISSUER],
        [ISSUER, TOKEN],
        [],
    ):
        await _refuses(client, log, client.assertion(audience), "aud")
    await _refuses(client, log, client.assertion(aud=MISSING), "aud")


async def test_ensure_client_assertion_with_no_sub_fails(client: Participant, log: Log) -> None:
    """An assertion says whom it is about, and that is who made it."""
    await _refuses(client, log, client.assertion(sub=MISSING), "sub")
    await _refuses(client, log, client.assertion(sub=""), "sub")
    await _refuses(client, log, client.assertion(iss=MISSING), "iss")


MINE = key("holder one")
HOUR = 3600
#: What is wrong with a proof, at the token endpoint and the resource alike: header and claims.
BAD_PROOFS: dict[str, tuple[Document, Document]] = {
    "no typ": ({"typ": MISSING}, {}),
    "another typ": ({"typ": "JWT"}, {}),
    "an access token's typ": ({"typ": "at+jwt"}, {}),
    "no alg": ({"alg": MISSING}, {}),
    "alg none": ({"alg": "none"}, {}),
    "a symmetric alg": ({"alg": "HS256"}, {}),
    "no jwk": ({"jwk": MISSING}, {}),
    "a private key in jwk": ({"jwk": {**MINE.jwk, "d": b64(b"d" * 32)}}, {}),
    "another key in jwk": ({"jwk": key("thief").jwk}, {}),
    "no htm": ({}, {"htm": MISSING}),
    "another htm": ({}, {"htm": "PUT"}),
    "no htu": ({}, {"htu": MISSING}),
    "another htu": ({}, {"htu": "https://other.example/protected"}),
    "the address of another route": ({}, {"htu": f"{ISSUER}/elsewhere"}),
    "the address by http": ({}, {"htu": "http://auth.example/token"}),
    "no iat": ({}, {"iat": MISSING}),
    "an iat an hour ahead": ({}, {"iat": int(time.time()) + HOUR}),
    "an iat an hour ago": ({}, {"iat": int(time.time()) - HOUR}),
    "no jti": ({}, {"jti": MISSING}),
}


async def test_dpop_negative_tests(client: Participant, log: Log) -> None:
    """RFC 9449 section 4.3, point by point: a bad proof gets nothing, and the next good one does.

    At the resource the `ath` counts too. Query, fragment and default port of `htu` do not.
    """
    token = await client.get_token()
    rsa = client.using(holder=key("holder", "RS256"))
    at_token = {
        **{name: client.token_proof(header=h, **c) for name, (h, c) in BAD_PROOFS.items()},
        "RS256": rsa.token_proof(),
        "a bad signature": _broken(client.token_proof()),
        "no signature": client.token_proof().rpartition(".")[0] + ".",
        "no JWT": "proof",
    }
    at_resource = {
        **{name: client.call_proof(token, header=h, **c) for name, (h, c) in BAD_PROOFS.items()},
        "RS256": rsa.call_proof(token),
        "a bad signature": _broken(client.call_proof(token)),
        "no signature": client.call_proof(token).rpartition(".")[0] + ".",
        "no JWT": "proof",
        "no ath": client.call_proof(token, ath=MISSING),
        "another ath": client.call_proof(token, ath=b64(b"h" * 32)),
        "the ath of another token": client.call_proof(token + "x"),
        "another key": client.using(holder=key("thief")).call_proof(token),
        "a proof for the token endpoint": client.token_proof(),
    }
    log.new()
    for name, proof in at_token.items():
        response = await client.ask(proof)
        assert response.status_code == 400, name
        expect_error(response, 400, "invalid_dpop_proof")
        log.expect("access_denied", client_id=client.client_id, reason="invalid_dpop_proof")
    for name, proof in at_resource.items():
        response = await client.call(token, proof)
        assert response.status_code == 401, name
        expect_challenge(response, "invalid_dpop_proof")
        log.expect("token_invalid", client_id=client.client_id, reason="invalid_dpop_proof")

    good = client.token_proof(), client.call_proof(token)
    two = client.token_proof(), client.call_proof(token)
    expect_error(await client.ask(good[0], two[0]), 400, "invalid_dpop_proof")
    expect_challenge(await client.call(token, good[1], two[1]), "invalid_dpop_proof")
    expect_bound(await client.ask(good[0]), client)
    assert (await client.call(token, good[1])).status_code == 200
    expect_error(await client.ask(good[0]), 400, "invalid_dpop_proof")  # each is good once
    expect_challenge(await client.call(token, good[1]), "invalid_dpop_proof")

    for htu in (f"{PROTECTED}?a=b#c", "https://AUTH.example:443/protected", f"{PROTECTED}?"):
        assert (await client.call(token, client.call_proof(token, htu=htu))).status_code == 200


def _broken(proof: str) -> str:
    """The proof with the signature of another."""
    message = proof.rpartition(".")[0]
    return f"{message}.{b64(MINE.sign(b'another message'))}"


# --- What the plan leaves open ------------------------------------------------------------------


async def test_an_assertion_is_good_once_and_for_five_minutes(
    client: Participant, log: Log
) -> None:
    """It is used up wherever it is presented, must hold a `jti`, and must expire soon."""
    assertion = client.assertion()
    expect_bound(await client.ask(client.token_proof(), assertion=assertion), client)
    await _refuses(client, log, assertion, "used before")
    await _refuses(client, log, client.assertion(jti=MISSING), "jti")
    await _refuses(client, log, client.assertion(exp=int(time.time()) + HOUR), "too far")


async def test_an_assertion_of_a_clock_that_runs_ahead_is_good(client: Participant) -> None:
    """FAPI 2.0 section 5.3.2.1: up to 10 s in the future are accepted, over 60 s are not."""
    now = int(time.time())
    early = client.assertion(iat=now + 10, nbf=now + 10)
    expect_bound(await client.ask(client.token_proof(), assertion=early), client)
    for too_early in (client.assertion(iat=now + 71), client.assertion(nbf=now + 71)):
        response = await client.ask(client.token_proof(), assertion=too_early)
        expect_error(response, 401, "invalid_client")


@pytest.mark.parametrize("method", ["basic", "post", "plain"])
async def test_secrets_are_refused(server: Server, log: Log, method: str) -> None:
    """FAPI 2.0 section 5.3.2.1: no secret counts, at no endpoint, whatever a document allows."""
    methods = ["client_secret_basic", "client_secret_post", "private_key_jwt"]
    keys = jwks(es256_key("fapi2 one"))
    registrations: list[Document] = [{}, {"jwks": keys, "token_endpoint_auth_methods": methods}]
    for registration in registrations:
        machine = await new_machine(server, method=method, **registration)
        machine.http.headers["DPoP"] = MINE.proof("POST", TOKEN)
        for path in ("/token", "/revoke", "/introspect"):
            log.new()
            grant = {} if method == "plain" else {"grant_type": "client_credentials"}
            response = await machine.post(path, token="x", **grant)
            if method == "plain" and path == "/token":
                expect_error(response, 400, "invalid_request")
            else:
                expect_error(response, 401, "invalid_client")
            (record,) = log.new()
            assert record["event_type"] in {"login_failure", "token_invalid"}


async def test_there_is_no_plain_dialect(client: Participant, log: Log) -> None:
    """Username and password, and JSON bodies, are refused with a word of what to do instead."""
    token = await client.get_token()
    plain = {"username": client.client_id, "password": "x"}
    log.new()
    for response in (
        await client.send(plain, client.token_proof()),
        await client.send({**plain, "grant_type": "password"}),
        await client.http.post("/refresh", json={"refresh_token": "x"}),
        await client.http.post("/revoke", json={"access_token": token}),
        await client.http.post("/revoke", json={"refresh_token": "x"}),
    ):
        body = expect_error(response, 400, "invalid_request")
        assert "fapi2" in body["error_description"]
        assert "private_key_jwt" in body["error_description"]
    assert [record["event_type"] for record in log.new()] == [
        "login_failure", "login_failure", "refresh_token_invalid", "token_invalid", "token_invalid",
    ]  # fmt: skip
    assert (await client.call(token, client.call_proof(token))).status_code == 200


async def test_no_refresh_token_is_issued(start: Start, database: Database[Any]) -> None:
    """FAPI 2.0 has no use for them here, whatever the settings and the client's document say."""
    server = await start(PROFILE="fapi2", ISSUER=ISSUER, ISSUE_REFRESH_TOKENS=True)
    client = await new_participant(
        server,
        issue_refresh_tokens=True,
        grant_types=["client_credentials", "refresh_token"],
    )
    await client.get_token()
    assert database["tokens"].count_documents({}) == 0


async def test_a_signature_revokes_and_introspects(server: Server, client: Participant) -> None:
    """The other endpoints are the profile's too: by assertion, without a proof."""
    stranger = await new_participant(server, "two")
    token = await client.get_token()

    async def send(who: Participant, path: str) -> httpx.Response:
        return await who.send({**fields(who.assertion()), "token": token}, path=path)

    body = (await send(client, "/introspect")).json()
    assert (body["active"], body["token_type"]) == (True, "DPoP")
    assert body["cnf"] == {"jkt": client.holder.jkt}
    assert (await send(stranger, "/introspect")).json() == {"active": False}
    assert (await send(stranger, "/revoke")).status_code == 200
    assert (await client.call(token, client.call_proof(token))).status_code == 200
    assert (await send(client, "/revoke")).status_code == 200
    expect_challenge(await client.call(token, client.call_proof(token)), "invalid_token")
    assert (await send(client, "/introspect")).json() == {"active": False}


async def test_an_aimed_token_is_bound_as_well(server: Server) -> None:
    """Resources and proofs go together."""
    client = await new_participant(server, audience=["https://api.example"])
    token = await client.get_token(resource="https://api.example")
    assert claims_of(token)["aud"] == "https://api.example"
    expect_challenge(await client.call(token, client.call_proof(token)), "invalid_token")


async def test_a_nonce_is_asked_for_where_the_config_says_so(start: Start) -> None:
    """With DPOP_REQUIRE_NONCE a proof holds the server's nonce, at the endpoint and the route."""
    server = await start(PROFILE="fapi2", ISSUER=ISSUER, DPOP_REQUIRE_NONCE=True)
    client = await new_participant(server)
    response = await client.ask(client.token_proof())
    expect_error(response, 400, "use_dpop_nonce")
    nonce = response.headers["dpop-nonce"]
    response = await client.ask(client.token_proof(nonce=nonce))
    token = expect_bound(response, client)["access_token"]
    response = await client.call(token, client.call_proof(token))
    expect_challenge(response, "use_dpop_nonce")
    nonce = response.headers["dpop-nonce"]
    assert (await client.call(token, client.call_proof(token, nonce=nonce))).status_code == 200
    expect_error(await client.ask(client.token_proof(nonce="made up")), 400, "use_dpop_nonce")


async def test_the_guard_asks_for_dpop(client: Participant) -> None:
    """RFC 9449 section 7.1: without a token, and with a bad one, the challenge says DPoP."""
    for others in ({}, {"Authorization": "Basic dTpw"}):
        response = await client.http.get("/protected", headers=others)
        assert response.status_code == 401
        (challenge,) = response.headers.get_list("www-authenticate")
        assert challenge.startswith("DPoP algs=")
        assert "error" not in challenge
    proof = client.call_proof("garbage")
    expect_challenge(await client.call("garbage", proof), "invalid_token")
    token = await client.get_token()
    proof = client.holder.proof("GET", f"{ISSUER}/admin-only", access_token=token)
    headers = {"Authorization": f"DPoP {token}", "DPoP": proof}
    response = await client.http.get("/admin-only", headers=headers)
    assert response.status_code == 403
    assert response.headers["www-authenticate"].startswith('DPoP error="insufficient_scope"')


async def test_resource_metadata_require_bound_tokens(client: Participant) -> None:
    """RFC 9728 section 2: no bearer method, and `dpop_bound_access_tokens_required`."""
    metadata = (await client.http.get(RESOURCE_METADATA)).json()
    assert metadata["resource"] == ISSUER
    assert metadata["authorization_servers"] == [ISSUER]
    assert metadata["bearer_methods_supported"] == []
    assert metadata["dpop_bound_access_tokens_required"] is True
    assert metadata["dpop_signing_alg_values_supported"] == ["ES256"]


async def test_a_refresh_token_of_before_the_profile_is_good_for_nothing(
    start: Start, database: Database[Any]
) -> None:
    """It was had without a key, and would live on without one."""
    server = await start(ISSUER=ISSUER, ALGORITHM="ES256")
    client = await new_participant(server, dpop_bound_access_tokens=False)
    body = await client.send({"grant_type": "client_credentials", **fields(client.assertion())})
    refresh = body.json()["refresh_token"]
    database["config"].update_one({}, {"$set": {"PROFILE": "fapi2"}})
    await server.m2m.keys.rotate()  # reads the config anew
    more = {"grant_type": "refresh_token", "refresh_token": refresh}
    response = await client.ask(client.token_proof(), **more)
    expect_error(response, 400, "unsupported_grant_type")


async def test_metadata_name_only_grants_that_are_of_use(client: Participant) -> None:
    """Where no refresh token is issued, the grant is not advertised."""
    metadata = (await client.http.get(METADATA)).json()
    assert metadata["grant_types_supported"] == ["client_credentials"]


async def test_tokens_of_before_the_profile_are_no_way_around_it(
    start: Start, database: Database[Any]
) -> None:
    """Once the profile is on, a bearer token is refused, as the metadata say."""
    machine = await new_machine(await start(ALGORITHM="ES256", ISSUER=ISSUER))
    token = (await machine.get_token()).access
    assert (await machine.call(token)).status_code == 200
    server = await start(PROFILE="fapi2", ISSUER=ISSUER)
    expect_challenge(await machine.using(http=server.http()).call(token), "invalid_token")


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "PS256", "none"])
async def test_another_algorithm_stops_the_start(start: Start, algorithm: str) -> None:
    """One line names the field, what it must be and why."""
    with pytest.raises(ConfigurationError, match=r"ALGORITHM must be ES256.*fapi2") as caught:
        await start(PROFILE="fapi2", ISSUER=ISSUER, ALGORITHM=algorithm)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("profile", ["fapi1", "FAPI2", "", True, 2, ["fapi2"]])
async def test_an_unknown_profile_stops_the_start(start: Start, profile: object) -> None:
    """A misspelt profile is never taken for none."""
    with pytest.raises(ConfigurationError, match="PROFILE must be one of default, fapi2"):
        await start(PROFILE=profile, ISSUER=ISSUER)
