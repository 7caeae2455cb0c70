"""Issuing tokens: sign, write what must be durable in one round, hand out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from _oauth2_m2m.access_tokens import sign_access_token
from _oauth2_m2m.audit import AuditLog, Event
from _oauth2_m2m.callers import Caller
from _oauth2_m2m.client_documents import Client
from _oauth2_m2m.config import Settings
from _oauth2_m2m.errors import BEARER, DPOP
from _oauth2_m2m.hooks import ExtraClaims
from _oauth2_m2m.keys import Keys
from _oauth2_m2m.refresh_tokens import RefreshToken, RefreshTokens
from _oauth2_m2m.scopes import Scope, format_scope


@dataclass(frozen=True, slots=True)
class IssuedTokens:
    """What a token request gets. RFC 6749 section 5.1.

    Attributes:
        access_token: the JWT.
        refresh_token: the refresh token, or `None` when none is issued.
        expires_in: the lifetime of the access token, in seconds.
        scope: what the access token allows.
        token_type: `bearer`, or `DPoP` when it is bound to a key.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_in: int
    scope: Scope
    token_type: str = "bearer"

    def as_json(self) -> dict[str, Any]:
        """The members of the answer."""
        members: dict[str, Any] = {
            "access_token": self.access_token,
            "refresh_token": self.refresh_token,
            "token_type": self.token_type,
            "expires_in": self.expires_in,
            "scope": format_scope(self.scope),
        }
        return {name: value for name, value in members.items() if value is not None}


class Issuer:
    """Makes the tokens of every grant."""

    def __init__(
        self,
        keys: Keys,
        refresh_tokens: RefreshTokens,
        audit: AuditLog,
        hook: ExtraClaims | None = None,
    ) -> None:
        self._keys = keys
        self._refresh_tokens = refresh_tokens
        self._audit = audit
        self._hook = hook

    async def extra_claims(self, client: Client, scope: Scope) -> Mapping[str, Any]:
        """What the app's author adds to a token; to be asked before anything is spent for it.

        Raises:
            TemporarilyUnavailable: it cannot be had, so there is to be no token.
        """
        return await self._hook.of(client, scope) if self._hook else {}

    async def issue(
        self,
        event: Event,
        client: Client,
        scope: Scope,
        *,
        settings: Settings,
        caller: Caller,
        now: datetime,
        refresh: tuple[str, RefreshToken] | None,
        audience: Sequence[str] = (),
        jkt: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> IssuedTokens:
        """Sign an access token, and make its record and the refresh token durable.

        Args:
            event: what the audit log calls it.
            client: whom the tokens are for.
            scope: what the access token allows.
            settings: the settings of this moment.
            caller: who asks.
            now: the moment of issue.
            refresh: the refresh token that goes with it and what is stored of it, if any.
            audience: the resources that the access token is for; else the settings' audience.
            jkt: the thumbprint of the key that it is bound to, if it is.
            extra: what `extra_claims` said of it.
        """
        lifetime = client.access_token_lifetime or settings.access_token_lifetime
        access = sign_access_token(
            settings=settings,
            keys=await self._keys.ring_until(now + lifetime),
            now=now,
            client_id=client.client_id,
            scope=scope,
            roles=[client.role],
            lifetime=lifetime,
            epoch=client.epoch,
            family_id=refresh[1].family_id if refresh else None,
            audience=audience,
            jkt=jkt,
            extra=extra or {},
        )
        recorded = self._audit.record(
            event,
            now,
            caller=caller,
            client_id=client.client_id,
            reason=f"scope: {format_scope(scope)}",
            jti=access.jti,
        )
        if refresh is not None:
            await self._refresh_tokens.store(refresh[1])
        await recorded
        return IssuedTokens(
            access.text,
            refresh[0] if refresh else None,
            int(access.lifetime.total_seconds()),
            scope,
            BEARER.lower() if jkt is None else DPOP,
        )
