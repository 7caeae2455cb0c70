"""Predictions are what the guard then does, and leave no trace."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from _oauth2_m2m.app_routes import RouteAccess, RouteInfo, routes_of
from _oauth2_m2m.explaining import Outcome
from _oauth2_m2m.predicting import Prediction, predict, route_for
from _oauth2_m2m.rules import Rule
from tests.machine import Machine, Tokens, new_machine, resigned
from tests.proofs import key
from tests.server import Server, configure, running

ISSUER = "http://localhost:8000"


def route(path: str, *methods: str) -> RouteInfo:
    return RouteInfo(path=path, methods=methods, access=RouteAccess.GUARDED)


@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ("GET", "/reports", "/reports"),
        ("GET", "/reports/7", "/reports/{number:int}"),
        ("GET", "/reports/x", "/reports/{name}"),
        ("GET", "/reports/{name}", "/reports/{name}"),
        ("DELETE", "/reports/x", None),
        ("GET", "/reports/x/y", None),
        ("GET", "/files/a/b", "/files/*"),
        ("PUT", "/files", "/files/*"),
        ("GET", "/filesystem", None),
    ],
)
def test_a_route_is_found_as_a_request_would_find_it(
    method: str, path: str, found: str | None
) -> None:
    """The first whose path and method match; a mounted app has all that is below it."""
    routes = [
        route("/reports", "GET"),
        route("/reports/{number:int}", "GET"),
        route("/reports/{name}", "GET", "HEAD"),
        route("/files/*"),
    ]
    match = route_for(routes, method, path)
    assert (match and match.path) == found


@pytest.fixture
async def server(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> AsyncIterator[Server]:
    """A server whose client has made a few tokens."""
    configure(database)
    async with running(async_database) as started:
        yield started


async def predicted(server: Server, token: str, path: str = "/protected") -> Prediction:
    """What is predicted for a route of the server's app."""
    found = route_for(routes_of(server.app), "GET", path)
    assert found is not None
    return await predict(server.m2m._services, token, found)


Preparation = Callable[[Server, Machine, Tokens], Awaitable[str]]


async def good(server: Server, machine: Machine, tokens: Tokens) -> str:
    return tokens.access


async def narrow(server: Server, machine: Machine, tokens: Tokens) -> str:
    return (await machine.get_token("write")).access


async def revoked(server: Server, machine: Machine, tokens: Tokens) -> str:
    await machine.revoke(tokens.access)
    return tokens.access


async def disabled(server: Server, machine: Machine, tokens: Tokens) -> str:
    await server.m2m.clients.disable(machine.client_id)
    return tokens.access


async def forged(server: Server, machine: Machine, tokens: Tokens) -> str:
    return resigned(tokens.access, "another key")


async def garbage(server: Server, machine: Machine, tokens: Tokens) -> str:
    return "garbage"


FAILS: dict[Preparation, Rule | None] = {
    good: None,
    narrow: Rule.SCOPE,
    revoked: Rule.TOKEN_NOT_REVOKED,
    disabled: Rule.TOKEN_CLIENT,
    forged: Rule.TOKEN_SIGNATURE,
    garbage: Rule.TOKEN_READABLE,
}


@pytest.mark.parametrize("prepare", FAILS, ids=lambda prepare: prepare.__name__)
async def test_a_prediction_comes_true(
    server: Server, database: Database[Any], prepare: Preparation
) -> None:
    """The guard then says the same, by the same rule; nothing was written before it did."""
    machine = await new_machine(server)
    token = await prepare(server, machine, await machine.get_token())

    def written() -> list[Any]:
        names = [name for name in database.list_collection_names() if name != "client_usage"]
        return [sorted(map(str, database[name].find())) for name in sorted(names)]

    before = written()
    prediction = await predicted(server, token)
    assert written() == before
    response = await machine.call(token)
    assert prediction.admitted is (response.status_code == 200)
    failed = [step for step in prediction.steps if step.outcome is Outcome.FAILED]
    if prediction.admitted:
        assert failed == []
        assert prediction.remedy is None
    else:
        explanation = await server.m2m.explain(response.headers["x-error-id"])
        assert [step.rule for step in failed] == [FAILS[prepare]]
        assert failed == [s for s in explanation.steps if s.outcome is Outcome.FAILED]
        assert prediction.remedy == explanation.remedy
    (budget,) = [step for step in prediction.steps if step.rule is Rule.BUDGET]
    assert budget.outcome is not Outcome.PASSED


async def test_a_role_is_predicted_as_role_order_has_it(
    server: Server, async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """A role that stands above the one that is asked for is enough."""
    machine = await new_machine(server, scopes=["admin"], role="owner")
    token = (await machine.get_token()).access
    refused = await predicted(server, token, "/admin-only")
    assert [s.found for s in refused.steps if s.outcome is Outcome.FAILED] == [
        "had: owner; wanted: admin"
    ]
    database["config"].update_one({}, {"$set": {"ROLE_ORDER": ["owner", "admin"]}})
    async with running(async_database) as anew:
        assert (await predicted(anew, token, "/admin-only")).admitted


async def test_a_bound_token_needs_a_proof_that_only_a_request_has(server: Server) -> None:
    """The key is named, and the rest is predicted."""
    machine = await new_machine(server)
    holder = key("holder")
    machine.http.headers["DPoP"] = holder.proof("POST", f"{ISSUER}/token")
    token = (await machine.get_token()).access
    prediction = await predicted(server, token)
    assert prediction.admitted
    (proof,) = [step for step in prediction.steps if step.rule is Rule.PROOF_GOOD]
    assert proof.outcome is Outcome.UNKNOWN
    assert "each request needs one" in proof.found


async def test_a_route_without_a_guard_lets_everybody_through(server: Server) -> None:
    """It is said, and the token is not even read."""
    app = FastAPI()
    app.get("/open")(lambda: {})
    (open_route,) = [each for each in routes_of(app) if each.path == "/open"]
    prediction = await predict(server.m2m._services, "garbage", open_route)
    assert prediction.admitted
    assert [step.outcome for step in prediction.steps] == [Outcome.UNKNOWN]
