"""Servers of ours on real sockets, and clients registered at them."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
import uvicorn
from joserfc import jwt
from joserfc.jwk import ECKey, KeyParameters, KeySet, RSAKey
from pymongo import MongoClient
from pymongo.database import Database

from oauth2_m2m import OAuth2M2M
from tests.server import configure, guarded_app

STARTING_SECONDS = 30

#: What a client may ask a token for (RFC 8707), and what it may not.
RESOURCES = ["https://orders.example/", "https://stock.example/api"]
FOREIGN = "https://elsewhere.example/"

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client's owner was told once."""

    client_id: str
    client_secret: str = field(repr=False)
    private_jwk: Document = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Server:
    """A running server of ours, whose issuer is the address at which it is reached."""

    issuer: str
    database: Database[Document]

    def register(self, *, role: str = "user", **fields: Any) -> Credentials:
        """Register a client with the scopes read and write.

        Args:
            role: the role that its tokens carry.
            fields: what an operator writes into its document besides, such as `jwks`.
        """
        registering = OAuth2M2M(self.database).clients.register(scopes=["read", "write"], role=role)
        registered = asyncio.run(registering)
        client_id = registered.client.client_id
        if fields:
            self.database["clients"].update_one({"client_id": client_id}, {"$set": fields})
        return Credentials(client_id, registered.client_secret or "")

    def register_with_key(self, algorithm: str = "ES256", **fields: Any) -> Credentials:
        """Register a client that authenticates with a key of its own, by private_key_jwt."""
        parameters: KeyParameters = {"kid": uuid.uuid4().hex, "alg": algorithm, "use": "sig"}
        key = (
            ECKey.generate_key("P-256", parameters)
            if algorithm == "ES256"
            else RSAKey.generate_key(2048, parameters)
        )
        client = self.register(jwks={"keys": [key.as_dict(private=False)]}, **fields)
        return replace(client, private_jwk=key.as_dict(private=True))

    def metadata(self) -> Document:
        """What it publishes about itself (RFC 8414)."""
        response = httpx.get(f"{self.issuer}/.well-known/oauth-authorization-server")
        document: Document = response.raise_for_status().json()
        return document

    def keys(self) -> KeySet:
        """The keys that it publishes (RFC 7517)."""
        return KeySet.import_key_set(httpx.get(self.metadata()["jwks_uri"]).json())

    def access_token(self, client: Credentials, **form: str) -> str:
        """A token that a client got without anybody's library."""
        response = httpx.post(
            f"{self.issuer}/token",
            data={"grant_type": "client_credentials", **form},
            auth=(client.client_id, client.client_secret),
        )
        token: str = response.raise_for_status().json()["access_token"]
        return token

    def claims(self, access_token: str) -> Document:
        """What a token of this server says, its signature checked by joserfc."""
        return jwt.decode(access_token, self.keys(), algorithms=["ES256", "RS256"]).claims


Serving = Callable[..., Server]


@pytest.fixture(scope="session")
def serving(mongo_client: MongoClient[Document]) -> Iterator[Serving]:
    """The server with the given config fields: `serving(ALGORITHM="ES256")`.

    Started when it is first asked for, and there until the run is over: a start costs more than the
    tests that use it.
    """
    running: dict[str, Server] = {}
    with ExitStack() as stack:

        def server(**config: Any) -> Server:
            key = json.dumps(config, sort_keys=True)
            if key not in running:
                running[key] = stack.enter_context(served(mongo_client, config))
            return running[key]

        yield server


@contextmanager
def served(mongo_client: MongoClient[Document], config: Document) -> Iterator[Server]:
    """A server in a thread of its own, on a synchronous database of its own."""
    database = mongo_client[f"oauth2_m2m_test_{uuid.uuid4().hex}"]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        issuer = f"http://127.0.0.1:{listening.getsockname()[1]}"
        configure(database, ISSUER=issuer, **config)
        app = guarded_app(OAuth2M2M(database))
        server = uvicorn.Server(uvicorn.Config(app, lifespan="on", ws="none", log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            patience = time.monotonic() + STARTING_SECONDS
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                assert time.monotonic() < patience, "the server takes too long to start"
                time.sleep(0.02)
            yield Server(issuer, database)
        finally:
            server.should_exit = True
            thread.join()
            mongo_client.drop_database(database.name)
