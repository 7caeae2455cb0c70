"""`oauth2-m2m doctor`: what is running against what is safe."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Annotated

import typer

from _oauth2_m2m.cli.apps import app_at
from _oauth2_m2m.cli.output import Json, print_json, say, words
from _oauth2_m2m.cli.running import Exit, run
from _oauth2_m2m.doctor import Examination, Finding, Severity, worst

App = Annotated[
    str | None,
    typer.Option("--app", metavar="MODULE:NAME", help="Look at the guarded app, too."),
]
FailOn = Annotated[
    Severity, typer.Option(help="The exit code is 1 when there is a finding as bad as this.")
]


def doctor(app: App = None, fail_on: FailOn = Severity.ERROR, as_json: Json = False) -> None:
    """Look for what is unsafe or will fail. Nothing is written.

    ENVIRONMENT=production judges as in production.
    """
    guarded = None if app is None else app_at(app)
    findings = run(lambda services: Examination(services).findings(guarded), prepared=False)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            _show(finding)
        say(_summary(findings))
    found = worst(findings)
    if found is not None and found.rank >= fail_on.rank:
        raise typer.Exit(Exit.FOUND)


def _show(finding: Finding) -> None:
    typer.echo(words(f"{finding.severity}: {finding.what} [{finding.id}]"))
    if finding.about:
        more = finding.count - len(finding.about)
        of = ", ".join(finding.about) + (f" and {more} more" if more > 0 else "")
        typer.echo(words(f"  of:   {of}"))
    typer.echo(f"  why:  {finding.why}")
    typer.echo(f"  mend: {finding.mend}\n")


def _summary(findings: list[Finding]) -> str:
    counts = Counter(finding.severity for finding in findings)
    if not counts:
        return "Nothing was found."
    return ", ".join(f"{counts[each]} {each}" for each in reversed(Severity) if counts[each])
