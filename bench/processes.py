"""Start and stop servers, by pid; read their CPU seconds and memory from /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 15.0
_TICKS = os.sysconf("SC_CLK_TCK")


class NotStarted(Exception):
    """A server does not listen; the message ends with what it wrote."""


@dataclass(slots=True)
class Server:
    """A server that was started here.

    Attributes:
        process: the process that was started; it may have workers below it.
        port: where it listens.
    """

    process: subprocess.Popen[bytes]
    port: int

    def cpu_seconds(self) -> float:
        """The CPU time of the server and all its workers so far."""
        return sum(map(cpu_seconds, family(self.process.pid)))

    def resident_kib(self) -> dict[int, int]:
        """The resident memory of the server and each of its workers, by pid."""
        return {pid: resident_kib(pid) for pid in family(self.process.pid)}

    def settle(self, at_most: float = 30.0) -> None:
        """Wait until it has finished what it was asked, so that it disturbs nobody else."""
        deadline, before = time.monotonic() + at_most, -1.0
        while time.monotonic() < deadline:
            now = self.cpu_seconds()
            if now - before < 2 / _TICKS:
                return
            before = now
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop it; whatever it leaves behind in the process group that we made for it, too."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start(
    command: Sequence[str], port: int, *, env: Mapping[str, str], cwd: Path, output: Path
) -> Server:
    """Start a server and wait until it listens.

    Raises:
        NotStarted: it ended, or did not listen in time.
    """
    with output.open("wb") as stream:
        process = subprocess.Popen(  # noqa: S603
            command,
            env={**os.environ, **env},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it through us, in our order
        )
    server = Server(process, port)
    deadline = time.monotonic() + START_SECONDS
    while not listens(port):
        if process.poll() is not None or time.monotonic() > deadline:
            server.stop()
            said = output.read_text(errors="replace")[-2000:]
            raise NotStarted(f"{' '.join(command)} does not listen on {port}:\n{said}")
        time.sleep(0.02)
    return server


def listens(port: int) -> bool:
    """Whether anything listens there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def cpu_seconds(pid: int) -> float:
    """The user and system time of one process so far; 0 when it has ended."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0


def resident_kib(pid: int) -> int:
    """The resident memory of one process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(x.split()[1]) for x in status.splitlines() if x.startswith("VmRSS:")), 0)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on; the name before it may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
