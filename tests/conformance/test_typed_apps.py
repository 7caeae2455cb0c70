"""Scopes and roles as enums, an order of roles, and guards of WebSockets, over HTTP."""

# No `from __future__ import annotations`: FastAPI reads the routes' annotations as values.

import warnings
from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Security, WebSocket
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from oauth2_m2m import AccessToken, ConfigurationError, OAuth2M2M, ResourceServer
from tests.issuers import Issuer, elsewhere, free_port, served
from tests.machine import audit, new_machine
from tests.server import Server, configure, running

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would rather have another HTTP library beneath it
    from starlette.testclient import TestClient, WebSocketDenialResponse


class Scope(StrEnum):
    READ = "read"
    """Read reports"""
    ADMIN = "admin"
    """Administer"""


class Role(StrEnum):
    OWNER = "owner"
    ADMIN = "admin"
    USER = "user"


def typed_app(m2m: OAuth2M2M) -> FastAPI:
    app = FastAPI(lifespan=m2m.lifespan)
    app.include_router(m2m.router)

    @app.get("/reports")
    async def reports(
        token: Annotated[AccessToken, Security(m2m.access_token, scopes=[Scope.READ])],
    ) -> list[bool]:
        return [Scope.READ in token.scopes, Scope.ADMIN in token.scopes, Role.ADMIN in token.roles]

    @app.get("/admin", dependencies=[Depends(m2m.requires(Scope.ADMIN, role=Role.ADMIN))])
    async def admin() -> None: ...

    return app


async def test_an_app_is_written_in_enums_alone(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """Guards, registration and tokens take members for words, and store and send plain texts."""
    configure(database)
    m2m = OAuth2M2M(async_database, scopes=Scope)
    app = typed_app(m2m)
    async with app.router.lifespan_context(app):
        server = Server(app, m2m)
        machine = await new_machine(server, scopes=[Scope.READ], role=Role.ADMIN)
        tokens = await machine.get_token(Scope.READ)
        assert (await machine.call(tokens, "/reports")).json() == [True, False, True]
        refused = await machine.call(tokens, "/admin")
        assert refused.status_code == 403
        assert 'scope="admin"' in refused.headers["WWW-Authenticate"]
        everything = await new_machine(server, scopes=list(Scope), role=Role.USER)
        refused = await everything.call(await everything.get_token(), "/admin")
        assert (
            refused.json()["error_description"]
            == "Not allowed: this needs scope admin and role admin"
        )
    stored = database["clients"].find_one({"client_id": machine.client_id})
    assert stored is not None
    assert (stored["scopes"], stored["role"]) == (["read"], "admin")
    document = app.openapi()
    (scheme,) = document["components"]["securitySchemes"].values()
    offered = scheme["flows"]["clientCredentials"]["scopes"]
    assert offered == {"read": "Read reports", "admin": "Administer"}


async def test_one_word_in_place_of_a_list_registers_nobody(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """Else its letters would be scopes."""
    m2m = OAuth2M2M(async_database)
    with pytest.raises(ValueError, match="is one word"):
        await m2m.clients.register(scopes="read")
    with pytest.raises(ValueError, match="is one word"):
        await m2m.clients.register(scopes=["read"], grant_types="client_credentials")
    assert database["clients"].count_documents({}) == 0


@pytest.mark.parametrize(
    ("order", "role", "status"),
    [
        (None, "admin", 200),
        (None, "owner", 403),
        (["owner", "admin", "user"], "owner", 200),
        (["owner", "admin", "user"], "admin", 200),
        (["owner", "admin", "user"], "user", 403),
        (["owner", "admin", "user"], "auditor", 403),
        (["admin", "owner"], "owner", 403),
        (["owner", "user"], "owner", 403),
    ],
)
async def test_a_higher_role_passes_where_a_lower_one_is_asked_for(
    async_database: AsyncDatabase[Any],
    database: Database[Any],
    order: list[str] | None,
    role: str,
    status: int,
) -> None:
    """By `ROLE_ORDER` of the config, and only there; who is refused is audited as ever."""
    configure(database, **({} if order is None else {"ROLE_ORDER": order}))
    async with running(async_database) as server:
        machine = await new_machine(server, scopes=["admin"], role=role)
        answer = await machine.call(await machine.get_token(), "/admin-only")
    assert answer.status_code == status
    denied = audit(database, event_type="access_denied", client_id=machine.client_id)
    assert len(denied) == (status == 403)


async def test_a_role_above_admin_introspects_as_admins_do(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """Where an order puts it there, it sees other clients' tokens; without one it does not."""
    for order, active in ((["owner", "admin"], True), ([], False)):
        configure(database, ROLE_ORDER=order)
        async with running(async_database) as server:
            other = await (await new_machine(server)).get_token()
            owner = await new_machine(server, role="owner")
            answer = await owner.post("/introspect", token=other.access)
        assert answer.json()["active"] is active


async def test_a_service_elsewhere_takes_an_order_of_roles(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """It is told by an argument, for it does not see the config."""
    issuer = Issuer(free_port())
    configure(database, ALGORITHM="ES256", ISSUER=issuer.url)
    async with running(async_database) as server, served(issuer, server):
        owner = await new_machine(server, scopes=["admin"], role="owner")
        token = (await owner.get_token()).access
        for order, status in (([Role.OWNER, Role.ADMIN], 200), ([], 403)):
            api = ResourceServer(issuer.url, audience=issuer.url, role_order=order)
            async with elsewhere(api) as service:
                assert (await service.call(token, "/admin-only")).status_code == status


@pytest.mark.parametrize("order", ["admin", ["a", "a"], ["two words"], [1]], ids=repr)
def test_a_service_elsewhere_refuses_what_is_no_order(order: Any) -> None:
    """The argument is named, when the service is made."""
    with pytest.raises(ConfigurationError, match="role_order must"):
        ResourceServer("https://auth.example.com", audience="urn:api", role_order=order)


def test_a_websocket_is_guarded(database: Database[Any]) -> None:
    """By the header of the request that opens it; who is refused gets the answer of any route."""
    configure(database)
    m2m = OAuth2M2M(database)
    app = FastAPI(lifespan=m2m.lifespan)
    app.include_router(m2m.router)

    @app.websocket("/live")
    async def live(
        socket: WebSocket,
        token: Annotated[AccessToken, Depends(m2m.requires("read", role="admin"))],
    ) -> None:
        await socket.accept()
        await socket.send_text(token.client_id)
        await socket.close()

    with TestClient(app) as http:
        assert http.portal is not None
        for role in (Role.ADMIN, Role.USER):
            register = partial(m2m.clients.register, role, scopes=["read"], role=role)
            http.portal.call(partial(register, client_secret="typed by hand"))
        headers = {}
        for client_id in ("admin", "user"):
            form = {"username": client_id, "password": "typed by hand"}
            token = http.post("/token", data=form).json()["access_token"]
            headers[client_id] = {"Authorization": f"Bearer {token}"}
        with http.websocket_connect("/live", headers=headers["admin"]) as socket:
            assert socket.receive_text() == "admin"
        for sent, status, error in (
            ({}, 401, "invalid_token"),
            ({"Authorization": "Bearer nonsense"}, 401, "invalid_token"),
            (headers["user"], 403, "insufficient_scope"),
        ):
            with pytest.raises(WebSocketDenialResponse) as refused:
                http.websocket_connect("/live", headers=sent).__enter__()
            assert refused.value.status_code == status
            assert refused.value.json()["error"] == error
            assert refused.value.headers["WWW-Authenticate"].startswith("Bearer")
    recorded = [record["event_type"] for record in audit(database)]
    assert recorded[2:] == ["token_invalid", "token_invalid", "access_denied"]
