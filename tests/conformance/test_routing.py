"""Where an app puts the endpoints, and what it has beside them."""

# No `from __future__ import annotations`: FastAPI reads the routes' annotations as values.

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from _oauth2_m2m.endpoints.route import OAuthRoute
from oauth2_m2m import OAuth2M2M
from tests.expectations import expect_error, expect_tokens
from tests.server import BASE_URL, HOME, configure

POSTS = ("/token", "/refresh", "/revoke")
GETS = ("/health", "/health/live", "/health/ready")
METHODS = ("GET", "POST", "PUT", "DELETE")

#: Paths of an app's own with last segments like ours, and one of each other kind.
OWN = [
    "/other/token",
    "/other/refresh",
    "/other/health",
    "/other/token/more",
    "/auth/token/more",
    "/auth/other/token",
    "/auth/tokens",
    "/auth/my-token",
    "/api/health/live",
    "/files/any/token",
    "/files/any/token/",
    "/files/token//",
    "/protected",
]


def own_routes(app: FastAPI) -> None:
    """Routes of the app's own, each of which answers with its path."""

    async def answer(request: Request) -> dict[str, str]:
        return {"own": request.scope["path"]}

    for path in OWN:
        if not path.startswith("/files/"):
            app.add_api_route(path, answer, methods=[*METHODS])
    app.add_api_route("/files/{path:path}", answer, methods=[*METHODS])


def at_the_root(app: FastAPI, m2m: OAuth2M2M) -> None:
    """As most apps do it."""
    app.include_router(m2m.router)


def under_a_prefix(app: FastAPI, m2m: OAuth2M2M) -> None:
    """`/auth/token`."""
    app.include_router(m2m.router, prefix="/auth")


def under_two_prefixes(app: FastAPI, m2m: OAuth2M2M) -> None:
    """`/api/auth/token`, by a router of the app's own."""
    router = APIRouter(prefix="/api")
    router.include_router(m2m.router, prefix="/auth")
    app.include_router(router)


def in_a_mounted_app(app: FastAPI, m2m: OAuth2M2M) -> None:
    """`/mounted/auth/token`, in an app within the app."""
    inner = FastAPI()
    inner.include_router(m2m.router, prefix="/auth")
    app.mount("/mounted", inner)


Place = Callable[[FastAPI, OAuth2M2M], None]
PLACES: list[tuple[Place, str]] = [
    (at_the_root, ""),
    (under_a_prefix, "/auth"),
    (under_two_prefixes, "/api/auth"),
    (in_a_mounted_app, "/mounted/auth"),
]
everywhere = pytest.mark.parametrize(
    ("place", "prefix"), PLACES, ids=[place.__name__ for place, _ in PLACES]
)
in_both_orders = pytest.mark.parametrize("ours_first", [True, False], ids=["before", "after"])


@pytest.fixture
def m2m(async_database: AsyncDatabase[Any], database: Database[Any]) -> OAuth2M2M:
    configure(database)
    return OAuth2M2M(async_database, environment="development")


@asynccontextmanager
async def client_of(
    m2m: OAuth2M2M, place: Place, *, ours_first: bool = True
) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of an app that has the endpoints in a place, beside routes of its own."""
    app = FastAPI(lifespan=m2m.lifespan)
    if ours_first:
        place(app, m2m)
    own_routes(app)
    if not ours_first:
        place(app, m2m)
    transport = httpx.ASGITransport(app, client=(HOME, 50_000))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=BASE_URL) as http,
    ):
        yield http


@everywhere
@in_both_orders
async def test_the_endpoints_work_wherever_the_app_puts_them(
    m2m: OAuth2M2M, place: Place, prefix: str, ours_first: bool
) -> None:
    """A token at /token below the prefix, and health beside it; nothing where they are not."""
    registered = await m2m.clients.register(scopes=["read"])
    form = {
        "grant_type": "client_credentials",
        "client_id": registered.client.client_id,
        "client_secret": registered.client_secret,
    }
    async with client_of(m2m, place, ours_first=ours_first) as http:
        expect_tokens(await http.post(f"{prefix}/token", data=form))
        for path in GETS:
            assert (await http.get(prefix + path)).status_code == 200
        assert (await http.post(f"{prefix}/nowhere/token", data=form)).status_code == 404
        assert (await http.post("/nowhere/token", data=form)).json() == {"detail": "Not Found"}


@everywhere
@in_both_orders
async def test_a_trailing_slash_is_refused_wherever_the_endpoints_are(
    m2m: OAuth2M2M, place: Place, prefix: str, ours_first: bool
) -> None:
    """404 with our body for any method, and no redirect for a client to follow with its secret."""
    async with client_of(m2m, place, ours_first=ours_first) as http:
        for path in (*POSTS, *GETS):
            for method in METHODS:
                for ending in ("/", "//", "/?a=b"):
                    response = await http.request(method, prefix + path + ending)
                    expect_error(response, 404, "invalid_request")


async def test_a_catch_all_gets_no_trailing_slash_of_ours(m2m: OAuth2M2M) -> None:
    """An app that answers every path, as for a single page, answers none of these."""

    def place(app: FastAPI, m2m: OAuth2M2M) -> None:
        app.include_router(m2m.router, prefix="/auth")

        async def page() -> str:
            return "the page"

        app.add_api_route("/{path:path}", page, methods=[*METHODS])

    async with client_of(m2m, place) as http:
        for method in METHODS:
            assert (await http.request(method, "/any/token/")).json() == "the page"
            for path in (*POSTS, *GETS):
                response = await http.request(method, f"/auth{path}/")
                expect_error(response, 404, "invalid_request")


@everywhere
async def test_a_wrong_method_is_refused_wherever_the_endpoints_are(
    m2m: OAuth2M2M, place: Place, prefix: str
) -> None:
    """405 with our body, which names the right method."""
    async with client_of(m2m, place) as http:
        for path in POSTS:
            response = await http.get(prefix + path)
            expect_error(response, 405, "invalid_request")
            assert response.headers["allow"] == "POST"


@everywhere
@in_both_orders
async def test_the_apps_own_routes_are_its_own(
    m2m: OAuth2M2M, place: Place, prefix: str, ours_first: bool
) -> None:
    """A path that ends like one of ours reaches the route that the app has for it."""
    async with client_of(m2m, place, ours_first=ours_first) as http:
        for path in OWN:
            for method in METHODS:
                response = await http.request(method, path)
                assert (response.status_code, response.json()) == (200, {"own": path})


@everywhere
async def test_a_slash_after_the_apps_own_route_is_for_the_app(
    m2m: OAuth2M2M, place: Place, prefix: str
) -> None:
    """FastAPI redirects as ever where it is not a path of ours, whatever its last segment."""
    async with client_of(m2m, place) as http:
        for path in ("/other/token", "/auth/other/token", "/protected"):
            response = await http.get(f"{path}/")
            assert response.status_code == 307
            assert response.headers["location"] == BASE_URL + path


@everywhere
async def test_other_paths_pass_our_routes_by(
    m2m: OAuth2M2M, place: Place, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them is compared with a path whose last segment is none of theirs."""
    compared: list[str] = []
    really_match = OAuthRoute.matches

    def matches(route: OAuthRoute, scope: Any) -> Any:
        compared.append(scope["path"])
        return really_match(route, scope)

    monkeypatch.setattr(OAuthRoute, "matches", matches)
    async with client_of(m2m, place) as http:
        for path in ("/protected", "/auth/tokens", "/nowhere", "/", f"{prefix}/other"):
            await http.get(path)
        assert compared == []
        await http.get(f"{prefix}/health/live")
        assert compared


async def test_a_router_that_joins_ours_is_served(m2m: OAuth2M2M) -> None:
    """What an app includes in the router of the endpoints works, and so does all else."""
    router = APIRouter()

    @router.get("/whoami")
    async def whoami() -> str:
        return "you"

    def place(app: FastAPI, m2m: OAuth2M2M) -> None:
        m2m.router.include_router(router)
        app.include_router(m2m.router, prefix="/auth")

    async with client_of(m2m, place) as http:
        assert (await http.get("/protected")).json() == {"own": "/protected"}
        assert (await http.get("/auth/health/live")).status_code == 200
        assert (await http.get("/auth/whoami")).json() == "you"
