"""Other people's OAuth clients, against a real server on a real socket."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from oauthlib.oauth2 import (
    BackendApplicationClient,
    InvalidClientError,
    InvalidGrantError,
    InvalidScopeError,
)
from requests.auth import HTTPBasicAuth
from requests_oauthlib import OAuth2Session

from tests.interop.conftest import Credentials, Server, Serving


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
    """Oauthlib refuses plain HTTP otherwise; nothing leaves this machine."""
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")


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
