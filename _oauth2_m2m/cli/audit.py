"""`oauth2-m2m audit`: what happened, and whether the log of it is as it was written."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from _oauth2_m2m.audit import Event
from _oauth2_m2m.audit_reading import MOST_FOUND, AuditReading, json_line
from _oauth2_m2m.audit_search import AuditQuery
from _oauth2_m2m.audit_verification import AuditReport
from _oauth2_m2m.cli.durations import duration, duration_in
from _oauth2_m2m.cli.output import Json, complain, print_json, say, show, show_all, words
from _oauth2_m2m.cli.running import Exit, run
from _oauth2_m2m.services import Services

app = typer.Typer(help="What happened, and whether the log is intact.", no_args_is_help=True)

_COLUMNS = ("timestamp", "event_type", "client_id", "ip", "reason", "request_id", "error_id")


class Form(StrEnum):
    """How records are exported."""

    OCSF = "ocsf"
    PLAIN = "plain"


Client = Annotated[str | None, typer.Option("--client", help="The client, as it was presented.")]
What = Annotated[Event | None, typer.Option("--event", help="What happened.")]
Address = Annotated[str | None, typer.Option("--address", help="From where.")]
Request = Annotated[str | None, typer.Option("--request-id", help="Which request.")]
Error = Annotated[str | None, typer.Option("--error-id", help="Which error.")]
Since = Annotated[
    str | None, typer.Option("--since", help="Not before: a date and time, or 90m, 24h, 7d ago.")
]
Until = Annotated[str | None, typer.Option("--until", help="Before: the same.")]


@app.command()
def tail(
    client: Client = None,
    event: What = None,
    address: Address = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=MOST_FOUND, help="How many at the most.")
    ] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="And go on with new ones.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The newest records, the newest last; with --json one a line."""
    what: AuditQuery = {"client_id": client, "event": event, "address": address}

    async def work(services: Services) -> None:
        reading = AuditReading(services)
        for record in reversed(await reading.search(**what, limit=limit)):
            _print_line(record, as_json=as_json)
        if follow:
            async for record in reading.follow(**what):
                _print_line(record, as_json=as_json)

    try:
        run(work)
    except KeyboardInterrupt:
        raise typer.Exit(Exit.OK) from None


@app.command()
def search(
    client: Client = None,
    event: What = None,
    address: Address = None,
    request_id: Request = None,
    error_id: Error = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST_FOUND, help="How many at the most.")] = 100,
    as_json: Json = False,
) -> None:
    """The records that match all that is given, the newest first."""
    what = _what(client, event, address, request_id, error_id, since, until)
    found = run(lambda services: AuditReading(services).search(**what, limit=limit))
    if as_json:
        print_json(found)
    else:
        show_all([_row(each) for each in found], as_json=False, empty="Nothing matches.")


@app.command()
def export(
    client: Client = None,
    event: What = None,
    address: Address = None,
    request_id: Request = None,
    error_id: Error = None,
    since: Since = None,
    until: Until = None,
    form: Annotated[
        Form, typer.Option("--format", help="OCSF events, or records as they stand.")
    ] = Form.OCSF,
    as_json: Json = False,
) -> None:
    """All records that match as JSON Lines, or with --json as one array; the oldest first."""
    what = _what(client, event, address, request_id, error_id, since, until)

    async def work(services: Services) -> None:
        separator = "["
        async for line in AuditReading(services).export(ocsf=form is Form.OCSF, **what):
            typer.echo(f"{separator}{line}" if as_json else line)
            separator = ","
        if as_json:
            typer.echo("[]" if separator == "[" else "]")

    run(work)


@app.command()
def verify(
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="Thumbprint of a key that may have signed; repeat it."),
    ] = None,
    anchor: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A file with heads that were noted before, a number and a hash on each line.",
        ),
    ] = None,
    kept: Annotated[
        timedelta | None,
        typer.Option(
            parser=duration,
            metavar="TIME",
            help="How long records must have been kept, such as 90d; else as the database says.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find every record that was removed, altered or added. Exit code 1 when there is one."""
    try:
        anchors = _anchors(anchor.read_text(encoding="utf-8")) if anchor else {}
    except ValueError as mistake:
        raise typer.BadParameter(str(mistake), param_hint="--anchor") from None
    report = run(
        lambda services: AuditReading(services).verify(keys=key or (), anchors=anchors, kept=kept)
    )
    if as_json:
        print_json({"intact": report.is_intact, **asdict(report)})
    else:
        _show_report(report)
    if not report.is_intact:
        number = len(report.findings) + report.more_findings
        complain(f"the audit log is not as it was written: {number} finding(s)")
        raise typer.Exit(Exit.FOUND)
    say("Intact: nothing that is signed was removed, altered or added.")


def _show_report(report: AuditReport) -> None:
    rows = [asdict(finding) for finding in report.findings]
    if rows:
        show_all(rows, as_json=False, empty="")
        typer.echo()
    head = report.head and f"{report.head.number} {report.head.hash}"
    members = {
        name: value
        for name, value in asdict(report).items()
        if name not in {"findings", "head", "more_findings"}
    }
    show({**members, "head": head}, as_json=False)


def _print_line(record: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json_line(record))
        return
    row = _row(record)
    moment = f"{row.pop('timestamp'):%Y-%m-%d %H:%M:%S}"
    typer.echo("  ".join([moment, *(words(value) for value in row.values() if value)]))


def _row(record: dict[str, Any]) -> dict[str, Any]:
    row = {name: record.get(name) for name in _COLUMNS}
    if "count" in record:
        row["reason"] = f"{record['count']} times: {row['reason']}"
    return row


def _what(
    client: str | None,
    event: Event | None,
    address: str | None,
    request_id: str | None,
    error_id: str | None,
    since: str | None,
    until: str | None,
) -> AuditQuery:
    now = datetime.now(UTC)
    return {
        "client_id": client,
        "event": event,
        "address": address,
        "request_id": request_id,
        "error_id": error_id,
        "since": _moment(since, now, "--since") if since else None,
        "until": _moment(until, now, "--until") if until else None,
    }


def _moment(text: str, now: datetime, option: str) -> datetime:
    """A date and time, in UTC when it names no zone; or how long ago."""
    ago = duration_in(text)
    try:
        if ago is not None:
            return now - ago
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            "give a date and time such as 2030-01-31T12:00, or 90m, 24h, 7d ago", param_hint=option
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _anchors(text: str) -> dict[int, str]:
    """What was noted: lines of a number and a hash; empty ones and comments (#) do not count."""
    found = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not words[0].isdecimal():
            raise ValueError("each line must hold the number of a checkpoint and its hash")
        found[int(words[0])] = words[1]
    return found
