"""Who is let through, and what a refusal costs: one count in its window and one audit record.

Past the limit of a window the answer is 429, and all of its refusals are one record with a count.
So nobody can fill the audit log, guess without bound, or use up the budget of another.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from _oauth2_m2m import tracing
from _oauth2_m2m.audit import AuditLog, Event, reason_for, refusal_document, refusal_fields
from _oauth2_m2m.callers import Caller
from _oauth2_m2m.client_documents import Client, StoredSecret
from _oauth2_m2m.clients import Clients
from _oauth2_m2m.config import Secret, Settings
from _oauth2_m2m.errors import (
    ERROR_ID_BYTES,
    OAuth2Error,
    RateLimitExceeded,
    TemporarilyUnavailable,
)
from _oauth2_m2m.group_commit import together
from _oauth2_m2m.metrics import Queue
from _oauth2_m2m.rate_limits import (
    BAD_TOKENS,
    RateLimits,
    check_place,
    failure_bucket,
)
from _oauth2_m2m.revocation import Question, Revocation
from _oauth2_m2m.rules import Flow, facts_of
from _oauth2_m2m.storage import Document, Storage
from _oauth2_m2m.windows import Limits, Window, budget, exceeded, seconds_left, window_key

_NOTHING_PRESENTED = failure_bucket("")


#: What a refusal can be called in the audit log.
REFUSALS = (
    Event.LOGIN_FAILURE,
    Event.TOKEN_INVALID,
    Event.REFRESH_TOKEN_INVALID,
    Event.REFRESH_TOKEN_REUSE,
    Event.RATE_LIMIT_EXCEEDED,
    Event.ACCESS_DENIED,
)


@dataclass(slots=True)
class Attempt:
    """One request, as far as letting it through or refusing it needs to know.

    Attributes:
        caller: who asks.
        now: when.
        event: what a refusal is called in the audit log.
        limit: how many failures a minute are admitted; 0 for any number.
        ids_from: what all workers know and no caller does, for the ids of shared refusals.
        bucket: where failures are counted, together with the address and the minute.
        client_id: whom the request says that it comes from, known or not.
        jti: the access token that it is about, once that is known.
        authenticated: whether it proved so. Then a refusal is no failed authentication, and the
            client's own budget was charged.
        flow: the way through the server that it takes, for the audit log.
        method: how its client proves who it is, as far as that is known.
        secret: which of the client's secrets it came with, once that has proved to be right.
        route: the guarded route that it asks for, such as `GET /reports/{id}`.
    """

    caller: Caller
    now: datetime
    event: Event
    limit: int
    ids_from: Secret
    bucket: str = BAD_TOKENS
    client_id: str | None = None
    jti: str | None = None
    authenticated: bool = False
    flow: Flow = Flow.ROUTE
    method: str | None = None
    secret: StoredSecret | None = None
    route: str | None = None

    def presents(self, credential: str, client_id: str | None = None) -> None:
        """Note what the request presents: it chooses the bucket that a failure counts in."""
        self.bucket = failure_bucket(credential)
        self.client_id = client_id

    def failure_key(self) -> str:
        """The window that a failure counts in."""
        return window_key(self.bucket, self.caller.network, self.now)

    def budget(self, client_id: str, limits: Limits) -> Sequence[Window]:
        """The windows that everything counts in that a client does from this address."""
        return budget(client_id, self.caller.network, limits, self.now)

    def proves(self, client_id: str, jti: str | None = None) -> None:
        """Note that the request has proved to be a client's: what is refused now is permission."""
        self.authenticated, self.event = True, Event.ACCESS_DENIED
        self.client_id, self.jti = client_id, jti


def attempt_at_endpoint(caller: Caller, settings: Settings, event: Event, flow: Flow) -> Attempt:
    """A request at a token endpoint, before anything is known of it."""
    limit = settings.max_requests_per_minute
    ids_from, now = settings.secret_key, datetime.now(UTC)
    return Attempt(caller, now, event, limit, ids_from, _NOTHING_PRESENTED, flow=flow)


def attempt_at_route(caller: Caller, settings: Settings) -> Attempt:
    """A request at a protected route. Its failures count on the address alone."""
    limit = settings.max_requests_per_minute
    ids_from, now = settings.secret_key, datetime.now(UTC)
    return Attempt(caller, now, Event.TOKEN_INVALID, limit, ids_from)


class Admission:
    """Counts and records."""

    def __init__(
        self,
        storage: Storage,
        limits: RateLimits,
        audit: AuditLog,
        revocation: Revocation,
        clients: Clients,
    ) -> None:
        self._limits = limits
        self._audit = audit
        self._metrics = storage.metrics
        if self._metrics is not None:
            self._metrics.refusals.begin(*REFUSALS)
        self._open = storage.queue(
            Queue.AUTHENTICATION, together(clients.find_all, limits.look_up_all, limits.take_each)
        )
        self._check = storage.queue(Queue.CHECK, together(revocation.find_all, limits.take_each))
        self._charge = storage.queue(Queue.BUDGETS, limits.take_each)

    async def check_failures(self, attempt: Attempt) -> None:
        """Refuse, before any secret is looked at, when the window of failures is full.

        Raises:
            RateLimitExceeded: it is.
        """
        if attempt.limit:
            key = attempt.failure_key()
            check_place(await self._limits.taken(key) + 1, attempt.limit, key, attempt.now)

    async def open(
        self, attempt: Attempt, client_id: str, *, expected: Limits | None
    ) -> tuple[Document | None, Sequence[int] | None]:
        """Begin the authentication of a client: all that it needs of the database, in one round.

        Args:
            attempt: the request.
            client_id: the client that it says it is.
            expected: its limits, when its secret was found right a moment ago, so that its places
                are best taken at once. Whoever is refused after all gives them back.

        Returns:
            The client's document, if there is one, and the places, if they were taken.

        Raises:
            RateLimitExceeded: before any secret is looked at, the window of failures is full.
        """
        key = attempt.failure_key()
        windows = attempt.budget(client_id, expected) if expected else None
        question = (client_id, key if attempt.limit else None, windows)
        document, taken, places = await self._open.ask(question)
        if attempt.limit and taken >= attempt.limit:
            if windows:
                await self.give_back(windows)
            check_place(taken + 1, attempt.limit, key, attempt.now)
        return document, places

    async def give_back(self, windows: Sequence[Window]) -> None:
        """Take no places of the budget after all."""
        if windows:
            await self._limits.give_back(windows)

    async def charge(
        self,
        attempt: Attempt,
        client: Client,
        settings: Settings,
        places: Sequence[int] | None = None,
    ) -> None:
        """Let an authenticated client through on its own budget.

        Args:
            attempt: the request.
            client: the client that it has proved to be.
            settings: the settings of this moment.
            places: its places in the budget, if they were taken already.

        Raises:
            RateLimitExceeded: it is used up.
        """
        attempt.client_id, attempt.authenticated = client.client_id, True
        tracing.note(client_id=client.client_id)
        windows = attempt.budget(client.client_id, client.limits(settings))
        if windows:
            places = places or await self._charge.ask(windows)
            await self._let_through(attempt, client, windows, places)

    async def check(
        self, attempt: Attempt, question: Question, client: Client, windows: Sequence[Window]
    ) -> bool:
        """Whether a token is revoked; one that is not takes its places in its client's budget.

        Both are asked at once, in one round.

        Raises:
            RateLimitExceeded: the token is good, but the budget is used up.
        """
        revoked, places = await self._check.ask((question, windows or None))
        if revoked:  # a dead token is no claim on the budget
            await self.give_back(windows)
            return True
        if windows:
            await self._let_through(attempt, client, windows, places)
        return False

    async def _let_through(
        self, attempt: Attempt, client: Client, windows: Sequence[Window], places: Sequence[int]
    ) -> None:
        """Refuse a request that has a place beyond a limit.

        Minutes count what comes, quotas what is let through: so who is refused, for whichever
        window, has used up no quota.

        Raises:
            RateLimitExceeded: it has. The window is the longest of those that refuse it.
        """
        full = exceeded(windows, places)
        refusing = [window for window in full if not window.observes]
        if refusing:
            await self.give_back([window for window in windows if window.is_quota])
            last = refusing[-1]
            wait = seconds_left(last.period, attempt.now)
            raise RateLimitExceeded(last.key, last.limit, wait, client.client_id, str(last.period))
        for window in full:
            self._observe(attempt, client, window)

    def _observe(self, attempt: Attempt, client: Client, window: Window) -> None:
        """Have a request recorded that a quota would have refused; it waits for nothing."""
        first = refusal_document(
            attempt.now,
            attempt.caller,
            client.client_id,
            window.limit,
            period=str(window.period),
            observed=True,
        )
        with suppress(TemporarilyUnavailable):
            self._audit.refused(window.observed_key, first)

    @asynccontextmanager
    async def settling(self, attempt: Attempt) -> AsyncIterator[None]:
        """Settle whatever the body refuses, before the refusal goes on its way.

        Raises:
            OAuth2Error: what `settle` makes of it.
        """
        try:
            yield
        except OAuth2Error as error:
            raise await self.settle(attempt, error) from None

    async def settle(self, attempt: Attempt, error: OAuth2Error) -> OAuth2Error:
        """Count and record a refusal; the error to answer with.

        It is `RateLimitExceeded` when the window of the failures is full by now.

        Raises:
            TemporarilyUnavailable: the record cannot be written, so the request fails closed.
        """
        if isinstance(error, TemporarilyUnavailable):
            return error
        if not attempt.authenticated and not isinstance(error, RateLimitExceeded):
            error = await self._count_failure(attempt, error)
        limited = isinstance(error, RateLimitExceeded)
        if self._metrics is not None:
            self._metrics.refusals[Event.RATE_LIMIT_EXCEEDED if limited else attempt.event].inc()
        if isinstance(error, RateLimitExceeded):
            # They share one record, so they share its id.
            key = self._audit.kept_key(error.key, attempt.caller.network)
            error.error_id = _shared_id(attempt.ids_from, key)
            first = refusal_document(
                attempt.now,
                attempt.caller,
                error.client_id,
                error.limit,
                _refusal(attempt, error),
                period=error.period,
            )
            await self._audit.refused(key, first)
        else:
            await self._audit.record(
                attempt.event,
                attempt.now,
                caller=attempt.caller,
                client_id=attempt.client_id,
                reason=reason_for(error),
                jti=attempt.jti,
                refusal=_refusal(attempt, error),
            )
        return error

    async def drain(self) -> None:
        """Wait until everything counted so far is written."""
        await asyncio.gather(self._open.drain(), self._check.drain(), self._charge.drain())

    async def _count_failure(self, attempt: Attempt, error: OAuth2Error) -> OAuth2Error:
        if not attempt.limit:
            return error
        key = attempt.failure_key()
        place = await self._limits.take(key, attempt.now)
        try:
            check_place(place, attempt.limit, key, attempt.now)
        except RateLimitExceeded as too_many:
            return too_many
        return error


def _shared_id(secret: Secret, key: str) -> str:
    """The id of a window's refusals: the same on every worker, and saying nothing of the key."""
    message = f"oauth2-m2m refusals\0{key}".encode("utf-8", "surrogatepass")
    return hmac.digest(secret.value.encode(), message, "sha256")[:ERROR_ID_BYTES].hex()


def _refusal(attempt: Attempt, error: OAuth2Error) -> Document:
    """What the record of a refusal holds beside what all records do."""
    facts = facts_of({"method": attempt.method, "route": attempt.route})
    if attempt.secret is not None:
        facts = {**facts, **facts_of({"secret": attempt.secret.id, "label": attempt.secret.label})}
    return refusal_fields(error, attempt.flow, {**facts, **error.facts})
