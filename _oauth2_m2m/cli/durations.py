"""Times as people type them: `90s`, `30m`, `12h`, `7d`."""

from __future__ import annotations

import re
from datetime import timedelta

import typer

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
#: Ten years; so that every moment which is so far away is one that can be written down.
LONGEST = timedelta(days=3650)


def duration(text: str) -> timedelta:
    """Read a time such as `7d`; `0` is none at all.

    Raises:
        typer.BadParameter: it is none.
    """
    if text == "0":
        return timedelta(0)
    length = duration_in(text)
    if length is None:
        raise typer.BadParameter(
            f"{text!r} is no time: use a number and s, m, h or d, such as 7d, up to {LONGEST.days}d"
        )
    return length


def duration_in(text: str) -> timedelta | None:
    """The time that a text is, such as `7d`; `None` when it is something else, or too long."""
    found = _DURATION.fullmatch(text)
    length = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else None
    return None if length is None or length > LONGEST else length


def spoken(length: timedelta) -> str:
    """A time in the largest unit that shows it exactly, as it is typed."""
    seconds = int(length.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
