"""An authorization server on a port of its own, for services elsewhere that know it by name."""

# No `from __future__ import annotations`: FastAPI reads the routes' annotations as values.

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx
import uvicorn
from fastapi import Depends, FastAPI, Security
from starlette.types import ASGIApp, Receive, Scope, Send

from oauth2_m2m import AccessToken, ResourceServer
from tests.server import Server

HOST = "127.0.0.1"
START_SECONDS = 30.0


class _Uvicorn(uvicorn.Server):
    """It leaves the signals to pytest."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass
class Issuer:
    """What others see of an authorization server.

    Attributes:
        port: where it listens.
        app: what it serves.
        asked: the paths of the requests so far.
        instead: for a path, what to serve in its place.
    """

    port: int = 0
    app: ASGIApp | None = None
    asked: list[str] = field(default_factory=list)
    instead: dict[str, ASGIApp] = field(default_factory=dict)
    _serving: tuple[uvicorn.Server, asyncio.Task[None]] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        self.asked.append(scope["path"])
        app = self.instead.get(scope["path"], self.app)
        assert app is not None
        await app(scope, receive, send)

    async def start(self) -> None:
        """Listen; again on the same port after a stop."""
        config = uvicorn.Config(
            self, HOST, self.port, lifespan="off", ws="none", log_config=None, access_log=False
        )
        server = _Uvicorn(config)
        task = asyncio.create_task(server.serve())
        async with asyncio.timeout(START_SECONDS):
            while not server.started:
                assert not task.done(), "it ended"
                await asyncio.sleep(0.01)
        self._serving = server, task

    async def stop(self) -> None:
        """Be gone: nobody listens any more."""
        if self._serving is not None:
            server, task = self._serving
            server.should_exit = server.force_exit = True
            await task
            self._serving = None


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def hang(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that never answers."""
    await asyncio.Event().wait()


def guarded_elsewhere(api: ResourceServer, *, lifespan: bool = True) -> FastAPI:
    """A service that has no database, with the routes of `tests.server.guarded_app`."""
    app = FastAPI(lifespan=api.lifespan if lifespan else None)
    app.include_router(api.router)

    @app.get("/protected")
    async def protected(
        token: Annotated[AccessToken, Security(api.access_token, scopes=["read"])],
    ) -> dict[str, Any]:
        return {"client_id": token.client_id, "scopes": sorted(token.scopes), "jti": token.jti}

    @app.get("/admin-only")
    async def admin_only(
        token: Annotated[AccessToken, Depends(api.requires("admin", role="admin"))],
    ) -> dict[str, str]:
        return {"client_id": token.client_id}

    return app


@dataclass(frozen=True)
class Elsewhere:
    """A service elsewhere, running."""

    api: ResourceServer
    app: FastAPI
    http: httpx.AsyncClient

    async def call(self, token: str, path: str = "/protected") -> httpx.Response:
        """Call a guarded route with a bearer token."""
        return await self.http.get(path, headers={"Authorization": f"Bearer {token}"})

    async def settles(self, token: str, status: int, within: float) -> None:
        """The answer becomes this status within so many seconds."""
        async with asyncio.timeout(within):
            while (await self.call(token)).status_code != status:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@asynccontextmanager
async def elsewhere(api: ResourceServer, *, lifespan: bool = True) -> AsyncIterator[Elsewhere]:
    """Start a service that is guarded from afar, and stop it afterwards."""
    app = guarded_elsewhere(api, lifespan=lifespan)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        if not lifespan:
            stack.push_async_callback(api._judge.stop)
        transport = httpx.ASGITransport(app)
        http = httpx.AsyncClient(transport=transport, base_url="http://api.example.com")
        yield Elsewhere(api, app, await stack.enter_async_context(http))


@asynccontextmanager
async def served(issuer: Issuer, server: Server) -> AsyncIterator[Issuer]:
    """Serve a server at an issuer's address."""
    issuer.app = server.app
    await issuer.start()
    try:
        yield issuer
    finally:
        await issuer.stop()
