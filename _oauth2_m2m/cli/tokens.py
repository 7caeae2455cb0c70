"""`oauth2-m2m tokens`: what a token is worth, and its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from _oauth2_m2m.cli.output import Json, Yes, confirm, print_json, report, show
from _oauth2_m2m.cli.running import Exit, ending, run, text_or_stdin
from _oauth2_m2m.services import Services
from _oauth2_m2m.token_management import TokenManagement, TokenReport

app = typer.Typer(help="What a token is worth, and its end.", no_args_is_help=True)

_MOMENTS = frozenset({"iat", "nbf", "exp"})

Token = Annotated[
    str, typer.Argument(help="The token; `-` reads it from the standard input, unseen by others.")
]
SomeToken = Annotated[
    str | None,
    typer.Argument(help="An access token, or a refresh token, which ends with its family; or `-`."),
]
Jti = Annotated[str | None, typer.Option(help="The access token of this id.")]
Family = Annotated[str | None, typer.Option(help="Every token that came from one login.")]
ClientId = Annotated[
    str | None, typer.Option("--client", help="Every live token of this client; it goes on.")
]


@app.command()
def inspect(token: Token, as_json: Json = False) -> None:
    """Say what a token is, and whether it is live; exit code 1 when it is not."""
    text = text_or_stdin(token)
    report = run(lambda services: TokenManagement(services).inspect(text))
    if as_json:
        print_json(asdict(report))
    else:
        _show(report)
    if not report.live:
        raise typer.Exit(Exit.FOUND)


@app.command()
def revoke(
    token: SomeToken = None,
    jti: Jti = None,
    family: Family = None,
    client_id: ClientId = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """End a token, a family of tokens, or all tokens of a client: everywhere, at once."""
    named = [each for each in (token, jti, family, client_id) if each is not None]
    if len(named) != 1:
        raise ending(Exit.USAGE, "name one: a token, --jti, --family or --client")
    if family is not None:
        confirm(f"End every token of the family {family}?", yes=yes)
    if client_id is not None:
        confirm(f"End every token of {client_id}?", yes=yes)
    run(_ending(token and text_or_stdin(token), jti, family, client_id))
    report(
        "Revoked: every request that starts from now on sees it.",
        as_json=as_json,
        revoked="token" if token else "jti" if jti else "family" if family else "client",
        id=jti or family or client_id,  # a token itself is printed nowhere
    )


def _ending(
    token: str | None, jti: str | None, family: str | None, client_id: str | None
) -> Callable[[Services], Awaitable[None]]:
    if token is not None:
        return lambda services: TokenManagement(services).revoke(token)
    if jti is not None:
        return lambda services: TokenManagement(services).revoke_jti(jti)
    if family is not None:
        return lambda services: TokenManagement(services).revoke_family(family)
    return lambda services: services.clients.revoke_tokens(str(client_id))


def _show(report: TokenReport) -> None:
    verdict = {"token": report.kind.replace("_", " "), "live": report.live}
    if report.claims and not report.genuine:
        verdict["genuine"] = "no: what it says proves nothing"
    show({**verdict, **dict(map(_readable, report.claims.items()))}, as_json=False)
    for reason in report.why_not:
        typer.echo(f"not live: {reason}")
    for note in report.notes:
        typer.echo(f"note: {note}")


def _readable(claim: tuple[str, Any]) -> tuple[str, Any]:
    name, value = claim
    if name in _MOMENTS and type(value) is int:
        with suppress(ValueError, OverflowError, OSError):
            return name, datetime.fromtimestamp(value, UTC)
    return claim
