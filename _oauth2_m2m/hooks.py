"""What an app's author hooks in: claims of their own, and somebody who hears of events.

Such code may be slow, fail, or never end. What that may cost stands here: a token that cannot have
its claims is not issued, and an event that is not heard in time is lost; nothing else.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import logging
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

from _oauth2_m2m.deadlines import Deadline
from _oauth2_m2m.errors import TemporarilyUnavailable
from _oauth2_m2m.forms import parse_json

#: So long may the claims of one token take. Past it the answer is 503.
CLAIMS_SECONDS = 1.0
#: As JSON; so that a token stays one that can be read.
LARGEST_CLAIMS_BYTES = 1024
#: So long may one event take to be heard. Past it, it is lost.
EVENT_SECONDS = 5.0
#: So many events may wait to be heard; one more is lost.
MOST_EVENTS = 1000
#: So long the end of the app waits until those that wait were heard.
LAST_EVENTS_SECONDS = 5.0
#: Losses are said at once, and then so often.
SAID_SECONDS = 60.0
_CLAIMS_AT_ONCE = 8
_CLAIMS_DEADLINE = Deadline(CLAIMS_SECONDS)
_EVENT_DEADLINE = Deadline(EVENT_SECONDS)

#: Claims that mean something to those who verify tokens, here or elsewhere.
RESERVED_CLAIMS = frozenset({
    *("iss", "sub", "aud", "exp", "nbf", "iat", "jti"),  # RFC 7519 section 4.1
    *("client_id", "scope", "roles", "epoch", "family_id"),  # RFC 9068, and our own
    *("cnf", "act", "may_act"),  # RFC 7800 section 3.1, RFC 8693 section 4
    *("auth_time", "acr", "amr", "azp", "nonce", "sid", "at_hash", "c_hash"),  # OpenID Connect
    *("events", "toe", "txn", "authorization_details"),  # RFC 8417 section 2.2, RFC 9396
    *("active", "token_type", "username"),  # RFC 7662 section 2.2
})  # fmt: skip

_log = logging.getLogger("oauth2_m2m")


class ExtraClaims:
    """Asks a hook for the claims that a token gets beside ours.

    Args:
        hook: called with a client and its granted scope; returns a mapping, or awaits one. One that
            is no coroutine function is called in a thread.
    """

    def __init__(self, hook: Callable[..., Any]) -> None:
        self._hook = hook
        self._pool = ThreadPoolExecutor(_CLAIMS_AT_ONCE, thread_name_prefix="oauth2-m2m-claims")

    async def of(self, *arguments: object) -> dict[str, Any]:
        """The claims, checked.

        Raises:
            TemporarilyUnavailable: there are none: the hook failed, took too long, or returned
                what cannot be in a token. The log says which.
        """
        try:
            with _CLAIMS_DEADLINE():
                claims = await _called(self._hook, self._pool, *arguments)
            return checked_claims(claims)
        except Exception as error:
            detail = f"extra_claims: {_what(error)}"
            _log.error("a token was not issued, %s", detail)
            raise TemporarilyUnavailable(detail=detail) from None


class ClaimsRefused(ValueError):
    """What a hook returned cannot be in a token; the message says why and quotes no value."""


def checked_claims(value: object) -> dict[str, Any]:
    """The claims that a hook returned, as JSON has them.

    Raises:
        ClaimsRefused: they are no claims, are too large, or would stand in the place of others.
    """
    if not isinstance(value, Mapping):
        raise ClaimsRefused(f"it returned no mapping but {type(value).__name__}")
    try:
        body = json.dumps(dict(value), allow_nan=False, separators=(",", ":")).encode()
        if len(body) > LARGEST_CLAIMS_BYTES:
            raise ClaimsRefused(f"its claims are larger than {LARGEST_CLAIMS_BYTES} bytes")
        claims: dict[str, Any] = parse_json(body)
    except (TypeError, ValueError, RecursionError) as fault:
        if isinstance(fault, ClaimsRefused):
            raise
        raise ClaimsRefused("its claims are no JSON values") from None
    taken = sorted(RESERVED_CLAIMS & claims.keys())
    if taken:
        raise ClaimsRefused(f"these claims are not its to set: {', '.join(taken)}")
    return claims


class EventHook:
    """Tells a hook of events: one after the other, behind the requests, which never wait for it.

    Args:
        hook: called with each event, a read-only mapping. One that is no coroutine function is
            called in a thread.

    Attributes:
        lost: how many events it has not heard in full, in this process.
    """

    def __init__(self, hook: Callable[[Mapping[str, Any]], object]) -> None:
        self.lost = 0
        self._said, self._said_at = 0, -SAID_SECONDS
        self._hook = hook
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="oauth2-m2m-events")
        # Queues live and die with their event loop: test clients start one loop after another.
        self._queues: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue] = (
            weakref.WeakKeyDictionary()
        )

    def offer(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Have the hook hear of events, soon; those for which there is no room are lost."""
        loop = asyncio.get_running_loop()
        queue = self._queues.setdefault(loop, _Queue())
        for event in events:
            if len(queue.events) < MOST_EVENTS:
                queue.events.append(MappingProxyType(dict(event)))
            else:
                self._lose(1, "too many wait")
        if (queue.worker is None or queue.worker.done()) and queue.events:
            # An empty context: the first request's deadlines and traces are not everybody's.
            queue.worker = loop.create_task(self._work(queue), context=contextvars.Context())
            queue.worker.add_done_callback(lambda _: self._end(queue))

    async def drain(self) -> None:
        """Wait until all were heard, for as long as the end of an app may take; then give up."""
        queue = self._queues.get(asyncio.get_running_loop())
        if queue is not None and queue.worker is not None:
            worker = queue.worker
            _, late = await asyncio.wait([worker], timeout=LAST_EVENTS_SECONDS)
            if late:
                worker.cancel()
                await asyncio.wait([worker], timeout=1)  # a hook may even refuse to be cancelled
        self._say("in all")

    async def _work(self, queue: _Queue) -> None:
        while queue.events:
            try:
                with _EVENT_DEADLINE():
                    await _called(self._hook, self._pool, queue.events[0])
            except Exception as error:
                self._lose(1, _what(error))
            queue.events.popleft()
        queue.worker = None  # at once, so that the next event starts another

    def _end(self, queue: _Queue) -> None:
        """After a worker that was cancelled, perhaps before it began."""
        if queue.events and (queue.worker is None or queue.worker.done()):
            self._lose(len(queue.events), "the app has ended")
            queue.events.clear()

    def _lose(self, count: int, why: str) -> None:
        self.lost += count
        if time.monotonic() - self._said_at >= SAID_SECONDS:
            self._say(why)

    def _say(self, why: str) -> None:
        if self.lost > self._said:
            _log.error("on_event: %d events were lost (%s)", self.lost - self._said, why)
            self._said, self._said_at = self.lost, time.monotonic()


class _Queue:
    """The events of one event loop that wait."""

    __slots__ = ("__weakref__", "events", "worker")

    def __init__(self) -> None:
        self.events: deque[Mapping[str, Any]] = deque()
        self.worker: asyncio.Task[None] | None = None


async def _called(hook: Callable[..., Any], pool: ThreadPoolExecutor, *arguments: object) -> Any:
    """What a hook returns, called beside the event loop unless it is made for it."""
    if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(type(hook).__call__):
        return await hook(*arguments)
    loop = asyncio.get_running_loop()
    result = await loop.run_in_executor(pool, hook, *arguments)
    return await result if inspect.isawaitable(result) else result


def _what(error: Exception) -> str:
    """What went wrong, and where. Not the message of others: it may quote a secret."""
    if isinstance(error, ClaimsRefused):
        return str(error)
    if isinstance(error, TimeoutError):
        return "it took too long"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {frame.name}, line {frame.lineno} of {frame.filename}"
