"""A bar chart as SVG, written by hand: requests per second, by contender and concurrency."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path

from bench.rounds import Turn

WIDTH, LABELS, RIGHT = 860, 290, 90
BAR, GAP, HEAD = 18, 6, 34
OURS, OTHERS = "#0b7285", "#adb5bd"


def bars(turns: Sequence[Turn], title: str, path: Path) -> None:
    """Draw one group of bars for each concurrency; ours in colour."""
    names = list(dict.fromkeys(turn.contender for turn in turns))
    body, top = [], HEAD
    for connections in sorted({turn.connections for turn in turns}):
        rates = {
            name: statistics.median(found)
            for name in names
            if (
                found := [
                    turn.rate
                    for turn in turns
                    if (turn.contender, turn.connections) == (name, connections)
                ]
            )
        }
        body.append(_text(LABELS, top + 13, f"{connections} connections", weight="bold"))
        top += BAR + GAP
        for name, rate in rates.items():
            body.append(_bar(top, name, rate, max(rates.values())))
            top += BAR + GAP
        top += GAP * 2
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" '
        f'height="{top}" font-family="system-ui, sans-serif" font-size="13" role="img">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>\n'
        + _text(LABELS, 20, title, weight="bold", size=15)
        + "".join(body)
        + "</svg>\n"
    )


def _bar(top: int, name: str, rate: float, most: float) -> str:
    length = max(1.0, (WIDTH - LABELS - RIGHT) * rate / most)
    colour = OURS if name.startswith("ours") else OTHERS
    return (
        _text(LABELS - 8, top + 13, name, anchor="end")
        + f'<rect x="{LABELS}" y="{top}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>\n'
        + _text(LABELS + length + 6, top + 13, f"{rate:,.0f}/s")
    )


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal", size: int = 13
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}" '
        f'font-size="{size}" fill="#212529">{escape(text)}</text>\n'
    )
