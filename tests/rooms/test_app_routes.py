"""What the routes of an app ask for, found without a request."""

# No `from __future__ import annotations`: FastAPI reads the routes' annotations as values.

from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Security, WebSocket
from fastapi.staticfiles import StaticFiles
from pymongo import MongoClient
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Host, Mount, Route, Router

from _oauth2_m2m.app_routes import routes_of
from oauth2_m2m import AccessToken, OAuth2M2M, ResourceServer, RouteAccess, RouteInfo

GUARDED, PUBLIC, OPEN = RouteAccess.GUARDED, RouteAccess.PUBLIC, RouteAccess.OPEN


class Scope(StrEnum):
    READ = "read"
    WRITE = "write"


class Role(StrEnum):
    ADMIN = "admin"


@pytest.fixture
def m2m() -> Iterator[OAuth2M2M]:
    """Nobody listens where its database is: nothing is sent."""
    with MongoClient[dict[str, Any]]("mongodb://127.0.0.1:1", connect=False) as client:
        yield OAuth2M2M(client.nowhere, scopes=Scope)


def bare() -> FastAPI:
    """An app without FastAPI's own pages."""
    return FastAPI(openapi_url=None)


def found(app: object) -> list[tuple[Any, ...]]:
    """Each route in short: methods, path, access, scopes, roles."""
    return [
        (" ".join(each.methods), each.path, each.access, each.scopes, each.roles)
        for each in routes_of(app)
    ]


async def endpoint(request: Request) -> Response:
    return Response()


async def nothing() -> None: ...


def guard(m2m: OAuth2M2M) -> Any:
    return Security(m2m.access_token, scopes=[Scope.READ])


def by_argument(app: FastAPI, m2m: OAuth2M2M) -> None:
    @app.get("/x")
    async def x(token: Annotated[AccessToken, guard(m2m)]) -> None: ...


def by_role(app: FastAPI, m2m: OAuth2M2M) -> None:
    app.get("/x", dependencies=[Depends(m2m.requires(Scope.READ, role=Role.ADMIN))])(nothing)


def without_scope(app: FastAPI, m2m: OAuth2M2M) -> None:
    app.get("/x", dependencies=[Depends(m2m.access_token)])(nothing)


def twice(app: FastAPI, m2m: OAuth2M2M) -> None:
    router = APIRouter(dependencies=[Depends(m2m.requires("write"))])
    router.get("/x", dependencies=[guard(m2m)])(nothing)
    app.include_router(router)


def nested(app: FastAPI, m2m: OAuth2M2M) -> None:
    async def tenant(token: Annotated[AccessToken, guard(m2m)]) -> str:
        return token.client_id

    @app.get("/x")
    async def x(tenant: Annotated[str, Security(tenant, scopes=["write"])]) -> None: ...


def by_partial(app: FastAPI, m2m: OAuth2M2M) -> None:
    app.get("/x", dependencies=[Depends(partial(m2m.requires("read", role="admin")))])(nothing)


def by_app(app: FastAPI, m2m: OAuth2M2M) -> None:
    guarded = FastAPI(openapi_url=None, dependencies=[guard(m2m)])
    guarded.get("/x")(nothing)
    app.mount("", guarded)


def by_including(app: FastAPI, m2m: OAuth2M2M) -> None:
    inner, outer = APIRouter(prefix="/x"), APIRouter()
    inner.get("")(nothing)
    outer.include_router(inner)
    app.include_router(outer, dependencies=[guard(m2m)])


def said_public(app: FastAPI, m2m: OAuth2M2M) -> None:
    app.get("/x", dependencies=[Depends(m2m.public)])(nothing)


def public_and_guarded(app: FastAPI, m2m: OAuth2M2M) -> None:
    app.get("/x", dependencies=[Depends(m2m.public), guard(m2m)])(nothing)


def forgotten(app: FastAPI, m2m: OAuth2M2M) -> None:
    app.get("/x")(nothing)


def overridden(app: FastAPI, m2m: OAuth2M2M) -> None:
    app.get("/x", dependencies=[guard(m2m)])(nothing)
    app.dependency_overrides[m2m.access_token] = nothing


def plain_route(app: FastAPI, m2m: OAuth2M2M) -> None:
    app.add_route("/x", endpoint, methods=["GET"])


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (by_argument, (GUARDED, ("read",), ())),
        (by_role, (GUARDED, ("read",), ("admin",))),
        (without_scope, (GUARDED, (), ())),
        (twice, (GUARDED, ("write", "read"), ())),
        (nested, (GUARDED, ("write", "read"), ())),
        (by_partial, (GUARDED, ("read",), ("admin",))),
        (by_app, (GUARDED, ("read",), ())),
        (by_including, (GUARDED, ("read",), ())),
        (said_public, (PUBLIC, (), ())),
        (public_and_guarded, (GUARDED, ("read",), ())),
        (forgotten, (OPEN, (), ())),
        (overridden, (OPEN, (), ())),
        (plain_route, (OPEN, (), ())),
    ],
    ids=lambda case: getattr(case, "__name__", "route"),
)
def test_a_route_is_found_with_what_it_asks_for(
    m2m: OAuth2M2M, build: Callable[[FastAPI, OAuth2M2M], None], expected: tuple[Any, ...]
) -> None:
    """However a guard is put on a route; and without one it is open, unless that is said."""
    app = bare()
    build(app, m2m)
    ((methods, path, *rest),) = found(app)
    assert (methods.split()[0], path, tuple(rest)) == ("GET", "/x", expected)


def test_every_kind_of_route_is_found(m2m: OAuth2M2M, tmp_path: Path) -> None:
    """Mounted apps, files, hosts, WebSockets, classes and apps of any other make."""

    class Page(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return Response()

    async def asgi(scope: Any, receive: Any, send: Any) -> None: ...

    async def socket(socket: WebSocket) -> None: ...

    async def guarded_socket(
        socket: WebSocket, token: Annotated[AccessToken, guard(m2m)]
    ) -> None: ...

    sub, app, router = bare(), bare(), APIRouter(prefix="/v1")
    sub.get("/x", dependencies=[guard(m2m)])(nothing)
    sub.get("/y")(nothing)
    app.mount("/sub", sub)
    app.mount("/wrapped", GZipMiddleware(sub))
    app.mount("/files", StaticFiles(directory=tmp_path))
    app.mount("/other", asgi)
    app.router.routes.append(Mount("/list", routes=[Route("/page", Page)]))
    app.router.routes.append(Host("api.example.com", Router([Route("/z", endpoint)])))
    app.websocket("/open")(socket)
    app.websocket("/guarded")(guarded_socket)
    app.router.add_websocket_route("/plain", socket)
    router.websocket("/open")(socket)
    router.add_route("/old", endpoint)
    app.include_router(router, dependencies=[guard(m2m)])
    assert found(GZipMiddleware(app)) == [
        ("GET", "/sub/x", GUARDED, ("read",), ()),
        ("GET", "/sub/y", OPEN, (), ()),
        ("GET", "/wrapped/x", GUARDED, ("read",), ()),
        ("GET", "/wrapped/y", OPEN, (), ()),
        ("", "/files/*", OPEN, (), ()),
        ("", "/other/*", OPEN, (), ()),
        ("", "/list/page", OPEN, (), ()),
        ("GET HEAD", "api.example.com/z", OPEN, (), ()),
        ("WEBSOCKET", "/open", OPEN, (), ()),
        ("WEBSOCKET", "/guarded", GUARDED, ("read",), ()),
        ("WEBSOCKET", "/plain", OPEN, (), ()),
        ("WEBSOCKET", "/v1/open", GUARDED, ("read",), ()),
        ("GET HEAD", "/old", OPEN, (), ()),
    ]


@pytest.mark.skipif(not hasattr(FastAPI, "frontend"), reason="this FastAPI serves no frontends")
def test_a_frontend_is_found(m2m: OAuth2M2M, tmp_path: Path) -> None:
    """The files that FastAPI serves where no route matches are not overlooked."""
    app: Any = bare()
    router: Any = APIRouter(prefix="/v1", dependencies=[guard(m2m)])
    router.frontend("/app", directory=tmp_path)
    app.include_router(router)
    app.frontend("/", directory=tmp_path)
    assert sorted(found(app)) == [
        ("GET HEAD", "/*", OPEN, (), ()),
        ("GET HEAD", "/v1/app/*", GUARDED, ("read",), ()),
    ]


def test_our_endpoints_and_the_documentation_are_known(m2m: OAuth2M2M) -> None:
    """Nobody needs to say that /token is open, wherever it was included."""
    app = FastAPI()
    app.include_router(m2m.router, prefix="/auth")
    rows = m2m.routes(app)
    assert {each.access for each in rows} == {RouteAccess.BUILT_IN}
    assert {"/auth/token", "/auth/health", "/docs", "/openapi.json"} <= {r.path for r in rows}


def test_a_scope_that_is_not_offered_is_told(m2m: OAuth2M2M) -> None:
    """Each guard offers its own; what a service elsewhere offers is no excuse for this one."""
    api = ResourceServer("https://auth.example.com", audience="urn:api", scopes={"read": "Read"})
    app = bare()
    app.get("/x", dependencies=[Depends(m2m.requires("read", "raed"))])(nothing)
    app.get("/y", dependencies=[Depends(api.requires("write", "read"))])(nothing)
    assert [each.not_offered for each in routes_of(app)] == [("raed",), ("write",)]


@pytest.mark.parametrize("app", [None, object(), nothing, "app"])
def test_what_is_no_app_is_refused(app: object) -> None:
    """A callable without routes cannot be looked into, and that is said."""
    with pytest.raises(ValueError, match="no routes"):
        routes_of(app)


def test_an_app_of_starlette_is_looked_into() -> None:
    """It has routes too, though none that we could guard."""
    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    assert routes_of(app) == [RouteInfo(path="/", methods=("POST",), access=OPEN)]
