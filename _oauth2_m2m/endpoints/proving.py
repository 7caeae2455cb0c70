"""The proof that endpoints which issue tokens may ask for: DPoP. RFC 9449 section 5."""

from __future__ import annotations

from fastapi import Request

from _oauth2_m2m.admission import Attempt
from _oauth2_m2m.bearer import path_of
from _oauth2_m2m.client_documents import Client
from _oauth2_m2m.config import Settings
from _oauth2_m2m.dpop import own_urls, proof_header
from _oauth2_m2m.errors import InvalidDPoPProof
from _oauth2_m2m.proofs import nonces_of
from _oauth2_m2m.rules import Rule
from _oauth2_m2m.services import Services


async def proved_key(
    services: Services, request: Request, attempt: Attempt, settings: Settings, client: Client
) -> str | None:
    """The thumbprint of the key that a request proves to hold; `None` when it proves none.

    Raises:
        InvalidDPoPProof: the proof is not good, or there is none where there must be.
    """
    proof = proof_header(request.headers.getlist("dpop"))
    if proof is None:
        if settings.is_fapi2 or client.dpop_bound_access_tokens:
            missing = "The header DPoP is missing: this client's tokens are bound"
            raise InvalidDPoPProof(missing).breaking(Rule.PROOF_SENT)
        return None
    read = services.proofs.read(
        proof,
        method=request.method,
        urls=own_urls(settings.issuer, path_of(request)),
        now=attempt.now,
        settings=settings,
    )
    await services.proofs.use(read, attempt.now, settings)
    return read.jkt


def nonce_header(settings: Settings, attempt: Attempt) -> dict[str, str]:
    """The nonce for the next proof, where nonces are asked for. RFC 9449 section 8.2."""
    if not settings.dpop_require_nonce:
        return {}
    return {"DPoP-Nonce": nonces_of(settings).current(attempt.now)}
