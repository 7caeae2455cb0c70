"""Asking an issuer elsewhere what a token is worth. RFC 7662, from the side of those who ask."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

from _oauth2_m2m.access_tokens import AccessToken
from _oauth2_m2m.compact_tokens import parse_compact
from _oauth2_m2m.config import Secret
from _oauth2_m2m.errors import TemporarilyUnavailable
from _oauth2_m2m.issuer_calls import CallFailed, IssuerCalls
from _oauth2_m2m.issuer_documents import Keys
from _oauth2_m2m.newest import Newest
from _oauth2_m2m.signatures import VerifyingKey

MOST_ANSWERS = 10_000
MOST_CALLS_AT_ONCE = 100
LONGEST_MAX_AGE = timedelta(minutes=5)

_log = logging.getLogger("oauth2_m2m")


@dataclass(frozen=True, slots=True, kw_only=True)
class IntrospectionCredentials:
    """As whom to ask the issuer, and how long to believe an answer.

    Attributes:
        client_id: a client with the scope `introspect` or the role `admin`.
        client_secret: its secret, for `client_secret_basic`.
        max_age: how long an answer is good; at most 5 minutes, and never beyond the token's life.
    """

    client_id: str
    client_secret: str = field(repr=False)
    max_age: timedelta = timedelta(seconds=5)


class _IssuersOwnKey(VerifyingKey):
    """A key that only the issuer has: its answer, not this, says whether the signature holds."""

    def __init__(self, kid: str, algorithm: str) -> None:
        super().__init__(kid, algorithm, cast(Any, None), {})

    def verify(self, message: bytes, signature: bytes) -> bool:
        return True


def keys_to_be_asked_for(text: str) -> Keys:
    """A key for a token of which only its issuer can say whether it signed it.

    What is read with it is worth nothing before `RemoteIntrospection.is_active` has said so.

    Raises:
        ValueError: it is no token.
    """
    header = parse_compact(text).header
    kid, algorithm = header.get("kid"), header.get("alg")
    if not isinstance(kid, str) or not isinstance(algorithm, str):
        raise ValueError("kid or alg is missing")
    return {kid: _IssuersOwnKey(kid, algorithm)}


class RemoteIntrospection:
    """Asks about tokens, about each once at a time, and remembers the answers for a moment.

    Args:
        credentials: as whom to ask.
        find_endpoint: finds the endpoint's URL; `ValueError` says why it cannot.
    """

    def __init__(
        self, credentials: IntrospectionCredentials, find_endpoint: Callable[[], Awaitable[str]]
    ) -> None:
        self._client_id = credentials.client_id
        self._client_secret = Secret(credentials.client_secret)
        self._max_age = credentials.max_age.total_seconds()
        self._find_endpoint = find_endpoint
        self._answers: Newest[bytes, tuple[bool, float]] = Newest(MOST_ANSWERS)
        self._calls: dict[tuple[IssuerCalls, bytes], asyncio.Task[bool]] = {}
        self._has_warned = False

    async def is_active(
        self, calls: IssuerCalls, text: str, token: AccessToken, now: datetime
    ) -> bool:
        """Whether a token is alive.

        Args:
            calls: how to ask.
            text: the token.
            token: what it says of itself.
            now: the moment.

        Raises:
            TemporarilyUnavailable: the issuer does not answer, or too many calls are under way.
        """
        digest = hashlib.sha256(text.encode()).digest()
        is_active, until = self._answers.get(digest, (False, 0.0))
        if time.monotonic() < until:
            return is_active
        key = (calls, digest)
        call = self._calls.get(key)
        if call is None:
            if len(self._calls) >= MOST_CALLS_AT_ONCE:
                raise TemporarilyUnavailable(detail="too many introspections are under way")
            good_for = min(self._max_age, (token.expires_at - now).total_seconds())
            call = asyncio.ensure_future(self._ask(calls, text, token.jti, digest, good_for))
            self._calls[key] = call
            call.add_done_callback(lambda ended: self._forget(key, ended))
        return await asyncio.shield(call)  # whoever goes away takes the answer from nobody else

    def _forget(self, key: tuple[IssuerCalls, bytes], ended: asyncio.Task[bool]) -> None:
        self._calls.pop(key, None)
        if not ended.cancelled():
            ended.exception()  # seen, also when everybody who waited has gone away

    async def _ask(
        self, calls: IssuerCalls, text: str, jti: str, digest: bytes, good_for: float
    ) -> bool:
        asked_at = time.monotonic()
        try:
            url = await self._find_endpoint()
            answer = await calls.post(url, {"token": text}, self._client_id, self._client_secret)
            is_active = answer.get("active") if isinstance(answer, dict) else None
            if not isinstance(is_active, bool):
                raise ValueError("the answer does not say whether the token is active")
        except (CallFailed, ValueError) as fault:
            self._note(str(fault))
            raise TemporarilyUnavailable(detail=f"introspection: {fault}") from None
        self._note(None)
        is_active = is_active and answer.get("jti", jti) == jti
        self._answers[digest] = (is_active, asked_at + good_for)
        return is_active

    def _note(self, fault: str | None) -> None:
        if fault is not None and not self._has_warned:
            _log.warning("the issuer does not introspect: %s", fault)
        if fault is None and self._has_warned:
            _log.warning("the issuer introspects again")
        self._has_warned = fault is not None
