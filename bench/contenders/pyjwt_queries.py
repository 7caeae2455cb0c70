"""The route protected with PyJWT and a query for each request through AsyncMongoClient.

With BENCH_COUNT the request is counted too, at the same time: all that ours does, with one command
for each effect.
"""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import jwt
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.security import OAuth2PasswordBearer
from jwt.exceptions import InvalidTokenError
from pymongo import ReturnDocument, WriteConcern

from bench.contenders.common import AUDIENCE, SECRET_KEY, Document, database

COUNTS = bool(os.environ.get("BENCH_COUNT"))
LIMIT = 1_000_000_000

db = database()
revoked_tokens = db.revoked_tokens
rate_limits = db.get_collection("rate_limits", write_concern=WriteConcern(w=1))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Close the connections at the end."""
    gc.freeze()
    yield
    await db.client.close()


app = FastAPI(lifespan=lifespan)
bearer = OAuth2PasswordBearer(tokenUrl="token")


async def current_client(request: Request, token: Annotated[str, Depends(bearer)]) -> str:
    """The client that the token names, unless the token is revoked or the client over its limit."""
    try:
        payload = jwt.decode(token, SECRET_KEY, algorithms=["HS256"], audience=AUDIENCE)
    except InvalidTokenError:
        raise HTTPException(401, "Could not validate credentials") from None
    client_id = str(payload["client_id"])
    if "read" not in payload["scope"].split():
        raise HTTPException(403, "Not enough permissions")
    if COUNTS:
        mark, place = await asyncio.gather(revocation(payload), count(request, client_id))
        if place > LIMIT:
            raise HTTPException(429, "Too many requests")
    else:
        mark = await revocation(payload)
    if mark is not None:
        raise HTTPException(401, "Could not validate credentials")
    return client_id


def revocation(payload: dict[str, Any]) -> Awaitable[Document | None]:
    """Any mark that hits the token, its family or its client."""
    marks = [
        payload["jti"],
        f"client:{payload['client_id']}:{payload['epoch']}",
        f"family:{payload['family_id']}",
    ]
    return revoked_tokens.find_one({"_id": {"$in": marks}}, ["_id"])


async def count(request: Request, client_id: str) -> int:
    """The request's place in its minute."""
    now = datetime.now(UTC)
    ip = request.client.host if request.client else "unknown"
    document = await rate_limits.find_one_and_update(
        {"_id": f"{client_id}:{ip}:{now:%Y%m%d%H%M}"},
        {"$inc": {"count": 1}, "$setOnInsert": {"timestamp": now}},
        ["count"],
        upsert=True,
        return_document=ReturnDocument.AFTER,
    )
    return int(document["count"]) if document else 1


@app.get("/protected")
async def protected(client_id: Annotated[str, Depends(current_client)]) -> dict[str, str]:
    """Greet."""
    return {"message": f"Hello {client_id}, you have accessed a protected route!"}
