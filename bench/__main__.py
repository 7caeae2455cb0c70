"""`make bench`: measure what ONLY names, print it, and publish it in docs/performance.md."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

from bench import growth, memory, plot, registry, report, start, targets
from bench.load import WrongAnswers
from bench.options import Options, read_options
from bench.processes import NotStarted
from bench.registry import Contender
from bench.rounds import Database, as_json, measure
from bench.targets import Target
from example.mongodb import MongoDBUnavailable, running_mongodb

#: So many clients share the load of `crowd`: each has a budget, and so a window, of its own.
CROWD = 50


class Pages:
    """Where results go: docs/ and bench/results/, or .bench/quick/ when only checking."""

    def __init__(self, options: Options) -> None:
        quick = registry.HOME / "quick"
        quick.mkdir(exist_ok=True)
        self.docs = quick if options.quick else registry.ROOT / "docs"
        self.raw = quick if options.quick else registry.ROOT / "bench" / "results"
        self.document: Path = self.docs / "performance.md"


def main() -> None:
    """Run the parts, one after another."""
    # As an exception, so that what was started is stopped on the way out.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    options = read_options()
    pages = Pages(options)
    try:
        with running_mongodb(registry.HOME / "mongodb") as url:
            database = Database(url)
            try:
                _run(options, pages, database)
            finally:
                database.close()
    except (MongoDBUnavailable, NotStarted, WrongAnswers) as error:
        sys.exit(f"error: {error}")


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _run(options: Options, pages: Pages, database: Database) -> None:
    asked = options
    for part in asked.only:
        options = replace(asked, clients=CROWD, connections=(64,)) if part == "crowd" else asked
        machine = report.machine(options, database.version)
        print(f"\n== {part} ==", flush=True)
        if part == "protected":
            text = _side_by_side(
                part, "/protected", registry.PROTECTED, targets.PROTECTED, targets.BARE,
                options, pages, database,
            )  # fmt: skip
        elif part == "crowd":
            text = _side_by_side(
                part, "/protected", registry.PROTECTED, (), targets.BARE,
                options, pages, database,
            )  # fmt: skip
        elif part == "token":
            text = _side_by_side(
                part, "/token", registry.TOKENS, targets.TOKENS, targets.OIDC,
                options, pages, database,
            )  # fmt: skip
        else:
            measured, text = {
                "growth": growth.measure_growth,
                "start": start.measure_start,
                "memory": memory.measure_memory,
            }[part](options, database)
            report.save_raw(pages.raw / f"{part}.json", measured)
        print(f"\n{text}\n", flush=True)
        report.publish(pages.document, part, f"{machine}\n\n{text}")


def _side_by_side(
    part: str,
    path: str,
    contenders: Sequence[Contender],
    wanted: Sequence[Target],
    base: str,
    options: Options,
    pages: Pages,
    database: Database,
) -> str:
    turns = measure(contenders, path, database, options)
    report.save_raw(pages.raw / f"{part}.json", as_json(turns))
    picture = f"performance-{part}.svg"
    plot.bars(turns, f"{path}: requests per second, one worker", pages.docs / picture)
    return "\n\n".join([
        report.contender_table(contenders),
        f"![Requests per second]({picture})",
        report.result_table(turns, contenders, base),
        *([report.target_table(turns, wanted)] if wanted else []),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
