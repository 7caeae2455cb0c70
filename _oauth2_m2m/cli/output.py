"""What commands print: tables for people, JSON for programs, complaints beside both.

Results go to the standard output, everything else to the standard error, so that a pipe gets
results alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: The option that every command has.
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
#: The option of every command that destroys something.
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether you are sure.")]
#: The option of every command that can say beforehand what it would do.
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def show(members: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one thing, its members one a line; those that are `None` are left out for people."""
    if as_json:
        print_json(members)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in members.items():
        if value is not None:
            table.add_row(Text(name, style="bold"), Text(words(value)))
    _console().print(table)


def show_all(rows: Sequence[Mapping[str, Any]], *, as_json: bool, empty: str) -> None:
    """Print many things of one kind, one a line.

    Args:
        rows: the things; the first one's members name the columns.
        as_json: as a JSON array instead.
        empty: what people are told when there is none.
    """
    if as_json:
        print_json(list(rows))
    elif not rows:
        say(empty)
    else:
        table = Table(*rows[0], box=None, pad_edge=False, header_style="bold")
        for row in rows:
            # Folded where the terminal is narrow: an id that is cut short is of no use.
            table.add_row(*(Text(words(value), overflow="fold") for value in row.values()))
        _console().print(table)


def print_json(value: object) -> None:
    """Print a value as JSON: times in ISO 8601, sets as sorted lists."""
    typer.echo(json.dumps(value, default=_as_json, indent=2, ensure_ascii=False))


def say(message: str) -> None:
    """Tell people how it went; programs read the standard output, and this is not there."""
    typer.echo(_harmless(message), err=True)


def report(message: str, *, as_json: bool, **members: Any) -> None:
    """Say what a command has done: people in words, programs by its members."""
    if as_json:
        print_json(members)
    else:
        say(message)


def complain(message: str) -> None:
    """Say what is wrong and what to do, in one line."""
    typer.echo(f"error: {_harmless(message)}", err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed; nobody there to answer means no.

    Raises:
        typer.Abort: the answer is no.
    """
    if not yes:
        typer.confirm(question, abort=True, err=True)


def words(value: object) -> str:
    """A value as people read it; what others chose of it cannot steer the terminal."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {words(each)}" for name, each in value.items())
    if isinstance(value, frozenset | set):
        return " ".join(sorted(map(words, value)))
    if isinstance(value, list | tuple):
        return " ".join(map(words, value))
    return _harmless(str(value)).replace("\n", "\N{REPLACEMENT CHARACTER}")


def _harmless(text: str) -> str:
    """A text that cannot steer the terminal, whoever chose parts of it: a file, or a database."""
    return "".join(
        each if each.isprintable() or each == "\n" else "\N{REPLACEMENT CHARACTER}" for each in text
    )


def _as_json(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, Enum):
        return value.value
    return str(value)


def print_styled(*lines: Text) -> None:
    """Print lines for people, with their colours where there are any."""
    _console().print(*lines, sep="\n")


def _console() -> Console:
    # Made for each call: where the output goes may have changed since the last one.
    return Console(highlight=False, soft_wrap=True)
