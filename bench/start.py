"""How long the import takes, and how long a cold worker takes to its first token."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any

from bench import registry, rounds, seeding
from bench.options import Options
from bench.registry import Contender
from bench.rounds import Database

IMPORT = """
import time
started = time.perf_counter()
import oauth2_m2m
print(time.perf_counter() - started)
"""
IMPORT_SECONDS, FIRST_TOKEN_SECONDS = 0.6, 1.5


def measure_start(options: Options, database: Database) -> tuple[dict[str, Any], str]:
    """Measure both, each in fresh processes.

    Returns:
        The raw figures, and the table.
    """
    times = 2 if options.quick else 2 * options.rounds + 1
    contender = Contender("ours", "start", registry.OURS, "")
    clients = seeding.seed_ours(database.url, contender.database, clients=1)
    _import_seconds()  # the first writes the bytecode
    measured = {
        "import": [_import_seconds() for _ in range(times)],
        "first_token": [_first_token_seconds(contender, database, clients) for _ in range(times)],
    }
    database.drop(contender)
    rows = [
        ("`import oauth2_m2m`", IMPORT_SECONDS, measured["import"]),
        ("cold worker to first token", FIRST_TOKEN_SECONDS, measured["first_token"]),
    ]
    lines = ["| what | target | median | slowest |", "|---|--:|--:|--:|"]
    for name, target, seconds in rows:
        middle, slowest = statistics.median(seconds), max(seconds)
        lines.append(f"| {name} | < {target} s | {middle:.2f} s | {slowest:.2f} s |")
    return measured, "\n".join(lines)


def _import_seconds() -> float:
    finished = subprocess.run(  # noqa: S603
        [sys.executable, "-c", IMPORT],
        cwd=registry.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(finished.stdout)


def _first_token_seconds(
    contender: Contender, database: Database, clients: dict[str, str]
) -> float:
    started = time.monotonic()
    server = registry.start(contender, database.url)
    try:
        rounds.access_token(server.port, *next(iter(clients.items())))
        return time.monotonic() - started
    finally:
        server.stop()
