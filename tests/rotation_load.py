"""Keys that turn over while machines get tokens and use them, at four workers and a fifth process.

The test of it is in `faults/test_key_rotation.py`. To count for longer:

    python -m tests.rotation_load --first ES256 --pause 10 rotate rotate RS256 rotate
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pymongo import AsyncMongoClient, MongoClient

from example.mongodb import running_mongodb
from tests.faults.test_workers import Service, four_workers
from tests.machine import Machine
from tests.server import Server, running

ROTATE = "rotate"
#: Five rotations at once, and two changes of the algorithm.
PLAN = (ROTATE, ROTATE, "ES256", ROTATE, ROTATE, ROTATE, "RS256")
#: Machines that work side by side. More would measure the machine, and prove no more.
PARALLEL = 6
#: Tokens that are called with again and again, the newest and those of keys long past.
REMEMBERED = 500
#: A rotation is noticed at once when a token of the new key comes along, else within 30 s.
NOTICED_SECONDS = 60


@dataclass
class Counts:
    """What came of it."""

    tokens: int = 0
    calls: int = 0
    #: Answers of a busy machine, which refuse nobody: 503, or a connection that broke.
    unavailable: int = 0
    refused: list[str] = field(default_factory=list)
    #: How many tokens each key has signed, by algorithm and `kid`.
    keys: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __str__(self) -> str:
        algorithms = Counter(algorithm for algorithm, _ in self.keys)
        return (
            f"tokens issued: {self.tokens}, calls made: {self.calls}, "
            f"good tokens refused: {len(self.refused)}, answered 503: {self.unavailable}, "
            f"keys that signed: {dict(algorithms)}"
        )


class Load:
    """Machines at the workers, and an operator's process that signs and verifies as well."""

    def __init__(self, service: Service, operator: Server, machine: Machine) -> None:
        self.counts = Counts()
        self._service = service
        self._operator = operator
        self._machine = machine
        self._tokens: list[str] = []

    async def rotate(self) -> None:
        """Have the next key sign, and bring its first token among the machines."""
        await self._operator.m2m.keys.rotate()
        await self.spread()

    async def change_algorithm(self, algorithm: str) -> None:
        """As an operator does in mongosh; the operator's process looks at once."""
        self._service.database["config"].update_one({}, {"$set": {"ALGORITHM": algorithm}})
        await self._operator.m2m.keys.list()
        await self.spread()

    async def spread(self) -> None:
        """Wait until the workers sign with the key that signs here."""
        async with self._operator.http() as http:
            key = await self._get_token(http)
        assert key is not None
        known, deadline = self.counts.keys[key], time.monotonic() + NOTICED_SECONDS
        while self.counts.keys[key] < known + PARALLEL:
            assert time.monotonic() < deadline, f"{key} signs nowhere else"
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Get tokens and call with them, in parallel, until the block ends."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as machines:
            for _ in range(PARALLEL):
                machines.create_task(self._work(stop))
            try:
                yield
            finally:
                stop.set()

    async def _work(self, stop: asyncio.Event) -> None:
        # A connection for each request, so that any of the workers takes it.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=self._service.url, limits=limits, timeout=30) as http:
            while not stop.is_set():
                await self._get_token(http)
                oldest_middle_newest = (
                    self._tokens[:1]
                    + self._tokens[len(self._tokens) // 2 :][:1]
                    + self._tokens[-1:]
                )
                for token in oldest_middle_newest:
                    await self._call(http, token)

    async def _get_token(self, http: httpx.AsyncClient) -> tuple[str, str] | None:
        try:
            response = await self._machine.using(http=http).ask_token()
        except httpx.TransportError:
            self.counts.unavailable += 1
            return None
        if not self._is_success(response):
            return None
        self.counts.tokens += 1
        token = response.json()["access_token"]
        self._tokens.append(token)
        del self._tokens[:-REMEMBERED]
        header = json.loads(base64.urlsafe_b64decode(token.partition(".")[0] + "=="))
        key = header["alg"], header["kid"]
        self.counts.keys[key] += 1
        return key

    async def _call(self, http: httpx.AsyncClient, token: str) -> None:
        try:
            response = await self._machine.using(http=http).call(token)
        except httpx.TransportError:
            self.counts.unavailable += 1
            return
        if self._is_success(response):
            self.counts.calls += 1

    def _is_success(self, response: httpx.Response) -> bool:
        if response.status_code == 503:
            self.counts.unavailable += 1
        elif response.status_code != 200:
            self.counts.refused.append(f"{response.status_code} {response.text}")
        return response.status_code == 200


@asynccontextmanager
async def load_on(service: Service) -> AsyncIterator[Load]:
    """A client at the workers, and an operator's process beside them on the same database."""
    async with (
        AsyncMongoClient[dict[str, Any]](service.mongo_url) as client,
        running(client[service.database.name]) as operator,
        service.http() as http,
    ):
        yield Load(service, operator, await service.machine(http, issue_refresh_tokens=False))


async def turn_over_under_load(service: Service, plan: Sequence[str], pause: float) -> Counts:
    """Rotate keys and change the algorithm while machines go on.

    Args:
        service: the workers.
        plan: one step after another: `ROTATE`, or the algorithm to change to.
        pause: seconds between two steps.
    """
    async with load_on(service) as load:
        async with load.going_on():
            await load.spread()
            for step in plan:
                await asyncio.sleep(pause)
                await (load.rotate() if step == ROTATE else load.change_algorithm(step))
            await asyncio.sleep(pause)
        return load.counts


def main() -> None:
    """Count for as long as is asked, on a MongoDB of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", nargs="*", default=PLAN, help="rotate, or an ALGORITHM")
    parser.add_argument("--first", default="HS256", help="the ALGORITHM to begin with")
    parser.add_argument("--pause", type=float, default=5.0, help="seconds between two steps")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running_mongodb(Path(name) / "data") as url:
        config = {"MAX_REQUESTS_PER_MINUTE": 0, "ALGORITHM": options.first}
        with (
            MongoClient[dict[str, Any]](url, tz_aware=True) as client,
            four_workers(client, url, Path(name), **config) as service,
        ):
            began = time.monotonic()
            counts = asyncio.run(turn_over_under_load(service, options.plan, options.pause))
            workers = len(service.served("/protected"))
    print(f"{time.monotonic() - began:.0f} s, {workers} workers, {options.first}, {options.plan}")
    print(counts)
    for refusal in counts.refused[:10]:
        print(refusal)


if __name__ == "__main__":
    main()
