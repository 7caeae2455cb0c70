"""The app of the tests: a server of ours with two guarded routes, run on the test's event loop."""

# No `from __future__ import annotations`: FastAPI reads the routes' annotations as values.

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
from fastapi import Depends, FastAPI, Security
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from oauth2_m2m import AccessToken, OAuth2M2M

#: Where requests come from unless a test says otherwise: TEST-NET-1 (RFC 5737).
HOME = "192.0.2.1"
BASE_URL = "http://testserver"
#: Counted, but never reached: a test of something else does not care which minute it is.
LIMIT_OUT_OF_REACH = 100_000


def guarded_app(m2m: OAuth2M2M) -> FastAPI:
    """An app with every endpoint, and the routes /protected and /admin-only."""
    app = FastAPI(lifespan=m2m.lifespan)
    app.include_router(m2m.router)

    @app.get("/protected")
    async def protected(
        token: Annotated[AccessToken, Security(m2m.access_token, scopes=["read"])],
    ) -> dict[str, Any]:
        return {"client_id": token.client_id, "scopes": sorted(token.scopes), "jti": token.jti}

    @app.get("/admin-only")
    async def admin_only(
        token: Annotated[AccessToken, Depends(m2m.requires("admin", role="admin"))],
    ) -> dict[str, str]:
        return {"client_id": token.client_id}

    return app


@dataclass(frozen=True, slots=True)
class Server:
    """A running app, and the door to what it was built from."""

    app: FastAPI
    m2m: OAuth2M2M

    def http(
        self, ip: str = HOME, port: int = 50_000, base_url: str = BASE_URL
    ) -> httpx.AsyncClient:
        """An HTTP client at an address. A bug that escapes the app is raised in the test."""
        transport = httpx.ASGITransport(self.app, client=(ip, port))
        return httpx.AsyncClient(transport=transport, base_url=base_url)


@asynccontextmanager
async def running(
    database: AsyncDatabase[Any] | Database[Any], *, environment: str = "development"
) -> AsyncIterator[Server]:
    """Start the app of the tests on a database, its lifespan included, and stop it afterwards."""
    m2m = OAuth2M2M(database, environment=environment)
    app = guarded_app(m2m)
    async with app.router.lifespan_context(app):
        yield Server(app, m2m)


def configure(database: Database[Any], **fields: Any) -> None:
    """Write the config by hand, as an operator does; to be called before the server starts.

    What is not named is left to the server, except that limits are out of reach.
    """
    config = {"MAX_REQUESTS_PER_MINUTE": LIMIT_OUT_OF_REACH, **fields}
    database["config"].replace_one({"_id": "jwt_config"}, config, upsert=True)
