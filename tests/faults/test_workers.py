"""Four worker processes on one database: together they promise what one promises alone."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo import AsyncMongoClient, MongoClient
from pymongo.database import Database

from example.mongodb import HOST, free_port
from oauth2_m2m import OAuth2M2M
from tests.machine import Machine, audit, secret_of
from tests.uvicorn_process import logging_config, uvicorn_process

WORKERS = 4
#: From the first of hundreds of connections to the last of their answers.
ANSWER_SECONDS = 60
#: How many connections may be opened until every worker has taken one.
MOST_CONNECTIONS = 400

#: A machine that is too busy to answer in 4.5 s is answered 503, which proves nothing either way.
ATTEMPTS = 3

#: All tests here share the four processes, and so the pytest worker that starts them.
pytestmark = pytest.mark.xdist_group("workers")

#: Every line of the output begins with the process that wrote it.
LOG_LINE = "%(process)d %(levelname)s %(message)s"


class AtOnce(httpx.AsyncBaseTransport):
    """Sends requests on a connection each, held back until so many of them are ready to go.

    An ordinary HTTP client is so slow to send hundreds that they would come one after another.
    """

    def __init__(self, number: int) -> None:
        self._barrier = asyncio.Barrier(number)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request, and read its answer until the server closes the connection."""
        request.headers["Connection"] = "close"
        lines = [b"%s %s HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
        lines += [b"%s: %s" % header for header in request.headers.raw]
        message = b"\r\n".join([*lines, b"", await request.aread()])
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(request.url.host, request.url.port)
            await self._barrier.wait()
            writer.write(message)
            answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return httpx.Response(int(head.split()[1]), content=body)


@dataclass(frozen=True)
class Service:
    """`uvicorn example.main:app --workers 4`, running."""

    url: str
    output: Path
    database: Database[Any]
    mongo_url: str

    def lines(self, pattern: str) -> list[tuple[int, str]]:
        """The lines of the output that match, each with the process that wrote it."""
        found = re.findall(rf"^(\d+) (.*{pattern}.*)$", self.output.read_text(), re.MULTILINE)
        return [(int(process), line) for process, line in found]

    def served(self, pattern: str) -> Counter[int]:
        """How many requests with such a path each process has answered."""
        return Counter(process for process, _ in self.lines(rf'"\w+ {pattern} HTTP'))

    async def machine(self, http: httpx.AsyncClient, **registration: Any) -> Machine:
        """Register a client."""
        async with AsyncMongoClient[dict[str, Any]](self.mongo_url) as client:
            m2m = OAuth2M2M(client[self.database.name])
            registered = await m2m.clients.register(scopes=["read"], **registration)
        return Machine(http, registered.client.client_id, secret_of(registered))

    def http(self) -> httpx.AsyncClient:
        """An HTTP client with one connection, kept open until it is closed."""
        limits = httpx.Limits(max_connections=1, keepalive_expiry=None)
        return httpx.AsyncClient(base_url=self.url, limits=limits, timeout=30)

    def at_once(self, machine: Machine, number: int) -> Machine:
        """The same machine, whose next requests are sent in one moment when there are so many."""
        return machine.using(http=httpx.AsyncClient(base_url=self.url, transport=AtOnce(number)))

    @asynccontextmanager
    async def each_worker(self) -> AsyncIterator[list[httpx.AsyncClient]]:
        """One HTTP client for each worker, whose connection that worker has taken."""
        async with AsyncExitStack() as stack:
            taken: dict[int, httpx.AsyncClient] = {}
            for number in range(MOST_CONNECTIONS):
                http = await stack.enter_async_context(self.http())
                probe = f"/health/live?probe={time.monotonic_ns()}-{number}"
                assert (await http.get(probe)).status_code == 200
                (worker,) = self.served(re.escape(probe))
                taken.setdefault(worker, http)
                if len(taken) == WORKERS:
                    break
            assert len(taken) == WORKERS, self.served(r"/health/live\S*")
            yield list(taken.values())


@contextmanager
def four_workers(
    mongo_client: MongoClient[dict[str, Any]], mongo_url: str, folder: Path, **config: Any
) -> Iterator[Service]:
    """Start the example on a fresh database, with such a config or none, and stop it."""
    logging, output, port = logging_config(folder, LOG_LINE), folder / "output", free_port()
    database = mongo_client[f"oauth2_m2m_test_workers_{os.getpid()}_{port}"]
    if config:
        database["config"].insert_one({"_id": "jwt_config", **config})
    arguments: list[str | Path] = [
        *("example.main:app", "--host", HOST, "--port", str(port), "--workers", str(WORKERS)),
        *("--log-config", logging, "--timeout-keep-alive", "300"),
    ]
    environment = {"MONGODB_URL": mongo_url, "MONGODB_DB": database.name}
    try:
        with uvicorn_process(output, arguments, environment, have_started):
            yield Service(f"http://{HOST}:{port}", output, database, mongo_url)
    finally:
        mongo_client.drop_database(database.name)


@pytest.fixture(scope="module")
def service(
    mongo_url: str,
    mongo_client: MongoClient[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """Four workers for the tests here, which come all from one address: limits are off."""
    folder = tmp_path_factory.mktemp("workers")
    with four_workers(mongo_client, mongo_url, folder, MAX_REQUESTS_PER_MINUTE=0) as service:
        yield service


def have_started(printed: str) -> bool:
    return printed.count("Application startup complete") >= WORKERS


def statuses(responses: Iterable[httpx.Response]) -> Counter[int]:
    return Counter(response.status_code for response in responses)


async def room_in_this_minute(seconds: float = 20) -> None:
    """Limits count by the minute of the wall clock: begin with enough of it left."""
    left = 60 - time.time() % 60
    if left < seconds:
        await asyncio.sleep(left + 0.1)


def test_config_and_indexes_are_made_once(
    mongo_url: str, mongo_client: MongoClient[dict[str, Any]], tmp_path: Path
) -> None:
    """Four workers that start at once on a fresh database make one of each, and none complains."""
    with four_workers(mongo_client, mongo_url, tmp_path) as service:
        assert len({process for process, _ in service.lines("startup complete")}) == WORKERS
        (config,) = service.database["config"].find()
        indexes = {
            name: sorted(service.database[name].index_information())
            for name in service.database.list_collection_names()
        }
    assert config["_id"] == "jwt_config"
    assert indexes["config"] == ["_id_"]
    assert indexes["clients"] == ["_id_", "client_id_1"]
    assert indexes["tokens"] == ["_id_", "expires_at_1", "family_id_1", "refresh_token_1"]
    assert indexes["rate_limits"] == ["_id_", "timestamp_1"]
    assert len(indexes["audit_logs"]) == 8
    assert len(indexes["audit_checkpoints"]) == 3
    assert not service.lines("(ERROR|Traceback)")


async def test_a_token_of_one_worker_is_good_at_all(service: Service) -> None:
    """They share the key through the database, and nothing has to be told to anybody."""
    async with service.each_worker() as workers:
        machine = await service.machine(workers[0])
        for issuing in workers:
            tokens = await machine.using(http=issuing).get_token()
            for asked in workers:
                response = await machine.using(http=asked).call(tokens)
                assert response.status_code == 200, response.text


@pytest.mark.parametrize("endpoint", ["/refresh", "/token"])
async def test_200_parallel_refreshes_have_one_success(service: Service, endpoint: str) -> None:
    """The others are reuse, which kills the family on every worker, access tokens included."""
    async with service.http() as http:
        for _ in range(ATTEMPTS):
            machine = await service.machine(http)
            tokens = await machine.get_token()
            before = service.served(endpoint)
            crowd = service.at_once(machine, 200)
            ask = crowd.ask_refresh if endpoint == "/token" else crowd.ask_refresh_plainly
            responses = await asyncio.gather(*(ask(tokens) for _ in range(200)))
            assert statuses(responses)[200] <= 1
            if 503 not in statuses(responses):
                break
    refused = 400 if endpoint == "/token" else 401
    assert statuses(responses) == {200: 1, refused: 199}
    assert {r.json().get("error") for r in responses} == {None, "invalid_grant"}
    answered = service.served(endpoint) - before
    assert answered.total() >= 200
    assert len(answered) > 1, "one worker answered them all: nothing was proven"

    (renewed,) = (response.json() for response in responses if response.status_code == 200)
    async with service.each_worker() as workers:
        for worker in workers:
            there = machine.using(http=worker)
            assert (await there.call(tokens)).status_code == 401
            assert (await there.call(renewed["access_token"])).status_code == 401
            refresh = await there.ask_refresh_plainly(renewed["refresh_token"])
            assert refresh.status_code == 401
    assert service.database["used_refresh_tokens"].count_documents(
        {"client_id": machine.client_id}
    ) == 1  # fmt: skip
    recorded = Counter(
        record["event_type"] for record in audit(service.database, client_id=machine.client_id)
    )
    assert recorded["token_refreshed"] == 1
    assert recorded["refresh_token_reuse"] >= 1
    assert recorded["refresh_token_reuse"] + recorded["refresh_token_invalid"] == 199 + WORKERS


async def test_a_chain_of_refreshes_wanders_over_the_workers(service: Service) -> None:
    """Whichever worker issued a refresh token, the next one exchanges it."""
    async with service.each_worker() as workers:
        machine = await service.machine(workers[0])
        tokens = await machine.get_token()
        for worker in workers * 2:
            tokens = await machine.using(http=worker).refresh_plainly(tokens)
            assert (await machine.using(http=worker).call(tokens)).status_code == 200


@pytest.mark.parametrize("what", ["access", "refresh"])
async def test_a_revocation_acknowledged_by_one_is_seen_by_all(service: Service, what: str) -> None:
    """Each worker had let the token pass a moment ago, and none does after the answer."""
    async with service.each_worker() as workers:
        machine = await service.machine(workers[0])
        for revoking in workers:
            tokens = await machine.get_token()
            before = [await machine.using(http=worker).call(tokens) for worker in workers]
            assert statuses(before) == {200: WORKERS}
            text = tokens.access if what == "access" else tokens.refresh
            members = {f"{what}_token": text}
            answer = await machine.using(http=revoking).revoke_plainly(**members)
            assert answer.status_code == 200
            after = await asyncio.gather(
                *(machine.using(http=worker).call(tokens) for worker in workers)
            )
            assert statuses(after) == {401: WORKERS}


async def test_a_client_disabled_at_the_door_stops_at_every_worker(service: Service) -> None:
    """The operator's process is none of the workers, and they need not be told."""
    async with service.each_worker() as workers:
        machine = await service.machine(workers[0])
        tokens = await machine.get_token()
        before = [await machine.using(http=worker).call(tokens) for worker in workers]
        assert statuses(before) == {200: WORKERS}
        async with AsyncMongoClient[dict[str, Any]](service.mongo_url) as client:
            await OAuth2M2M(client[service.database.name]).clients.disable(machine.client_id)
        for worker in workers:
            there = machine.using(http=worker)
            assert (await there.call(tokens)).status_code == 401
            assert (await there.ask_token()).status_code == 401
            assert (await there.ask_refresh_plainly(tokens)).status_code == 401


@pytest.mark.parametrize("limit", [1, 37])
async def test_the_limit_is_exact_over_all_workers(service: Service, limit: int) -> None:
    """However many ask at once and wherever, N of a minute are admitted and no more."""
    async with service.http() as http:
        for _ in range(ATTEMPTS):
            machine = await service.machine(http, max_requests_per_minute=limit)
            crowd = service.at_once(machine, 120)
            await room_in_this_minute()
            asked = await asyncio.gather(*(crowd.ask_token() for _ in range(120)))
            assert statuses(asked)[200] <= limit
            if 503 not in statuses(asked):
                break
    assert statuses(asked) == {200: limit, 429: 120 - limit}
    (refusals,) = audit(
        service.database, client_id=machine.client_id, event_type="rate_limit_exceeded"
    )
    assert refusals["count"] == 120 - limit
    (window,) = service.database["rate_limits"].find({"_id": {"$regex": f"^{machine.client_id}:"}})
    assert window["count"] == 120


async def test_nothing_went_wrong_unseen(service: Service) -> None:
    """After all of this no worker has died, and none has logged an error."""
    async with service.http() as http:
        assert (await http.get("/health/ready")).status_code == 200
    assert not service.lines("(ERROR|CRITICAL|Traceback)")
    assert len(service.lines("Started server process")) == WORKERS
