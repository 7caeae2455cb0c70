"""RFC 9728: how the guarded routes of the app are to be called, told to whoever asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.expectations import expect_error
from tests.machine import new_machine
from tests.server import Server

Document = dict[str, Any]
Start = Callable[..., Awaitable[Server]]

WELL_KNOWN = "/.well-known/oauth-protected-resource"
ISSUER = "https://auth.example.com"
API = "https://api.example.com"


async def metadata_of(server: Server, **headers: str) -> Document:
    async with server.http() as http:
        response = await http.get(WELL_KNOWN, headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    members: Document = response.json()
    return members


async def test_the_metadata_in_the_default_profile(start: Start) -> None:
    """Bearer tokens in the header alone, or DPoP for those who want it."""
    assert await metadata_of(await start(ISSUER=ISSUER, AUDIENCE=API)) == {
        "resource": API,
        "authorization_servers": [ISSUER],
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": ["ES256", "RS256"],
        "dpop_bound_access_tokens_required": False,
    }


async def test_the_metadata_in_fapi2(start: Start) -> None:
    """No bearer tokens at all: section 2 says an empty list for that."""
    assert await metadata_of(await start(ISSUER=ISSUER, AUDIENCE=API, PROFILE="fapi2")) == {
        "resource": API,
        "authorization_servers": [ISSUER],
        "bearer_methods_supported": [],
        "dpop_signing_alg_values_supported": ["ES256"],
        "dpop_bound_access_tokens_required": True,
    }


@pytest.mark.parametrize("issuer", [ISSUER, f"{ISSUER}/machines", f"{ISSUER}/machines/"])
async def test_the_resource_is_the_audience_letter_for_letter(start: Start, issuer: str) -> None:
    """Clients compare it with the address that they asked: section 3.3. Unset, it is the issuer."""
    metadata = await metadata_of(await start(ISSUER=issuer))
    assert metadata["resource"] == issuer
    assert metadata["authorization_servers"] == [issuer]


async def test_the_header_host_decides_nothing(start: Start) -> None:
    """A forged one changes not a letter."""
    server = await start(ISSUER=ISSUER, AUDIENCE=API)
    forged = await metadata_of(server, Host="evil.example")
    assert forged == await metadata_of(server)


@pytest.mark.parametrize("audience", ["reports", "urn:example:reports", "ftp://api.example.com"])
async def test_a_resource_without_an_address_has_no_metadata(start: Start, audience: str) -> None:
    """404, as for everything that is not there; tokens for it are as good as any."""
    server = await start(ISSUER=ISSUER, AUDIENCE=audience)
    machine = await new_machine(server)
    expect_error(await machine.http.get(WELL_KNOWN), 404, "invalid_request")
    assert (await machine.call(await machine.get_token())).status_code == 200


async def test_what_it_says_of_bearer_tokens_is_so(start: Start) -> None:
    """In the header, and nowhere else."""
    server = await start(ISSUER=ISSUER, AUDIENCE=API)
    machine = await new_machine(server)
    token = (await machine.get_token()).access
    assert (await machine.call(token)).status_code == 200
    assert (await machine.http.get(f"/protected?access_token={token}")).status_code == 401
