"""Give each contender its own database, with the same clients and secrets in all of them."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Mapping
from typing import Any

from pymongo import AsyncMongoClient, MongoClient

from bench.contenders.common import AUDIENCE
from oauth2_m2m import OAuth2M2M

SECRET_KEY = secrets.token_urlsafe(32)
#: So high that every request is counted and none refused.
LIMIT = 1_000_000_000


def seed_ours(
    url: str,
    name: str,
    *,
    clients: int,
    limit: int = LIMIT,
    known: Mapping[str, str] | None = None,
    keep: bool = False,
) -> dict[str, str]:
    """Write our config document and register clients through the door.

    Args:
        url: the MongoDB.
        name: the database.
        clients: how many to register.
        limit: MAX_REQUESTS_PER_MINUTE; 0 counts nothing.
        known: ids and secrets to register; else secrets are made.
        keep: keep what the database holds; else it is made anew.

    Returns:
        The clients' ids and secrets.
    """
    return asyncio.run(_seed_ours(url, name, clients, limit, known or {}, keep))


async def _seed_ours(
    url: str, name: str, clients: int, limit: int, known: Mapping[str, str], keep: bool
) -> dict[str, str]:
    async with AsyncMongoClient[dict[str, Any]](url) as mongo:
        if keep:
            await mongo[name].clients.delete_many({"client_id": {"$regex": "^bench_"}})
        else:
            await mongo.drop_database(name)
        await configure(mongo, name, limit)
        m2m = OAuth2M2M(mongo[name], environment="production")
        made = {}
        for number in range(clients):
            registered = await m2m.clients.register(
                f"bench_{number}",
                client_secret=known.get(f"bench_{number}"),
                scopes=["read", "write"],
            )
            made[registered.client.client_id] = registered.client_secret or ""
        return made


async def configure(mongo: AsyncMongoClient[dict[str, Any]], name: str, limit: int) -> None:
    """Write the config document that production asks for."""
    config = {
        "SECRET_KEY": SECRET_KEY,
        "ALGORITHM": "HS256",
        "ACCESS_TOKEN_EXPIRE_MINUTES": 24 * 60,  # the same tokens serve a whole run
        "MAX_REQUESTS_PER_MINUTE": limit,
        "ISSUER": AUDIENCE,
    }
    await mongo[name].config.update_one({"_id": "jwt_config"}, {"$set": config}, upsert=True)


def seed_theirs(url: str, name: str, clients: Mapping[str, str]) -> None:
    """Write the clients as the contenders on MongoDB read them; indexes are their own business."""
    with MongoClient[dict[str, Any]](url) as mongo:
        mongo.drop_database(name)
        mongo[name].clients.insert_many(
            {
                "client_id": client_id,
                "secret_sha256": hashlib.sha256(secret.encode()).hexdigest(),
                "scopes": ["read", "write"],
                "role": "user",
                "epoch": secrets.token_hex(4),
            }
            for client_id, secret in clients.items()
        )
        payload = {"scope": "read write"}
        mongo[name]["Client"].insert_many(  # oidc-provider's name and form
            {
                "_id": client_id,
                "payload": {**payload, "client_id": client_id, "client_secret": secret},
            }
            for client_id, secret in clients.items()
        )
