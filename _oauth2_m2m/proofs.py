"""DPoP proofs, each good for one request. The collection `used_dpop_proofs`."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from _oauth2_m2m.config import Settings
from _oauth2_m2m.dpop import Nonces, read_proof
from _oauth2_m2m.errors import InvalidDPoPProof
from _oauth2_m2m.single_use import SingleUse
from _oauth2_m2m.storage import Storage


class Proofs:
    """Reads proofs and uses them up."""

    def __init__(self, storage: Storage) -> None:
        self._used = SingleUse(storage, "used_dpop_proofs")

    async def prepare(self) -> None:
        """Make the index."""
        await self._used.prepare()

    async def check(
        self,
        text: str,
        *,
        method: str,
        urls: Collection[str],
        now: datetime,
        settings: Settings,
        access_token: str | None = None,
        jkt: str | None = None,
    ) -> str:
        """Check a proof in full, and use it up.

        Args:
            text: the proof.
            method: the method of the request.
            urls: the addresses that it may have been sent to.
            now: the moment to judge it at.
            settings: the settings of this moment.
            access_token: the access token that it came with, if it did.
            jkt: the thumbprint that its key must have, if the token is bound already.

        Returns:
            The thumbprint of its key.

        Raises:
            InvalidDPoPProof: it is not good, or was used before.
            TemporarilyUnavailable: the database does not answer.
        """
        secret = settings.secret_key.value.encode()
        proof = read_proof(
            text,
            method=method,
            urls=urls,
            now=now,
            access_token=access_token,
            jkt=jkt,
            nonces=Nonces(secret) if settings.dpop_require_nonce else None,
            algorithms=settings.foreign_algorithms,
        )
        if not await self._used.claim(proof.jkt, proof.jti, proof.expires_at):
            raise InvalidDPoPProof("The DPoP proof was used before: make one for each request")
        return proof.jkt

    async def drain(self) -> None:
        """Wait until every use is written."""
        await self._used.drain()
