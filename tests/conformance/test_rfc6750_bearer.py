"""RFC 6750: what a guarded route asks of a request, and how it refuses."""

# No `from __future__ import annotations`: FastAPI reads the routes' annotations as values.

import dataclasses
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import httpx
import jwt
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Security
from fastapi.responses import JSONResponse
from pymongo import AsyncMongoClient, MongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from oauth2_m2m import (
    AccessToken,
    InsufficientScope,
    InvalidToken,
    MissingToken,
    OAuth2M2M,
    Refused,
)
from tests.conformance.conftest import Start
from tests.machine import Machine, events, new_machine
from tests.server import Server, configure, guarded_app

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would rather have another HTTP library beneath it
    from starlette.testclient import TestClient

KEY = "a-key-of-the-tests-that-is-long-enough-for-HS256"

#: RFC 6750 section 3: what error_description and scope may hold.
DESCRIPTION = re.compile(r"[\x20-\x21\x23-\x5B\x5D-\x7E]+")
SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+( [\x21\x23-\x5B\x5D-\x7E]+)*")


def challenge(response: httpx.Response) -> tuple[str, dict[str, str]]:
    """The scheme and the parameters of the one challenge, read as RFC 9110 section 11.6.1 says."""
    (value,) = response.headers.get_list("www-authenticate")
    scheme, _, rest = value.partition(" ")
    parameters = re.findall(r'(\w+)="([^"\\]*)"(?:, |$)', rest)
    assert ", ".join(f'{name}="{text}"' for name, text in parameters) == rest
    assert len(dict(parameters)) == len(parameters)
    return scheme, dict(parameters)


def assert_error_body(response: httpx.Response, error: str) -> None:
    """The body has the three members that every error has, and nobody stores it."""
    body = response.json()
    assert body["error"] == error
    assert body["error_description"] == body["detail"]
    assert body["error_description"]
    assert response.headers["cache-control"] == "no-store"


def assert_missing(response: httpx.Response) -> None:
    """Section 3.1: without authentication information the challenge names no error."""
    assert response.status_code == 401
    assert response.headers.get_list("www-authenticate") == ["Bearer"]
    assert response.json()["error_description"] == response.json()["detail"]


def assert_invalid(response: httpx.Response) -> None:
    """Section 3.1: `invalid_token`, whatever is wrong with it, and not a word of what."""
    assert response.status_code == 401
    scheme, parameters = challenge(response)
    assert scheme == "Bearer"
    assert parameters["error"] == "invalid_token"
    assert parameters.keys() <= {"error", "error_description"}
    assert DESCRIPTION.fullmatch(parameters["error_description"])
    assert_error_body(response, "invalid_token")


def assert_insufficient(response: httpx.Response, scope: str) -> None:
    """Section 3.1: `insufficient_scope`, with the scope that would do."""
    assert response.status_code == 403
    scheme, parameters = challenge(response)
    assert scheme == "Bearer"
    assert parameters["error"] == "insufficient_scope"
    assert parameters["scope"] == scope
    assert SCOPE.fullmatch(parameters["scope"])
    assert DESCRIPTION.fullmatch(parameters["error_description"])
    assert_error_body(response, "insufficient_scope")


@pytest.fixture
async def keyed(start: Start) -> Server:
    """A server whose key the test knows."""
    return await start(SECRET_KEY=KEY)


@pytest.fixture
async def known(keyed: Server) -> Machine:
    """A client of it."""
    return await new_machine(keyed)


def resigned(token: str, key: str = KEY, **changes: Any) -> str:
    """The token with other claims, signed anew; `None` takes a claim away, `typ` is a header."""
    header = jwt.get_unverified_header(token)
    claims = jwt.decode(token, options={"verify_signature": False})
    if "typ" in changes:
        header["typ"] = changes.pop("typ")
    claims = {name: value for name, value in (claims | changes).items() if value is not None}
    return jwt.encode(claims, key, "HS256", headers=header)


# --- No token -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": "Digest username=x"},
        {"Authorization": "{token}"},
        {"Authorization": "Bearer{token}"},
        {"Authorization": "Bearer:{token}"},
        {"Authorization": "Token {token}"},
        {"X-Authorization": "Bearer {token}"},
        {"Cookie": "access_token={token}"},
        {"Cookie": "Authorization=Bearer {token}"},
    ],
    ids=str,
)
async def test_without_a_bearer_token_the_challenge_is_bare(
    machine: Machine, headers: dict[str, str]
) -> None:
    """No token, another scheme and another place are all answered by the scheme's bare name."""
    token = (await machine.get_token()).access
    sent = {name: value.format(token=token) for name, value in headers.items()}
    assert_missing(await machine.http.get("/protected", headers=sent))


@pytest.mark.parametrize("method", ["query", "form", "json"])
async def test_a_token_outside_the_header_is_no_token(server: Server, method: str) -> None:
    """Sections 2.2 and 2.3 are not offered: logs and caches would learn the token."""

    @server.app.post("/upload")
    async def upload(
        token: Annotated[AccessToken, Security(server.m2m.access_token, scopes=["read"])],
    ) -> str:
        return token.client_id

    machine = await new_machine(server)
    token = (await machine.get_token()).access
    in_the_request: dict[str, Any] = {
        "query": {"params": {"access_token": token}},
        "form": {"data": {"access_token": token}},
        "json": {"json": {"access_token": token}},
    }[method]
    assert_missing(await machine.http.post("/upload", **in_the_request))
    if method == "query":
        assert_missing(await machine.http.get("/protected", **in_the_request))
    headers = {"Authorization": f"Bearer {token}"}
    accepted = await machine.http.post("/upload", headers=headers, **in_the_request)
    assert accepted.json() == machine.client_id


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
async def test_the_scheme_is_read_in_any_case(machine: Machine, scheme: str) -> None:
    """RFC 9110 section 11.1: the name of a scheme is case-insensitive."""
    token = (await machine.get_token()).access
    headers = {"Authorization": f"{scheme} {token}"}
    assert (await machine.http.get("/protected", headers=headers)).status_code == 200


# --- A bad token --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "not.a.jwt",
        "..",
        "a.b",
        "a.b.c.d",
        "{token}.",
        ".{token}",
        "{token}=",
        "{token} {token}",
        "{token},{token}",
        '"{token}"',
        "token={token}",
        "x" * 20_000,
        "m2mr_0000000000000000000000000000000000000000000000000",
    ],
    ids=lambda text: str(text)[:20],
)
async def test_a_malformed_token_is_invalid(machine: Machine, text: str) -> None:
    """Whatever follows the scheme is a token, and nothing but a whole one is let in."""
    token = (await machine.get_token()).access
    assert_invalid(await machine.call(text.format(token=token)))


@pytest.mark.parametrize(
    "value", ["Bearer \xe4\xf6\xfc", "Bearer \x80.\x81.\x82", "Bearer {token}\xff"]
)
async def test_a_token_outside_ascii_is_invalid(machine: Machine, value: str) -> None:
    """Bytes that no token holds are refused like any other mistake, never with a 500."""
    token = (await machine.get_token()).access
    header = (b"authorization", value.format(token=token).encode("latin-1"))
    assert_invalid(await machine.http.get("/protected", headers=[header]))


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1_600_000_000},
        {"iss": "http://localhost:8001"},
        {"iss": "http://localhost:8000/"},
        {"iss": None},
        {"aud": "https://api.example.com"},
        {"aud": ["http://localhost:8001", "https://api.example.com"]},
        {"aud": None},
        {"typ": "JWT"},
        {"typ": "application/at+jwt+"},
        {"typ": None},
        {"exp": None},
        {"iat": None},
        {"jti": None},
        {"sub": None},
        {"sub": "somebody_else"},
        {"client_id": None},
        {"scope": None},
        {"client_id": "nobody", "sub": "nobody"},
        {"key": "another-key-that-is-also-long-enough-for-HS256"},
        {"key": KEY + " "},
    ],
    ids=str,
)
async def test_a_token_that_is_not_ours_or_not_meant_for_us_is_invalid(
    known: Machine, changes: dict[str, Any]
) -> None:
    """Signed by a stranger, or signed by us and not for this: one and the same refusal."""
    token = (await known.get_token()).access
    assert (await known.call(resigned(token))).status_code == 200
    assert_invalid(await known.call(resigned(token, **changes)))


async def test_a_token_is_good_until_the_second_it_expires(known: Machine) -> None:
    """`exp` is a moment that must lie ahead, RFC 7519 section 4.1.4; the default leeway is none."""
    token = (await known.get_token()).access
    now = int(datetime.now(UTC).timestamp())
    assert (await known.call(resigned(token, exp=now + 30))).status_code == 200
    assert_invalid(await known.call(resigned(token, exp=now)))


@pytest.mark.parametrize("by", ["json", "form", "operator", "family"])
async def test_a_revoked_token_is_invalid(server: Server, machine: Machine, by: str) -> None:
    """The next request after the acknowledgement is refused, whoever revoked the token."""
    tokens = await machine.get_token()
    other = await machine.get_token()
    assert (await machine.call(tokens)).status_code == 200
    if by == "json":
        await machine.revoke_plainly(access_token=tokens.access)
    elif by == "form":
        await machine.revoke(tokens.access)
    elif by == "operator":
        await server.m2m.revoke(tokens.access)
    else:
        await machine.revoke_plainly(refresh_token=tokens.refresh)
    assert_invalid(await machine.call(tokens))
    assert (await machine.call(other)).status_code == 200


async def test_a_repeated_header_is_invalid(machine: Machine) -> None:
    """Two tokens are two opinions of who is calling, even when they are the same."""
    token = (await machine.get_token()).access
    for first, second in [(token, token), (token, "x"), ("x", token)]:
        headers = [("Authorization", f"Bearer {first}"), ("Authorization", f"Bearer {second}")]
        assert_invalid(await machine.http.get("/protected", headers=headers))
    mixed = [("Authorization", f"Bearer {token}"), ("Authorization", "Basic dXNlcjpwYXNz")]
    assert_invalid(await machine.http.get("/protected", headers=mixed))


# --- A good token that is not enough ------------------------------------------------------------


async def test_a_missing_scope_is_named(server: Server) -> None:
    """The caller is told what to ask for; the token itself is not questioned."""
    machine = await new_machine(server, scopes=["read", "write"])
    assert_insufficient(await machine.call(await machine.get_token("write")), "read")
    assert (await machine.call(await machine.get_token("read"))).status_code == 200


async def test_a_scope_name_is_matched_whole(server: Server) -> None:
    """Neither a part of a name nor another case of it is the scope."""
    machine = await new_machine(server, scopes=["rea", "read2", "Read", "read:all"])
    assert_insufficient(await machine.call(await machine.get_token()), "read")


async def test_a_missing_role_is_refused_like_a_missing_scope(
    server: Server, database: Database[Any]
) -> None:
    """The scope without the role is not enough, nor is the role without the scope."""
    user = await new_machine(server, scopes=["read", "admin"], role="user")
    refused = await user.call(await user.get_token(), "/admin-only")
    assert_insufficient(refused, "admin")
    assert "role admin" in refused.json()["detail"]
    admin = await new_machine(server, scopes=["read", "admin"], role="admin")
    assert_insufficient(await admin.call(await admin.get_token("read"), "/admin-only"), "admin")
    assert (await admin.call(await admin.get_token(), "/admin-only")).status_code == 200
    assert events(database, client_id=user.client_id) == ["login_success", "access_denied"]


async def test_a_role_alone_can_be_asked_for(server: Server) -> None:
    """Without a scope in question the challenge holds no scope, which RFC 6750 has never empty."""

    @server.app.get("/role")
    async def role(
        token: Annotated[AccessToken, Depends(server.m2m.requires(role="admin"))],
    ) -> str:
        return token.client_id

    admin = await new_machine(server, role="admin")
    user = await new_machine(server)
    assert (await admin.call(await admin.get_token(), "/role")).json() == admin.client_id
    refused = await user.call(await user.get_token(), "/role")
    assert refused.status_code == 403
    _, parameters = challenge(refused)
    assert parameters["error"] == "insufficient_scope"
    assert SCOPE.fullmatch(parameters.get("scope", "none"))


async def test_several_scopes_are_asked_for_together(server: Server) -> None:
    """All of them are needed and named, in one `requires` as in one `Security`."""

    @server.app.get("/one-line", dependencies=[Depends(server.m2m.requires("read", "write"))])
    async def one_line() -> None: ...

    @server.app.get("/security")
    async def security(
        token: Annotated[AccessToken, Security(server.m2m.access_token, scopes=["read", "write"])],
    ) -> None: ...

    machine = await new_machine(server, scopes=["read", "write", "admin"])
    for path in ("/one-line", "/security"):
        assert (await machine.call(await machine.get_token("read write"), path)).status_code == 200
        for scope in ("read", "write", "admin"):
            assert_insufficient(
                await machine.call(await machine.get_token(scope), path), "read write"
            )


# --- Guards, as users put them ------------------------------------------------------------------


def taken(database: Database[Any], machine: Machine) -> int:
    """How many requests of the machine were counted, in whatever minutes."""
    counts = database["rate_limits"].find({"_id": {"$regex": f"^{machine.client_id}:"}})
    return sum(document["count"] for document in counts)


async def test_several_guards_charge_a_request_once(
    server: Server, database: Database[Any]
) -> None:
    """A guard on the router, two on the route and one deep inside are one request all the same."""
    m2m = server.m2m

    async def deep(token: AccessToken = Security(m2m.access_token, scopes=["read"])) -> AccessToken:
        return token

    router = APIRouter(
        prefix="/guarded",
        dependencies=[Depends(m2m.requires("read")), Security(m2m.access_token, scopes=["write"])],
    )

    @router.get("/thing", dependencies=[Depends(m2m.requires("write", role="user"))])
    async def thing(
        mine: Annotated[AccessToken, Security(m2m.access_token, scopes=["read", "write"])],
        theirs: Annotated[AccessToken, Depends(deep)],
    ) -> bool:
        return mine == theirs

    server.app.include_router(router)
    machine = await new_machine(server)
    tokens = await machine.get_token()
    before = taken(database, machine)
    assert (await machine.call(tokens, "/guarded/thing")).json() is True
    assert taken(database, machine) == before + 1
    refused = await machine.call(await machine.get_token("read"), "/guarded/thing")
    assert_insufficient(refused, "write")
    assert events(database, event_type="access_denied") == ["access_denied"]


async def test_every_guard_of_a_route_is_asked(server: Server) -> None:
    """That one guard was satisfied says nothing for the next one."""
    m2m = server.m2m
    router = APIRouter(dependencies=[Security(m2m.access_token, scopes=["write"])])

    @router.get("/both")
    async def both(
        token: Annotated[AccessToken, Depends(m2m.requires("read", role="auditor"))],
    ) -> str:
        return token.client_id

    server.app.include_router(router)
    auditor = await new_machine(server, role="auditor")
    user = await new_machine(server)
    assert (await auditor.call(await auditor.get_token(), "/both")).status_code == 200
    assert_insufficient(await auditor.call(await auditor.get_token("read"), "/both"), "write")
    assert_insufficient(await auditor.call(await auditor.get_token("write"), "/both"), "read")
    assert_insufficient(await user.call(await user.get_token(), "/both"), "read")


async def test_the_route_is_handed_a_frozen_access_token(server: Server) -> None:
    """It has the promised attributes, in UTC, and nobody on the way can change it."""
    handed: list[AccessToken] = []

    @server.app.get("/look")
    async def look(token: Annotated[AccessToken, Security(server.m2m.access_token)]) -> None:
        handed.append(token)

    machine = await new_machine(server, scopes=["read", "write"], role="auditor")
    tokens = await machine.get_token()
    assert (await machine.call(tokens, "/look")).status_code == 200
    (token,) = handed
    claims = jwt.decode(tokens.access, options={"verify_signature": False})
    assert token.client_id == machine.client_id
    assert token.scopes == {"read", "write"}
    assert isinstance(token.scopes, frozenset)
    assert list(token.roles) == ["auditor"]
    assert token.jti == claims["jti"]
    assert token.issued_at == datetime.fromtimestamp(claims["iat"], UTC)
    assert token.expires_at == datetime.fromtimestamp(claims["exp"], UTC)
    assert token.issued_at.utcoffset() == token.expires_at.utcoffset() == timedelta(0)
    assert token.expires_at - token.issued_at == timedelta(minutes=15)
    assert dict(token.claims) == claims
    with pytest.raises(dataclasses.FrozenInstanceError):
        token.client_id = "somebody_else"  # type: ignore[misc]
    with pytest.raises(TypeError):
        token.claims["client_id"] = "somebody_else"  # type: ignore[index]


async def test_two_servers_in_one_app_do_not_believe_each_other(
    server: Server, mongo_url: str, database_name: str, mongo_client: MongoClient[dict[str, Any]]
) -> None:
    """A route that both guard needs a token of both, so a token of one opens it to nobody."""
    async with AsyncMongoClient[dict[str, Any]](mongo_url) as client:
        other = OAuth2M2M(client[f"{database_name}_other"])

        @server.app.get("/two")
        async def two(
            mine: Annotated[AccessToken, Security(server.m2m.access_token)],
            theirs: Annotated[AccessToken, Security(other.access_token)],
        ) -> None: ...

        machine = await new_machine(server)
        try:
            assert_invalid(await machine.call(await machine.get_token(), "/two"))
        finally:
            mongo_client.drop_database(f"{database_name}_other")


# --- A user's own app and tests -----------------------------------------------------------------


def made_up_token() -> AccessToken:
    now = datetime.now(UTC)
    return AccessToken(
        client_id="made_up",
        scopes=frozenset({"read", "admin"}),
        roles=("admin",),
        jti="made_up",
        issued_at=now,
        expires_at=now + timedelta(minutes=1),
        claims={},
    )


async def test_an_override_takes_the_guards_place_without_a_database() -> None:
    """In a user's unit tests `dependency_overrides` hands routes a token; no MongoDB is asked."""
    async with AsyncMongoClient[dict[str, Any]]("mongodb://127.0.0.1:1") as nowhere:
        m2m = OAuth2M2M(nowhere.oauth2_m2m)
        server = Server(guarded_app(m2m), m2m)
        server.app.dependency_overrides[m2m.access_token] = made_up_token
        async with server.http() as http:
            for path in ("/protected", "/admin-only"):
                response = await http.get(path)
                assert response.status_code == 200, path
                assert response.json()["client_id"] == "made_up"


async def test_required_roles_are_judged_by_the_override(server: Server, machine: Machine) -> None:
    """`requires` looks at the token that the override hands over, not at the request behind it."""
    user = dataclasses.replace(made_up_token(), roles=("user",))
    server.app.dependency_overrides[server.m2m.access_token] = lambda: user
    assert (await machine.http.get("/protected")).status_code == 200
    assert_insufficient(await machine.http.get("/admin-only"), "admin")


async def test_a_required_dependency_can_be_overridden_itself(
    server: Server, machine: Machine
) -> None:
    """Kept in a name, what `requires` returned is a key for `dependency_overrides`."""
    guard = server.m2m.requires("admin", role="admin")

    @server.app.get("/kept")
    async def kept(token: Annotated[AccessToken, Depends(guard)]) -> str:
        return token.client_id

    assert_missing(await machine.http.get("/kept"))
    server.app.dependency_overrides[guard] = made_up_token
    assert (await machine.http.get("/kept")).json() == "made_up"


async def test_an_apps_own_handler_for_refusals_wins(server: Server, machine: Machine) -> None:
    """An app that answers in its own form is given the OAuth error and its headers."""
    causes: list[type[Exception]] = []

    @server.app.exception_handler(Refused)
    async def in_my_form(request: Request, refused: Refused) -> JSONResponse:
        assert isinstance(refused, HTTPException)
        causes.append(type(refused.cause))
        body = {"mine": refused.cause.error}
        return JSONResponse(body, refused.status_code, dict(refused.headers or {}))

    for _ in range(2):
        response = await machine.http.get("/protected")
        assert (response.status_code, response.json()) == (401, {"mine": "invalid_token"})
        assert response.headers["www-authenticate"] == "Bearer"
    assert (await machine.call("x")).json() == {"mine": "invalid_token"}
    forbidden = await machine.call(await machine.get_token("write"))
    assert (forbidden.status_code, forbidden.json()) == (403, {"mine": "insufficient_scope"})
    assert causes == [MissingToken, MissingToken, InvalidToken, InsufficientScope]


async def test_an_apps_own_errors_stay_its_own(server: Server, machine: Machine) -> None:
    """Our answer to refusals does not touch what the app itself raises, before or after one."""

    @server.app.get("/teapot")
    async def teapot(token: Annotated[AccessToken, Security(server.m2m.access_token)]) -> None:
        raise HTTPException(418, "short and stout")

    tokens = await machine.get_token()
    for _ in range(2):
        response = await machine.call(tokens, "/teapot")
        assert (response.status_code, response.json()) == (418, {"detail": "short and stout"})
        assert_missing(await machine.http.get("/teapot"))


# --- With and without lifespan, in one event loop after another ---------------------------------


@contextmanager
def client_of(app: FastAPI) -> Iterator[TestClient]:
    """Starlette's test client, which starts an event loop for each request unless entered."""
    client = TestClient(app)
    try:
        yield client
    finally:
        client.close()


def walk_through(client: TestClient, client_id: str, client_secret: str) -> None:
    """Get a token, use it, refresh it, revoke it."""
    credentials = {"username": client_id, "password": client_secret}
    tokens = client.post("/token", data=credentials).json()
    header = {"Authorization": f"Bearer {tokens['access_token']}"}
    assert client.get("/protected", headers=header).json()["client_id"] == client_id
    refresh = {"refresh_token": tokens["refresh_token"]}
    renewed = client.post("/refresh", json=refresh).json()
    header = {"Authorization": f"Bearer {renewed['access_token']}"}
    assert client.get("/protected", headers=header).status_code == 200
    revoked = client.post("/revoke", json={"access_token": renewed["access_token"]})
    assert revoked.status_code == 200
    assert client.get("/protected", headers=header).status_code == 401
    assert client.post("/refresh", json=refresh).status_code == 401
    assert client.get("/health/ready").status_code == 200


@pytest.mark.parametrize("entered", [False, True], ids=["without-lifespan", "with-lifespan"])
def test_a_synchronous_database_serves_one_event_loop_after_another(
    mongo_url: str, database_name: str, database: Database[Any], entered: bool
) -> None:
    """Starlette's `TestClient` works as users write it, with `with` and without."""
    configure(database)
    database["clients"].insert_one(
        {"client_id": "typed", "client_secret": "by hand", "scopes": ["read"]}
    )
    with MongoClient[dict[str, Any]](mongo_url) as mongo:
        app = guarded_app(OAuth2M2M(mongo[database_name]))
        for _ in range(2):
            with client_of(app) as client:
                if entered:
                    with client:
                        walk_through(client, "typed", "by hand")
                else:
                    walk_through(client, "typed", "by hand")


async def test_without_lifespan_the_first_requests_prepare_the_database(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """An app that knows nothing of ours finds config and indexes made when it needs them."""
    m2m = OAuth2M2M(async_database)
    server = Server(guarded_app(m2m), m2m)
    assert database.list_collection_names() == []
    assert_missing(await server.http().get("/protected"))
    machine = await new_machine(server)
    assert (await machine.call(await machine.get_token())).status_code == 200
    assert database["config"].count_documents({}) == 1
    assert "refresh_token_1" in database["tokens"].index_information()
