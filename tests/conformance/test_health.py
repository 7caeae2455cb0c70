"""GET /health/live, /health/ready, /health: for load balancers and people."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase

from oauth2_m2m import OAuth2M2M
from tests.expectations import Log, expect_error, expect_no_store
from tests.server import Server, guarded_app

READY = ("/health", "/health/ready")
NO_DATABASE = "mongodb://127.0.0.1:9/?directConnection=true"


async def test_live_says_that_the_process_answers(server: Server) -> None:
    """/health/live is 200 with one word."""
    response = await server.http().get("/health/live")
    assert response.status_code == 200
    expect_no_store(response)
    assert response.json() == {"status": "ok"}


@pytest.mark.parametrize("path", READY)
async def test_ready_names_what_it_looked_at(server: Server, log: Log, path: str) -> None:
    """Ready is 200 when MongoDB answers and a signing key is at hand; nothing is recorded."""
    response = await server.http().get(path)
    assert response.status_code == 200
    expect_no_store(response)
    assert response.json() == {
        "status": "ok",
        "checks": {"mongodb": "ok", "signing_key": "ok"},
    }
    log.expect_nothing()


async def test_ready_works_without_lifespan(async_database: AsyncDatabase[Any]) -> None:
    """The first look prepares what an app without our lifespan has not prepared."""
    m2m = OAuth2M2M(async_database)
    response = await Server(guarded_app(m2m), m2m).http().get("/health")
    assert response.status_code == 200


async def test_without_a_database_live_is_200_and_ready_is_503() -> None:
    """MongoDB that gives no sign within 1 s makes ready 503, naming it; live does not ask it."""
    async with AsyncMongoClient[dict[str, Any]](NO_DATABASE) as mongo:
        m2m = OAuth2M2M(mongo["nowhere"])
        http = Server(guarded_app(m2m), m2m).http()
        began = time.monotonic()
        live, *readies = await asyncio.gather(
            *(http.get(path) for path in ("/health/live", *READY))
        )
        assert time.monotonic() - began < 6  # 5 s, and a moment for a busy machine
    assert live.status_code == 200
    for ready in readies:
        assert ready.status_code == 503
        expect_no_store(ready)
        assert int(ready.headers["retry-after"]) >= 1
        body = ready.json()
        assert (body["status"], body["error"]) == ("unavailable", "temporarily_unavailable")
        assert body["checks"]["mongodb"] != "ok"
        assert "mongodb" in body["error_description"]
        assert body["detail"] == body["error_description"]
        assert body["error_id"] == ready.headers["x-error-id"]
        assert "127.0.0.1" not in ready.text


async def test_a_key_that_is_missing_is_named(async_database: AsyncDatabase[Any]) -> None:
    """A config that cannot be used makes ready 503 with the signing key as the failing part."""
    await async_database["config"].insert_one({"_id": "jwt_config", "ALGORITHM": "none"})
    m2m = OAuth2M2M(async_database)
    response = await Server(guarded_app(m2m), m2m).http().get("/health/ready")
    assert response.status_code == 503
    checks = response.json()["checks"]
    assert checks["mongodb"] == "ok"
    assert checks["signing_key"] != "ok"


@pytest.mark.parametrize("path", ["/health/live", *READY])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_only_get_is_spoken(server: Server, path: str, method: str) -> None:
    """Anything else is 405 that says what to use."""
    response = await server.http().request(method, path)
    expect_error(response, 405, "invalid_request")
    assert "GET" in response.headers["allow"]
