"""DPoP proofs, each good for one request. The collection `used_dpop_proofs`."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from _oauth2_m2m.config import Settings
from _oauth2_m2m.dpop import Nonces, Proof, read_proof
from _oauth2_m2m.errors import DPoPProofUsed
from _oauth2_m2m.newest import Newest
from _oauth2_m2m.single_use import SingleUse
from _oauth2_m2m.storage import Storage

_MOST_REMEMBERED = 10_000


class Proofs:
    """Reads proofs and uses them up.

    What this process has seen it refuses at once, so that a proof which is repeated thousands of
    times costs the database nothing, and the client that it was copied from no place.
    """

    def __init__(self, storage: Storage) -> None:
        self._used = SingleUse(storage, "used_dpop_proofs")
        self._seen: Newest[tuple[str, str], None] = Newest(_MOST_REMEMBERED)

    async def prepare(self) -> None:
        """Make the index."""
        await self._used.prepare()

    def read(
        self,
        text: str,
        *,
        method: str,
        urls: Collection[str],
        now: datetime,
        settings: Settings,
        access_token: str | None = None,
        jkt: str | None = None,
    ) -> Proof:
        """Check of a proof all that can be checked without the database.

        Args:
            text: the proof.
            method: the method of the request.
            urls: the addresses that it may have been sent to.
            now: the moment to judge it at.
            settings: the settings of this moment.
            access_token: the access token that it came with, if it did.
            jkt: the thumbprint that its key must have, if the token is bound already.

        Returns:
            The proof, which must be used up next.

        Raises:
            InvalidDPoPProof: it is not good, or was seen here before.
        """
        proof = read_proof(
            text,
            method=method,
            urls=urls,
            now=now,
            access_token=access_token,
            jkt=jkt,
            algorithms=settings.foreign_algorithms,
        )
        if (proof.jkt, proof.jti) in self._seen:
            raise DPoPProofUsed
        self._seen[proof.jkt, proof.jti] = None
        return proof

    async def use(self, proof: Proof, now: datetime, settings: Settings) -> None:
        """Use a proof up, over all workers.

        Raises:
            InvalidDPoPProof: it was used before.
            UseDPoPNonce: it is good, but lacks the nonce that is asked for.
            TemporarilyUnavailable: the database does not answer.
        """
        if not await self._used.claim(proof.jkt, proof.jti, proof.expires_at):
            raise DPoPProofUsed
        if settings.dpop_require_nonce:
            nonces_of(settings).check(proof, now)

    async def drain(self) -> None:
        """Wait until every use is written."""
        await self._used.drain()


def nonces_of(settings: Settings) -> Nonces:
    """The nonces that all workers with these settings hand out."""
    return Nonces(settings.secret_key.value.encode())
