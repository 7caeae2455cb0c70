"""What may be used once: `used_assertions`, `used_dpop_proofs`.

Client assertions (RFC 7523 section 3) and DPoP proofs (RFC 9449 section 11.1) carry a `jti`.
Whoever's insert of its digest succeeds was the first to present it, whatever the number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable
from datetime import datetime

from _oauth2_m2m.metrics import Queue
from _oauth2_m2m.signatures import b64url_encode
from _oauth2_m2m.storage import TTL_LAG, Storage


class SingleUse:
    """Reads and writes one collection of marks, each for something that was used.

    Args:
        storage: where the collection lies.
        collection_name: which it is.
    """

    def __init__(self, storage: Storage, collection_name: str) -> None:
        self._used = storage.collection(collection_name)
        self._claim = storage.queue(Queue(collection_name), self._used.insert)

    async def prepare(self) -> None:
        """Make the index."""
        await self._used.ensure_index([("expires_at", 1)], lifetime=TTL_LAG)

    def claim(self, owner: str, jti: str, expires_at: datetime) -> Awaitable[bool]:
        """Use something up, once and for all workers; durable when this returns.

        Args:
            owner: whose it is: ids are unique to their maker only. It holds no NUL.
            jti: its id.
            expires_at: from when on it is refused anyway, so that its mark may go.

        Returns:
            Whether this is the first use.

        Raises:
            TemporarilyUnavailable: the database does not answer.
        """
        return self._claim.ask({"_id": _digest(owner, jti), "expires_at": expires_at})

    async def drain(self) -> None:
        """Wait until everything claimed so far is written."""
        await self._claim.drain()


def _digest(owner: str, jti: str) -> str:
    """One short name for any pair: what others choose is neither a key nor a length of ours."""
    return b64url_encode(hashlib.sha256(f"{owner}\0{jti}".encode()).digest()).decode("ascii")
