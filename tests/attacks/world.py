"""The server that the machine plays against: its loop, its clocks, and the ways to send to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from types import SimpleNamespace
from typing import Any, TypeVar
from urllib.parse import urlencode

import httpx
import pytest
from pymongo import AsyncMongoClient
from pymongo.database import Database

from tests.attacks.garbage import FORM, JSON, Sent
from tests.attacks.witness import Witness
from tests.clocks import PROMISED_SECONDS, Clock
from tests.server import BASE_URL, LIMIT_OUT_OF_REACH, Server, configure, running

T = TypeVar("T")
#: So many requests are under way at once, where nobody minds their order.
MOST_AT_ONCE = 25


class World:
    """A running server, on a loop of its own.

    Attributes:
        server: the server.
        witness: who looks at every answer.
        database: its database, as an operator has it.
        now: what the server takes for the time; it stands still between steps.
    """

    def __init__(
        self,
        runner: asyncio.Runner,
        server: Server,
        database: Database[Any],
        clocks: Sequence[Clock],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.server = server
        self.database = database
        self.witness = Witness(server.app)
        self._runner = runner
        self._http = httpx.AsyncClient(transport=self.witness, base_url=BASE_URL)
        self._clocks = clocks
        for room in ("admission", "clients", "token_management"):
            monkeypatch.setattr(f"_oauth2_m2m.{room}.datetime", SimpleNamespace(now=self._moment))
        self.begin()

    def begin(self) -> None:
        """A new story: the present moment, the settings of a new server, and no secrets."""
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.witness.secrets.clear()
        self.configure(
            REFRESH_GRACE_SECONDS=0,
            REFRESH_REQUIRES_CLIENT_AUTH=False,
            ISSUE_REFRESH_TOKENS=True,
            MAX_REQUESTS_PER_MINUTE=LIMIT_OUT_OF_REACH,
        )

    def _moment(self, zone: tzinfo) -> datetime:
        return self.now.astimezone(zone)

    def let_pass(self, seconds: float) -> None:
        """Time passes for the server."""
        self.now += timedelta(seconds=seconds)

    def configure(self, **fields: Any) -> None:
        """Edit the config by hand, and wait until it is seen."""
        self.database["config"].update_one({"_id": "jwt_config"}, {"$set": fields})
        self.wait()

    def wait(self) -> None:
        """Wait until what an operator typed is seen by promise."""
        for clock in self._clocks:
            clock.let_pass(PROMISED_SECONDS)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the server's loop."""
        return self._runner.run(work)

    def send(self, sent: Sent) -> httpx.Response:
        """Send a request."""
        return self.run(self._send(sent))

    def send_at_once(self, requests: Sequence[Sent]) -> list[httpx.Response]:
        """Send requests side by side; the answers, in their order."""

        async def all_of_them() -> list[httpx.Response]:
            answers: list[httpx.Response] = []
            for first in range(0, len(requests), MOST_AT_ONCE):
                some = requests[first : first + MOST_AT_ONCE]
                answers += await asyncio.gather(*map(self._send, some))
            return answers

        return self.run(all_of_them())

    async def _send(self, sent: Sent) -> httpx.Response:
        return await self._http.request(
            sent.method, BASE_URL + sent.target, headers=list(sent.headers), content=sent.body
        )


def form(path: str, fields: dict[str, str], headers: dict[str, str]) -> Sent:
    """A form as it is sent."""
    return Sent("POST", path, _headers(FORM, headers), urlencode(fields).encode())


def document(path: str, members: dict[str, Any], headers: dict[str, str]) -> Sent:
    """A JSON object as it is sent."""
    return Sent("POST", path, _headers(JSON, headers), json.dumps(members).encode())


def _headers(content_type: str, others: dict[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    headers = {"content-type": content_type, **others}
    return tuple((name.lower().encode(), value.encode()) for name, value in headers.items())


@contextmanager
def world_on(
    mongo_url: str, database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A world on the test's database."""
    configure(database)
    clocks = [Clock(monkeypatch, room) for room in ("settings", "clients")]
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        mongo = AsyncMongoClient[dict[str, Any]](mongo_url)
        stack.push_async_callback(mongo.close)
        try:
            server = runner.run(stack.enter_async_context(running(mongo[database.name])))
            yield World(runner, server, database, clocks, monkeypatch)
        finally:
            runner.run(stack.aclose())
