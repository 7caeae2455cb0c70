"""A server that is broken on purpose turns the checker red, and the true one does not."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import pytest
from pymongo import AsyncMongoClient, MongoClient
from pymongo.database import Database

from _oauth2_m2m.credentials import fingerprint
from oauth2_m2m import OAuth2M2M
from tests.faults.checker import Expectations, Violation, check
from tests.faults.history import Dump, Kind, read_history
from tests.faults.load import FORM, Recorder, Workers
from tests.faults.workers import APP, Worker, running_workers
from tests.machine import basic, secret_of

#: All tests here share the workers, and so the pytest worker that starts them.
pytestmark = pytest.mark.xdist_group("broken-app")

BROKEN = "tests.faults.broken_app:app"
TOKENS = 24
AT_ONCE = 4
Errand: TypeAlias = Callable[["Client"], Awaitable[None]]
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Service:
    """Two workers of an app, and their database."""

    workers: list[Worker]
    database: Database[Any]
    mongo_url: str


@pytest.fixture(scope="module")
def services(
    mongo_url: str,
    mongo_client: MongoClient[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Service]]:
    """The example app and the broken one, on two workers each and without limits."""
    with ExitStack() as stack:
        found = {}
        for app in (APP, BROKEN):
            name = f"oauth2_m2m_test_broken_{time.monotonic_ns()}"
            database = mongo_client[name]
            stack.callback(mongo_client.drop_database, name)
            database["config"].insert_one({"_id": "jwt_config", "MAX_REQUESTS_PER_MINUTE": 0})
            folder = tmp_path_factory.mktemp("broken")
            workers = stack.enter_context(running_workers(mongo_url, name, folder, app=app))
            found[app] = Service(workers, database, mongo_url)
        yield found


@dataclass(frozen=True)
class Client:
    """A machine that writes down what it sees of the workers of these names."""

    recorder: Recorder
    client_id: str
    secret: str
    names: list[str]

    async def log_in(self) -> dict[str, str]:
        """Get an access token and a refresh token."""
        asked = await self.recorder.ask(
            Kind.TOKEN,
            "POST",
            "/token",
            headers={**FORM, "Authorization": basic(self.client_id, self.secret)},
            body="grant_type=client_credentials",
            client_id=self.client_id,
        )
        assert asked is not None
        operation, body = asked
        assert operation.status == 200, body
        return {**json.loads(body), "jti": operation.jti}

    async def refresh(self, tokens: dict[str, str], worker: str) -> None:
        """Exchange the refresh token."""
        text = tokens["refresh_token"]
        await self.recorder.ask(
            Kind.REFRESH,
            "POST",
            "/refresh",
            headers=JSON,
            body=json.dumps({"refresh_token": text}),
            worker=worker,
            client_id=self.client_id,
            presented=fingerprint(text),
        )

    async def call(self, tokens: dict[str, str], worker: str) -> None:
        """Use the access token."""
        await self.recorder.ask(
            Kind.CALL,
            "GET",
            "/protected",
            headers={"Authorization": f"Bearer {tokens['access_token']}"},
            worker=worker,
            client_id=self.client_id,
            presented=tokens["jti"],
        )

    async def revoke(self, tokens: dict[str, str], worker: str) -> None:
        """Revoke the access token."""
        await self.recorder.ask(
            Kind.REVOKE_ACCESS,
            "POST",
            "/revoke",
            headers=JSON,
            body=json.dumps({"access_token": tokens["access_token"]}),
            worker=worker,
            client_id=self.client_id,
            presented=tokens["jti"],
        )


async def duplicate(client: Client) -> None:
    """A refresh token is presented to all workers at once, and to each more than once."""
    tokens = await client.log_in()
    await asyncio.gather(*(client.refresh(tokens, name) for name in client.names * 3))


async def revocation(client: Client) -> None:
    """An access token is used everywhere, revoked at one worker, and used everywhere again."""
    tokens = await client.log_in()
    await asyncio.gather(*(client.call(tokens, name) for name in client.names))
    await client.revoke(tokens, client.names[0])
    await asyncio.gather(*(client.call(tokens, name) for name in client.names))


async def violations(service: Service, errand: Errand, folder: Path) -> list[Violation]:
    """What the checker finds when clients do this errand again and again, a few at a time."""
    async with AsyncMongoClient[dict[str, Any]](service.mongo_url) as mongo:
        m2m = OAuth2M2M(mongo[service.database.name])
        registered = await m2m.clients.register(scopes=["read"])
    urls = {worker.name: worker.url for worker in service.workers}
    path = folder / "history.jsonl"
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        workers = Workers(urls, random.Random(1))  # noqa: S311
        recorder = Recorder(session, workers, path, f"load-{time.monotonic_ns()}")
        client = Client(recorder, registered.client.client_id, secret_of(registered), list(urls))
        for _ in range(TOKENS // AT_ONCE):
            await asyncio.gather(*(errand(client) for _ in range(AT_ONCE)))
        recorder.flush()
    history = list(read_history([path]))
    assert len(history) >= 3 * TOKENS
    names = service.database.list_collection_names()
    dump = Dump({name: list(service.database[name].find()) for name in names})
    # How long answers take on a busy machine is no matter here.
    return check(history, dump, Expectations(busy_allowance=60))


@pytest.mark.parametrize("errand", [duplicate, revocation])
async def test_the_example_app_is_green(
    services: dict[str, Service], tmp_path: Path, errand: Errand
) -> None:
    """Under the same load that finds the broken app out, nothing is found against the true one."""
    assert await violations(services[APP], errand, tmp_path) == []


async def test_a_claim_in_two_steps_is_found_out(
    services: dict[str, Service], tmp_path: Path
) -> None:
    """Find-then-delete redeems a refresh token more than once, and R1 is red for it."""
    found = await violations(services[BROKEN], duplicate, tmp_path)
    assert "R1" in {v.rule for v in found if v.text.startswith("refresh token redeemed")}


async def test_a_remembered_revocation_is_found_out(
    services: dict[str, Service], tmp_path: Path
) -> None:
    """A worker that remembers what was good a moment ago accepts the dead, and R3 is red for it."""
    found = await violations(services[BROKEN], revocation, tmp_path)
    assert "R3" in {v.rule for v in found if v.text.startswith("call was OK")}
