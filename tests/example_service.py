"""`python -m example` as a process, and a shell to paste lines into."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
READY_SECONDS = 60


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

    def other_terminal(self) -> str:
        """The lines to paste into another terminal, once `instructions` were read."""
        text = "".join(self.output)
        return text[text.index("another terminal:") : text.rindex("Ctrl-C")].partition("\n")[2]

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


@contextmanager
def serving(environment: Mapping[str, str]) -> Iterator[Service]:
    """Start the example, and stop it whatever happens."""
    service = Service(environment)
    try:
        yield service
    finally:
        service.close()


def pasted(lines: str) -> list[Any]:
    """What bash shows, as JSON values, when these lines are pasted into it."""
    shell = subprocess.run(
        ["bash", "-eu"], input=lines, capture_output=True, text=True, timeout=60, check=False
    )
    assert shell.returncode == 0, shell.stdout + shell.stderr
    assert shell.stderr == ""
    return [json.loads(line) for line in shell.stdout.splitlines()]
