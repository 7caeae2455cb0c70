"""`oauth2-m2m explain`: why a request was refused, or whether one would be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from _oauth2_m2m.cli.output import Json, print_json, print_styled, show, words
from _oauth2_m2m.cli.routes import AppDir, Factory, routes_in
from _oauth2_m2m.cli.running import Exit, ending, run, text_or_stdin
from _oauth2_m2m.explaining import Change, Explanation, Outcome, Step
from _oauth2_m2m.explaining import explain as explained
from _oauth2_m2m.predicting import Prediction, predict, route_for

_STYLES = {
    Outcome.PASSED: "green",
    Outcome.FAILED: "bold red",
    Outcome.NOT_REACHED: "dim",
    Outcome.UNKNOWN: "yellow",
}
_SHOWN = ("timestamp", "event", "client_id", "ip", "method", "route", "request_id", "reason")

ErrorId = Annotated[
    str | None, typer.Argument(help="What the refusal called itself: error_id, or X-Error-ID.")
]
Token = Annotated[
    str | None,
    typer.Option(help="Instead: an access token; - reads it from stdin, out of the history."),
]
Route = Annotated[
    str | None, typer.Option(help="And the route to predict for, such as yourapp:app/reports.")
]
Method = Annotated[str, typer.Option(help="The method of the route.")]


def explain(
    error_id: ErrorId = None,
    token: Token = None,
    route: Route = None,
    method: Method = "GET",
    factory: Factory = False,
    app_dir: AppDir = Path(),
    as_json: Json = False,
) -> None:
    """Say step by step why a request was refused, or whether a route would let a token through.

    A prediction counts nothing and notes nothing, and exits with 1 where the answer is no.
    """
    if error_id is not None and token is None and route is None:
        _explain(error_id, as_json=as_json)
    elif error_id is None and token is not None and route is not None:
        _predict(token, route, method.upper(), factory, app_dir, as_json=as_json)
    else:
        raise ending(Exit.USAGE, "name an error_id, or else --token and --route")


def _explain(error_id: str, *, as_json: bool) -> None:
    explanation = run(lambda services: explained(services, error_id))
    if as_json:
        print_json(asdict(explanation))
    else:
        _show_explanation(explanation)


def _predict(
    token: str, place: str, method: str, factory: bool, app_dir: Path, *, as_json: bool
) -> None:
    name, slash, path = place.partition("/")
    if not slash:
        raise ending(Exit.USAGE, f"--route {place}: name the path too, such as {place}/reports")
    route = route_for(routes_in(name, app_dir, factory), method, f"/{path}")
    if route is None:
        raise ending(Exit.USAGE, f"{name} has no route {method} /{path}: see oauth2-m2m routes")
    text = text_or_stdin(token)
    prediction = run(lambda services: predict(services, text, route))
    if as_json:
        print_json(asdict(prediction))
    else:
        _show_prediction(prediction)
    if not prediction.admitted:
        raise typer.Exit(Exit.FOUND)


def _show_explanation(explanation: Explanation) -> None:
    members = asdict(explanation)
    show({name: members[name] for name in (*_SHOWN, "count")}, as_json=False)
    print_styled(Text(), *_steps(explanation.steps), Text())
    print_styled(_line("would have passed", explanation.remedy), *_today(explanation.now))
    for title, changes in {"before": explanation.before, "since": explanation.since}.items():
        for change in changes:
            print_styled(_line(title, _change_words(change)))


def _show_prediction(prediction: Prediction) -> None:
    verdict = "let through" if prediction.admitted else "refused"
    members = {"route": prediction.route, "client_id": prediction.client_id, "verdict": verdict}
    show(members, as_json=False)
    print_styled(Text(), *_steps(prediction.steps), Text())
    if prediction.remedy is not None:
        print_styled(_line("would pass", prediction.remedy))
    print_styled(*_today(prediction.now))


def _steps(steps: Sequence[Step]) -> list[Text]:
    return [
        Text.assemble(
            (f"  {step.outcome.value:<13}", _STYLES[step.outcome]),
            step.says,
            f" ({step.found})" if step.found else "",
        )
        for step in steps
    ]


def _today(said: Sequence[str]) -> list[Text]:
    return [_line("today", each) for each in said]


def _line(title: str, said: str) -> Text:
    return Text.assemble((f"{title}: ", "bold"), said)


def _change_words(change: Change) -> str:
    reason = f" ({change.reason})" if change.reason else ""
    return f"{words(change.timestamp)} {change.event}{reason}"
