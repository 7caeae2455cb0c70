"""The routes of an app, and what each of them asks for: found in the app, without a request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import fastapi.routing
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.routing import Host, Mount, Route, WebSocketRoute

from _oauth2_m2m.bearer import AccessTokenGuard, public, role_asked_for
from _oauth2_m2m.endpoints.route import OAuthRoute
from _oauth2_m2m.scopes import plain

#: What stands in the place of a method for a WebSocket.
WEBSOCKET = "WEBSOCKET"
#: FastAPI's own pages: the OpenAPI document and what shows it.
_DOCUMENTATION = "fastapi.applications"


class RouteAccess(StrEnum):
    """Who may come in by a route."""

    #: Whoever has a token that a guard of this library lets through.
    GUARDED = "guarded"
    #: Everybody, and it is said so: `Depends(m2m.public)`.
    PUBLIC = "public"
    #: It is an endpoint of this library, which looks after itself, or FastAPI's documentation.
    BUILT_IN = "built-in"
    #: Everybody, as far as can be seen.
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteInfo:
    """A route, and what it asks for.

    Attributes:
        path: its path, prefixes and all; it ends with `/*` where another app has all that follows.
        methods: its methods, or `WEBSOCKET`; none when it takes any.
        access: who may come in.
        scopes: the scopes that a token must have, all of them.
        roles: the roles that it must carry, all of them.
        not_offered: those of the scopes that the guard does not offer by `scopes=...`.
    """

    path: str
    methods: tuple[str, ...]
    access: RouteAccess
    scopes: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    not_offered: tuple[str, ...] = ()


def routes_of(app: object) -> list[RouteInfo]:
    """Every route of an app, those of mounted apps and included routers with it.

    Args:
        app: an app of FastAPI or Starlette, perhaps wrapped in middleware.

    Raises:
        ValueError: it is none.
    """
    found = _unwrapped(app)
    if not hasattr(found, "routes"):
        raise ValueError("it has no routes: name the FastAPI app itself")
    return list(_routes(found, ""))


def _unwrapped(app: Any) -> Any:
    """The app without the middleware around it."""
    while not hasattr(app, "routes") and hasattr(app, "app"):
        app = app.app
    return app


def _routes(app: Any, prefix: str) -> Iterator[RouteInfo]:
    # A guard that is overridden, as tests do, guards nothing.
    overrides = getattr(app, "dependency_overrides", {})
    for route in _each(app.routes):
        kind = getattr(route, "original_route", route)
        path = prefix + str(getattr(route, "path", None) or "")  # a host has none
        if isinstance(kind, Mount | Host):
            inner = _unwrapped(getattr(route, "_base_app", route.app))
            place = prefix + route.host if isinstance(kind, Host) else path
            if getattr(inner, "routes", ()):
                yield from _routes(inner, place)
            else:
                yield RouteInfo(path=f"{place}/*", methods=(), access=RouteAccess.OPEN)
        elif isinstance(kind, APIRoute | APIWebSocketRoute):
            yield _route(path, _methods(route, kind), kind, route.dependant, overrides)
        else:
            yield RouteInfo(path=path, methods=_methods(route, kind), access=_unguarded(kind))
    yield from _frontends(app, prefix, overrides)


def _each(routes: Any) -> Iterator[Any]:
    """The routes, each with its prefix and the dependencies of the routers that it is in."""
    contexts = getattr(fastapi.routing, "iter_route_contexts", None)
    return iter(routes) if contexts is None else contexts(routes)  # older ones copy the routes


def _frontends(app: Any, prefix: str, overrides: Mapping[Any, Any]) -> Iterator[RouteInfo]:
    """What newer FastAPI serves where no route matches: `app.frontend`."""
    groups = getattr(getattr(app, "router", app), "_iter_low_priority_routes", None)
    for group in () if groups is None else groups():
        place = prefix + getattr(group, "frontend_prefix", "")
        for each in getattr(getattr(group, "original_route", group), "routes", ()):
            path = f"{place}{each.path.rstrip('/')}/*"
            yield _route(path, ("GET", "HEAD"), each, group.dependant, overrides)


def _methods(route: Any, kind: object) -> tuple[str, ...]:
    if isinstance(kind, WebSocketRoute):
        return (WEBSOCKET,)
    return tuple(sorted(getattr(route, "methods", None) or ()))


def _route(
    path: str,
    methods: tuple[str, ...],
    kind: object,
    dependant: Any,
    overrides: Mapping[Any, Any],
) -> RouteInfo:
    asked, roles, guards, is_public = dict[str, None](), dict[str, None](), [], False
    for dependency in _dependencies(dependant, overrides):
        call = dependency.call
        while isinstance(call, partial):
            call = call.func
        is_public = is_public or call is public
        role = role_asked_for(call)
        if role is not None:
            roles[role] = None
        if isinstance(call, AccessTokenGuard):
            guards.append(call)
            asked.update(dict.fromkeys(_scopes(dependency)))
    if not guards:
        access = RouteAccess.PUBLIC if is_public else _unguarded(kind)
        return RouteInfo(path=path, methods=methods, access=access)
    offered = frozenset().union(*(guard.offered for guard in guards))
    return RouteInfo(
        path=path,
        methods=methods,
        access=RouteAccess.GUARDED,
        scopes=tuple(asked),
        roles=tuple(roles),
        not_offered=tuple(scope for scope in asked if scope not in offered),
    )


def _unguarded(route: object) -> RouteAccess:
    module = getattr(getattr(route, "endpoint", None), "__module__", "")
    is_documentation = isinstance(route, Route) and module == _DOCUMENTATION
    built_in = is_documentation or isinstance(route, OAuthRoute)
    return RouteAccess.BUILT_IN if built_in else RouteAccess.OPEN


def _dependencies(dependant: Any, overrides: Mapping[Any, Any]) -> Iterator[Any]:
    """What FastAPI solves before the route is called, what that needs included."""
    for each in dependant.dependencies:
        if each.call not in overrides:
            yield each
            yield from _dependencies(each, overrides)


def _scopes(dependant: Any) -> tuple[str, ...]:
    """What FastAPI hands to a guard as `SecurityScopes`; older versions have it in one piece."""
    names = ("parent_oauth_scopes", "own_oauth_scopes", "security_scopes")
    return plain([scope for name in names for scope in getattr(dependant, name, None) or ()])
