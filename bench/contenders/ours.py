"""Ours, as the README mounts it. The config document in the database decides what is on."""

import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Security
from pymongo import AsyncMongoClient

from oauth2_m2m import AccessToken, OAuth2M2M

mongo = AsyncMongoClient[dict[str, Any]](os.environ["MONGODB_URL"])
m2m = OAuth2M2M(mongo[os.environ["MONGODB_DB"]], environment="production")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Prepare the database at the start, close the connections at the end."""
    async with m2m.lifespan(app):
        gc.freeze()
        yield
    await mongo.close()


app = FastAPI(lifespan=lifespan)
app.include_router(m2m.router)


@app.get("/protected")
async def protected(
    token: Annotated[AccessToken, Security(m2m.access_token, scopes=["read"])],
) -> dict[str, str]:
    """Greet."""
    return {"message": f"Hello {token.client_id}, you have accessed a protected route!"}
