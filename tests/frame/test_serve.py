"""`python -m example`, as a stranger meets it: start, paste the lines, Ctrl-C, start again."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from example.mongodb import HOST, free_port

ROOT = Path(__file__).parents[2]
READY_SECONDS = 60

pytestmark = pytest.mark.xdist_group("starts_mongod")


class Service:
    """A running `python -m example`, with what it has printed so far."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.output: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "example"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def instructions(self) -> str:
        """The lines to paste, as soon as they are printed."""
        deadline = time.monotonic() + READY_SECONDS
        while (line := self._lines.get(timeout=max(0, deadline - time.monotonic()))) is not None:
            self.output.append(line)
            if "Ctrl-C" in line:
                text = "".join(self.output)
                return text[text.index("\nAPI=") : text.rindex("\nOr open")]
        pytest.fail("".join(self.output))

    def stop(self, number: signal.Signals) -> int:
        """The exit code after this signal; nothing is left running."""
        self.process.send_signal(number)
        code = self.process.wait(30)
        self._reader.join(30)
        while (line := self._lines.get(timeout=1)) is not None:
            self.output.append(line)
        return code

    def close(self) -> None:
        """For tests that fail halfway: whatever happened, do not stay."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
        self._reader.join(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A stranger's environment, with ports and a data directory of its own."""
    inherited = {name: value for name, value in os.environ.items() if name != "MONGODB_URL"}
    return inherited | {
        "PORT": str(free_port()),
        "MONGODB_PORT": str(free_port()),
        "DATA_DIRECTORY": str(tmp_path / "data"),
    }


@contextmanager
def serving(environment: Mapping[str, str]) -> Iterator[Service]:
    service = Service(environment)
    try:
        yield service
    finally:
        service.close()


def pasted(lines: str) -> list[dict[str, object]]:
    """The JSON bodies that bash shows when the printed lines are pasted into it."""
    shell = subprocess.run(
        ["bash", "-eu"], input=lines, capture_output=True, text=True, timeout=60, check=False
    )
    assert shell.returncode == 0, shell.stdout + shell.stderr
    assert shell.stderr == ""
    return [json.loads(line) for line in shell.stdout.splitlines()]


def is_open(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, int(port))) == 0


def test_the_printed_lines_work_and_so_does_a_second_start(environment: dict[str, str]) -> None:
    """Every line does what it is there for, and Ctrl-C leaves nothing behind but the data."""
    for number in (signal.SIGINT, signal.SIGTERM):
        with serving(environment) as service:
            answers = pasted(service.instructions())
            assert service.stop(number) == 0
        token, protected, admin, refreshed, revoked, refused, user, user_not_admin = answers
        assert token["token_type"] == "bearer"
        assert set(str(token["scope"]).split()) == {"read", "write", "admin"}
        assert protected["message"] == "Hello test_client, you have accessed a protected route!"
        assert admin["message"] == "Welcome Admin test_client!"
        assert refreshed["refresh_token"] != token["refresh_token"]
        assert revoked["message"] == "Token revoked successfully"
        assert refused["error"] == "invalid_token"
        assert user["message"] == "Hello user_client, you have accessed a protected route!"
        assert user_not_admin["error"] == "insufficient_scope"
        assert "Traceback" not in "".join(service.output)
        assert not is_open(environment["PORT"])
        assert not is_open(environment["MONGODB_PORT"])


def refusal(environment: Mapping[str, str]) -> str:
    """What a start that cannot succeed prints: one line, and exit code 1."""
    result = subprocess.run(
        [sys.executable, "-m", "example"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=READY_SECONDS,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert re.fullmatch(r"error: [^\n]+\n", result.stderr)
    return result.stderr


@pytest.mark.parametrize("name", ["PORT", "MONGODB_PORT"])
def test_a_taken_port_is_one_line(environment: dict[str, str], name: str) -> None:
    """The line names the variable that chooses another port, and nothing is left running."""
    with socket.create_server((HOST, 0)) as somebody:
        environment[name] = str(somebody.getsockname()[1])
        line = refusal(environment)
    assert environment[name] in line
    assert f"{name}" in line
    assert not is_open(environment["MONGODB_PORT"])


def test_a_port_that_is_no_number_is_one_line(environment: dict[str, str]) -> None:
    """A typing mistake is answered in words."""
    assert "PORT is '80a'" in refusal(environment | {"PORT": "80a"})


def test_an_unreachable_mongodb_is_one_line(environment: dict[str, str]) -> None:
    """The line names the address, but not the password in it."""
    url = f"mongodb://user:hunter2@{HOST}:{free_port()}"
    line = refusal(environment | {"MONGODB_URL": url})
    assert "MongoDB does not answer" in line
    assert "hunter2" not in line
