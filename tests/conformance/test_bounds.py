"""The bounds of docs/operations.md at their edges: at the bound it works, one more is refused."""

from __future__ import annotations

import asyncio
import base64
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pymongo import AsyncMongoClient, MongoClient, monitoring
from pymongo.database import Database

from tests.expectations import Log, expect_error
from tests.machine import Machine, new_machine
from tests.server import Server, configure, running

AnyClient = type[MongoClient[Any]] | type[AsyncMongoClient[Any]]

LONGEST_BASIC = 20_480
#: So many requests at once that they are still answered in time on a busy machine.
CROWD = 400
#: What a worker uses of its pool, as the page says.
MOST_CONNECTIONS = 20


class Pool(monitoring.ConnectionPoolListener):
    """How many connections to MongoDB are in use.

    Attributes:
        most: how many were, at the most.
    """

    def __init__(self) -> None:
        self.most = self._in_use = 0

    def connection_checked_out(self, event: monitoring.ConnectionCheckedOutEvent) -> None:
        """One more."""
        self._in_use += 1
        self.most = max(self.most, self._in_use)

    def connection_checked_in(self, event: monitoring.ConnectionCheckedInEvent) -> None:
        """One less."""
        self._in_use -= 1

    def _nothing(self, event: object) -> None:
        """What else happens to a pool does not matter here."""

    pool_created = pool_ready = pool_cleared = pool_closed = _nothing
    connection_created = connection_ready = connection_closed = _nothing
    connection_check_out_started = connection_check_out_failed = _nothing


@pytest.mark.parametrize(
    ("length", "reason"),
    [
        (LONGEST_BASIC, "wrong or expired secret"),
        (LONGEST_BASIC + 4, "malformed Basic header: too long"),
        (30_000_000, "malformed Basic header: too long"),
    ],
)
async def test_a_basic_header_has_a_bound(
    machine: Machine, log: Log, length: int, reason: str
) -> None:
    """Credentials of 20,480 characters are read and refused, longer ones are refused unread."""
    log.new()
    pair = f"{machine.client_id}:".encode().ljust(length // 4 * 3, b"x")
    headers = {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
    form = {"grant_type": "client_credentials"}
    response = await machine.http.post("/token", data=form, headers=headers)
    expect_error(response, 401, "invalid_client")
    known = machine.client_id if length == LONGEST_BASIC else None
    log.expect("login_failure", client_id=known, reason=reason)


@asynccontextmanager
async def pooled(
    kind: AnyClient, url: str, name: str, pool: Pool, **options: Any
) -> AsyncIterator[Server]:
    """A running server whose use of its connections is watched, once it has started."""
    mongo: Any = kind(url, event_listeners=[pool], **options)
    try:
        async with running(mongo[name]) as server:
            pool.most = 0
            yield server
    finally:
        closed = mongo.close()
        if inspect.isawaitable(closed):
            await closed


async def test_a_crowd_that_asks_for_health_shares_its_pings(
    mongo_url: str, database_name: str
) -> None:
    """However many ask at once, few pings answer them, and good health is not taken for bad."""
    pool = Pool()
    async with (
        pooled(AsyncMongoClient, mongo_url, database_name, pool) as server,
        server.http() as http,
    ):
        answers = await asyncio.gather(*(http.get("/health") for _ in range(CROWD)))
    assert {answer.status_code for answer in answers} == {200}
    assert pool.most == 1


@pytest.mark.parametrize("connections", [1, 100])
@pytest.mark.parametrize("kind", [AsyncMongoClient, MongoClient])
async def test_a_crowd_uses_few_connections(
    mongo_url: str, database: Database[Any], kind: AnyClient, connections: int
) -> None:
    """Requests share commands and wait in our own queues: a pool of one is enough."""
    configure(database)
    pool = Pool()
    async with pooled(kind, mongo_url, database.name, pool, maxPoolSize=connections) as server:
        machine = await new_machine(server)
        token = (await machine.get_token()).access
        answers = await asyncio.gather(
            *(machine.ask_token() for _ in range(CROWD // 2)),
            *(machine.call(token) for _ in range(CROWD // 2)),
        )
    assert {answer.status_code for answer in answers} == {200}
    assert pool.most <= min(connections, MOST_CONNECTIONS)
