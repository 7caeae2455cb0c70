"""`oauth2-m2m explain`: why a request was refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from _oauth2_m2m.cli.output import Json, print_json, print_styled, show, words
from _oauth2_m2m.cli.running import run
from _oauth2_m2m.explaining import Change, Explanation, Outcome, Step
from _oauth2_m2m.explaining import explain as explained

_STYLES = {
    Outcome.PASSED: "green",
    Outcome.FAILED: "bold red",
    Outcome.NOT_REACHED: "dim",
    Outcome.UNKNOWN: "yellow",
}
_SHOWN = ("timestamp", "event", "client_id", "ip", "method", "route", "request_id", "reason")

ErrorId = Annotated[
    str, typer.Argument(help="What the refusal called itself: error_id, or X-Error-ID.")
]


def explain(error_id: ErrorId, as_json: Json = False) -> None:
    """Say step by step why a request was refused, and what would have passed."""
    explanation = run(lambda services: explained(services, error_id))
    if as_json:
        print_json(asdict(explanation))
    else:
        _show(explanation)


def _show(explanation: Explanation) -> None:
    members = asdict(explanation)
    show({name: members[name] for name in (*_SHOWN, "count")}, as_json=False)
    print_styled(Text(), *_steps(explanation.steps), Text())
    print_styled(_line("would have passed", explanation.remedy))
    for words_of_it in explanation.now:
        print_styled(_line("today", words_of_it))
    for title, changes in {"before": explanation.before, "since": explanation.since}.items():
        for change in changes:
            print_styled(_line(title, _change_words(change)))


def _steps(steps: Sequence[Step]) -> list[Text]:
    return [
        Text.assemble(
            (f"  {step.outcome.value:<13}", _STYLES[step.outcome]),
            step.says,
            f" ({step.found})" if step.found else "",
        )
        for step in steps
    ]


def _line(title: str, said: str) -> Text:
    return Text.assemble((f"{title}: ", "bold"), said)


def _change_words(change: Change) -> str:
    reason = f" ({change.reason})" if change.reason else ""
    return f"{words(change.timestamp)} {change.event}{reason}"
