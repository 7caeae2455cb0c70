"""RFC 9449: tokens that only the holder of a key can use, at every endpoint and guarded route."""

# No `from __future__ import annotations`: FastAPI reads the routes' annotations as values.

import asyncio
import re
import time
from typing import Annotated, Any
from urllib.parse import urlencode

import httpx
import pytest
from fastapi import Security
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from oauth2_m2m import AccessToken
from tests.conformance.conftest import Start
from tests.expectations import Log, early_in_the_minute, expect_error, expect_no_store
from tests.machine import Machine, Tokens, basic, claims_of, events, new_machine
from tests.proofs import MISSING, Key, b64, key
from tests.server import Server, running

#: Where the server of the tests says that it is; its requests go to another name altogether.
ISSUER = "http://localhost:8000"
TOKEN, REFRESH, PROTECTED = f"{ISSUER}/token", f"{ISSUER}/refresh", f"{ISSUER}/protected"
MINE, ANOTHER = key("mine"), key("another")
BOTH = pytest.mark.parametrize(
    "mine", [MINE, key("mine", "RS256")], ids=lambda mine: mine.algorithm
)

Document = dict[str, Any]


async def ask(
    machine: Machine, *proofs: str, path: str = "/token", **fields: str
) -> httpx.Response:
    """Send a form as this client, with these proofs."""
    headers = [
        ("Authorization", basic(machine.client_id, machine.client_secret)),
        ("Content-Type", "application/x-www-form-urlencoded"),
        *[("DPoP", proof) for proof in proofs],
    ]
    return await machine.http.post(path, content=urlencode(fields), headers=headers)


async def ask_token(machine: Machine, *proofs: str, **fields: str) -> httpx.Response:
    return await ask(machine, *proofs, grant_type="client_credentials", **fields)


async def bound_tokens(machine: Machine, by: Key = MINE, **fields: str) -> Tokens:
    """Tokens that are bound to a key."""
    return Tokens.of(await ask_token(machine, by.proof("POST", TOKEN), **fields))


async def ask_refresh(machine: Machine, refresh: str, *proofs: str) -> httpx.Response:
    return await ask(machine, *proofs, grant_type="refresh_token", refresh_token=refresh)


async def ask_refresh_plainly(machine: Machine, refresh: str, *proofs: str) -> httpx.Response:
    headers = [("DPoP", proof) for proof in proofs]
    return await machine.http.post("/refresh", json={"refresh_token": refresh}, headers=headers)


async def call(
    machine: Machine, token: str, *proofs: str, path: str = "/protected", scheme: str = "DPoP"
) -> httpx.Response:
    """Call a guarded route with a token and these proofs."""
    headers = [("Authorization", f"{scheme} {token}"), *[("DPoP", proof) for proof in proofs]]
    return await machine.http.get(path, headers=headers)


def proof_for(token: str, by: Key = MINE, url: str = PROTECTED, **claims: Any) -> str:
    """A proof for a call of a guarded route."""
    return by.proof("GET", url, access_token=token, **claims)


def expect_bound(response: httpx.Response, by: Key) -> Document:
    """A token response whose access token is bound to a key. Section 5."""
    assert response.status_code == 200, response.text
    expect_no_store(response)
    body: Document = response.json()
    assert body["token_type"] == "DPoP"
    assert claims_of(body["access_token"])["cnf"] == {"jkt": by.jkt}
    return body


def expect_challenge(
    response: httpx.Response, error: str, *, scheme: str | None = "DPoP", status: int = 401
) -> dict[str, str]:
    """A refusal of a guarded route, with its one challenge; of any scheme if none is named."""
    assert response.status_code == status, response.text
    expect_no_store(response)
    (value,) = response.headers.get_list("www-authenticate")
    name, _, rest = value.partition(" ")
    parameters = dict(re.findall(r'(\w+)="([^"\\]*)"(?:, |$)', rest))
    assert ", ".join(f'{name}="{text}"' for name, text in parameters.items()) == rest
    assert (name, parameters["error"]) == (scheme or name, error)
    assert (parameters.get("algs") == "ES256 RS256") == (name == "DPoP")
    body = response.json()
    assert body["error"] == error
    assert body["error_description"] == body["detail"] == parameters["error_description"]
    return parameters


# --- Tokens that are bound (section 5) ----------------------------------------------------------


@BOTH
async def test_a_proof_binds_the_token_to_its_key(machine: Machine, mine: Key) -> None:
    """The answer says DPoP, the token names the key, and only calls with proofs get through."""
    body = expect_bound(await ask_token(machine, mine.proof("POST", TOKEN)), mine)
    token = body["access_token"]
    for _ in range(2):
        assert (await call(machine, token, proof_for(token, mine))).status_code == 200


async def test_without_a_proof_the_token_is_a_bearer_token(machine: Machine) -> None:
    """Who sends no proof gets what it always got, and calls without one."""
    tokens = await machine.get_token()
    assert tokens.body["token_type"] == "bearer"
    assert "cnf" not in claims_of(tokens.access)
    assert (await machine.call(tokens)).status_code == 200


async def test_the_plain_dialect_binds_too(machine: Machine) -> None:
    """With a proof, username and password get a bound token as well."""
    fields = {"username": machine.client_id, "password": machine.client_secret}
    headers = {"DPoP": MINE.proof("POST", TOKEN)}
    body = expect_bound(await machine.http.post("/token", data=fields, headers=headers), MINE)
    assert (await call(machine, body["access_token"])).status_code == 401


async def test_a_client_may_be_bound_to_proofs(server: Server, log: Log) -> None:
    """A client that is registered for bound tokens gets no other. Section 5.2."""
    machine = await new_machine(server, dpop_bound_access_tokens=True)
    log.new()
    expect_error(await ask_token(machine), 400, "invalid_dpop_proof")
    log.expect("access_denied", client_id=machine.client_id, reason="invalid_dpop_proof")
    tokens = await bound_tokens(machine)
    expect_error(await ask_refresh(machine, tokens.refresh), 400, "invalid_dpop_proof")
    expect_bound(await ask_refresh(machine, tokens.refresh, MINE.proof("POST", TOKEN)), MINE)


NOW = int(time.time())
#: What is wrong with a proof, whatever it is for: members of its header, and claims.
BAD_PROOFS: dict[str, tuple[Document, Document]] = {
    "another type": ({"typ": "JWT"}, {}),
    "no type": ({"typ": MISSING}, {}),
    "alg none": ({"alg": "none"}, {}),
    "a shared secret's alg": ({"alg": "HS256"}, {}),
    "another key's alg": ({"alg": "RS256"}, {}),
    "no key": ({"jwk": MISSING}, {}),
    "a private key": ({"jwk": {**MINE.jwk, "d": b64(b"d" * 32)}}, {}),
    "another's key": ({"jwk": ANOTHER.jwk}, {}),
    "a key off the curve": ({"jwk": {**MINE.jwk, "y": MINE.jwk["x"]}}, {}),
    "a key for encryption": ({"jwk": {**MINE.jwk, "use": "enc"}}, {}),
    "crit": ({"crit": ["exp"]}, {}),
    "no method": ({}, {"htm": MISSING}),
    "another method": ({}, {"htm": "PUT"}),
    "the method in lower case": ({}, {"htm": "post"}),
    "no address": ({}, {"htu": MISSING}),
    "another path": ({}, {"htu": f"{ISSUER}/tokens"}),
    "another host": ({}, {"htu": "https://evil.example/token"}),
    "the name that the request went to": ({}, {"htu": "http://testserver/token"}),
    "another port": ({}, {"htu": "http://localhost:8001/token"}),
    "another scheme": ({}, {"htu": "https://localhost:8000/token"}),
    "a path alone": ({}, {"htu": "/token"}),
    "no time": ({}, {"iat": MISSING}),
    "a time in words": ({}, {"iat": "now"}),
    "five minutes old": ({}, {"iat": NOW - 300}),
    "an hour ahead": ({}, {"iat": NOW + 3600}),
    "an end that has passed": ({}, {"exp": NOW - 300}),
    "a beginning to come": ({}, {"nbf": NOW + 3600}),
    "no id": ({}, {"jti": MISSING}),
    "an empty id": ({}, {"jti": ""}),
    "an id without end": ({}, {"jti": "x" * 256}),
    "an id that is a query": ({}, {"jti": {"$ne": None}}),
}


def bad_proof(name: str, method: str, url: str, token: str | None = None) -> str:
    header, claims = BAD_PROOFS[name]
    return MINE.proof(method, url, access_token=token, header=header, **claims)


@pytest.mark.parametrize("name", BAD_PROOFS)
async def test_a_bad_proof_gets_no_token(machine: Machine, log: Log, name: str) -> None:
    """The refusal says what is wrong with the proof, and the log that it was refused."""
    log.new()
    response = await ask_token(machine, bad_proof(name, "POST", TOKEN))
    body = expect_error(response, 400, "invalid_dpop_proof")
    record = log.expect("access_denied", client_id=machine.client_id, reason="invalid_dpop_proof")
    assert body["error_description"] in record["reason"]


@pytest.mark.parametrize(
    "text",
    ["", " ", "x", "a.b", "a.b.c", "..", "null", "{{}}", "x" * 20_000, "\xe4.\xf6.\xfc",
     "{proof}x", "x{proof}", "{proof}=", "{proof}, {proof}", "{proof},{proof}", "Bearer {proof}"],
    ids=lambda text: repr(text)[:20],
)  # fmt: skip
async def test_what_is_no_proof_is_refused_everywhere(machine: Machine, text: str) -> None:
    """Whatever stands in the header is refused as a proof, never with a 500."""
    good = MINE.proof("POST", TOKEN)
    raw = [(b"dpop", text.format(proof=good).encode("latin-1"))]
    fields = {"grant_type": "client_credentials"}
    headers = [*raw, (b"authorization", basic(machine.client_id, machine.client_secret).encode())]
    response = await machine.http.post("/token", data=fields, headers=headers)
    expect_error(response, 400, "invalid_dpop_proof")

    token = (await bound_tokens(machine)).access
    good = proof_for(token)
    raw = [(b"dpop", text.format(proof=good).encode("latin-1"))]
    headers = [*raw, (b"authorization", f"DPoP {token}".encode())]
    expect_challenge(await machine.http.get("/protected", headers=headers), "invalid_dpop_proof")
    assert (await call(machine, token, good)).status_code == 200


async def test_two_proofs_are_none(machine: Machine) -> None:
    """Section 4.3, (1): not more than one header field, though both are good."""
    two = [MINE.proof("POST", TOKEN) for _ in range(2)]
    expect_error(await ask_token(machine, *two), 400, "invalid_dpop_proof")
    expect_error(await ask_token(machine, two[0], two[0]), 400, "invalid_dpop_proof")
    token = Tokens.of(await ask_token(machine, two[0])).access
    calls = [proof_for(token) for _ in range(2)]
    expect_challenge(await call(machine, token, *calls), "invalid_dpop_proof")
    assert (await call(machine, token, calls[0])).status_code == 200


@pytest.mark.parametrize("seconds", [-50, -10, 0, 10, 20])
async def test_clocks_may_differ_a_little(machine: Machine, seconds: int) -> None:
    """Ten seconds before and after are accepted, as FAPI 2.0 asks; so are end and beginning."""
    now = int(time.time())
    times: Document = {"iat": now + seconds, "nbf": now + seconds, "exp": now + 120}
    body = expect_bound(await ask_token(machine, MINE.proof("POST", TOKEN, **times)), MINE)
    token = body["access_token"]
    assert (await call(machine, token, proof_for(token, **times))).status_code == 200


async def test_who_is_not_authenticated_uses_nothing_up(machine: Machine, log: Log) -> None:
    """A wrong secret is the first thing to be refused, and the proof is good afterwards."""
    proof = MINE.proof("POST", TOKEN)
    log.new()
    stranger = machine.using(client_secret="not the secret")
    expect_error(await ask_token(stranger, proof), 401, "invalid_client")
    log.expect("login_failure", client_id=machine.client_id)
    expect_bound(await ask_token(machine, proof), MINE)


# --- Proofs are used once (section 11.1) --------------------------------------------------------


async def test_a_proof_is_used_once_at_the_token_endpoint(machine: Machine, log: Log) -> None:
    """The second request with the same proof is refused, and recorded."""
    proof = MINE.proof("POST", TOKEN)
    expect_bound(await ask_token(machine, proof), MINE)
    log.new()
    expect_error(await ask_token(machine, proof), 400, "invalid_dpop_proof")
    log.expect("access_denied", client_id=machine.client_id, reason="used before")


async def test_a_proof_is_used_once_at_a_guarded_route(machine: Machine, log: Log) -> None:
    """Whoever overhears a call cannot repeat it."""
    token = (await bound_tokens(machine)).access
    proof = proof_for(token)
    assert (await call(machine, token, proof)).status_code == 200
    log.new()
    expect_challenge(await call(machine, token, proof), "invalid_dpop_proof")
    log.expect("token_invalid", client_id=machine.client_id, reason="used before")


async def test_of_parallel_calls_on_two_workers_one_gets_through(
    async_database: AsyncDatabase[Any], server: Server
) -> None:
    """One proof lets one request in, however many present it at once, and wherever."""
    async with running(async_database) as other:
        machine = await new_machine(server)
        token = (await bound_tokens(machine)).access
        proof = proof_for(token)
        machines = [machine, machine.using(http=other.http())] * 10
        found = await asyncio.gather(*(call(each, token, proof) for each in machines))
    assert sorted(response.status_code for response in found) == [200] + [401] * 19


async def test_ids_belong_to_their_key(machine: Machine) -> None:
    """Two keys may choose the same id, and neither uses up the other's proof."""
    for by in (MINE, ANOTHER):
        expect_bound(await ask_token(machine, by.proof("POST", TOKEN, jti="1")), by)
    expect_error(
        await ask_token(machine, MINE.proof("POST", TOKEN, jti="1")), 400, "invalid_dpop_proof"
    )


# --- Guarded routes (section 7) -----------------------------------------------------------------


@pytest.mark.parametrize("name", BAD_PROOFS)
async def test_a_bad_proof_gets_nowhere(machine: Machine, log: Log, name: str) -> None:
    """Whatever is wrong with the proof, the route refuses and says how to do it."""
    token = (await bound_tokens(machine)).access
    log.new()
    response = await call(machine, token, bad_proof(name, "GET", PROTECTED, token))
    expect_challenge(response, "invalid_dpop_proof")
    log.expect("token_invalid", client_id=machine.client_id, reason="invalid_dpop_proof")


@pytest.mark.parametrize("ath", [MISSING, None, "", "x", 7, ["x"]], ids=repr)
async def test_a_proof_is_for_its_own_access_token(machine: Machine, ath: Any) -> None:
    """Without the hash of this very token the proof is no good. Section 4.3, (12)."""
    token, other = [(await bound_tokens(machine)).access for _ in range(2)]
    response = await call(machine, token, proof_for(token, ath=ath))
    expect_challenge(response, "invalid_dpop_proof")
    expect_challenge(await call(machine, token, proof_for(other)), "invalid_dpop_proof")


async def test_another_keys_proof_is_no_good(machine: Machine, log: Log) -> None:
    """The thief of a token has not its key. Section 7.1."""
    token = (await bound_tokens(machine)).access
    log.new()
    expect_challenge(await call(machine, token, proof_for(token, ANOTHER)), "invalid_dpop_proof")
    record = log.expect("token_invalid", client_id=machine.client_id, reason="key of the token")
    assert record["jti"] == claims_of(token)["jti"]


async def test_a_bound_token_needs_its_proof(machine: Machine, log: Log) -> None:
    """The scheme alone is not enough; the challenge says what is missing."""
    token = (await bound_tokens(machine)).access
    log.new()
    expect_challenge(await call(machine, token), "invalid_dpop_proof")
    log.expect("token_invalid", client_id=None)


@pytest.mark.parametrize("with_proof", [False, True])
async def test_a_bound_token_is_no_bearer_token(machine: Machine, with_proof: bool) -> None:
    """Section 7.2: presented as a bearer token it is refused, with a good proof or without."""
    token = (await bound_tokens(machine)).access
    proofs = [proof_for(token)] if with_proof else []
    response = await call(machine, token, *proofs, scheme="Bearer")
    expect_challenge(response, "invalid_token")


async def test_a_bearer_token_is_no_bound_token(machine: Machine) -> None:
    """A proof that nobody asked for does not make a stolen bearer token better. Section 7.1."""
    token = (await machine.get_token()).access
    response = await call(machine, token, proof_for(token))
    expect_challenge(response, "invalid_token")
    assert (await call(machine, token, proof_for(token), scheme="Bearer")).status_code == 200


@pytest.mark.parametrize("scheme", ["DPoP", "dpop", "DPOP"])
async def test_the_scheme_is_read_in_any_case(machine: Machine, scheme: str) -> None:
    """RFC 9110 section 11.1: the name of a scheme is case-insensitive."""
    token = (await bound_tokens(machine)).access
    assert (await call(machine, token, proof_for(token), scheme=scheme)).status_code == 200


async def test_two_tokens_at_once_are_none(machine: Machine) -> None:
    """A bearer token beside a bound one is two opinions of how to call."""
    token = (await bound_tokens(machine)).access
    for first, second in (("DPoP", "DPoP"), ("DPoP", "Bearer"), ("Bearer", "DPoP")):
        headers = [
            ("Authorization", f"{first} {token}"),
            ("Authorization", f"{second} {token}"),
            ("DPoP", proof_for(token)),
        ]
        response = await machine.http.get("/protected", headers=headers)
        expect_challenge(response, "invalid_token", scheme=None)


async def test_a_proof_without_a_token_is_nothing(machine: Machine) -> None:
    """Without a token the challenge names no error, whatever proof was sent."""
    response = await machine.http.get("/protected", headers={"DPoP": proof_for("")})
    assert response.status_code == 401
    assert "error" not in response.headers["www-authenticate"]


async def test_query_and_fragment_do_not_count(machine: Machine) -> None:
    """Section 4.3, (9): the address is compared without them, whoever names them."""
    token = (await bound_tokens(machine)).access
    for url in (
        PROTECTED,
        f"{PROTECTED}?a=b",
        f"{PROTECTED}#c",
        "HTTP://LOCALHOST:8000/%70rotected",
    ):
        response = await call(machine, token, proof_for(token, url=url), path="/protected?x=y")
        assert response.status_code == 200


async def test_the_host_header_decides_nothing(server: Server, machine: Machine) -> None:
    """A proof that was made for another server is no good here, whatever `Host` says."""
    token = (await bound_tokens(machine)).access
    async with server.http(base_url="https://evil.example") as http:
        thief = machine.using(http=http)
        made_there = proof_for(token, url="https://evil.example/protected")
        expect_challenge(await call(thief, token, made_there), "invalid_dpop_proof")
        expect_error(
            await ask_token(thief, MINE.proof("POST", "https://evil.example/token")),
            400,
            "invalid_dpop_proof",
        )
        assert (await call(thief, token, proof_for(token))).status_code == 200


@pytest.mark.parametrize(
    ("config", "token_url", "url"),
    [
        ({"ISSUER": "https://a.example"}, "https://a.example/token", "https://a.example/protected"),
        (
            {"ISSUER": "https://a.example/auth"},
            "https://a.example/auth/token",
            "https://a.example/auth/protected",
        ),
        ({"ISSUER": "https://a.example/auth"}, "https://a.example/token", "https://a.example/protected"),
        (
            {"ISSUER": "https://a.example", "AUDIENCE": "https://api.example/v1"},
            "https://a.example/token",
            "https://api.example/v1/protected",
        ),
        (
            {"ISSUER": "https://a.example", "AUDIENCE": "https://api.example/v1"},
            "https://a.example/token",
            "https://api.example/protected",
        ),
        (
            {"ISSUER": "https://a.example", "AUDIENCE": "billing"},
            "https://a.example/token",
            "https://a.example/protected",
        ),
    ],
)  # fmt: skip
async def test_addresses_come_from_the_config(
    start: Start, config: Document, token_url: str, url: str
) -> None:
    """Endpoints are at the issuer, guarded routes at the audience if it is an address."""
    machine = await new_machine(await start(**config))
    token = Tokens.of(await ask_token(machine, MINE.proof("POST", token_url))).access
    assert (await call(machine, token, proof_for(token, url=url))).status_code == 200
    elsewhere = proof_for(token, url="https://elsewhere.example/protected")
    expect_challenge(await call(machine, token, elsewhere), "invalid_dpop_proof")


async def test_a_path_is_compared_as_it_was_sent(server: Server, machine: Machine) -> None:
    """What must be encoded in a path stays so, and what need not be has one spelling."""

    @server.app.get("/things/{name}")
    async def thing(
        name: str,
        token: Annotated[AccessToken, Security(server.m2m.access_token, scopes=["read"])],
    ) -> str:
        return name

    token = (await bound_tokens(machine)).access
    path = "/things/a%20b%7Ec%C3%A9"
    for url in (f"{ISSUER}{path}", f"{ISSUER}/things/a%20b~c%c3%a9"):
        response = await call(machine, token, proof_for(token, url=url), path=path)
        assert response.json() == "a b~c\u00e9"
    other = proof_for(token, url=f"{ISSUER}/things/another")
    expect_challenge(await call(machine, token, other, path=path), "invalid_dpop_proof")


async def test_a_missing_scope_is_named_with_the_right_scheme(server: Server) -> None:
    """RFC 6750 section 3.1 in the words of DPoP: which scope, and how to present the token."""
    machine = await new_machine(server, scopes=["read", "write"])
    token = (await bound_tokens(machine, scope="write")).access
    response = await call(machine, token, proof_for(token))
    assert expect_challenge(response, "insufficient_scope", status=403)["scope"] == "read"
    proof = proof_for(token, url=f"{ISSUER}/admin-only")
    response = await call(machine, token, proof, path="/admin-only")
    assert expect_challenge(response, "insufficient_scope", status=403)["scope"] == "admin"


@pytest.mark.parametrize("how", ["access", "family", "client"])
async def test_a_good_proof_revives_no_revoked_token(
    server: Server, machine: Machine, how: str
) -> None:
    """Whatever the proof says, the mark in the database is the last word."""
    tokens = await bound_tokens(machine)
    if how == "access":
        await machine.revoke(tokens.access)
    elif how == "family":
        await machine.revoke_plainly(refresh_token=tokens.refresh)
    else:
        await server.m2m.clients.disable(machine.client_id)
    response = await call(machine, tokens.access, proof_for(tokens.access))
    expect_challenge(response, "invalid_token")


# --- Refresh tokens -----------------------------------------------------------------------------


async def test_a_bound_refresh_token_needs_its_key(machine: Machine, log: Log) -> None:
    """At /token only a proof with the same key is good, and no other spends the token."""
    tokens = await bound_tokens(machine)
    log.new()
    for proofs in ([], [ANOTHER.proof("POST", TOKEN)]):
        expect_error(await ask_refresh(machine, tokens.refresh, *proofs), 400, "invalid_grant")
        log.expect("refresh_token_invalid", client_id=machine.client_id, reason="another key")
    body = expect_bound(await ask_refresh(machine, tokens.refresh, MINE.proof("POST", TOKEN)), MINE)
    log.expect("token_refreshed", client_id=machine.client_id)
    successor = await ask_refresh(machine, body["refresh_token"], ANOTHER.proof("POST", TOKEN))
    expect_error(successor, 400, "invalid_grant")


async def test_a_bound_refresh_token_needs_its_key_in_the_plain_dialect(
    machine: Machine, log: Log
) -> None:
    """At /refresh, where it is the only credential, a thief without the key has nothing."""
    tokens = await bound_tokens(machine)
    log.new()
    for proofs in ([], [ANOTHER.proof("POST", REFRESH)]):
        response = await ask_refresh_plainly(machine, tokens.refresh, *proofs)
        expect_error(response, 401, "invalid_grant")
        log.expect("refresh_token_invalid", client_id=machine.client_id, reason="another key")
    body = expect_bound(
        await ask_refresh_plainly(machine, tokens.refresh, MINE.proof("POST", REFRESH)), MINE
    )
    again = MINE.proof("POST", REFRESH)
    expect_bound(await ask_refresh_plainly(machine, body["refresh_token"], again), MINE)


@pytest.mark.parametrize("name", BAD_PROOFS)
async def test_a_bad_proof_spends_no_refresh_token(machine: Machine, name: str) -> None:
    """Whatever is wrong with the proof, the refresh token is as good as before."""
    tokens = await bound_tokens(machine)
    bad = bad_proof(name, "POST", TOKEN)
    expect_error(await ask_refresh(machine, tokens.refresh, bad), 400, "invalid_dpop_proof")
    bad = bad_proof(name, "POST", REFRESH)
    response = await ask_refresh_plainly(machine, tokens.refresh, bad)
    expect_error(response, 400, "invalid_dpop_proof")
    expect_bound(await ask_refresh(machine, tokens.refresh, MINE.proof("POST", TOKEN)), MINE)


async def test_a_proof_for_one_endpoint_is_none_for_the_other(machine: Machine) -> None:
    """What was made for /token does not refresh at /refresh, and the other way round."""
    tokens = await bound_tokens(machine)
    response = await ask_refresh_plainly(machine, tokens.refresh, MINE.proof("POST", TOKEN))
    expect_error(response, 400, "invalid_dpop_proof")
    response = await ask_refresh(machine, tokens.refresh, MINE.proof("POST", REFRESH))
    expect_error(response, 400, "invalid_dpop_proof")


async def test_reuse_of_a_bound_refresh_token_kills_its_family(machine: Machine, log: Log) -> None:
    """A spent token that comes back without the key was stolen all the same."""
    tokens = await bound_tokens(machine)
    body = expect_bound(await ask_refresh(machine, tokens.refresh, MINE.proof("POST", TOKEN)), MINE)
    log.new()
    expect_error(await ask_refresh(machine, tokens.refresh), 400, "invalid_grant")
    log.expect("refresh_token_reuse", client_id=machine.client_id)
    for token in (tokens.access, body["access_token"]):
        assert (await call(machine, token, proof_for(token))).status_code == 401


async def test_an_unbound_refresh_token_may_get_bound_access_tokens(machine: Machine) -> None:
    """Who begins to send proofs is bound by them, and its refresh token stays what it was."""
    tokens = await machine.get_token()
    body = expect_bound(await ask_refresh(machine, tokens.refresh, MINE.proof("POST", TOKEN)), MINE)
    plain = await machine.refresh(body["refresh_token"])
    assert plain.body["token_type"] == "bearer"


# --- Nonces (sections 8, 9) ---------------------------------------------------------------------


async def test_nonces_are_asked_for_at_the_token_endpoint(start: Start, log: Log) -> None:
    """Where they are on, the first answer brings the nonce and the second brings the token."""
    machine = await new_machine(await start(DPOP_REQUIRE_NONCE=True))
    log.new()
    for bad in (MISSING, "not one of ours", "", 7):
        proof = MINE.proof("POST", TOKEN, nonce=bad)
        response = await ask_token(machine, proof)
        expect_error(response, 400, "use_dpop_nonce")
        log.expect("access_denied", client_id=machine.client_id, reason="use_dpop_nonce")
    nonce = response.headers["dpop-nonce"]
    assert re.fullmatch(r"[\x21\x23-\x5B\x5D-\x7E]+", nonce)  # section 8.1
    good = await ask_token(machine, MINE.proof("POST", TOKEN, nonce=nonce))
    expect_bound(good, MINE)
    assert good.headers["dpop-nonce"]  # for the next, section 8.2
    assert (await ask_token(machine)).json()["token_type"] == "bearer"


async def test_a_stolen_proof_without_a_nonce_is_asked_for_one_once(start: Start) -> None:
    """Whoever replays it is refused, and uses up nothing of its victim's budget."""
    await early_in_the_minute()
    server = await start(MAX_REQUESTS_PER_MINUTE=5, DPOP_REQUIRE_NONCE=True)
    machine = await new_machine(server)
    nonce = (await ask_token(machine, MINE.proof("POST", TOKEN))).headers["dpop-nonce"]
    token = Tokens.of(await ask_token(machine, MINE.proof("POST", TOKEN, nonce=nonce))).access
    stolen = proof_for(token)
    expect_challenge(await call(machine, token, stolen), "use_dpop_nonce")
    for _ in range(3):
        expect_challenge(await call(machine, token, stolen), "invalid_dpop_proof")
    for _ in range(2):
        assert (await call(machine, token, proof_for(token, nonce=nonce))).status_code == 200
    assert (await call(machine, token, proof_for(token, nonce=nonce))).status_code == 429


async def test_nonces_are_asked_for_at_guarded_routes(
    start: Start, async_database: AsyncDatabase[Any]
) -> None:
    """The challenge brings the nonce, and a nonce of one worker is good on every other."""
    server = await start(DPOP_REQUIRE_NONCE=True)
    machine = await new_machine(server)
    nonce = (await ask_token(machine, MINE.proof("POST", TOKEN))).headers["dpop-nonce"]
    token = Tokens.of(await ask_token(machine, MINE.proof("POST", TOKEN, nonce=nonce))).access
    response = await call(machine, token, proof_for(token))
    expect_challenge(response, "use_dpop_nonce")
    nonce = response.headers["dpop-nonce"]
    assert (await call(machine, token, proof_for(token, nonce=nonce))).status_code == 200
    async with running(async_database) as other, other.http() as http:
        elsewhere = machine.using(http=http)
        assert (await call(elsewhere, token, proof_for(token, nonce=nonce))).status_code == 200


async def test_asking_for_a_nonce_costs_nobody_anything(start: Start) -> None:
    """Machines behind one address do not lock each other out by doing what section 8 asks."""
    await early_in_the_minute()
    server = await start(MAX_REQUESTS_PER_MINUTE=3, DPOP_REQUIRE_NONCE=True)
    for _ in range(5):
        machine = await new_machine(server)
        nonce = (await ask_token(machine, MINE.proof("POST", TOKEN))).headers["dpop-nonce"]
        token = Tokens.of(await ask_token(machine, MINE.proof("POST", TOKEN, nonce=nonce))).access
        expect_challenge(await call(machine, token, proof_for(token)), "use_dpop_nonce")


async def test_nobody_is_asked_for_a_nonce_otherwise(machine: Machine) -> None:
    """By itself the server neither wants nor hands out any, and takes no offence at one."""
    response = await ask_token(machine, MINE.proof("POST", TOKEN, nonce="from elsewhere"))
    expect_bound(response, MINE)
    assert "dpop-nonce" not in response.headers


# --- What the server says about it --------------------------------------------------------------


async def test_introspection_shows_the_key(machine: Machine) -> None:
    """Section 6.2: a resource server that asks learns which key to ask a proof of."""
    tokens = await bound_tokens(machine)
    for token in (tokens.access, tokens.refresh):
        body = (await ask(machine, path="/introspect", token=token)).json()
        assert body["active"] is True
        assert body["cnf"] == {"jkt": MINE.jkt}
    assert (await ask(machine, path="/introspect", token=tokens.access)).json()[
        "token_type"
    ] == "DPoP"
    bearer = (await machine.get_token()).access
    body = (await ask(machine, path="/introspect", token=bearer)).json()
    assert body["token_type"] == "Bearer"
    assert "cnf" not in body


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"ISSUER": ISSUER, "AUDIENCE": "https://api.example"},
    ],
    ids=repr,
)
async def test_a_bound_token_introspects_with_its_proof(start: Start, config: Document) -> None:
    """At an endpoint of the issuer the proof is for the issuer's address, whatever the audience."""
    machine = await new_machine(await start(**config), scopes=["introspect"])
    token = (await bound_tokens(machine)).access
    url = f"{ISSUER}/introspect"
    for proof, status in ((MINE.proof("POST", url, access_token=token), 200), (None, 401)):
        headers = {"Authorization": f"DPoP {token}", **({} if proof is None else {"DPoP": proof})}
        response = await machine.http.post("/introspect", data={"token": token}, headers=headers)
        assert response.status_code == status, response.text


async def test_the_metadata_name_the_algorithms(machine: Machine) -> None:
    """Sections 5.1 and 5.2: what proofs may be signed with is what is accepted above."""
    metadata = (await machine.http.get("/.well-known/oauth-authorization-server")).json()
    assert metadata["dpop_signing_alg_values_supported"] == ["ES256", "RS256"]


async def test_a_challenge_names_what_is_accepted(start: Start) -> None:
    """FAPI 2.0 allows no RS256, so neither the metadata nor the challenge do."""
    server = await start(ISSUER="https://a.example", PROFILE="fapi2", ALGORITHM="ES256")
    async with server.http() as http:
        metadata = (await http.get("/.well-known/oauth-authorization-server")).json()
        refused = await http.get("/protected")
    assert metadata["dpop_signing_alg_values_supported"] == ["ES256"]
    assert refused.headers["www-authenticate"] == 'DPoP algs="ES256"'


async def test_whoever_guesses_runs_into_a_limit(start: Start, database: Database[Any]) -> None:
    """Refused proofs count as bad tokens of the address, and the key's holder goes on."""
    await early_in_the_minute()
    machine = await new_machine(await start(MAX_REQUESTS_PER_MINUTE=5))
    token = (await bound_tokens(machine)).access
    statuses = [
        (await call(machine, token, proof_for(token, ANOTHER))).status_code for _ in range(7)
    ]
    assert statuses == [401] * 5 + [429] * 2
    assert (await call(machine, token, proof_for(token))).status_code == 200
    assert events(database).count("rate_limit_exceeded") == 1


async def test_past_its_limit_a_client_uses_no_more_proofs_up(
    start: Start, database: Database[Any]
) -> None:
    """A request that is not admitted makes no document, so that nobody can fill the database."""
    await early_in_the_minute()
    machine = await new_machine(await start(MAX_REQUESTS_PER_MINUTE=3))
    token = (await bound_tokens(machine)).access
    for _ in range(8):
        await call(machine, token, proof_for(token))
    assert database["used_dpop_proofs"].count_documents({}) <= 4
