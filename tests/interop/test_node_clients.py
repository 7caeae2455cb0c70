"""Other people's OAuth clients for Node, against a real server on a real socket."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.interop.conftest import FOREIGN, RESOURCES, Credentials, Server, Serving

Document = dict[str, Any]

NODE = Path(__file__).parent / "node"
INSTALLED = NODE / "node_modules" / ".installed"
#: For a flow of a dozen requests; Node itself needs a fraction of a second to start.
FLOW_SECONDS = 60

pytestmark = [
    pytest.mark.skipif(
        shutil.which("node") is None,
        reason="Node 20 or newer is not installed here; `make test` uses it where it is",
    ),
    pytest.mark.skipif(
        not INSTALLED.is_file(),
        reason="Node's packages are not installed; `make test` installs them where node 20 or newer"
        " and npm are on the PATH",
    ),
]


def node(library: str, flow: str, server: Server, client: Credentials, **job: Any) -> Document:
    """What a flow of a library's script has to tell."""
    asked = {
        "flow": flow,
        "issuer": server.issuer,
        "client_id": client.client_id,
        "client_secret": client.client_secret,
        "private_jwk": client.private_jwk,
        **job,
    }
    finished = subprocess.run(
        ["node", f"{library}.mjs"],
        cwd=NODE,
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=FLOW_SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    told: Document = json.loads(finished.stdout)
    return told


def registered(server: Server, method: str) -> Credentials:
    """A client that authenticates in this way."""
    return server.register_with_key() if method == "private_key_jwt" else server.register()


def assert_life(told: Document, *, token_type: str = "bearer") -> None:
    """A token that is used, replaced and revoked."""
    token, refreshed = told["token"], told["refreshed"]
    assert token["token_type"].lower() == refreshed["token_type"].lower() == token_type
    assert token["scope"] == refreshed["scope"] == "read"
    assert refreshed["refresh_token"] != token["refresh_token"]
    assert (told["protected"], told["admin_only"]) == (200, 403)
    assert told["protected_after_refresh"] == 200
    assert told["protected_after_revocation"] == 401


# --- without discovery --------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_simple_oauth2(serving: Serving, method: str) -> None:
    """Client credentials, calls, a refresh and a revocation, configured by hand."""
    server = serving()
    assert_life(node("simple-oauth2", "life", server, server.register(), method=method))


# --- with discovery -----------------------------------------------------------------------------

DISCOVERING = ["openid-client", "oauth4webapi"]


@pytest.mark.parametrize("token_type", ["bearer", "dpop"])
@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", "private_key_jwt"])
@pytest.mark.parametrize("library", DISCOVERING)
def test_a_life(serving: Serving, library: str, method: str, token_type: str) -> None:
    """A machine that knows the issuer and its own credentials finds out all the rest."""
    server = serving(ALGORITHM="ES256")
    client = registered(server, method)
    told = node(
        library, "life", server, client, method=method, dpop=token_type == "dpop", introspect=True
    )
    assert_life(told, token_type=token_type)
    introspected = told["introspected"]
    assert introspected["active"] is True
    assert introspected["client_id"] == client.client_id
    assert introspected["scope"] == "read"
    assert introspected["iss"] == server.issuer
    assert ("cnf" in introspected) == (token_type == "dpop")
    assert told["introspected_after_revocation"] == {"active": False}


@pytest.mark.parametrize("library", DISCOVERING)
def test_fapi2(serving: Serving, library: str) -> None:
    """Under the FAPI 2.0 profile too: private_key_jwt, DPoP, and no refresh token."""
    server = serving(ALGORITHM="ES256", PROFILE="fapi2")
    told = node(
        library,
        "life",
        server,
        server.register_with_key(),
        method="private_key_jwt",
        dpop=True,
        introspect=True,
    )
    assert told["token"]["token_type"].lower() == "dpop"
    assert "refresh_token" not in told["token"]
    assert (told["protected"], told["admin_only"]) == (200, 403)
    assert told["introspected"]["active"] is True
    assert told["protected_after_revocation"] == 401


@pytest.mark.parametrize("library", DISCOVERING)
def test_dpop_nonces(serving: Serving, library: str) -> None:
    """A library that is asked for a nonce of ours comes again with it."""
    server = serving(ALGORITHM="ES256", DPOP_REQUIRE_NONCE=True)
    told = node(library, "life", server, server.register(), method="client_secret_basic", dpop=True)
    assert told["nonces_asked_for"] > 0
    assert_life(told, token_type="dpop")


@pytest.mark.parametrize("library", DISCOVERING)
def test_resource_indicators(serving: Serving, library: str) -> None:
    """A token is for the resources that were asked for, and for no foreign one."""
    server = serving(ALGORITHM="ES256")
    told = node(
        library,
        "resource",
        server,
        server.register(audience=RESOURCES),
        method="client_secret_post",
        resources=RESOURCES,
        foreign=FOREIGN,
    )
    assert sorted(server.claims(told["token"]["access_token"])["aud"]) == sorted(RESOURCES)
    assert told["foreign"]["error"] == "invalid_target"


@pytest.mark.parametrize("library", [*DISCOVERING, "simple-oauth2"])
def test_errors(serving: Serving, library: str) -> None:
    """A refusal becomes the exception that the library has for it, with its code."""
    server = serving(ALGORITHM="ES256")
    told = node(library, "refusals", server, server.register(), method="client_secret_post")
    assert {case: (refusal["error"], refusal["status"]) for case, refusal in told.items()} == {
        "wrong_secret": ("invalid_client", 401),
        "foreign_scope": ("invalid_scope", 400),
        "spent_refresh_token": ("invalid_grant", 400),
    }


# --- resource servers ---------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_jose_validates_our_tokens(serving: Serving, algorithm: str) -> None:
    """A resource server with jose finds the keys and reads a token by RFC 9068, without us."""
    server = serving(ALGORITHM=algorithm)
    client = server.register()
    told = node(
        "jose",
        "validate",
        server,
        client,
        access_token=server.access_token(client),
        audience=server.issuer,
        foreign=FOREIGN,
    )
    assert told["header"]["alg"] == algorithm
    assert told["claims"]["client_id"] == told["claims"]["sub"] == client.client_id
    assert told["elsewhere"]["code"] == "ERR_JWT_CLAIM_VALIDATION_FAILED"
    assert told["forged"]["code"] == "ERR_JWS_SIGNATURE_VERIFICATION_FAILED"


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
@pytest.mark.parametrize("token_type", ["bearer", "dpop"])
def test_oauth4webapi_validates_our_tokens(
    serving: Serving, token_type: str, algorithm: str
) -> None:
    """A resource server with oauth4webapi reads tokens by RFC 9068, those bound by DPoP too."""
    server = serving(ALGORITHM=algorithm)
    client = server.register()
    told = node(
        "oauth4webapi",
        "validate",
        server,
        client,
        method="client_secret_basic",
        dpop=token_type == "dpop",
        audience=server.issuer,
        foreign=FOREIGN,
    )
    assert told["claims"]["client_id"] == client.client_id
    assert ("cnf" in told["claims"]) == (token_type == "dpop")
    assert told["elsewhere"]["code"] == "OAUTH_JWT_CLAIM_COMPARISON_FAILED"


def test_oauth4webapi_discovers_the_resource(serving: Serving) -> None:
    """From the address of the resource alone a client finds its authorization server."""
    server = serving(ALGORITHM="ES256")
    told = node(
        "oauth4webapi", "protected_resource", server, server.register(), resource=server.issuer
    )
    assert told["resource"] == server.issuer
    assert told["authorization_servers"] == [server.issuer]
