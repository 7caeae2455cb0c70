"""What an app's OpenAPI document says by itself, without a word from the app's author."""

# No `from __future__ import annotations`: FastAPI reads the routes' annotations as values.

import importlib.util
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Security
from pydantic import BaseModel
from pymongo.asynchronous.database import AsyncDatabase

from oauth2_m2m import AccessToken, OAuth2M2M
from tests.server import guarded_app

Document = dict[str, Any]

GUARDED = {"/protected": ["read"], "/admin-only": ["admin"]}
FORM, JSON = "application/x-www-form-urlencoded", "application/json"


async def document_of(app: FastAPI) -> Document:
    """The document, as a started app serves it."""
    async with app.router.lifespan_context(app):
        return app.openapi()


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def references(part: object) -> Iterator[str]:
    """Every `$ref` in a document."""
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for member in part.values():
            yield from references(member)
    elif isinstance(part, list):
        for member in part:
            yield from references(member)


def resolved(document: Document, reference: str) -> Document:
    """What a `$ref` points to. RFC 6901, as far as component names need it."""
    part: Any = document
    for step in reference.removeprefix("#/").split("/"):
        assert step in part, f"{reference} points to nothing"
        part = part[step]
    assert isinstance(part, dict)
    return part


def schema_of(document: Document, response: Document) -> Document:
    schema = response["content"][JSON]["schema"]
    return resolved(document, schema["$ref"]) if "$ref" in schema else schema


def without_our_lifespan(m2m: OAuth2M2M) -> FastAPI:
    """The router alone, in an app with a lifespan of its own."""

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[None]:
        yield

    app = FastAPI(lifespan=own)
    app.include_router(m2m.router)
    add_routes(app, m2m)
    return app


def router_only(m2m: OAuth2M2M) -> FastAPI:
    """The router alone, in an app without any lifespan."""
    app = FastAPI()
    app.include_router(m2m.router)
    add_routes(app, m2m)
    return app


def guards_only(m2m: OAuth2M2M) -> FastAPI:
    """A resource server: it checks tokens and offers no endpoint of ours."""
    app = FastAPI(lifespan=m2m.lifespan)
    add_routes(app, m2m)
    return app


def add_routes(app: FastAPI, m2m: OAuth2M2M) -> None:
    @app.get("/protected")
    async def protected(
        token: Annotated[AccessToken, Security(m2m.access_token, scopes=["read"])],
    ) -> None: ...

    @app.get("/admin-only")
    async def admin_only(
        token: Annotated[AccessToken, Depends(m2m.requires("admin", role="admin"))],
    ) -> None: ...


APPS = [guarded_app, without_our_lifespan, router_only, guards_only]


@pytest.fixture
async def m2m(async_database: AsyncDatabase[Any]) -> OAuth2M2M:
    return OAuth2M2M(async_database, scopes={"read": "Read things", "spare": "Not used by a route"})


@pytest.fixture(params=APPS, ids=lambda app: str(app.__name__))
async def document(request: pytest.FixtureRequest, m2m: OAuth2M2M) -> Document:
    return await document_of(request.param(m2m))


async def test_the_security_scheme_is_client_credentials(document: Document) -> None:
    """One scheme, whose flow gets its tokens at our endpoint and offers every scope in use."""
    ((name, scheme),) = document["components"]["securitySchemes"].items()
    assert scheme["type"] == "oauth2"
    ((flow_name, flow),) = scheme["flows"].items()
    assert flow_name == "clientCredentials"
    assert flow["tokenUrl"] in {"token", "/token"}
    assert flow["scopes"].keys() == {"read", "spare", "admin"}
    assert flow["scopes"]["read"] == "Read things"
    assert all(isinstance(text, str) for text in flow["scopes"].values())
    assert name


async def test_a_guarded_route_names_its_scopes(document: Document) -> None:
    """A reader knows what to ask for before the first call; open routes ask for nothing."""
    (name,) = document["components"]["securitySchemes"]
    for path, _, operation in operations(document):
        if path in GUARDED:
            assert {name: GUARDED[path]} in operation["security"]
            assert all(requirement.keys() == {name} for requirement in operation["security"])
        else:
            assert "security" not in operation


@pytest.mark.parametrize("status", ["401", "403", "429", "503"])
async def test_a_guarded_route_names_its_refusals(document: Document, status: str) -> None:
    """Each with a description and the members of its body."""
    for path in GUARDED:
        response = document["paths"][path]["get"]["responses"][status]
        assert response["description"]
        members = schema_of(document, response)["properties"]
        assert {"error", "error_description", "detail", "error_id"} <= members.keys()


async def test_every_reference_points_to_something(document: Document) -> None:
    """A generator of clients stops at the first that does not."""
    for reference in references(document):
        resolved(document, reference)


async def test_what_the_author_wrote_stays(m2m: OAuth2M2M) -> None:
    """A 403 with a text of the author's own is left as it is, and open routes are not touched."""
    app = guarded_app(m2m)

    @app.get("/own", responses={403: {"description": "Only on Mondays"}})
    async def own(token: Annotated[AccessToken, Security(m2m.access_token)]) -> None: ...

    @app.get("/open")
    async def open_to_all() -> None: ...

    document = await document_of(app)
    responses = document["paths"]["/own"]["get"]["responses"]
    assert responses["403"]["description"] == "Only on Mondays"
    assert "401" in responses
    assert document["paths"]["/open"]["get"]["responses"].keys() == {"200"}


async def test_a_model_of_the_authors_with_the_same_name_is_not_mixed_up(m2m: OAuth2M2M) -> None:
    """An app may well have an `ErrorResponse` of its own."""

    class ErrorResponse(BaseModel):
        mine: int

    app = guarded_app(m2m)

    @app.get("/mine", responses={418: {"model": ErrorResponse}})
    async def mine(token: Annotated[AccessToken, Security(m2m.access_token)]) -> None: ...

    document = await document_of(app)
    for reference in references(document):
        resolved(document, reference)
    responses = document["paths"]["/mine"]["get"]["responses"]
    assert "mine" in schema_of(document, responses["418"])["properties"]
    for path in ("/mine", "/protected"):
        refusal = document["paths"][path]["get"]["responses"]["401"]
        assert "error_description" in schema_of(document, refusal)["properties"]


async def test_the_document_is_complete_however_often_the_app_starts(m2m: OAuth2M2M) -> None:
    """Test clients start and stop one app many times; the document stays the same."""
    app = guarded_app(m2m)
    first = await document_of(app)
    assert await document_of(app) == first
    assert app.openapi() == first


async def test_a_guard_on_a_router_counts_for_its_routes(m2m: OAuth2M2M) -> None:
    """Guards that are put on a whole router are documented on each of its routes."""
    app = guarded_app(m2m)
    router = APIRouter(prefix="/all", dependencies=[Depends(m2m.requires("write"))])

    @router.get("/one")
    async def one() -> None: ...

    app.include_router(router)
    document = await document_of(app)
    operation = document["paths"]["/all/one"]["get"]
    (name,) = document["components"]["securitySchemes"]
    assert {name: ["write"]} in operation["security"]
    assert {"401", "403", "429", "503"} <= operation["responses"].keys()
    flow = document["components"]["securitySchemes"][name]["flows"]["clientCredentials"]
    assert "write" in flow["scopes"]


async def test_under_a_prefix_the_token_url_follows(m2m: OAuth2M2M) -> None:
    """Swagger UI's "Authorize" must find the endpoint where the app put it."""
    app = FastAPI(lifespan=m2m.lifespan)
    app.include_router(m2m.router, prefix="/auth")
    add_routes(app, m2m)
    document = await document_of(app)
    assert "/auth/token" in document["paths"]
    (scheme,) = document["components"]["securitySchemes"].values()
    assert scheme["flows"]["clientCredentials"]["tokenUrl"].lstrip("/") == "auth/token"


# --- The endpoints ------------------------------------------------------------------------------

CREDENTIALS = {"client_id", "client_secret", "client_assertion", "client_assertion_type"}
BODIES = {
    "/token": {
        FORM: {"grant_type", "username", "password", "scope", "refresh_token", "resource"}
        | {"audience"}
        | CREDENTIALS
    },
    "/refresh": {JSON: {"refresh_token", "scope"} | CREDENTIALS},
    "/revoke": {
        JSON: {"access_token", "refresh_token"},
        FORM: {"token", "token_type_hint"} | CREDENTIALS,
    },
    "/introspect": {FORM: {"token", "token_type_hint"} | CREDENTIALS},
}


@pytest.mark.parametrize("path", BODIES)
async def test_an_endpoint_names_what_it_reads(m2m: OAuth2M2M, path: str) -> None:
    """Every media type with its parameters, though the endpoints parse by themselves."""
    document = await document_of(guarded_app(m2m))
    operation = document["paths"][path]["post"]
    body = operation["requestBody"]
    assert body["required"] is True
    found = {kind: set(part["schema"]["properties"]) for kind, part in body["content"].items()}
    assert found == BODIES[path]
    for part in body["content"].values():
        assert set(part["schema"].get("required", [])) <= set(part["schema"]["properties"])
        for parameter in part["schema"]["properties"].values():
            assert parameter["type"] in {"string", "array"}
            assert parameter["description"]
    assert "parameters" not in operation


@pytest.mark.parametrize(
    ("path", "statuses", "members"),
    [
        (
            "/token",
            {"200", "400", "401", "413", "422", "429", "503"},
            {"access_token", "refresh_token", "token_type", "expires_in", "scope"},
        ),
        (
            "/refresh",
            {"200", "401", "413", "422", "429", "503"},
            {"access_token", "refresh_token", "token_type", "expires_in", "scope"},
        ),
        ("/revoke", {"200", "400", "401", "413", "422", "429", "503"}, {"message"}),
        (
            "/introspect",
            {"200", "400", "401", "403", "413", "429", "503"},
            {"active", "scope", "client_id", "token_type", "iss", "sub", "aud", "exp", "iat"}
            | {"jti", "roles", "cnf"},
        ),
    ],
)
async def test_an_endpoint_names_what_it_answers(
    m2m: OAuth2M2M, path: str, statuses: set[str], members: set[str]
) -> None:
    """The members of the success, and every refusal with the members and the id that all have."""
    document = await document_of(guarded_app(m2m))
    responses = document["paths"][path]["post"]["responses"]
    assert statuses <= responses.keys()
    assert members == schema_of(document, responses["200"])["properties"].keys()
    for status in statuses - {"200"}:
        found = schema_of(document, responses[status])["properties"]
        assert {"error", "error_description", "detail", "error_id"} <= found.keys(), status
        assert "X-Error-ID" in responses[status]["headers"]


async def test_introspection_promises_one_member_only(m2m: OAuth2M2M) -> None:
    """A token that is not alive is `active: false`, so a client must not count on the rest."""
    document = await document_of(guarded_app(m2m))
    answer = document["paths"]["/introspect"]["post"]["responses"]["200"]
    assert schema_of(document, answer)["required"] == ["active"]


@pytest.mark.parametrize(
    "path", ["oauth-authorization-server", "jwks.json", "oauth-protected-resource"]
)
async def test_published_documents_are_described(m2m: OAuth2M2M, path: str) -> None:
    """They are read by GET, by anybody, and a reader that has one may be told that it is new."""
    document = await document_of(guarded_app(m2m))
    methods = document["paths"][f"/.well-known/{path}"]
    assert methods.keys() == {"get"}
    assert {"200", "304", "503"} <= methods["get"]["responses"].keys()
    assert schema_of(document, methods["get"]["responses"]["200"])["type"] == "object"
    assert "requestBody" not in methods["get"]
    assert "security" not in methods["get"]


async def test_the_feed_is_described(m2m: OAuth2M2M) -> None:
    """`GET /revocations` takes a cursor that is not required, and answers with the next."""
    document = await document_of(guarded_app(m2m))
    operation = document["paths"]["/revocations"]["get"]
    (parameter,) = operation["parameters"]
    assert (parameter["name"], parameter["in"]) == ("after", "query")
    assert not parameter.get("required")
    members = schema_of(document, operation["responses"]["200"])["properties"]
    assert members.keys() == {"revoked", "cursor", "more"}
    assert {"400", "503"} <= operation["responses"].keys()


async def test_the_metrics_are_described(m2m: OAuth2M2M) -> None:
    """They are text, and whoever may not see them is told so as everywhere."""
    document = await document_of(guarded_app(m2m))
    answers = document["paths"]["/metrics"]["get"]["responses"]
    assert answers["200"]["content"].keys() == {"text/plain"}
    assert answers["401"]["content"].keys() == {"application/json"}
    assert {"401", "403", "404", "429", "503"} <= answers.keys()


async def test_health_is_described(m2m: OAuth2M2M) -> None:
    """For whoever sets up a load balancer; no trailing slash is offered anywhere."""
    document = await document_of(guarded_app(m2m))
    for path in ("/health", "/health/live", "/health/ready"):
        assert "200" in document["paths"][path]["get"]["responses"]
    assert "503" in document["paths"]["/health/ready"]["get"]["responses"]
    assert not [path for path in document["paths"] if path.endswith("/")]
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(ids)) == len(ids)


@pytest.mark.skipif(
    importlib.util.find_spec("openapi_spec_validator") is None,
    reason="openapi-spec-validator is not installed",
)
async def test_the_document_is_valid(document: Document) -> None:
    """By the specification's own schema."""
    importlib.import_module("openapi_spec_validator").validate(document)
