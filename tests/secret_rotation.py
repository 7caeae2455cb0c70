"""A secret that is rotated while machines work with it: two workers, and an operator's shell.

The test of it is `cli/test_rotation_under_load.py`. To see it for longer:

    python -m tests.secret_rotation --seconds 30
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pymongo import MongoClient

from example.mongodb import HOST, free_port, running_mongodb
from tests.machine import Machine
from tests.server import configure
from tests.uvicorn_process import ROOT, clean_environment, uvicorn_process

#: Machines that share one client, each at an address of its own.
MACHINES = 6
CALLS_WITH_A_TOKEN = 4
WORKERS = 2
CLIENT = "billing"


@dataclass
class Counts:
    """What came of it."""

    tokens: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.tokens.total() + self.calls} requests: {self.tokens['old']} tokens had with "
            f"the old secret, {self.tokens['new']} with the new one, {self.calls} guarded calls; "
            f"failed: {len(self.failures)}"
        )


@dataclass(frozen=True)
class Shell:
    """The operator's command line, as a process of its own.

    Attributes:
        environment: which database.
        say: where commands and what they print go; of secrets the beginning.
    """

    environment: dict[str, str]
    say: Callable[[str], None]

    async def run(self, *words: str) -> str:
        """Run a command, which must succeed; its standard output."""
        command = [sys.executable, "-m", "oauth2_m2m", *words]
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            cwd=ROOT,
            env={**clean_environment(), **self.environment, "COLUMNS": "150"},
            capture_output=True,
            text=True,
            check=False,
        )
        shown = re.sub(r"(m2ms_\w{4})\w+", r"\1...", done.stdout + done.stderr)
        self.say(f"$ oauth2-m2m {' '.join(words)}\n{shown}")
        assert done.returncode == 0, done.stderr
        return done.stdout


class Fleet:
    """Machines of one client, which get tokens and call with them until they are told to stop."""

    def __init__(self, url: str, old: str) -> None:
        self.counts = Counts()
        self.stopped = asyncio.Event()
        self._url = url
        self._secrets = [("old", old)] * MACHINES

    def switch(self, number: int, new: str) -> None:
        """Hand the new secret to one machine, which uses it from its next token on."""
        self._secrets[number] = ("new", new)

    async def work(self, number: int) -> None:
        """What one machine does all day."""
        # A connection for each request, so that any of the workers takes it.
        transport = httpx.AsyncHTTPTransport(
            local_address=f"127.0.0.{number + 11}", limits=httpx.Limits(max_keepalive_connections=0)
        )
        async with httpx.AsyncClient(base_url=self._url, transport=transport, timeout=30) as http:
            while not self.stopped.is_set():
                which, secret = self._secrets[number]
                await self._round(Machine(http, CLIENT, secret), which)

    async def _round(self, machine: Machine, which: str) -> None:
        try:
            answer = await machine.ask_token()
            if not self._is_good(answer, f"a token with the {which} secret"):
                return
            self.counts.tokens[which] += 1
            token = answer.json()["access_token"]
            for _ in range(CALLS_WITH_A_TOKEN):
                answer = await machine.call(token)
                self.counts.calls += self._is_good(answer, "a call")
        except httpx.HTTPError as error:
            self.counts.failures.append(type(error).__name__)

    def _is_good(self, answer: httpx.Response, what: str) -> bool:
        if answer.status_code != 200:
            self.counts.failures.append(f"{what}: {answer.status_code} {answer.text}")
        return answer.status_code == 200


async def rotate_under_load(url: str, shell: Shell, seconds: float) -> tuple[Counts, int]:
    """Rotate the secret of a client that machines work with, and retire the old one.

    Args:
        url: where the workers are.
        shell: the operator's.
        seconds: how long the machines work in all, beside what the commands take.

    Returns:
        What came of it, and how the old secret is answered in the end.
    """
    created = json.loads(await shell.run("clients", "create", CLIENT, "--scope", "read", "--json"))
    fleet, began = Fleet(url, created["client_secret"]), time.monotonic()

    async def going_on(share: float) -> None:
        await asyncio.sleep(share * seconds)
        shell.say(f"--- {time.monotonic() - began:.0f} s: {fleet.counts}\n")

    async with asyncio.TaskGroup() as machines:
        for number in range(MACHINES):
            machines.create_task(fleet.work(number))
        try:
            await going_on(0.15)
            rotated = json.loads(
                await shell.run("secrets", "rotate", CLIENT, "--label", "2030", "--json")
            )
            for number in range(MACHINES):
                await going_on(0.4 / MACHINES)
                fleet.switch(number, rotated["client_secret"])
                shell.say(f"machine 127.0.0.{number + 11} has the new secret\n")
                if number == MACHINES // 2:
                    await shell.run("secrets", "list", CLIENT)
            await going_on(0.25)
            await shell.run("secrets", "list", CLIENT)
            await shell.run("secrets", "retire", CLIENT, created["secret_id"], "--yes")
            await going_on(0.2)
        finally:
            fleet.stopped.set()
    await shell.run("secrets", "list", CLIENT)
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        refused = await Machine(http, CLIENT, created["client_secret"]).ask_token()
    shell.say(f"in the end: {fleet.counts}\nthe old secret now: {refused.status_code}\n")
    return fleet.counts, refused.status_code


def rotation_at_workers(
    folder: Path, mongo_url: str, database_name: str, seconds: float, say: Callable[[str], None]
) -> tuple[Counts, int]:
    """The same, at workers of their own."""
    environment = {"MONGODB_URL": mongo_url, "MONGODB_DB": database_name}
    port = str(free_port())
    arguments = ["example.main:app", "--host", HOST, "--port", port, "--workers", str(WORKERS)]

    def has_started(output: str) -> bool:
        return output.count("Application startup complete") == WORKERS

    with uvicorn_process(folder / "output", arguments, environment, has_started):
        url = f"http://{HOST}:{port}"
        return asyncio.run(rotate_under_load(url, Shell(environment, say), seconds))


def main() -> None:
    """Show it, on a MongoDB of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long the machines work")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running_mongodb(Path(name) / "data") as url:
        with MongoClient[dict[str, Any]](url) as client:
            configure(client["secret_rotation"], MAX_REQUESTS_PER_MINUTE=0)
        rotation_at_workers(Path(name), url, "secret_rotation", options.seconds, print)


if __name__ == "__main__":
    main()
