"""Revoking a token that somebody presents: what it is, and the mark that ends it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from _oauth2_m2m.audit import Event
from _oauth2_m2m.callers import Caller
from _oauth2_m2m.config import LONGEST_ACCESS_TOKEN_LIFETIME, Settings
from _oauth2_m2m.credentials import fingerprint
from _oauth2_m2m.errors import InvalidToken
from _oauth2_m2m.refresh_tokens import RefreshToken
from _oauth2_m2m.revocation import Question, family_mark
from _oauth2_m2m.services import Services


@dataclass(frozen=True, slots=True)
class Target:
    """A token that can be revoked.

    Attributes:
        client_id: whose it is.
        mark: the mark that ends it.
        expires_at: when the last token that the mark can hit has expired.
        digest: the fingerprint of the presented token.
        jti: its id, when it is an access token.
    """

    client_id: str
    mark: str
    expires_at: datetime
    digest: str
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
    # A mark that outlives the token by a little covers whatever leeway is set later.
    expires_at = token.expires_at + settings.leeway + timedelta(minutes=5)
    return Target(token.client_id, token.jti, expires_at, fingerprint(text), token.jti)


async def refresh_token_target(
    services: Services, settings: Settings, text: str, now: datetime
) -> Target:
    """A refresh token is ended with its family, its access tokens included. RFC 7009 section 2.1.

    Raises:
        InvalidToken: it is unknown or expired.
    """
    token = await services.refresh_tokens.find(text)
    if token is None or token.expires_at <= now:
        raise InvalidToken(detail="unknown or expired refresh token")
    expires_at = await family_end(services, settings, token, now)
    return Target(token.client_id, family_mark(token.family_id), expires_at, token.digest)


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
    services: Services, settings: Settings, token: RefreshToken, now: datetime
) -> datetime:
    """When the last token of a family has expired, one that is being issued now included."""
    lifetime = max(settings.refresh_token_lifetime, LONGEST_ACCESS_TOKEN_LIFETIME)
    return await services.refresh_tokens.last_expiry(token.family_id, at_least=now + lifetime)
