"""aioauth on FastAPI with MongoDB: it finds the client, and stores the tokens that it makes."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import time
from typing import Any

from aioauth.collections import HTTPHeaderDict
from aioauth.config import Settings
from aioauth.models import Client, Token
from aioauth.requests import Post, Query
from aioauth.requests import Request as OAuthRequest
from aioauth.server import AuthorizationServer
from aioauth.storage import BaseStorage
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from bench.contenders.common import database, secret_matches

db = database()
# TLS ends in front of the worker, here as in production.
settings = Settings(INSECURE_TRANSPORT=True)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the indexes; close the connections at the end."""
    await db.clients.create_index("client_id", unique=True)
    await db.tokens.create_index("access_token", unique=True)
    await db.tokens.create_index("refresh_token", unique=True)
    gc.freeze()
    yield
    await db.client.close()


class Storage(BaseStorage):
    """The part of aioauth's storage that client credentials need."""

    async def get_client(
        self, *, request: OAuthRequest, client_id: str, client_secret: str | None = None
    ) -> Client | None:
        """A client whose secret is right."""
        found = await db.clients.find_one({"client_id": client_id})
        if found is None or not secret_matches(client_secret or "", found):
            return None
        return Client(
            client_id=client_id,
            client_secret=client_secret or "",
            grant_types=["client_credentials"],
            response_types=[],
            redirect_uris=[],
            scope=" ".join(found["scopes"]),
        )

    async def create_token(
        self,
        *,
        request: OAuthRequest,
        client_id: str,
        scope: str,
        access_token: str,
        refresh_token: str | None = None,
    ) -> Token:
        """Store both tokens."""
        token = Token(
            client_id=client_id,
            expires_in=request.settings.TOKEN_EXPIRES_IN,
            refresh_token_expires_in=request.settings.REFRESH_TOKEN_EXPIRES_IN,
            access_token=access_token,
            refresh_token=refresh_token,
            issued_at=int(time()),
            scope=scope,
        )
        await db.tokens.insert_one(dict(vars(token)))
        return token


app = FastAPI(lifespan=lifespan)
server = AuthorizationServer(storage=Storage())


@app.post("/token")
async def token(request: Request) -> JSONResponse:
    """Convert the request, as aioauth's FastAPI examples do, and the response back."""
    form: dict[str, Any] = dict(await request.form())
    oauth_request = OAuthRequest(
        method="POST",
        headers=HTTPHeaderDict(dict(request.headers)),
        query=Query(),
        post=Post(**form),
        url=str(request.url),
        settings=settings,
    )
    response = await server.create_token_response(oauth_request)
    return JSONResponse(response.content, int(response.status_code), dict(response.headers))
