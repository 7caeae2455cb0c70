"""Time that passes without waiting."""

from __future__ import annotations

import time
from itertools import count
from types import SimpleNamespace

import pytest

#: Within so many seconds the contract promises that what stands in the database is seen.
PROMISED_SECONDS = 30


class Clock:
    """What one room takes for the time: it moves only when it is told to.

    That room alone: the event loop and the driver look at the same `time`, and would wait for ever.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: str) -> None:
        self.now = 1000.0
        still = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(f"_oauth2_m2m.{room}.time", still)

    def let_pass(self, seconds: float) -> None:
        """Move on."""
        self.now += seconds


def hasten(monkeypatch: pytest.MonkeyPatch, room: str) -> None:
    """Whenever this room looks at the clock, the promised seconds have passed since it last did.

    So it goes on remembering nothing. No test waits, and one that remembers too long is found.
    """
    looks = count(1)

    def monotonic() -> float:
        return time.monotonic() + PROMISED_SECONDS * next(looks)

    monkeypatch.setattr(f"_oauth2_m2m.{room}.time", SimpleNamespace(monotonic=monotonic))
