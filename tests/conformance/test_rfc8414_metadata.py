"""RFC 8414: what the server says of itself is exactly what works, at the addresses it names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymongo.database import Database

from tests.assertions import es256_key, fields, jwks, rs256_key
from tests.clocks import hasten
from tests.expectations import expect_error
from tests.machine import Machine, new_machine
from tests.server import Server

Document = dict[str, Any]
Start = Callable[..., Awaitable[Server]]

WELL_KNOWN = "/.well-known/oauth-authorization-server"
ISSUER = "https://auth.example.com"
ENDPOINTS = {
    "token_endpoint": "/token",
    "revocation_endpoint": "/revoke",
    "introspection_endpoint": "/introspect",
    "revocations_endpoint": "/revocations",
    "jwks_uri": "/.well-known/jwks.json",
}
SECRET_METHODS = ["client_secret_basic", "client_secret_post"]


async def metadata_of(server: Server, **headers: str) -> Document:
    async with server.http() as http:
        response = await http.get(WELL_KNOWN, headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    members: Document = response.json()
    return members


#: The config, and what differs in the metadata.
OFFERS: dict[str, tuple[Mapping[str, Any], list[str], list[str]]] = {
    "HS256": ({"ALGORITHM": "HS256"}, [*SECRET_METHODS, "private_key_jwt"], ["ES256", "RS256"]),
    "ES256": ({"ALGORITHM": "ES256"}, [*SECRET_METHODS, "private_key_jwt"], ["ES256", "RS256"]),
    "RS256": ({"ALGORITHM": "RS256"}, [*SECRET_METHODS, "private_key_jwt"], ["ES256", "RS256"]),
    "fapi2": ({"PROFILE": "fapi2"}, ["private_key_jwt"], ["ES256"]),
}


@pytest.mark.parametrize("case", OFFERS)
async def test_the_metadata_list_exactly_what_is_on(start: Start, case: str) -> None:
    """By profile and algorithm, member for member."""
    config, methods, algorithms = OFFERS[case]
    metadata = await metadata_of(await start(ISSUER=ISSUER, **config))
    expected: Document = {
        "issuer": ISSUER,
        "response_types_supported": [],
        "grant_types_supported": ["client_credentials"]
        if case == "fapi2"
        else ["client_credentials", "refresh_token"],
        "dpop_signing_alg_values_supported": algorithms,
        "protected_resources": [ISSUER],
        **{name: ISSUER + path for name, path in ENDPOINTS.items()},
    }
    for endpoint in ("token", "revocation", "introspection"):
        expected[f"{endpoint}_endpoint_auth_methods_supported"] = methods
        expected[f"{endpoint}_endpoint_auth_signing_alg_values_supported"] = algorithms
    assert metadata == expected


async def test_a_change_of_the_config_is_told(
    start: Start, database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running server tells of the profile that it has now."""
    hasten(monkeypatch, "settings")
    server = await start(ISSUER=ISSUER)
    before = await metadata_of(server)
    changed = {"PROFILE": "fapi2", "ALGORITHM": "ES256"}
    database["config"].update_one({}, {"$set": changed})
    after = await metadata_of(server)
    assert "client_secret_basic" in before["token_endpoint_auth_methods_supported"]
    assert after["token_endpoint_auth_methods_supported"] == ["private_key_jwt"]


#: An issuer, and where its token endpoint is.
ISSUERS = {
    "https://auth.example.com": "https://auth.example.com/token",
    "https://auth.example.com/": "https://auth.example.com/token",
    "https://auth.example.com/machines": "https://auth.example.com/machines/token",
    "https://auth.example.com/machines/": "https://auth.example.com/machines/token",
    "https://auth.example.com:8443/a/b": "https://auth.example.com:8443/a/b/token",
}


@pytest.mark.parametrize("issuer", ISSUERS)
async def test_addresses_are_made_from_the_issuer(start: Start, issuer: str) -> None:
    """Which stands there letter for letter, as in the tokens; the endpoints are below its path."""
    server = await start(ISSUER=issuer)
    metadata = await metadata_of(server)
    assert metadata["issuer"] == issuer
    assert metadata["token_endpoint"] == ISSUERS[issuer]
    for name, path in ENDPOINTS.items():
        assert metadata[name] == ISSUERS[issuer].removesuffix("/token") + path


async def test_the_header_host_decides_nothing(start: Start) -> None:
    """Nor does what a proxy may forward of it."""
    server = await start(ISSUER=ISSUER)
    forged = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil"}
    assert await metadata_of(server, **forged) == await metadata_of(server)
    assert "evil" not in str(await metadata_of(server, **forged))


@pytest.mark.parametrize("audience", ["https://api.example.com", "https://api.example.com/v1"])
async def test_a_resource_with_an_address_is_named(start: Start, audience: str) -> None:
    """RFC 9728 section 4: clients see which resource its tokens are for."""
    metadata = await metadata_of(await start(ISSUER=ISSUER, AUDIENCE=audience))
    assert metadata["protected_resources"] == [audience]


@pytest.mark.parametrize("audience", ["reports", "urn:example:reports"])
async def test_a_resource_without_an_address_is_not_named(start: Start, audience: str) -> None:
    """There is nothing that could be asked about it."""
    assert "protected_resources" not in await metadata_of(
        await start(ISSUER=ISSUER, AUDIENCE=audience)
    )


@pytest.mark.parametrize("profile", ["default", "fapi2"])
async def test_every_endpoint_that_is_named_answers(start: Start, profile: str) -> None:
    """None is 404 or a wrong method."""
    server = await start(ISSUER=ISSUER, PROFILE=profile, ALGORITHM="ES256")
    metadata = await metadata_of(server)
    async with server.http() as http:
        for name in ENDPOINTS:
            path = urlsplit(metadata[name]).path
            is_read = name in {"jwks_uri", "revocations_endpoint"}
            response = await (http.get(path) if is_read else http.post(path))
            # What is not sent is asked for; nothing says that there is no such endpoint.
            expected = {200} if is_read else {400, 401, 422}
            assert response.status_code in expected, (name, response.text)


async def test_every_method_that_is_named_works_at_every_endpoint(start: Start) -> None:
    """Basic, post, and assertions with each algorithm; grants too."""
    server = await start(ISSUER=ISSUER)
    metadata = await metadata_of(server)
    by_secret = await new_machine(server)
    signers = [es256_key("es"), rs256_key("rs")]
    client = (
        await server.m2m.clients.register(
            scopes=["read"], jwks=jwks(*signers), token_endpoint_auth_methods=["private_key_jwt"]
        )
    ).client
    by_key = Machine(server.http(), client.client_id, "", "none")
    signing = metadata["token_endpoint_auth_signing_alg_values_supported"]
    assert [key.pair.algorithm for key in signers] == signing
    for endpoint, more in (
        ("token", {"grant_type": "client_credentials"}),
        ("introspection", {"token": "x"}),
        ("revocation", {"token": "x"}),
    ):
        path = urlsplit(metadata[f"{endpoint}_endpoint"]).path
        for method, word in (("client_secret_basic", "basic"), ("client_secret_post", "post")):
            assert method in metadata[f"{endpoint}_endpoint_auth_methods_supported"]
            response = await by_secret.using(method=word).post(path, **more)
            assert response.status_code == 200, (endpoint, method, response.text)
        for key in signers:
            assertion = key.assertion(client.client_id, ISSUER)
            response = await by_key.post(path, **fields(assertion, **more))
            assert response.status_code == 200, (endpoint, key.pair.algorithm, response.text)
    tokens = await by_secret.get_token()
    assert (await by_secret.ask_refresh(tokens)).status_code == 200
    assert set(metadata["grant_types_supported"]) == {"client_credentials", "refresh_token"}


@pytest.mark.parametrize("path", [WELL_KNOWN, "/.well-known/oauth-protected-resource"])
async def test_the_documents_may_be_kept_for_a_while(start: Start, path: str) -> None:
    """Who has one of this version is told that it has not changed."""
    server = await start(ISSUER=ISSUER)
    async with server.http() as http:
        response = await http.get(path)
        assert response.headers.get_list("cache-control") == ["public, max-age=300"]
        known = {"If-None-Match": response.headers["etag"]}
        unchanged = await http.get(path, headers=known)
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        assert unchanged.headers["etag"] == response.headers["etag"]
        assert (await http.get(path, headers={"If-None-Match": '"x"'})).status_code == 200


@pytest.mark.parametrize("path", [WELL_KNOWN, "/.well-known/oauth-protected-resource"])
async def test_the_documents_are_only_read(server: Server, path: str) -> None:
    """Another method is 405, another spelling 404; never a redirect."""
    async with server.http() as http:
        expect_error(await http.post(path), 405, "invalid_request")
        expect_error(await http.get(path + "/"), 404, "invalid_request")
