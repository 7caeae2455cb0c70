"""What `make bench` can be told, by variables of the environment."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

PARTS = ("protected", "crowd", "token", "growth", "start", "memory")


@dataclass(frozen=True, slots=True)
class Options:
    """How much to measure.

    Attributes:
        only: which parts, of `PARTS`; ONLY=protected,token or ONLY=all.
        rounds: how often each contender has its turn at each concurrency; ROUNDS.
        seconds: how long a turn is measured; SECONDS.
        warm_up: how long it is warmed up before; WARM_UP.
        connections: the concurrencies; CONNECTIONS="1 16 64".
        clients: how many clients share the load, each with a token of its own; CLIENTS.
        quick: a check that all works: one short round, and docs/ is left alone; QUICK=1.
        scale: the share of the big database of `growth` that is seeded; SCALE.
        minutes: how long `memory` runs; MINUTES.
    """

    only: tuple[str, ...]
    rounds: int
    seconds: int
    warm_up: int
    connections: tuple[int, ...]
    clients: int
    quick: bool
    scale: float
    minutes: float


def read_options() -> Options:
    """Read them."""
    quick = bool(os.environ.get("QUICK"))
    only = tuple(os.environ.get("ONLY", "protected,crowd,token,start").replace(",", " ").split())
    if only == ("all",):
        only = PARTS
    if unknown := set(only) - set(PARTS):
        sys.exit(f"error: ONLY names {', '.join(unknown)}: choose from {', '.join(PARTS)}, or all")
    return Options(
        only=only,
        rounds=_number("ROUNDS", 1 if quick else 5),
        seconds=_number("SECONDS", 1 if quick else 5),
        warm_up=_number("WARM_UP", 1),
        connections=tuple(map(int, os.environ.get("CONNECTIONS", "1 16 64").split())),
        clients=_number("CLIENTS", 1),
        quick=quick,
        scale=float(os.environ.get("SCALE", "0.001" if quick else "1")),
        minutes=float(os.environ.get("MINUTES", "0.2" if quick else "10")),
    )


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdigit() or not int(text):
        sys.exit(f"error: {variable} is {text!r}: set it to a whole number from 1")
    return int(text)
