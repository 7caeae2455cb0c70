"""What an operator does with tokens: `m2m.tokens`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from _oauth2_m2m.access_tokens import AccessToken
from _oauth2_m2m.client_documents import client_from
from _oauth2_m2m.compact_tokens import parse_compact
from _oauth2_m2m.config import Settings
from _oauth2_m2m.errors import InvalidToken, UnknownKey
from _oauth2_m2m.refresh_tokens import RefreshToken
from _oauth2_m2m.revocation import Question, key_mark, kind_of_mark
from _oauth2_m2m.revoking import (
    Target,
    family_target,
    find_target,
    jti_target,
    revoke_target,
)
from _oauth2_m2m.services import Services
from _oauth2_m2m.storage import Document

ACCESS_TOKEN, REFRESH_TOKEN, UNKNOWN = "access_token", "refresh_token", "unknown"

_JUST_BEFORE = timedelta(seconds=1)
#: What it means that a mark of a kind is set.
_ENDED_BY = {
    "": "it was revoked",
    "family": "its family was revoked",
    "client": "the tokens of its client were revoked, or its client was disabled",
    "key": "the key that signed it was burned",
}


@dataclass(frozen=True, slots=True)
class TokenReport:
    """What a token is, and what it is worth now. The token itself is not in it.

    Attributes:
        kind: `access_token`, `refresh_token`, or `unknown`: nothing that was made here.
        live: whether it is good for anything.
        why_not: every reason why it is not; empty while it is live.
        genuine: whether it was made here; if not, its claims prove nothing.
        claims: what it says, or what is stored of it.
        notes: what limits its use while it is live.
    """

    kind: str
    live: bool
    why_not: tuple[str, ...]
    genuine: bool
    claims: Mapping[str, Any]
    notes: tuple[str, ...] = ()


class TokenManagement:
    """Look at tokens, and revoke them."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def inspect(self, token: str) -> TokenReport:
        """What a token is, whether it is live, and every reason why it is not.

        This is for you: callers are never told more than that a token is not active.

        Raises:
            TemporarilyUnavailable: the database does not answer.
        """
        settings, now = await self._services.ready(), datetime.now(UTC)
        refresh_token = await self._services.refresh_tokens.find(token)
        if refresh_token is not None:
            return await self._inspect_refresh_token(refresh_token, token, settings, now)
        try:
            claims = parse_compact(token).unverified_claims()
        except ValueError as fault:
            why_not = f"it is no token of this server: {fault}"
            return TokenReport(UNKNOWN, False, (why_not,), False, {})
        return await self._inspect_access_token(token, claims, settings, now)

    async def revoke(self, token: str) -> None:
        """Revoke an access token, or a refresh token with its whole family.

        When this returns, every request that starts later sees it, on every worker and host.

        Raises:
            InvalidToken: it is no token of this server, or has expired.
            TemporarilyUnavailable: the database does not answer.
        """
        settings, now = await self._services.ready(), datetime.now(UTC)
        await self._end(await find_target(self._services, settings, token, now), now)

    async def revoke_jti(self, jti: str) -> None:
        """Revoke the access token of this id. Access tokens are not stored: any id is taken.

        Raises:
            ValueError: no token can have this id.
            TemporarilyUnavailable: the database does not answer.
        """
        settings, now = await self._services.ready(), datetime.now(UTC)
        await self._end(jti_target(settings, jti, now), now)

    async def revoke_family(self, family_id: str) -> None:
        """Revoke every token that came from one login, by the id of their family.

        Raises:
            TokenNotFound: no refresh token of this family is stored.
            TemporarilyUnavailable: the database does not answer.
        """
        settings, now = await self._services.ready(), datetime.now(UTC)
        await self._end(await family_target(self._services, settings, family_id, now), now)

    async def _end(self, target: Target, now: datetime) -> None:
        await revoke_target(self._services, target, now, caller=None)

    async def _inspect_access_token(
        self, text: str, claims: Mapping[str, Any], settings: Settings, now: datetime
    ) -> TokenReport:
        try:
            # As it was before it expired, so that nothing else that is wrong with it stays unsaid.
            moment = min(now, _expiry(claims, now) - _JUST_BEFORE)
            token = await self._services.read_access_token(text, settings, moment, anew=True)
        except InvalidToken as fault:
            why_not = str(fault.detail)
            if isinstance(fault, UnknownKey) and await self._is_burned(text):
                why_not = _ENDED_BY["key"]
            return TokenReport(ACCESS_TOKEN, False, (why_not,), False, claims)
        ended = await self._ended(token.client_id, token.epoch, token.marks(), text, settings)
        reasons = (*_unfit(token, settings, now), *ended)
        notes = tuple(_limits(token, settings))
        return TokenReport(ACCESS_TOKEN, not reasons, reasons, True, claims, notes)

    async def _is_burned(self, text: str) -> bool:
        """Whether the key that a token names was given up: then it is at hand no more."""
        kid = parse_compact(text).header.get("kid")
        question = Question((key_mark(str(kid)),))
        return isinstance(kid, str) and await self._services.revocation.is_revoked(question)

    async def _inspect_refresh_token(
        self, token: RefreshToken, text: str, settings: Settings, now: datetime
    ) -> TokenReport:
        older = token.question(text, linearizable=False).token
        why_not = [
            *_spent(token, now),
            *await self._ended(token.client_id, token.epoch, token.marks(), older, settings),
        ]
        return TokenReport(REFRESH_TOKEN, not why_not, tuple(why_not), True, _stored(token))

    async def _ended(
        self,
        client_id: str,
        epoch: str,
        marks: tuple[str, ...],
        text: str | None,
        settings: Settings,
    ) -> list[str]:
        """Why a token that is otherwise good is refused: its client, and each mark that hits it."""
        services, proven = self._services, settings.linearizable
        document = await services.clients.find(client_id)
        found = [reason for reason in [_client_fault(document, epoch)] if reason]
        for mark in marks:
            if await services.revocation.is_revoked(Question((mark,), linearizable=proven)):
                found.append(_ENDED_BY[kind_of_mark(mark)])
        if text and await services.revocation.is_revoked(Question((), text, proven)):
            found.append(_ENDED_BY[""])
        return found


def _expiry(claims: Mapping[str, Any], now: datetime) -> datetime:
    """When a token says that it expires, before anybody has proved it; `now` where it does not."""
    try:
        return datetime.fromtimestamp(claims["exp"], UTC)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return now


def _unfit(token: AccessToken, settings: Settings, now: datetime) -> Iterator[str]:
    if now >= token.expires_at + settings.leeway:
        yield f"it expired at {token.expires_at:%Y-%m-%d %H:%M:%S} UTC"
    if settings.is_fapi2 and token.jkt is None:
        yield "PROFILE is fapi2, which takes bound tokens only"


def _limits(token: AccessToken, settings: Settings) -> Iterator[str]:
    if settings.audience not in token.audience:
        meant_for = ", ".join(token.audience)
        yield f"it is meant for {meant_for}: routes of {settings.audience} refuse it"
    if token.jkt is not None:
        yield "it is bound to a key: it is refused without a DPoP proof"


def _spent(token: RefreshToken, now: datetime) -> Iterator[str]:
    if token.spent_at is not None:
        yield "it was exchanged already: presenting it again is reuse, and ends its family"
    if now >= token.expires_at:
        yield f"it expired at {token.expires_at:%Y-%m-%d %H:%M:%S} UTC"


def _client_fault(document: Document | None, epoch: str) -> str | None:
    if document is None:
        return "its client is not registered"
    try:
        client = client_from(document)
    except ValueError as fault:
        return f"the document of its client cannot be used: {fault}"
    if client.disabled:
        return "its client is disabled"
    return None if client.epoch == epoch else "its client was given another epoch since"


def _stored(token: RefreshToken) -> dict[str, Any]:
    """What the database knows of a refresh token, but for its digest."""
    return {
        "client_id": token.client_id,
        "family_id": token.family_id,
        "scope": token.scope,
        "epoch": token.epoch,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "spent_at": token.spent_at,
        "audience": token.audience,
        "jkt": token.jkt,
    }
