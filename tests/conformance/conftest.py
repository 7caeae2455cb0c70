"""A running server for every test of what it promises on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from tests.expectations import Log
from tests.machine import Machine, new_machine
from tests.server import Server, configure, running

#: Starts a server with these fields in its config.
Start = Callable[..., Awaitable[Server]]


@pytest.fixture
async def start(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> AsyncIterator[Start]:
    """To start a server with a config of one's own, such as MAX_REQUESTS_PER_MINUTE=3."""
    async with AsyncExitStack() as stack:

        async def start_server(**config: Any) -> Server:
            configure(database, **config)
            return await stack.enter_async_context(running(async_database))

        yield start_server


@pytest.fixture
async def server(start: Start) -> Server:
    """A server with the settings that it has by itself, limits out of reach."""
    return await start()


@pytest.fixture
async def machine(server: Server) -> Machine:
    """A client with the scopes read and write, authenticating by Basic."""
    return await new_machine(server)


@pytest.fixture
def log(database: Database[Any]) -> Log:
    """The audit log of the test's server; what a test prepares with is new in it too."""
    return Log(database)
