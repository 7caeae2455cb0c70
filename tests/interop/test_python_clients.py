"""Other people's OAuth clients, against a real server on a real socket."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import jwt as pyjwt
import pytest
import requests
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from authlib.oauth2.rfc6750 import InvalidTokenError
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
from authlib.oauth2.rfc9068 import JWTBearerTokenValidator
from httpx_auth import InvalidGrantRequest, OAuth2ClientCredentials
from joserfc.errors import JoseError
from joserfc.jwk import import_key
from joserfc.jwt import JWTClaimsRegistry
from jwt import PyJWKClient, PyJWTError
from oauthlib.oauth2 import (
    BackendApplicationClient,
    InvalidClientError,
    InvalidGrantError,
    InvalidScopeError,
    OAuth2Error,
)
from requests.auth import AuthBase, HTTPBasicAuth
from requests_oauth2client import (
    ClientSecretBasic,
    ClientSecretPost,
    DPoPToken,
    EndpointError,
    MissingDPoPNonce,
    OAuth2Client,
    PrivateKeyJwt,
)
from requests_oauthlib import OAuth2Session

from tests.interop.conftest import FOREIGN, RESOURCES, Credentials, Server, Serving


@pytest.fixture
def server(serving: Serving) -> Server:
    """A server with nothing set."""
    return serving()


@pytest.fixture
def client(server: Server) -> Credentials:
    """A client registered there, with the scopes read and write."""
    return server.register()


@pytest.fixture(autouse=True)
def _plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """They refuse plain HTTP otherwise; nothing leaves this machine."""
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")


# --- requests-oauthlib --------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["basic", "post"])
def test_requests_oauthlib(server: Server, client: Credentials, method: str) -> None:
    """Client credentials by Basic and post, a call, a refresh and a revocation, all by itself."""
    client_id, client_secret = client.client_id, client.client_secret
    credentials = {"client_id": client_id, "client_secret": client_secret}
    auth = HTTPBasicAuth(client_id, client_secret) if method == "basic" else None
    with OAuth2Session(client=BackendApplicationClient(client_id, scope=["read"])) as session:
        token = session.fetch_token(
            f"{server.issuer}/token",
            auth=auth,
            client_secret=client_secret,
            include_client_id=method == "post",
        )
        assert token["token_type"] == "bearer"
        assert list(token["scope"]) == ["read"]
        assert session.get(f"{server.issuer}/protected").status_code == 200
        assert session.get(f"{server.issuer}/admin-only").status_code == 403

        form: dict[str, Any] = {} if auth else credentials
        refreshed = session.refresh_token(f"{server.issuer}/token", auth=auth, **form)
        assert refreshed["refresh_token"] != token["refresh_token"]
        assert session.get(f"{server.issuer}/protected").status_code == 200

        # oauthlib prepares the request of RFC 7009, and leaves sending it to us.
        url, headers, body = BackendApplicationClient(client_id).prepare_token_revocation_request(
            f"{server.issuer}/revoke".replace("http://", "https://"), refreshed["access_token"]
        )
        revoked = requests.post(
            url.replace("https://", "http://"),
            headers=headers,
            data=body if auth else f"{body}&client_id={client_id}&client_secret={client_secret}",
            auth=auth,
            timeout=10,
        )
        assert (revoked.status_code, revoked.content) == (200, b"")
        assert session.get(f"{server.issuer}/protected").status_code == 401


def test_requests_oauthlib_understands_our_errors(server: Server, client: Credentials) -> None:
    """A refusal becomes the exception that the library has for its code."""
    client_id, client_secret = client.client_id, client.client_secret
    url = f"{server.issuer}/token"
    with OAuth2Session(client=BackendApplicationClient(client_id)) as session:
        with pytest.raises(InvalidClientError):
            session.fetch_token(url, client_id=client_id, client_secret="wrong")
        token = session.fetch_token(url, client_id=client_id, client_secret=client_secret)
        auth = HTTPBasicAuth(client_id, client_secret)
        spent = token["refresh_token"]
        session.refresh_token(url, auth=auth)
        with pytest.raises(InvalidGrantError):
            session.refresh_token(url, refresh_token=spent, auth=auth)
    with (
        OAuth2Session(client=BackendApplicationClient(client_id, scope=["admin"])) as session,
        pytest.raises(InvalidScopeError),
    ):
        session.fetch_token(url, client_id=client_id, client_secret=client_secret)


# --- Authlib ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_authlib(server: Server, client: Credentials, method: str) -> None:
    """Client credentials, a call, a refresh and a revocation with Authlib on requests."""
    with AuthlibSession(
        client.client_id,
        client.client_secret,
        scope="read",
        token_endpoint_auth_method=method,
        revocation_endpoint_auth_method=method,
    ) as session:
        token = session.fetch_token(f"{server.issuer}/token", grant_type="client_credentials")
        assert token["scope"] == "read"
        assert session.get(f"{server.issuer}/protected").status_code == 200
        refreshed = session.refresh_token(f"{server.issuer}/token")
        assert refreshed["refresh_token"] != token["refresh_token"]
        assert session.get(f"{server.issuer}/protected").status_code == 200

        revoked = session.revoke_token(  # type: ignore[no-untyped-call]
            f"{server.issuer}/revoke", refreshed["refresh_token"]
        )
        assert revoked.status_code == 200
        assert session.get(f"{server.issuer}/protected").status_code == 401
        with pytest.raises(OAuthError, match="invalid_grant"):
            session.refresh_token(f"{server.issuer}/token", refreshed["refresh_token"])
        with pytest.raises(OAuthError, match="invalid_scope"):
            session.fetch_token(
                f"{server.issuer}/token", grant_type="client_credentials", scope="admin"
            )


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_authlib_on_httpx(server: Server, client: Credentials, method: str) -> None:
    """The same with Authlib's asynchronous client."""
    async with AsyncOAuth2Client(
        client.client_id, client.client_secret, token_endpoint_auth_method=method
    ) as session:
        token = await session.fetch_token(f"{server.issuer}/token", grant_type="client_credentials")
        assert token["scope"] == "read write"
        assert (await session.get(f"{server.issuer}/protected")).status_code == 200
        refreshed = await session.refresh_token(f"{server.issuer}/token")
        assert refreshed["refresh_token"] != token["refresh_token"]
        revoked = await session.revoke_token(  # type: ignore[no-untyped-call]
            f"{server.issuer}/revoke", refreshed["access_token"]
        )
        assert revoked.status_code == 200
        assert (await session.get(f"{server.issuer}/protected")).status_code == 401


# --- requests_oauth2client ----------------------------------------------------------------------


def discovered(server: Server, auth: AuthBase, **options: Any) -> OAuth2Client:
    """A client that knows its credentials, and where the metadata are."""
    return OAuth2Client.from_discovery_endpoint(
        f"{server.issuer}/.well-known/oauth-authorization-server",
        issuer=server.issuer,
        auth=auth,
        testing=True,  # plain HTTP, on this machine only
        **options,
    )


def authentication(server: Server, method: str, **options: Any) -> AuthBase:
    """The credentials of a client that authenticates in this way."""
    if method == "private_key_jwt":
        client = server.register_with_key()
        # It names the address that it sends to, but under `fapi2`, where the issuer must be named.
        return PrivateKeyJwt(client.client_id, client.private_jwk, **options)
    client = server.register()
    kind = ClientSecretBasic if method == "client_secret_basic" else ClientSecretPost
    return kind(client.client_id, client.client_secret)


def is_refused(session: requests.Session, server: Server, token: AuthBase) -> bool:
    """Whether a guarded route is closed to a token now."""
    try:
        return session.get(f"{server.issuer}/protected", auth=token).status_code == 401
    except MissingDPoPNonce:  # it takes every DPoP challenge for the wish for a nonce
        return True


@pytest.mark.parametrize("token_type", ["bearer", "dpop"])
@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", "private_key_jwt"])
def test_requests_oauth2client(serving: Serving, method: str, token_type: str) -> None:
    """Discovery, a token, calls, a refresh, introspection and revocation, all by itself."""
    server = serving(ALGORITHM="ES256")
    client = discovered(
        server,
        authentication(server, method),
        dpop_bound_access_tokens=token_type == "dpop",
    )
    with client.session as session:
        token = client.client_credentials(scope="read")
        assert token.token_type.lower() == token_type
        assert session.get(f"{server.issuer}/protected", auth=token).status_code == 200
        assert session.get(f"{server.issuer}/admin-only", auth=token).status_code == 403

        refreshed = client.refresh_token(token)
        assert refreshed.token_type.lower() == token_type
        assert refreshed.refresh_token != token.refresh_token
        assert session.get(f"{server.issuer}/protected", auth=refreshed).status_code == 200

        introspected = client.introspect_token(refreshed)
        assert introspected["active"] is True
        assert introspected["client_id"] == client.client_id
        assert introspected["token_type"].lower() == token_type
        assert client.introspect_token(refreshed, "refresh_token")["active"] is True
        assert client.revoke_access_token(refreshed) is True
        assert is_refused(session, server, refreshed)
        assert client.introspect_token(refreshed) == {"active": False}
        assert client.revoke_refresh_token(refreshed) is True
        assert client.introspect_token(refreshed, "refresh_token") == {"active": False}


def test_requests_oauth2client_under_fapi2(serving: Serving) -> None:
    """Under the FAPI 2.0 profile too: private_key_jwt, DPoP, and no refresh token."""
    server = serving(ALGORITHM="ES256", PROFILE="fapi2")
    client = discovered(
        server,
        authentication(server, "private_key_jwt", aud=server.issuer),
        dpop_bound_access_tokens=True,
    )
    with client.session as session:
        token = client.client_credentials(scope="read")
        assert isinstance(token, DPoPToken)
        assert token.refresh_token is None
        assert session.get(f"{server.issuer}/protected", auth=token).status_code == 200
        assert client.introspect_token(token)["cnf"] == {"jkt": token.dpop_key.dpop_jkt}
        assert client.revoke_access_token(token) is True
        assert is_refused(session, server, token)


def test_requests_oauth2client_comes_again_with_our_nonce(serving: Serving) -> None:
    """A library that is asked for a nonce, by /token or by a guarded route, takes ours."""
    server = serving(ALGORITHM="ES256", DPOP_REQUIRE_NONCE=True)
    client = discovered(
        server, authentication(server, "client_secret_basic"), dpop_bound_access_tokens=True
    )
    with client.session as session:
        token = client.client_credentials(scope="read")
        assert session.get(f"{server.issuer}/protected", auth=token).status_code == 200
        assert isinstance(token, DPoPToken)
        assert token.dpop_key.as_nonce
        assert token.dpop_key.rs_nonce
        refreshed = client.refresh_token(token)
        assert session.get(f"{server.issuer}/protected", auth=refreshed).status_code == 200


# --- httpx-auth ---------------------------------------------------------------------------------


def test_httpx_auth(serving: Serving) -> None:
    """A token by itself at the first call, for the resource that it asks for."""
    server = serving(ALGORITHM="ES256")
    client = server.register(audience=[server.issuer, *RESOURCES])

    def auth(**options: Any) -> OAuth2ClientCredentials:
        return OAuth2ClientCredentials(
            f"{server.issuer}/token",
            **{"client_id": client.client_id, "client_secret": client.client_secret, **options},
        )

    def status(path: str, **options: Any) -> int:
        return httpx.get(f"{server.issuer}{path}", auth=auth(**options)).status_code

    assert status("/protected", scope="read") == 200
    assert status("/admin-only", scope="read") == 403
    assert status("/protected", scope="read", resource=server.issuer) == 200
    assert status("/protected", scope="read", resource=RESOURCES[0]) == 401
    with pytest.raises(InvalidGrantRequest, match="invalid_client"):
        status("/protected", client_secret="wrong")
    with pytest.raises(InvalidGrantRequest, match="invalid_target"):
        status("/protected", resource=FOREIGN)


# --- what several of them do --------------------------------------------------------------------


def test_our_metadata_are_valid(serving: Serving) -> None:
    """Authlib finds nothing to complain of in what we publish (RFC 8414)."""
    metadata = serving(ALGORITHM="ES256").metadata()
    assert metadata["response_types_supported"] == []  # taken for a missing one
    AuthorizationServerMetadata(metadata | {"response_types_supported": ["none"]}).validate()


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_authlib_introspects(serving: Serving, method: str) -> None:
    """Authlib asks what a token is worth, before and after it is revoked."""
    server = serving(ALGORITHM="ES256")
    client = server.register()
    metadata = server.metadata()
    with AuthlibSession(
        client.client_id,
        client.client_secret,
        token_endpoint_auth_method=method,
        revocation_endpoint_auth_method=method,
    ) as session:
        token = session.fetch_token(metadata["token_endpoint"], grant_type="client_credentials")

        def introspected(kind: str) -> Any:
            url = metadata["introspection_endpoint"]
            return session.introspect_token(url, token[kind], kind).json()

        assert introspected("access_token")["active"] is True
        assert introspected("refresh_token")["active"] is True
        session.revoke_token(metadata["revocation_endpoint"], token["refresh_token"])  # type: ignore[no-untyped-call]
        assert introspected("access_token") == introspected("refresh_token") == {"active": False}


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_authlib_signs_its_assertions(serving: Serving, algorithm: str) -> None:
    """Authlib's private_key_jwt names the token endpoint, and lives as long as we allow."""
    server = serving(ALGORITHM="ES256")
    client = server.register_with_key(algorithm)
    url = server.metadata()["token_endpoint"]
    key = import_key(client.private_jwk)
    with AuthlibSession(
        client.client_id, key, token_endpoint_auth_method="private_key_jwt"
    ) as session:
        in_a_minute = {"exp": int(time.time()) + 60}  # an hour, unless it is told
        session.register_client_auth_method(PrivateKeyJWT(url, claims=in_a_minute, alg=algorithm))
        session.fetch_token(url, grant_type="client_credentials", scope="read")
        assert session.get(f"{server.issuer}/protected").status_code == 200


@pytest.mark.parametrize("library", ["requests_oauth2client", "requests-oauthlib"])
def test_resource_indicators(serving: Serving, library: str) -> None:
    """A token is for the resources that were asked for, and for no foreign one."""
    server = serving(ALGORITHM="ES256")
    client = server.register(audience=RESOURCES)

    def token_for(resource: str | list[str]) -> str:
        if library == "requests_oauth2client":
            own = ClientSecretBasic(client.client_id, client.client_secret)
            with (asking := discovered(server, own)).session:
                return asking.client_credentials(resource=resource).access_token
        with OAuth2Session(client=BackendApplicationClient(client.client_id)) as session:
            auth = HTTPBasicAuth(client.client_id, client.client_secret)
            url = server.metadata()["token_endpoint"]
            return str(session.fetch_token(url, auth=auth, resource=resource)["access_token"])

    assert server.claims(token_for(RESOURCES[0]))["aud"] == RESOURCES[0]
    with pytest.raises((EndpointError, OAuth2Error)) as refused:
        token_for(FOREIGN)
    error: Any = refused.value
    assert error.error == "invalid_target"


# --- resource servers ---------------------------------------------------------------------------


class AuthlibValidator(JWTBearerTokenValidator):
    """Authlib's resource server, with the keys that we publish."""

    def __init__(self, server: Server, audience: str) -> None:
        super().__init__(server.issuer, audience)
        self.keys = server.keys()

    def get_jwks(self) -> Any:
        """The keys to check with."""
        return self.keys


def read_by_authlib(server: Server, token: str, audience: str) -> dict[str, Any]:
    validator = AuthlibValidator(server, audience)
    claims = validator.authenticate_token(token)
    validator.validate_token(claims, ["read"], None)
    return dict(claims)


def read_by_joserfc(server: Server, token: str, audience: str) -> dict[str, Any]:
    claims = server.claims(token)
    JWTClaimsRegistry(
        iss={"essential": True, "value": server.issuer},
        aud={"essential": True, "value": audience},
        exp={"essential": True},
    ).validate(claims)
    return claims


def read_by_pyjwt(server: Server, token: str, audience: str) -> dict[str, Any]:
    key = PyJWKClient(server.metadata()["jwks_uri"]).get_signing_key_from_jwt(token)
    claims: dict[str, Any] = pyjwt.decode(
        token,
        key,
        algorithms=["ES256", "RS256"],
        issuer=server.issuer,
        audience=audience,
        options={"require": ["exp", "iat", "jti", "sub", "aud", "iss"]},
    )
    return claims


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
@pytest.mark.parametrize("read", [read_by_authlib, read_by_joserfc, read_by_pyjwt])
def test_resource_servers_read_our_tokens(
    serving: Serving, read: Callable[[Server, str, str], dict[str, Any]], algorithm: str
) -> None:
    """Whoever knows our issuer validates a token without us, by RFC 9068; and no forged one."""
    server = serving(ALGORITHM=algorithm)
    client = server.register()
    token = server.access_token(client)
    claims = read(server, token, server.issuer)
    assert claims["client_id"] == claims["sub"] == client.client_id
    refusals = (JoseError, PyJWTError, InvalidTokenError)
    with pytest.raises(refusals):
        read(server, token, FOREIGN)
    head, signature = token.rsplit(".", 1)
    forged = f"{head}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"
    with pytest.raises(refusals):
        read(server, forged, server.issuer)
