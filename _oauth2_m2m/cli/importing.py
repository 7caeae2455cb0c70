"""`oauth2-m2m import`: clients from other servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from _oauth2_m2m.cli.output import DryRun, Json, print_json, say
from _oauth2_m2m.cli.running import Exit, ending, run
from _oauth2_m2m.client_import import (
    LARGEST_EXPORT_BYTES,
    Foreign,
    NotImported,
    Source,
    read_export,
)
from _oauth2_m2m.client_takeover import take_over


def import_clients(
    source: Annotated[Source, typer.Argument(help="Where the export comes from.")],
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The export.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="A scope for clients to which the export gives none; repeat it."),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Register the machines of another server here, with their secrets.

    The export is read in full before anything is written. What cannot be carried over is named,
    with the reason; clients that are here already stay as they are.
    """
    with file.open("rb") as stream:
        content = stream.read(LARGEST_EXPORT_BYTES + 1)
    try:
        found, refused = read_export(source, content.decode("utf-8"), scopes=scope or [])
    except ValueError as fault:
        reason = "the export is not UTF-8" if isinstance(fault, UnicodeDecodeError) else str(fault)
        raise ending(Exit.USAGE, reason) from None
    done = run(lambda services: take_over(services, source, found, dry_run=dry_run))
    left = [*refused, *done.left]
    if as_json:
        print_json(_as_json(done.taken, left))
        return
    for taken in done.taken:
        typer.echo(f"+ {taken.client_id}: {' '.join(taken.fields['scopes']) or 'no scopes'}")
        for note in taken.notes:
            say(f"  {taken.client_id}: {note}")
    for each in left:
        say(f"not imported: {each.client_id}: {each.reason}")
    outcome = "would be imported" if dry_run else "imported"
    say(f"{len(done.taken)} {outcome}, {len(left)} not.")
    if any(each.stored for each in done.taken) and not dry_run:
        say("Running workers take their secrets within 30 s (IMPORTED_SECRETS is true now).")


def _as_json(taken: Sequence[Foreign], left: Sequence[NotImported]) -> Mapping[str, Any]:
    return {
        "imported": [
            {
                "client_id": each.client_id,
                **each.fields,
                "secret": "hashed" if each.stored else "given" if each.secret else None,
                "notes": each.notes,
            }
            for each in taken
        ],
        "not_imported": [{"client_id": each.client_id, "reason": each.reason} for each in left],
    }
