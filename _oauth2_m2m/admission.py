"""Who is let through, and what a refusal costs: one count in its window and one audit record.

Past the limit of a window the answer is 429, and all of its refusals are one record with a count.
So nobody can fill the audit log, guess without bound, or use up the budget of another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from _oauth2_m2m.audit import AuditLog, Event, refusal_document
from _oauth2_m2m.callers import Caller
from _oauth2_m2m.client_documents import Client
from _oauth2_m2m.config import Settings
from _oauth2_m2m.errors import OAuth2Error, RateLimitExceeded, TemporarilyUnavailable
from _oauth2_m2m.rate_limits import (
    RateLimits,
    bad_token_key,
    check_place,
    client_key,
    failure_key,
)


@dataclass(slots=True)
class Attempt:
    """One request, as far as letting it through or refusing it needs to know.

    Attributes:
        caller: who asks.
        now: when.
        event: what a refusal is called in the audit log.
        limit: how many failures a minute are admitted; 0 for any number.
        failure_key: the window that failures are counted in.
        client_id: whom the request says that it comes from, known or not.
        jti: the access token that it is about, once that is known.
        authenticated: whether it proved so. Then a refusal is no failed authentication, and the
            client's own budget was charged.
    """

    caller: Caller
    now: datetime
    event: Event
    limit: int
    failure_key: str
    client_id: str | None = None
    jti: str | None = None
    authenticated: bool = False

    def presents(self, credential: str, client_id: str | None = None) -> None:
        """Note what the request presents: it chooses the bucket that a failure counts in."""
        self.failure_key = failure_key(credential, self.caller.network, self.now)
        self.client_id = client_id

    def proves(self, client_id: str, jti: str | None = None) -> None:
        """Note that the request has proved to be a client's: what is refused now is permission."""
        self.authenticated, self.event = True, Event.ACCESS_DENIED
        self.client_id, self.jti = client_id, jti


def attempt_at_endpoint(caller: Caller, settings: Settings, event: Event) -> Attempt:
    """A request at a token endpoint, before anything is known of it."""
    now = datetime.now(UTC)
    key = failure_key("", caller.network, now)
    return Attempt(caller, now, event, settings.max_requests_per_minute, key)


def attempt_at_route(caller: Caller, settings: Settings) -> Attempt:
    """A request at a protected route. Its failures count on the address alone."""
    now = datetime.now(UTC)
    key = bad_token_key(caller.network, now)
    return Attempt(caller, now, Event.TOKEN_INVALID, settings.max_requests_per_minute, key)


class Admission:
    """Counts and records."""

    def __init__(self, limits: RateLimits, audit: AuditLog) -> None:
        self._limits = limits
        self._audit = audit

    async def check_failures(self, attempt: Attempt) -> None:
        """Refuse, before any secret is looked at, when the window of failures is full.

        Raises:
            RateLimitExceeded: it is.
        """
        if attempt.limit:
            taken = await self._limits.taken(attempt.failure_key)
            check_place(taken + 1, attempt.limit, attempt.failure_key, attempt.now)

    async def charge(self, attempt: Attempt, client: Client, settings: Settings) -> None:
        """Let an authenticated client through on its own budget.

        Raises:
            RateLimitExceeded: it is used up.
        """
        attempt.client_id, attempt.authenticated = client.client_id, True
        limit = client.limit(settings)
        if limit:
            key = client_key(client.client_id, attempt.caller.network, attempt.now)
            place = await self._limits.take(key, attempt.now)
            check_place(place, limit, key, attempt.now, client.client_id)

    @asynccontextmanager
    async def settling(self, attempt: Attempt) -> AsyncIterator[None]:
        """Count and record whatever the body refuses, before the refusal goes on its way.

        Raises:
            RateLimitExceeded: in place of the refusal, when its window is full by now.
            TemporarilyUnavailable: the record cannot be written, so the request fails closed.
        """
        try:
            yield
        except TemporarilyUnavailable:
            raise
        except OAuth2Error as error:
            raise await self._settle(attempt, error) from None

    async def _settle(self, attempt: Attempt, error: OAuth2Error) -> OAuth2Error:
        if not attempt.authenticated and not isinstance(error, RateLimitExceeded):
            error = await self._count_failure(attempt, error)
        if isinstance(error, RateLimitExceeded):
            first = refusal_document(attempt.now, attempt.caller, error.client_id, error.limit)
            await self._audit.refused(error.key, first)
        else:
            await self._audit.record(
                attempt.event,
                attempt.now,
                caller=attempt.caller,
                client_id=attempt.client_id,
                reason=f"{error.error}: {error.detail}",
                jti=attempt.jti,
            )
        return error

    async def _count_failure(self, attempt: Attempt, error: OAuth2Error) -> OAuth2Error:
        if not attempt.limit:
            return error
        place = await self._limits.take(attempt.failure_key, attempt.now)
        try:
            check_place(place, attempt.limit, attempt.failure_key, attempt.now)
        except RateLimitExceeded as too_many:
            return too_many
        return error
