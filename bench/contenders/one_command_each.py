"""The token endpoint with all that ours does, one command for each effect, as parallel as can be.

First the client and the count of its failures; then, at once, its own count, the refresh token and
the audit record. (A request over the limit would leave a refresh token that nobody ever gets.)
"""

import asyncio
import base64
import gc
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated

import jwt
from fastapi import FastAPI, Form, HTTPException, Request, Response
from pymongo import ReturnDocument, WriteConcern

from bench.contenders.common import AUDIENCE, SECRET_KEY, Document, database, secret_matches

LIMIT = 1_000_000_000
ACCESS_TOKEN_LIFETIME = timedelta(minutes=15)
REFRESH_TOKEN_LIFETIME = timedelta(days=30)

db = database()
rate_limits = db.get_collection("rate_limits", write_concern=WriteConcern(w=1))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the indexes that ours has; close the connections at the end."""
    await db.clients.create_index("client_id", unique=True)
    await db.tokens.create_index("refresh_token", unique=True)
    await db.tokens.create_index("family_id")
    await db.tokens.create_index("expires_at", expireAfterSeconds=21600)
    await db.audit_logs.create_index("timestamp", expireAfterSeconds=90 * 86400)
    await db.audit_logs.create_index([("client_id", 1), ("timestamp", 1)])
    await db.audit_logs.create_index([("event_type", 1), ("timestamp", 1)])
    await rate_limits.create_index("timestamp", expireAfterSeconds=86400)
    gc.freeze()
    yield
    await db.client.close()


app = FastAPI(lifespan=lifespan)


@app.post("/token")
async def token(
    request: Request,
    response: Response,
    grant_type: Annotated[str, Form()],
    scope: Annotated[str, Form()] = "",
) -> Document:
    """An access token and a refresh token for client credentials."""
    now = datetime.now(UTC)
    ip = request.client.host if request.client else "unknown"
    client_id, secret = basic(request.headers.get("authorization", ""))
    bucket = hashlib.sha256(client_id.encode()).digest()[0] % 64
    client, failures = await asyncio.gather(
        db.clients.find_one({"client_id": client_id}),
        rate_limits.find_one({"_id": f"~{bucket}:{ip}:{now:%Y%m%d%H%M}"}),
    )
    if failures and failures["count"] >= LIMIT:
        raise HTTPException(429, {"error": "rate_limit_exceeded"})
    if client is None or not secret_matches(secret, client):
        raise HTTPException(401, {"error": "invalid_client"})
    if grant_type != "client_credentials":
        raise HTTPException(400, {"error": "unsupported_grant_type"})
    if not set(client["scopes"]).issuperset(scope.split()):
        raise HTTPException(400, {"error": "invalid_scope"})
    jti, family_id, refresh_token = (secrets.token_urlsafe(size) for size in (16, 16, 32))
    claims = {
        "iss": AUDIENCE,
        "aud": AUDIENCE,
        "sub": client_id,
        "client_id": client_id,
        "scope": scope,
        "roles": [client["role"]],
        "jti": jti,
        "iat": now,
        "exp": now + ACCESS_TOKEN_LIFETIME,
        "family_id": family_id,
        "epoch": client["epoch"],
    }
    access_token = jwt.encode(claims, SECRET_KEY, algorithm="HS256", headers={"typ": "at+jwt"})
    refresh_document = {
        "client_id": client_id,
        "refresh_token": f"sha256${hashlib.sha256(refresh_token.encode()).hexdigest()}",
        "created_at": now,
        "expires_at": now + REFRESH_TOKEN_LIFETIME,
        "family_id": family_id,
        "scope": scope,
        "epoch": client["epoch"],
    }
    audit_document = {
        "event_type": "login_success",
        "client_id": client_id,
        "ip": ip,
        "reason": f"scope: {scope}",
        "timestamp": now,
        "jti": jti,
        "request_id": secrets.token_hex(16),
        "user_agent": request.headers.get("user-agent"),
    }
    counted, _, _ = await asyncio.gather(
        rate_limits.find_one_and_update(
            {"_id": f"{client_id}:{ip}:{now:%Y%m%d%H%M}"},
            {"$inc": {"count": 1}, "$setOnInsert": {"timestamp": now}},
            ["count"],
            upsert=True,
            return_document=ReturnDocument.AFTER,
        ),
        db.tokens.insert_one(refresh_document),
        db.audit_logs.insert_one(audit_document),
    )
    if counted is None or counted["count"] > LIMIT:
        raise HTTPException(429, {"error": "rate_limit_exceeded"})
    response.headers["Cache-Control"] = "no-store"
    return {
        "access_token": access_token,
        "token_type": "bearer",
        "expires_in": int(ACCESS_TOKEN_LIFETIME.total_seconds()),
        "scope": scope,
        "refresh_token": refresh_token,
    }


def basic(authorization: str) -> tuple[str, str]:
    """The id and the secret in an `Authorization: Basic` header."""
    scheme, _, encoded = authorization.partition(" ")
    try:
        client_id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        scheme = ""
    if scheme.lower() != "basic":
        raise HTTPException(401, {"error": "invalid_client"})
    return client_id, secret
