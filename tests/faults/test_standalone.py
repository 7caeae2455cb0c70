"""A standalone mongod, as people run it on a laptop: no replica set, no oplog."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import PyMongoError

from _oauth2_m2m.revocation import Revocation, published
from _oauth2_m2m.revocation_feed import RevocationFeed
from _oauth2_m2m.storage import Storage
from example.mongodb import HOST, MongoDBUnavailable, find_mongod, free_port
from oauth2_m2m import ConfigurationError
from tests.expectations import early_in_the_minute
from tests.followers import Follower
from tests.machine import audit, events, new_machine
from tests.server import configure, running

START_SECONDS = 60
STOP_SECONDS = 20

#: Both tests here share the mongod, and so the pytest worker that starts it.
pytestmark = pytest.mark.xdist_group("standalone")


@pytest.fixture(scope="module")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a mongod that belongs to no replica set."""
    folder = tmp_path_factory.mktemp("standalone")
    try:
        mongod = find_mongod(folder)
    except MongoDBUnavailable as error:  # the run uses the MongoDB at MONGODB_URL
        pytest.skip(str(error))
    url, process = _started(mongod, folder)
    try:
        yield url
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _started(mongod: Path, folder: Path) -> tuple[str, subprocess.Popen[bytes]]:
    data, output, port = folder / "data", folder / "mongod.log", free_port()
    data.mkdir()
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [
                *(mongod, "--bind_ip", HOST, "--port", str(port), "--nounixsocket"),
                *("--dbpath", data, "--wiredTigerCacheSizeGB", "0.25"),
                *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    url, deadline = f"mongodb://{HOST}:{port}", time.monotonic() + START_SECONDS
    with MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=500) as client:
        while True:
            try:
                client.admin.command("ping")
            except PyMongoError:
                if process.poll() is None and time.monotonic() < deadline:
                    continue
                process.kill()
                process.wait()
                pytest.fail(output.read_text())
            return url, process


async def test_linearizable_reads_stop_the_start_of_a_standalone(
    standalone: str, database_name: str
) -> None:
    """One line says what is set, that this MongoDB does not serve it, and what to do."""
    with MongoClient[dict[str, Any]](standalone) as client:
        configure(client[database_name], REVOCATION_READ_CONCERN="linearizable")
        async with AsyncMongoClient[dict[str, Any]](standalone) as mongo:
            with pytest.raises(ConfigurationError) as refusal:
                async with running(mongo[database_name]):
                    pytest.fail("it started")
    line = str(refusal.value)
    assert "\n" not in line
    for words in ("REVOCATION_READ_CONCERN", "replica set", "majority"):
        assert words in line


async def test_everything_else_works_on_a_standalone(standalone: str, database_name: str) -> None:
    """Tokens, guards, refreshes, reuse, revocation, limits and the audit log, as anywhere."""
    with MongoClient[dict[str, Any]](standalone, tz_aware=True) as client:
        database = client[database_name]
        configure(database, REVOCATION_READ_CONCERN="majority")
        async with (
            AsyncMongoClient[dict[str, Any]](standalone) as mongo,
            running(mongo[database_name]) as server,
        ):
            machine = await new_machine(server)
            first = await machine.get_token()
            assert (await machine.call(first)).status_code == 200
            second = await machine.refresh_plainly(first)
            third = await machine.refresh(second)
            assert (await machine.call(third)).status_code == 200
            assert (await machine.ask_refresh_plainly(first)).status_code == 401  # reuse
            for tokens in (first, second, third):
                assert (await machine.call(tokens)).status_code == 401
            assert (await machine.ask_refresh(third)).status_code == 400
            assert "refresh_token_reuse" in events(database, client_id=machine.client_id)

            tokens = await machine.get_token()
            response = await machine.revoke_plainly(access_token=tokens.access)
            assert response.status_code == 200
            assert (await machine.call(tokens)).status_code == 401
            assert (await machine.revoke(tokens.refresh)).status_code == 200
            assert (await machine.ask_refresh(tokens)).status_code == 400
            assert len(audit(database, event_type="token_revoked")) == 2

            await early_in_the_minute()
            limited = await new_machine(server, max_requests_per_minute=3)
            answers = [(await limited.ask_token()).status_code for _ in range(5)]
            assert answers == [200] * 3 + [429] * 2
            (record,) = audit(database, event_type="rate_limit_exceeded")
            assert record["count"] == 2


async def test_the_revocation_feed_misses_nothing_on_a_standalone(
    standalone: str, database_name: str
) -> None:
    """A standalone, too, gives each mark its place: followers between them know every one."""
    async with AsyncMongoClient[dict[str, Any]](standalone) as mongo:
        storage = Storage(mongo[database_name])
        revocation, feed = Revocation(storage), RevocationFeed(storage, 7)
        await revocation.prepare()
        followers = [Follower(feed) for _ in range(3)]
        now = datetime.now(UTC)
        names: set[str] = set()
        for number in range(60):
            marks = [f"m{number}-{n}" for n in range(number % 5)]
            end = now + timedelta(minutes=15)
            await asyncio.gather(*(revocation.revoke(mark, now, end) for mark in marks))
            names |= set(map(published, marks))
            await followers[number % 3].take_page()
        for follower in followers:
            await follower.catch_up()
            await follower.catch_up()
            assert follower.known.keys() == names
