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
from _oauth2_m2m.errors import ClientExists
from _oauth2_m2m.services import Services


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
    there = run(lambda services: _import(services, source, found, dry_run=dry_run))
    taken = [each for each in found if each.client_id not in there]
    kept = [NotImported(client_id=i, reason="it is registered here already") for i in there]
    result = _as_json(taken, [*refused, *kept])
    if as_json:
        print_json(result)
        return
    for each in taken:
        typer.echo(f"+ {each.client_id}: {' '.join(each.fields['scopes']) or 'no scopes'}")
        for note in each.notes:
            say(f"  {each.client_id}: {note}")
    for left in [*refused, *kept]:
        say(f"not imported: {left.client_id}: {left.reason}")
    done = "would be imported" if dry_run else "imported"
    say(f"{len(taken)} {done}, {len(refused) + len(kept)} not.")
    if any(each.stored for each in taken) and not dry_run:
        say("Running workers take their secrets within 30 s (IMPORTED_SECRETS is true now).")


async def _import(
    services: Services, source: Source, found: Sequence[Foreign], *, dry_run: bool
) -> list[str]:
    """Register what can be; the ids that were there already."""
    there = []
    if any(each.stored for each in found) and not dry_run:
        await services.settings.take_imported_secrets()
    for each in found:
        if dry_run:
            known = await services.clients.find(each.client_id) is not None
        else:
            known = not await _take_over(services, source, each)
        there += [each.client_id] if known else []
    return there


async def _take_over(services: Services, source: Source, foreign: Foreign) -> bool:
    try:
        await services.clients.take_over(
            foreign.client_id,
            foreign.fields,
            secret=foreign.secret,
            stored=foreign.stored,
            origin=source.value,
        )
    except ClientExists:
        return False
    return True


def _as_json(taken: Sequence[Foreign], refused: Sequence[NotImported]) -> Mapping[str, Any]:
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
        "not_imported": [{"client_id": each.client_id, "reason": each.reason} for each in refused],
    }
