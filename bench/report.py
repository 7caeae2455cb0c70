"""Turn rounds into tables, and put them between the markers of docs/performance.md."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.options import Options
from bench.registry import Contender
from bench.rounds import Turn
from bench.targets import Target, ratio

MEASURES = {"rate": "requests/s", "p99": "p99", "cpu": "CPU"}


def result_table(turns: Sequence[Turn], contenders: Sequence[Contender], base: str) -> str:
    """Medians over the rounds, by concurrency, with the ratio to one contender."""
    lines = [
        f"| connections | contender | requests/s | (least to most) | against {base} "
        "| p50 ms | p99 ms | server CPU s/1,000 | database CPU s/1,000 |",
        "|--:|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for connections in sorted({turn.connections for turn in turns}):
        for contender in contenders:
            own = [
                turn
                for turn in turns
                if (turn.contender, turn.connections) == (contender.name, connections)
            ]
            if own:
                against = ratio(turns, contender.name, base, connections)
                lines.append(_row(own, against))
    return "\n".join(lines)


def _row(turns: Sequence[Turn], against: float | None) -> str:
    rates = [turn.rate for turn in turns]
    middle = {
        name: statistics.median(getattr(turn, name) for turn in turns)
        for name in ("rate", "p50", "p99", "server_cpu", "database_cpu")
    }
    compared = "" if against is None else f"{against:.2f}"
    return (
        f"| {turns[0].connections} | {turns[0].contender} | {middle['rate']:,.0f} "
        f"| {min(rates):,.0f} to {max(rates):,.0f} | {compared} | {middle['p50']:.2f} "
        f"| {middle['p99']:.2f} | {middle['server_cpu']:.3f} | {middle['database_cpu']:.3f} |"
    )


def target_table(turns: Sequence[Turn], targets: Sequence[Target]) -> str:
    """What was wanted and what was reached."""
    lines = ["| ratio | connections | target | reached | |", "|---|--:|--:|--:|---|"]
    for target in targets:
        reached = ratio(turns, target.who, target.against, target.connections, target.measure)
        if reached is not None:
            sign = "≥" if target.at_least else "≤"
            lines.append(
                f"| {MEASURES[target.measure]}: {target.who} : {target.against} "
                f"| {target.connections} | {sign} {target.bound:g} | {reached:.2f} "
                f"| {'met' if target.met(reached) else '**missed**'} |"
            )
    return "\n".join(lines)


def contender_table(contenders: Sequence[Contender]) -> str:
    """What each contender does for one request."""
    rows = [f"| {contender.name} | {contender.does} |" for contender in contenders]
    return "\n".join(["| contender | for each request |", "|---|---|", *rows])


def machine(options: Options, mongodb: str) -> str:
    """Where and when it was measured."""
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} on {os.cpu_count()} cores"
        f"{f' ({cpu[1]})' if cpu else ''}, Python {platform.python_version()}, MongoDB {mongodb}: "
        f"{options.rounds} rounds of {options.seconds} s a turn, {options.clients} "
        f"client{'s' if options.clients > 1 else ''}."
    )


def publish(document: Path, part: str, text: str) -> None:
    """Replace what stands between the markers of a part."""
    start, end = f"<!-- bench:{part} -->", f"<!-- /bench:{part} -->"
    page = document.read_text() if document.exists() else ""
    if start not in page:
        page += f"\n{start}\n{end}\n"
    before, _, rest = page.partition(start)
    _, _, after = rest.partition(end)
    document.write_text(f"{before}{start}\n{text.strip()}\n{end}{after}")


def save_raw(path: Path, value: Any) -> None:
    """Write the raw figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")
