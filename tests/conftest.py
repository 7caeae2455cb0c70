"""One real MongoDB for the whole run, and a database of its own for every test."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from _pytest.nodeid import NodeId
from pymongo import AsyncMongoClient, MongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database
from pymongo.errors import OperationFailure

from example.mongodb import MongoDBUnavailable, running_mongodb
from tests.memory import fast_directory

Document = dict[str, Any]

#: A database is some thirty files, and by itself MongoDB makes a checkpoint once a minute.
DROPPED_TO_A_CHECKPOINT = 50
DROPPED = count(1)

MONGO_URL = pytest.StashKey[str]()
MONGODB = pytest.StashKey[ExitStack]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start MongoDB once, in the process that leads the run; xdist's workers are told its URL."""
    config = session.config
    if hasattr(config, "workerinput"):
        config.stash[MONGO_URL] = config.workerinput["mongo_url"]
    elif not config.option.collectonly:
        stack = config.stash[MONGODB] = ExitStack()
        data_directory = Path(tempfile.mkdtemp(prefix="oauth2-m2m-tests-", dir=fast_directory()))
        stack.callback(shutil.rmtree, data_directory, ignore_errors=True)
        try:
            config.stash[MONGO_URL] = stack.enter_context(running_mongodb(data_directory))
        except MongoDBUnavailable as error:
            stack.close()
            pytest.exit(f"error: {error}", returncode=1)
        _forget_what_is_dropped(config.stash[MONGO_URL])


def _forget_what_is_dropped(url: str) -> None:
    """Have the files of dropped databases removed at the next checkpoint.

    By itself MongoDB keeps them for five minutes, open: thousands of tests would have it run out of
    files. Somebody else's MongoDB may not let us, and must look after itself.
    """
    with MongoClient[Document](url) as client, suppress(OperationFailure):
        client.admin.command("setParameter", 1, minSnapshotHistoryWindowInSeconds=0)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what this process started, however the run ended."""
    config.stash.get(MONGODB, ExitStack()).close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Called by xdist in the leading process before it starts a worker."""
    node.workerinput["mongo_url"] = node.config.stash.get(MONGO_URL, "")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the tests of an `xdist_group` run in one process.

    pytest 9.2 looks no more where xdist 3.8 writes the group down (pytest-xdist issue 1386).
    """
    for item in items:
        named = getattr(item, "_nodeid", None)
        if named is not None:
            item._id = NodeId.parse(named)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """PyMongo's asynchronous API speaks asyncio only."""
    return "asyncio"


@pytest.fixture(scope="session")
def mongo_url(pytestconfig: pytest.Config) -> str:
    """The MongoDB of this run: the one at MONGODB_URL, else a replica set started for it."""
    return pytestconfig.stash[MONGO_URL]


@pytest.fixture(scope="session")
def mongo_client(mongo_url: str) -> Iterator[MongoClient[Document]]:
    """For looking and tidying up; code under test has a client of its own."""
    with MongoClient[Document](mongo_url, tz_aware=True) as client:
        yield client


@pytest.fixture
def database_name(mongo_client: MongoClient[Document]) -> Iterator[str]:
    """A name that no other test has, in this run or in another; dropped when the test is over."""
    name = f"oauth2_m2m_test_{uuid.uuid4().hex}"
    yield name
    mongo_client.drop_database(name)
    if next(DROPPED) % DROPPED_TO_A_CHECKPOINT == 0:
        with suppress(OperationFailure):
            mongo_client.admin.command("fsync")


@pytest.fixture
def database(mongo_client: MongoClient[Document], database_name: str) -> Database[Document]:
    """The test's database, to look at what was written. Its dates are aware, in UTC."""
    return mongo_client[database_name]


@pytest.fixture
async def async_database(
    mongo_url: str, database_name: str
) -> AsyncIterator[AsyncDatabase[Document]]:
    """The test's database on the test's event loop, to hand to the code under test."""
    async with AsyncMongoClient[Document](mongo_url) as client:
        yield client[database_name]
