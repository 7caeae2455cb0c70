"""The memory of one worker over minutes of load: it must be flat."""

from __future__ import annotations

import time
from itertools import cycle
from typing import Any

from bench import load, registry, rounds, seeding
from bench.options import Options
from bench.registry import Contender
from bench.rounds import Database

TURN_SECONDS = 5
MOST_ROWS = 12


def measure_memory(options: Options, database: Database) -> tuple[list[dict[str, float]], str]:
    """Alternate protected requests and token requests, and read the worker's memory after each.

    Returns:
        The raw samples, and the table.
    """
    contender = Contender("ours", "memory", registry.OURS, "", answers=("access_token",))
    clients = seeding.seed_ours(database.url, contender.database, clients=options.clients)
    server = registry.start(contender, database.url)
    samples: list[dict[str, float]] = []
    try:
        tokens = [rounds.access_token(server.port, *client) for client in clients.items()]
        kinds = cycle([rounds.protected_load(tokens), rounds.token_load(contender, clients)])
        started, requests = time.monotonic(), 0
        seconds = 1 if options.quick else TURN_SECONDS
        while time.monotonic() - started < options.minutes * 60:
            done = load.run(next(kinds), server.port, connections=64, seconds=seconds)
            requests += done.requests
            samples.append({
                "minutes": (time.monotonic() - started) / 60,
                "requests": requests,
                "mib": sum(server.resident_kib().values()) / 1024,
            })  # fmt: skip
    finally:
        server.stop()
        database.drop(contender)
    return samples, _table(samples)


def _table(samples: list[dict[str, Any]]) -> str:
    step = max(1, len(samples) // MOST_ROWS)
    shown = samples[::-1][::step][::-1]  # always with the last
    lines = ["| minutes | requests | resident MiB |", "|--:|--:|--:|"]
    lines += [f"| {s['minutes']:.1f} | {s['requests']:,} | {s['mib']:.1f} |" for s in shown]
    fifth = samples[len(samples) // 5]
    grown = samples[-1]["mib"] - fifth["mib"]
    lines.append(f"\nAfter the first fifth it grew by {grown:+.1f} MiB.")
    return "\n".join(lines)
