"""Revoking a token that somebody presents: what it is, and the mark that ends it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from _oauth2_m2m.audit import Event
from _oauth2_m2m.callers import Caller
from _oauth2_m2m.compact_tokens import text_claim
from _oauth2_m2m.config import LONGEST_ACCESS_TOKEN_LIFETIME, Settings
from _oauth2_m2m.credentials import fingerprint
from _oauth2_m2m.errors import InvalidToken, TokenNotFound
from _oauth2_m2m.revocation import Question, family_mark, kind_of_mark
from _oauth2_m2m.rules import Rule
from _oauth2_m2m.services import Services

#: A mark that outlives its token by a little covers whatever leeway is set later.
_SPARE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Target:
    """What can be revoked: a token, or a family of them.

    Attributes:
        client_id: whose it is, where that is known.
        mark: the mark that ends it.
        expires_at: when the last token that the mark can hit has expired.
        digest: the fingerprint of the presented token, if one was presented.
        jti: its id, when it is an access token.
    """

    client_id: str | None
    mark: str
    expires_at: datetime
    digest: str | None = None
    jti: str | None = None


async def find_target(services: Services, settings: Settings, text: str, now: datetime) -> Target:
    """What a presented token is: a refresh token of ours, or an access token.

    Raises:
        InvalidToken: it is neither, or has expired.
    """
    try:
        return await access_token_target(services, settings, text, now)
    except InvalidToken:
        return await refresh_token_target(services, settings, text, now)


async def access_token_target(
    services: Services, settings: Settings, text: str, now: datetime
) -> Target:
    """An access token is ended by its `jti`, never by its spelling.

    Raises:
        InvalidToken: it is malformed, not ours, or expired.
    """
    # One that was seen revoked may be revoked again, so it is read as if nobody had seen it.
    token = await services.read_access_token(text, settings, now, anew=True)
    expires_at = token.expires_at + settings.leeway + _SPARE
    return Target(token.client_id, token.jti, expires_at, fingerprint(text), token.jti)


def jti_target(settings: Settings, jti: str, now: datetime) -> Target:
    """An access token that nobody can present, by its id alone: as if it were issued just now.

    Raises:
        ValueError: it is no id, but the name of another mark.
    """
    if kind_of_mark(text_claim({"jti": jti}, "jti")):
        raise ValueError("this is no jti: it names more than one token")
    expires_at = now + LONGEST_ACCESS_TOKEN_LIFETIME + settings.leeway + _SPARE
    return Target(None, jti, expires_at, jti=jti)


async def refresh_token_target(
    services: Services, settings: Settings, text: str, now: datetime
) -> Target:
    """A refresh token is ended with its family, its access tokens included. RFC 7009 section 2.1.

    Raises:
        InvalidToken: it is unknown or expired.
    """
    token = await services.refresh_tokens.find(text)
    if token is None:
        raise InvalidToken(detail="unknown refresh token").breaking(Rule.REFRESH_KNOWN)
    if token.expires_at <= now:
        expired = InvalidToken(detail="expired refresh token")
        raise expired.breaking(Rule.REFRESH_LIVE, expired_at=token.expires_at)
    expires_at = await family_end(services, settings, token.family_id, now)
    return Target(token.client_id, family_mark(token.family_id), expires_at, token.digest)


async def family_target(
    services: Services, settings: Settings, family_id: str, now: datetime
) -> Target:
    """A family that nobody can present a token of, by its id alone.

    Raises:
        TokenNotFound: no refresh token of it is stored.
    """
    client_id = await services.refresh_tokens.owner_of(family_id)
    if client_id is None:
        raise TokenNotFound(f"no refresh token of a family {family_id!r} is stored")
    expires_at = await family_end(services, settings, family_id, now)
    return Target(client_id, family_mark(family_id), expires_at)


async def revoke_target(
    services: Services, target: Target, now: datetime, caller: Caller | None
) -> None:
    """Record it and set the mark; both are durable when this returns.

    The record comes first, so that there is no revocation without one. Revoking again says nothing
    new, and whoever holds one token shall not fill the audit log with it.
    """
    if await services.revocation.is_revoked(Question((target.mark,))):
        return
    await services.audit.record(
        Event.TOKEN_REVOKED, now, caller=caller, client_id=target.client_id, jti=target.jti
    )
    await services.revocation.revoke(target.mark, now, target.expires_at, target.digest)


async def family_end(
    services: Services, settings: Settings, family_id: str, now: datetime
) -> datetime:
    """When the last token of a family has expired, one that is being issued now included."""
    lifetime = max(settings.refresh_token_lifetime, LONGEST_ACCESS_TOKEN_LIFETIME)
    return await services.refresh_tokens.last_expiry(family_id, at_least=now + lifetime)
