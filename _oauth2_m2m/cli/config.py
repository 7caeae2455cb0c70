"""`oauth2-m2m config`: the settings of the service."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from _oauth2_m2m.cli.output import DryRun, Json, print_json, say, show_all, words
from _oauth2_m2m.cli.running import Exit, ending, run, text_or_stdin
from _oauth2_m2m.config_management import (
    UNSET,
    ConfigChange,
    ConfigManagement,
    FieldChange,
    value_from,
)

app = typer.Typer(help="The settings of the service.", no_args_is_help=True)

Assignments = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME=VALUE...",
        help="Fields and their new values. `null` goes back to the default; `-` reads the value "
        "from the standard input, where nobody sees it.",
    ),
]


@app.command()
def show(as_json: Json = False) -> None:
    """Every field, its default where it is not set. Secrets are named, not shown."""
    fields = run(lambda services: ConfigManagement(services).read(), prepared=False)
    if as_json:
        print_json([asdict(field) for field in fields])
        return
    rows = [
        {"field": f.name, "value": f.value, "": f.mistake or ("" if f.is_set else "default")}
        for f in fields
    ]
    show_all(rows, as_json=False, empty="")


@app.command("set")
def set_fields(assignments: Assignments, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Change fields, all of them or none. Running workers see it within 30 s."""
    changes = dict(map(_assignment, assignments))
    if len(changes) < len(assignments):
        raise ending(Exit.USAGE, "a field is named twice")
    change = run(
        lambda services: ConfigManagement(services).change(changes, dry_run=dry_run),
        prepared=False,
    )
    if as_json:
        print_json(asdict(change))
        return
    for field in change.fields:
        typer.echo(_line(field))
    for warning in change.warnings:
        say(f"warning: {warning}")
    say(_outcome(change))


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ending(Exit.USAGE, f"{name or 'nothing'} has no value: write NAME=VALUE")
    return name, value_from(name, text_or_stdin(value))


def _line(field: FieldChange) -> str:
    return f"{field.name}: {_value(field.before)} -> {_value(field.after)}"


def _value(value: Any) -> str:
    return "(default)" if value is UNSET else words(value)


def _outcome(change: ConfigChange) -> str:
    if change.written:
        return "Written. Running workers see it within 30 s."
    return "Nothing was written." if change.fields else "Nothing is different."
