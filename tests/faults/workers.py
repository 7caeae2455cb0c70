"""Real workers of the example app, one process and one port each, that can be killed and started.

Each worker keeps one log for all its lives. At the end `complaints` finds what must not be in it.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from example.mongodb import HOST
from tests.faults.processes import fake_clock, forget_clock, free_port
from tests.uvicorn_process import ROOT, clean_environment, logging_config

APP = "example.main:app"
#: Below the range from which Linux takes ports for outgoing connections, and beside those of the
#: cluster: while a worker is dead, nobody else gets its port.
PORTS = range(12_000, 20_000)
READY_SECONDS = 60.0
#: uvicorn waits for the requests that it has begun, and the library for what it writes.
STOP_SECONDS = 30.0
LOG_LINE = "%(asctime)s %(levelname)s %(name)s %(message)s"
COMPLAINT = re.compile(r"Traceback|\b(?:ERROR|CRITICAL)\b|^\w*(?:Error|Exception)\b")


class Registry(Protocol):
    """Who needs to know the process of a name: the links between workers and database."""

    def register(self, name: str, pid: int) -> None:
        """From now on, connections of this process are those of this name."""


class WorkerError(Exception):
    """A worker did not do what a scenario needs of it."""


class Worker:
    """One `uvicorn example.main:app`, or another app.

    Args:
        name: such as `w0`.
        environment: variables beside those of this process.
        folder: where its log goes.
        registry: who needs to know its processes.
        clock_offset: seconds that its wall clock is ahead; its monotonic clock is not touched.
        app: what uvicorn serves.
    """

    def __init__(
        self,
        name: str,
        environment: Mapping[str, str],
        folder: Path,
        registry: Registry | None = None,
        clock_offset: float = 0,
        app: str = APP,
    ) -> None:
        self.name = name
        self.app = app
        self.port = free_port(PORTS)
        self.log = folder / f"{name}.log"
        self.clock_offset = clock_offset
        self._environment = environment
        self._logging = logging_config(folder, LOG_LINE)
        self._registry = registry
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens, or will."""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    def start(self) -> None:
        """Start a process, and do not wait for it: see `wait_until_ready`."""
        if self.is_running():
            raise WorkerError(f"{self.name} runs already")
        with self.log.open("ab") as stream:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "uvicorn", self.app),
                    *("--host", HOST, "--port", str(self.port), "--no-access-log"),
                    *("--log-config", self._logging, "--timeout-keep-alive", "300"),
                    *("--backlog", "4096"),
                ],
                cwd=ROOT,
                env={**clean_environment(), **self._environment, **fake_clock(self.clock_offset)},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if self._registry is not None:
            self._registry.register(self.name, self._process.pid)

    def is_running(self) -> bool:
        """Whether its process lives, answering or not."""
        return self._process is not None and self._process.poll() is None

    def is_answering(self) -> bool:
        """Whether it answers `/health/live`."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=1)
        try:
            connection.request("GET", "/health/live")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def wait_until_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until it answers.

        Raises:
            WorkerError: it ended, or did not answer in that time; the message holds its log.
        """
        deadline = time.monotonic() + seconds
        while not self.is_answering():
            if not self.is_running() or time.monotonic() > deadline:
                raise WorkerError(f"{self.name} did not start:\n{self.log.read_text()[-5000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it without a word (SIGKILL)."""
        if self.is_running():
            assert self._process is not None
            self._process.kill()
            self._process.wait()
            forget_clock(self.pid)

    def begin_stop(self) -> None:
        """Ask it to stop (SIGTERM), and do not wait."""
        if self.is_running():
            os.kill(self.pid, signal.SIGTERM)

    def terminate(self, seconds: float = STOP_SECONDS) -> int:
        """Ask it to stop, and wait until it has; its exit code.

        Raises:
            subprocess.TimeoutExpired: it did not stop in that time.
        """
        self.begin_stop()
        assert self._process is not None
        code = self._process.wait(seconds)
        forget_clock(self.pid)  # uvicorn ends by the signal itself, so nobody else tidies up
        return code

    def restart(self) -> None:
        """Kill what is left of it and start it again; wait until it answers."""
        self.kill()
        self.start()
        self.wait_until_ready()

    def complaints(self, known: Sequence[str] = ()) -> list[str]:
        """The lines of its log that name an error, but for those that match a known one."""
        expected = [re.compile(pattern) for pattern in known]
        return [
            line
            for line in self.log.read_text(errors="replace").splitlines()
            if COMPLAINT.search(line) and not any(each.search(line) for each in expected)
        ]


@contextmanager
def running_workers(
    mongo_url: str,
    database: str,
    folder: Path,
    *,
    number: int = 2,
    registry: Registry | None = None,
    clock_offsets: Mapping[int, float] | None = None,
    environment: Mapping[str, str] | None = None,
    app: str = APP,
) -> Iterator[list[Worker]]:
    """Start workers `w0`, `w1`... on a database, and end them whatever happens.

    Args:
        mongo_url: the cluster, or any MongoDB.
        database: the name of the database; its config is written beforehand.
        folder: where the logs go.
        number: how many workers.
        registry: who needs to know their processes.
        clock_offsets: seconds that the wall clocks of some are ahead, by number.
        environment: more variables for them.
        app: what they serve.
    """
    variables = {"MONGODB_URL": mongo_url, "MONGODB_DB": database, "ENVIRONMENT": "development"}
    variables |= environment or {}
    offsets = clock_offsets or {}
    workers = [
        Worker(f"w{place}", variables, folder, registry, offsets.get(place, 0), app)
        for place in range(number)
    ]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.wait_until_ready()
        yield workers
    finally:
        for worker in workers:
            worker.begin_stop()
        for worker in workers:
            with suppress(subprocess.TimeoutExpired, AssertionError):
                worker.terminate()
            worker.kill()
