"""The example app, broken on purpose, so that tests can see the checker find it out.

    uvicorn tests.faults.broken_app:app

It redeems a refresh token in two steps, and remembers for a moment what was not revoked. Both look
right, and pass any test that asks one thing after the other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timedelta

from _oauth2_m2m.credentials import make_refresh_token
from _oauth2_m2m.refresh_tokens import Claim, RefreshToken, RefreshTokens
from _oauth2_m2m.revocation import Question, Revocation

REMEMBERED_SECONDS = 2.0

_honest = Revocation.find_all
_memory: dict[Question, float] = {}


async def find_then_delete(
    self: RefreshTokens, text: str, token: RefreshToken, now: datetime, grace: timedelta
) -> Claim:
    """Is it there? Then it is taken away, and spent. Two who ask at once both find it."""
    if await self._tokens.find_one({"refresh_token": token.digest}) is None:
        return Claim(None, now)
    await self._tokens.remove({"refresh_token": token.digest})
    spent = {
        "refresh_token": token.digest,
        "client_id": token.client_id,
        "family_id": token.family_id,
        "epoch": token.epoch,
        "used_at": now,
        "expires_at": token.expires_at,
    }
    await self._used.upsert([({"_id": token.digest}, {"$set": spent})])
    return Claim(make_refresh_token(), now)


async def remembering(self: Revocation, questions: Sequence[Question]) -> Sequence[bool]:
    """Ask the database only about what was not found to be good a moment ago."""
    since = time.monotonic() - REMEMBERED_SECONDS
    asked = [question for question in questions if _memory.get(question, 0) < since]
    revoked = dict(zip(asked, await _honest(self, asked), strict=True)) if asked else {}
    _memory.update({question: time.monotonic() for question in asked if not revoked[question]})
    return [revoked.get(question, False) for question in questions]


RefreshTokens.claim = find_then_delete  # type: ignore[method-assign]
Revocation.find_all = remembering  # type: ignore[method-assign]

from example.main import app  # noqa: E402  (its rooms are built from what was broken above)

__all__ = ["app"]
