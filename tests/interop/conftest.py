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
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from pymongo import MongoClient
from pymongo.database import Database

from oauth2_m2m import OAuth2M2M
from tests.server import configure, guarded_app

STARTING_SECONDS = 30

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client's owner was told once."""

    client_id: str
    client_secret: str = field(repr=False)


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
        return Credentials(client_id, registered.client_secret)


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
