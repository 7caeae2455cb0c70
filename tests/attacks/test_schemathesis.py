"""The example app against its own OpenAPI document: whatever is sent, it answers as documented.

Schemathesis makes the requests, good and malformed ones. Each is sent as it was made, and once more
in every way in which its endpoint takes credentials, so that it comes further than to the door.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import settings
from pymongo.database import Database
from schemathesis import checks
from schemathesis.core.result import Ok
from schemathesis.generation.hypothesis.builder import (
    HypothesisTestConfig,
    HypothesisTestMode,
    create_test,
)
from schemathesis.schemas import APIOperation

from _oauth2_m2m.endpoints.documentation import RevocationsResponse
from _oauth2_m2m.endpoints.route import FORM
from oauth2_m2m import OAuth2M2M
from tests.assertions import es256_key, fields, jwks
from tests.attacks.witness import BY_SCHEMATHESIS, OTHERS, Witness
from tests.machine import Machine, basic, secret_of
from tests.papers import ROOT
from tests.proofs import key
from tests.server import BASE_URL, configure

Request = dict[str, Any]

#: So many requests of each kind are made up for an operation, besides those that try its edges.
EXAMPLES = 60

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.unsupported_method,
    checks.allow_header_conformance,
]
#: Whoever proves a client in a good way does so in that way alone.
CREDENTIALS = frozenset({
    "username", "password", "client_id", "client_secret", "client_assertion",
    "client_assertion_type", "grant_type",
})  # fmt: skip
ISSUER = "http://localhost:8000"
PAIR, SIGNING_KEY = key("attacks"), es256_key("attacks")


class Service:
    """The example app, running on a loop of its own, with clients whose credentials are good.

    Attributes:
        witness: who looks at every answer.
    """

    def __init__(self, app: Any, m2m: OAuth2M2M) -> None:
        self.witness = Witness(app)
        self._m2m = m2m
        self._http = httpx.AsyncClient(transport=self.witness, base_url=BASE_URL)

    async def prepare(self) -> None:
        """Register the clients, and get the tokens that requests are made with."""
        clients, scopes = self._m2m.clients, ["read", "write", "admin", "introspect", "metrics"]
        registered = await clients.register(scopes=scopes, role="admin")
        self.secret = secret_of(registered)
        self.client_id = registered.client.client_id
        hasty = await clients.register(scopes=["read"], max_requests_per_minute=1)
        self.hasty, self.hasty_secret = hasty.client.client_id, secret_of(hasty)
        signer = await clients.register(scopes=["read"], jwks=jwks(SIGNING_KEY))
        self.signer = signer.client.client_id
        self.machine = Machine(self._http, self.client_id, self.secret)
        self.tokens = await self.machine.get_token()
        self.reader = (await self.machine.get_token("read")).access
        self.bound = await self._bound_token()
        self.refresh_token = self.tokens.refresh
        self.witness.secrets |= {self.secret, self.hasty_secret}
        self.witness.secrets |= {self.tokens.access, self.reader, self.bound}

    async def document(self) -> Any:
        """The OpenAPI document, as anybody gets it."""
        return (await self._http.get("/openapi.json")).json()

    async def send(self, request: Request) -> httpx.Response:
        """Send a request that Schemathesis made; what it did not make into bytes, requests does."""
        prepared = requests.Request(**request).prepare()
        headers = [(_raw(name), _raw(value)) for name, value in prepared.headers.items()]
        body = prepared.body or b""
        assert isinstance(body, str | bytes)
        assert prepared.method is not None
        assert prepared.url is not None
        return await self._http.request(
            prepared.method, prepared.url, headers=headers, content=_raw(body)
        )

    async def renew(self) -> None:
        """Have a refresh token that was not exchanged yet."""
        self.refresh_token = (await self.machine.get_token()).refresh

    async def _bound_token(self) -> str:
        headers = {
            "DPoP": PAIR.proof("POST", f"{ISSUER}/token"),
            "Authorization": basic(self.client_id, self.secret),
        }
        form = {"grant_type": "client_credentials"}
        response = await self._http.post("/token", data=form, headers=headers)
        return str(response.json()["access_token"])


def _raw(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


# --- The ways to come further -------------------------------------------------------------------

Way = Callable[[Service, Request], Request]


def as_it_is(service: Service, request: Request) -> Request:
    """Nothing is added."""
    return request


def changed(
    request: Request, members: Mapping[str, str], headers: Mapping[str, str] | None = None
) -> Request:
    """The same request with these parameters or members in its body, and these headers."""
    body = {
        name: {**{k: v for k, v in request[name].items() if k not in CREDENTIALS}, **members}
        for name in ("data", "json")
        if isinstance(request.get(name), Mapping)
    }
    return {**request, **body, "headers": {**request["headers"], **(headers or {})}}


def with_basic(**members: str) -> Way:
    """Authenticated by the header."""

    def way(service: Service, request: Request) -> Request:
        return changed(
            request, members, {"Authorization": basic(service.client_id, service.secret)}
        )

    return way


def with_post(**members: str) -> Way:
    """Authenticated in the form."""

    def way(service: Service, request: Request) -> Request:
        proved = {"client_id": service.client_id, "client_secret": service.secret}
        return changed(request, {**proved, **members})

    return way


def too_often(**members: str) -> Way:
    """Authenticated as the client that may come once a minute."""

    def way(service: Service, request: Request) -> Request:
        proof = basic(service.hasty, service.hasty_secret)
        return changed(request, members, {"Authorization": proof})

    return way


def beside(service: Service, request: Request) -> Request:
    """Authenticated by the header, beside whatever was made up."""
    proof = basic(service.client_id, service.secret)
    return {**request, "headers": {**request["headers"], "Authorization": proof}}


def with_key(**members: str) -> Way:
    """Authenticated by an assertion."""

    def way(service: Service, request: Request) -> Request:
        return changed(request, fields(SIGNING_KEY.assertion(service.signer, ISSUER), **members))

    return way


def plainly(service: Service, request: Request) -> Request:
    """Username and password."""
    return changed(request, {"username": service.client_id, "password": service.secret})


def with_proof(service: Service, request: Request) -> Request:
    """For a token that is bound to a key."""
    proof = PAIR.proof("POST", f"{ISSUER}/token")
    return {**with_basic(grant_type="client_credentials")(service, request), "headers": {
        **request["headers"], "DPoP": proof,
        "Authorization": basic(service.client_id, service.secret),
    }}  # fmt: skip


def refreshing(service: Service, request: Request) -> Request:
    """With a refresh token that is alive, unless its own was too."""
    members = {"refresh_token": service.refresh_token}
    if "data" not in request:
        return changed(request, members)
    return with_basic(grant_type="refresh_token", **members)(service, request)


def naming(member: str) -> Way:
    """With an access token in the body; it may well be revoked by now."""

    def way(service: Service, request: Request) -> Request:
        return with_basic(**{member: service.tokens.access})(service, request)

    return way


def with_token(service: Service, request: Request) -> Request:
    """With an access token in the header."""
    return changed(request, {}, {"Authorization": f"Bearer {service.tokens.access}"})


def with_less(service: Service, request: Request) -> Request:
    """With one that may only read."""
    return changed(request, {}, {"Authorization": f"Bearer {service.reader}"})


def with_bound_token(service: Service, request: Request) -> Request:
    """With one that is bound to a key, and the proof that we hold it."""
    url = ISSUER + request["url"].removeprefix(BASE_URL)
    proof = PAIR.proof(request["method"], url, access_token=service.bound)
    return changed(request, {}, {"Authorization": f"DPoP {service.bound}", "DPoP": proof})


def known_already(service: Service, request: Request) -> Request:
    """Whoever has it wants it only if it has changed."""
    return changed(request, {}, {"If-None-Match": "*"})


CLIENT_CREDENTIALS = {"grant_type": "client_credentials"}
WAYS: Mapping[str, Sequence[Way]] = {
    "/token": [
        beside, with_basic(**CLIENT_CREDENTIALS), with_post(**CLIENT_CREDENTIALS),
        with_key(**CLIENT_CREDENTIALS), with_proof, plainly, refreshing,
        too_often(**CLIENT_CREDENTIALS),
    ],
    "/refresh": [refreshing, beside],
    "/revoke": [
        with_basic(), with_post(), with_key(), naming("token"), naming("access_token"),
        too_often(),
    ],
    "/introspect": [
        with_basic(), with_post(), with_key(), naming("token"), with_token, with_less,
        with_bound_token, too_often(),
    ],
    "/metrics": [with_token, with_less, with_bound_token],
    "/protected": [with_token, with_bound_token],
    "/admin-only": [with_token, with_less, with_bound_token],
}  # fmt: skip


#: What was answered at the least, or the test has only knocked at the doors.
REACHED = {
    "/token": {200, 400, 401, 422, 429},
    "/refresh": {200, 400, 401, 422},
    "/revoke": {200, 400, 401, 422, 429},
    "/introspect": {200, 400, 401, 403, 429},
    "/revocations": {200, 400},
    "/.well-known/oauth-authorization-server": {200, 304},
    "/.well-known/jwks.json": {200, 304},
    "/.well-known/oauth-protected-resource": {200, 304},
    "/health": {200},
    "/health/live": {200},
    "/health/ready": {200},
    "/metrics": {200, 401, 403},
    "/protected": {200, 401},
    "/admin-only": {200, 401, 403},
}


# --- The test -----------------------------------------------------------------------------------


@pytest.fixture
def service(
    mongo_url: str, database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Service, asyncio.Runner]]:
    """The example app, just imported, on the test's database."""
    configure(database, ISSUER=ISSUER, METRICS=True)
    monkeypatch.setenv("MONGODB_URL", mongo_url)
    monkeypatch.setenv("MONGODB_DB", database.name)
    monkeypatch.setattr(gc, "freeze", lambda: None)  # this process has more to do than to serve
    specification = importlib.util.spec_from_file_location("served", ROOT / "example/main.py")
    assert specification is not None
    assert specification.loader is not None
    example = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(example)
    with asyncio.Runner() as runner:
        lifespan = example.app.router.lifespan_context(example.app)
        runner.run(lifespan.__aenter__())
        service = Service(example.app, example.m2m)
        runner.run(service.prepare())
        yield service, runner
        runner.run(lifespan.__aexit__(None, None, None))


def attack(operation: APIOperation[Any, Any, Any, Any], test: Callable[..., None]) -> None:
    """Run a test on the requests that Schemathesis makes for an operation, always the same ones."""
    repeatable = settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=None)
    config = HypothesisTestConfig(
        project=operation.schema.config, modes=list(HypothesisTestMode), settings=repeatable
    )
    create_test(operation=operation, test_func=test, config=config)()


def check(case: schemathesis.Case[Any], answer: httpx.Response) -> None:
    """Hold an answer against the document, but for what cannot be said or read there."""
    excluded = []
    sent = (answer.request.url.path, answer.status_code)
    media_type = answer.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if sent == ("/revoke", 200) and media_type == FORM:
        # One status has one description, and this dialect's success has no body: RFC 7009.
        assert answer.content == b""
        excluded = [checks.content_type_conformance, checks.response_schema_conformance]
    elif sent == ("/revocations", 200):
        # Schemathesis takes the pairs of JSON Schema 2020-12 for a mistake.
        RevocationsResponse.model_validate_json(answer.content, strict=True)
        excluded = [checks.response_schema_conformance]
    case.validate_response(answer, checks=CHECKS, excluded_checks=excluded)


@pytest.mark.parametrize("paths", [*BY_SCHEMATHESIS])
def test_every_answer_is_a_documented_one(
    paths: str, service: tuple[Service, asyncio.Runner]
) -> None:
    """Status, media type, body and headers are as the document says, and none is a 500."""
    served, runner = service

    async def answers(request: Request, path: str) -> list[httpx.Response]:
        ways = [as_it_is, known_already, *WAYS.get(path, [])]
        sent = await asyncio.gather(*(served.send(way(served, request)) for way in ways))
        if any("refresh_token" in answer.text for answer in sent if answer.status_code == 200):
            await served.renew()
        return sent

    def send_and_check(case: schemathesis.Case[Any]) -> None:
        request = case.as_transport_kwargs(base_url=BASE_URL)
        for answer in runner.run(answers(request, case.path)):
            check(case, answer)

    document = schemathesis.openapi.from_dict(runner.run(served.document()))
    attacked = set()
    for operation in document.get_all_operations():
        assert isinstance(operation, Ok)
        path = operation.ok().path
        if paths == (path if path in BY_SCHEMATHESIS else OTHERS):
            attack(operation.ok(), send_and_check)
            attacked.add(path)
    served.witness.expect_enough(BY_SCHEMATHESIS[paths])
    for path in attacked:
        assert served.witness.statuses(path).keys() >= REACHED[path], path
