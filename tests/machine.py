"""A simulated machine: what a client does all day, in one line each; and the log of it."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlencode

import httpx
from pymongo.database import Database

from oauth2_m2m import RegisteredClient
from tests.server import HOME, Server

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a token request got."""

    access: str
    refresh: str
    scope: str
    body: Document = field(repr=False)

    @classmethod
    def of(cls, response: httpx.Response) -> Tokens:
        """Read a token response, which must be a success."""
        assert response.status_code == 200, response.text
        body = response.json()
        return cls(body["access_token"], body.get("refresh_token", ""), body["scope"], body)


@dataclass(frozen=True, slots=True)
class Machine:
    """A registered client at an address.

    The methods that return `Tokens` insist on success; those named `ask_...` return the response.

    Attributes:
        http: the HTTP client that it sends with.
        client_id: its id.
        client_secret: its secret.
        method: `basic`, `post`, or `plain` for username and password.
    """

    http: httpx.AsyncClient
    client_id: str
    client_secret: str = field(repr=False)
    method: str = "basic"

    def using(self, **changes: Any) -> Machine:
        """The same machine with another method, secret or HTTP client."""
        return replace(self, **changes)

    async def get_token(self, scope: str | None = None, **fields: str) -> Tokens:
        """Get tokens by client credentials, or by username and password."""
        return Tokens.of(await self.ask_token(scope, **fields))

    async def ask_token(self, scope: str | None = None, **fields: str) -> httpx.Response:
        """The same, whatever comes of it."""
        if self.method != "plain":
            fields = {"grant_type": "client_credentials", **fields}
        return await self.post("/token", **_with_scope(fields, scope))

    async def refresh(self, tokens: Tokens | str, scope: str | None = None) -> Tokens:
        """Exchange a refresh token at /token, with client authentication."""
        return Tokens.of(await self.ask_refresh(tokens, scope))

    async def ask_refresh(self, tokens: Tokens | str, scope: str | None = None) -> httpx.Response:
        """The same, whatever comes of it."""
        fields = {"grant_type": "refresh_token", "refresh_token": _refresh_token(tokens)}
        standard = self if self.method != "plain" else self.using(method="post")
        return await standard.post("/token", **_with_scope(fields, scope))

    async def refresh_plainly(self, tokens: Tokens | str, **members: str) -> Tokens:
        """Exchange a refresh token at /refresh, as JSON."""
        return Tokens.of(await self.ask_refresh_plainly(tokens, **members))

    async def ask_refresh_plainly(self, tokens: Tokens | str, **members: str) -> httpx.Response:
        """The same, whatever comes of it."""
        body = {"refresh_token": _refresh_token(tokens), **members}
        return await self.http.post("/refresh", json=body)

    async def revoke(self, token: str, **fields: str) -> httpx.Response:
        """Revoke a token by RFC 7009."""
        standard = self if self.method != "plain" else self.using(method="post")
        return await standard.post("/revoke", token=token, **fields)

    async def revoke_plainly(self, **members: str) -> httpx.Response:
        """Revoke `access_token=...` or `refresh_token=...`, as JSON."""
        return await self.http.post("/revoke", json=members)

    async def call(self, tokens: Tokens | str, path: str = "/protected") -> httpx.Response:
        """Call a guarded route with an access token."""
        text = tokens if isinstance(tokens, str) else tokens.access
        return await self.http.get(path, headers={"Authorization": f"Bearer {text}"})

    async def post(self, path: str, **fields: str) -> httpx.Response:
        """Send a form, authenticated in this machine's way."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if self.method == "basic":
            headers["Authorization"] = basic(self.client_id, self.client_secret)
        elif self.method == "post":
            fields = {"client_id": self.client_id, "client_secret": self.client_secret, **fields}
        elif self.method == "plain":
            fields = {"username": self.client_id, "password": self.client_secret, **fields}
        return await self.http.post(path, content=urlencode(fields), headers=headers)


async def new_machine(
    server: Server,
    *,
    scopes: Collection[str] = ("read", "write"),
    method: str = "basic",
    ip: str = HOME,
    **registration: Any,
) -> Machine:
    """Register a client with a made secret, which no slow hash protects, and give it a machine."""
    registered = await server.m2m.clients.register(scopes=scopes, **registration)
    return Machine(server.http(ip), registered.client.client_id, secret_of(registered), method)


def secret_of(registered: RegisteredClient) -> str:
    """The secret of a client that was registered with one, or given a new one."""
    assert registered.client_secret is not None
    return registered.client_secret


def type_client(
    server: Server, database: Database[Any], client_id: str, client_secret: str, **fields: Any
) -> Machine:
    """Write a client by hand, as an operator does in mongosh, and give it a machine."""
    document = {"client_id": client_id, "scopes": ["read", "write"], "role": "user", **fields}
    database["clients"].insert_one({"client_secret": client_secret, **document})
    return Machine(server.http(), client_id, client_secret)


def claims_of(token: str) -> Document:
    """What an access token says, unchecked."""
    claims: Document = json.loads(_b64_decode(token.split(".")[1]))
    return claims


def resigned(token: str, secret_key: str, **changes: Any) -> str:
    """An access token with some of its claims changed, signed with the key of the config."""
    header, payload, _ = token.split(".")
    claims = {**json.loads(_b64_decode(payload)), **changes}
    message = f"{header}.{_b64(json.dumps(claims).encode())}"
    return f"{message}.{_b64(hmac.digest(secret_key.encode(), message.encode(), 'sha256'))}"


def basic(client_id: str, client_secret: str) -> str:
    """The value of the header `Authorization` of `client_secret_basic`. RFC 6749 section 2.3.1."""
    pair = f"{quote(client_id, safe='')}:{quote(client_secret, safe='')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def audit(database: Database[Any], **query: Any) -> list[Document]:
    """The audit records that match, oldest first; those of registering clients left out.

    For example `audit(database, client_id=machine.client_id)`.
    """
    query = {"event_type": {"$ne": "client_created"}, **query}
    return list(database["audit_logs"].find(query, sort=[("timestamp", 1), ("_id", 1)]))


def events(database: Database[Any], **query: Any) -> list[str]:
    """The event types of the audit records that match, oldest first."""
    return [record["event_type"] for record in audit(database, **query)]


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _b64_decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _with_scope(fields: dict[str, str], scope: str | None) -> dict[str, str]:
    return fields if scope is None else {**fields, "scope": scope}


def _refresh_token(tokens: Tokens | str) -> str:
    return tokens if isinstance(tokens, str) else tokens.refresh
