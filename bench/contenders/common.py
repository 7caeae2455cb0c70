"""What the Python contenders read from their environment, and the shape of the seeded clients."""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Any, TypeAlias

from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase

Document: TypeAlias = dict[str, Any]

SECRET_KEY = os.environ.get("BENCH_SECRET_KEY", "")
AUDIENCE = "https://bench.example"


def database() -> AsyncDatabase[Document]:
    """The contender's own database: durable writes and majority reads, as ours has them."""
    mongo = AsyncMongoClient[Document](
        os.environ["MONGODB_URL"], w="majority", journal=True, readConcernLevel="majority"
    )
    return mongo[os.environ["MONGODB_DB"]]


def secret_matches(presented: str, client: Document) -> bool:
    """Compare a presented secret with the stored SHA-256 of a random one."""
    digest = hashlib.sha256(presented.encode()).hexdigest()
    return hmac.compare_digest(digest, client["secret_sha256"])
