"""`oauth2-m2m routes`: what the routes of an app ask for, and whether one is left open."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from _oauth2_m2m.app_routes import RouteAccess, RouteInfo, routes_of
from _oauth2_m2m.cli.apps import app_at
from _oauth2_m2m.cli.output import Json, complain, say, show_all
from _oauth2_m2m.cli.running import Exit, ending, run

App = Annotated[str, typer.Argument(help="The app, as uvicorn names it, such as yourapp:app.")]
Check = Annotated[
    bool, typer.Option("--check", help="Fail on a route that is open, and on an unknown scope.")
]
Public = Annotated[
    list[str], typer.Option(help="A path that is open on purpose, such as /status; repeat it.")
]
PublicPrefix = Annotated[
    list[str], typer.Option(help="The same, for all that is below a path; repeat it.")
]
Factory = Annotated[bool, typer.Option("--factory", help="It is a function that makes the app.")]
AppDir = Annotated[Path, typer.Option(help="The folder to import it from.")]


def routes(
    app: App,
    check: Check = False,
    public: Public = [],  # noqa: B006 - typer copies it
    public_prefix: PublicPrefix = [],  # noqa: B006
    factory: Factory = False,
    app_dir: AppDir = Path(),
    as_json: Json = False,
) -> None:
    """List the routes of an app with the scopes and the role that each asks for.

    The database is asked only by --check, and only for scopes that the app does not offer by
    OAuth2M2M(..., scopes=...): whether a client has them.
    """
    found = [_marked(each, public, public_prefix) for each in routes_in(app, app_dir, factory)]
    show_all(
        [_row(each) for each in found],
        as_json=as_json,
        empty="The app has no routes.",
    )
    if check:
        _check(found)


def _check(found: Sequence[RouteInfo]) -> None:
    is_open = [each for each in found if each.access is RouteAccess.OPEN]
    for each in is_open:
        complain(f"{_name(each)} is open: guard it, or say that it is public")
    missing = {scope for each in found for scope in each.not_offered}
    try:
        unknown = missing - _held(missing) if missing else missing
    except typer.Exit:
        if is_open:
            raise typer.Exit(Exit.FOUND) from None
        raise
    for each in found:
        for scope in unknown.intersection(each.not_offered):
            complain(f"{_name(each)} asks for the scope {scope}, which nobody offers or has")
    if is_open or unknown:
        raise typer.Exit(Exit.FOUND)


def _held(scopes: Collection[str]) -> frozenset[str]:
    """Those of the scopes that some client has."""
    say(f"Not offered by the app: {' '.join(sorted(scopes))}. Looking whether a client has them.")
    return run(lambda services: services.clients.scopes_held(scopes))


def routes_in(name: str, folder: Path, factory: bool) -> list[RouteInfo]:
    """The routes of an app that is named as uvicorn names it, such as `yourapp:app`.

    Raises:
        typer.Exit: it cannot be imported, and that was said.
    """
    app = app_at(name, folder, factory=factory)
    try:
        return routes_of(app)
    except ValueError as mistake:
        raise ending(Exit.USAGE, f"{name}: {mistake}") from None


def _marked(route: RouteInfo, public: Sequence[str], prefixes: Sequence[str]) -> RouteInfo:
    below = any(f"{route.path}/".startswith(f"{each.rstrip('/')}/") for each in prefixes)
    if route.access is not RouteAccess.OPEN or not (below or route.path in public):
        return route
    return RouteInfo(path=route.path, methods=route.methods, access=RouteAccess.PUBLIC)


def _row(route: RouteInfo) -> dict[str, Any]:
    members = asdict(route)
    members.pop("not_offered")
    return {"methods": members.pop("methods"), **members}


def _name(route: RouteInfo) -> str:
    return " ".join([*route.methods[:1], route.path])
