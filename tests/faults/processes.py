"""What processes that are killed and started again need: a port that stays theirs, a clock."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from pathlib import Path

from example.mongodb import HOST

#: Where Debian's package libfaketime puts its library for programs of many threads.
LIBRARY = "usr/lib/*/faketime/libfaketimeMT.so.1"


class ClockUnavailable(Exception):
    """A clock cannot be set apart here. The message says what to install."""


def free_port(ports: range) -> int:
    """A port of these that was free a moment ago.

    Below 32 768, the range from which Linux takes ports for outgoing connections, nobody else gets
    it while its process is dead.
    """
    for port in random.sample(ports, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise RuntimeError(f"no free port from {ports.start} to {ports.stop}")


def fake_clock(offset: float) -> dict[str, str]:
    """The environment of a process whose wall clock is so many seconds ahead.

    Its monotonic clock stays as it is: time passes as it does for everybody.

    Raises:
        ClockUnavailable: libfaketime is not installed.
    """
    if not offset:
        return {}
    library = next(Path("/").glob(LIBRARY), None)
    if library is None:
        raise ClockUnavailable("install libfaketime (Debian: apt-get install libfaketime)")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{offset:+g}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        # Else it shifts the deadlines of waits by the monotonic clock: they end at once (a mongod
        # spins) or minutes late (its writes wait for another reason to be flushed).
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
    }


def forget_clock(pid: int) -> None:
    """Remove what libfaketime keeps in memory for a process that was killed.

    The next process of that number would take it for its own, and wait for its semaphore.
    """
    for name in ("faketime_shm_", "sem.faketime_sem_"):
        Path(f"/dev/shm/{name}{pid}").unlink(missing_ok=True)  # noqa: S108
