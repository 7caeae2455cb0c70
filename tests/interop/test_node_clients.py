"""Other people's OAuth clients for Node, against a real server on a real socket."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.interop.conftest import Credentials, Server, Serving

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
    finished = subprocess.run(
        ["node", f"{library}.mjs"],
        cwd=NODE,
        input=json.dumps(
            {
                "flow": flow,
                "issuer": server.issuer,
                "client_id": client.client_id,
                "client_secret": client.client_secret,
                "metadata": metadata(server),
                **job,
            }
        ),
        capture_output=True,
        text=True,
        timeout=FLOW_SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    told: Document = json.loads(finished.stdout)
    return told


def metadata(server: Server) -> Document:
    """What somebody configures who cannot discover it."""
    return {
        "issuer": server.issuer,
        "token_endpoint": f"{server.issuer}/token",
        "revocation_endpoint": f"{server.issuer}/revoke",
    }


LIBRARIES = ["openid-client", "oauth4webapi", "simple-oauth2"]


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_client_with_a_secret(serving: Serving, library: str, method: str) -> None:
    """Client credentials, calls, a refresh and a revocation, all by itself."""
    server = serving()
    told = node(library, "life", server, server.register(), method=method)
    assert told["token"]["token_type"].lower() == "bearer"
    assert told["token"]["scope"] == told["refreshed"]["scope"] == "read"
    assert told["refreshed"]["refresh_token"] != told["token"]["refresh_token"]
    assert (told["protected"], told["admin_only"]) == (200, 403)
    assert told["protected_after_refresh"] == 200
    assert told["protected_after_revocation"] == 401


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_client_understands_our_errors(serving: Serving, library: str) -> None:
    """A refusal becomes the exception that the library has for it, with its code."""
    server = serving()
    told = node(library, "refusals", server, server.register(), method="client_secret_post")
    assert {case: (refusal["error"], refusal["status"]) for case, refusal in told.items()} == {
        "wrong_secret": ("invalid_client", 401),
        "foreign_scope": ("invalid_scope", 400),
        "spent_refresh_token": ("invalid_grant", 400),
    }
