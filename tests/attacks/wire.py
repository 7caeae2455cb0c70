"""The example as one real uvicorn process, and raw bytes to send to it."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pymongo.asynchronous.database import AsyncDatabase

from example.mongodb import HOST, free_port
from oauth2_m2m import OAuth2M2M
from tests.machine import Machine, secret_of
from tests.uvicorn_process import uvicorn_process

#: After the last byte of an answer a server either closes or waits for the next request.
SILENCE_SECONDS = 0.5
#: A busy machine takes its time until the first one.
ANSWER_SECONDS = 20

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


@dataclass(frozen=True, slots=True)
class Answers:
    """All that came back on one connection.

    Attributes:
        text: every byte of it.
        closed: whether the server closed the connection in the end.
    """

    text: bytes
    closed: bool

    @property
    def statuses(self) -> list[int]:
        """The status of each answer, in turn."""
        return [int(status) for status in _STATUS_LINE.findall(self.text)]


@dataclass(frozen=True, slots=True)
class Uvicorn:
    """A running `uvicorn example.main:app`, with one worker.

    Attributes:
        port: where on loopback it listens.
        output: the file with all that it prints.
        database: the name of its database.
    """

    port: int
    output: Path
    database: str

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.port}"

    def http(self, **options: Any) -> httpx.AsyncClient:
        """An HTTP client for it."""
        return httpx.AsyncClient(base_url=self.url, timeout=30, **options)

    def send(self, *parts: bytes, pause: float = 0.0, hang_up: bool = False) -> Answers:
        """Send bytes on a connection of their own; all that comes back until it is quiet.

        Args:
            parts: what to send, piece by piece.
            pause: the seconds between two pieces.
            hang_up: whether nothing more will follow, as the server is told.
        """
        answer = b""
        with socket.create_connection((HOST, self.port), timeout=ANSWER_SECONDS) as connection:
            try:
                for part in parts:
                    connection.sendall(part)
                    time.sleep(pause)
                if hang_up:
                    connection.shutdown(socket.SHUT_WR)
                while piece := connection.recv(65536):
                    answer += piece
                    connection.settimeout(SILENCE_SECONDS)
            except TimeoutError:
                return Answers(answer, closed=False)
            except ConnectionError:
                pass  # it was closed while we were still sending
        return Answers(answer, closed=True)


@contextmanager
def uvicorn(
    mongo_url: str, database_name: str, folder: Path, *options: str, **environment: str
) -> Iterator[Uvicorn]:
    """Start the example on a database, and stop it.

    Args:
        mongo_url: the MongoDB.
        database_name: the database.
        folder: for its output.
        options: more of uvicorn's options, such as `--http h11`.
        environment: more variables.
    """
    port = free_port()
    running = Uvicorn(port, folder / f"uvicorn-{port}.log", database_name)
    arguments = ["example.main:app", "--host", HOST, "--port", str(port), *options]
    variables = {"MONGODB_URL": mongo_url, "MONGODB_DB": database_name, **environment}
    with uvicorn_process(running.output, arguments, variables, _has_started):
        yield running


def _has_started(printed: str) -> bool:
    return "Uvicorn running on" in printed


async def registered(
    database: AsyncDatabase[Any],
    http: httpx.AsyncClient,
    scopes: Sequence[str] = ("read", "write"),
    **registration: Any,
) -> Machine:
    """Register a client in the database of a uvicorn, for an HTTP client of it."""
    client = await OAuth2M2M(database).clients.register(scopes=scopes, **registration)
    return Machine(http, client.client.client_id, secret_of(client))
