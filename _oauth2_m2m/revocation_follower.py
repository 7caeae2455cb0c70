"""Following an issuer's revocation feed from elsewhere, at a distance in time that is known."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Any, NamedTuple

from _oauth2_m2m.credentials import make_id
from _oauth2_m2m.issuer_calls import CallFailed, IssuerCalls
from _oauth2_m2m.revocation import digest_from, digest_of

#: About 150 bytes each.
MOST_MARKS = 1_000_000
#: So often is the feed asked in the lag that is allowed: two answers may be lost.
POLLS_IN_A_LAG = 4
SHORTEST_PAUSE_SECONDS = 0.25
#: After a failure, at most, however long the lag that is allowed.
RETRY_SECONDS = 5.0
#: After more marks than can be kept, for then all must be read again.
OVERFLOW_PAUSE_SECONDS = 60.0
_LONGEST_CURSOR = 255
_BAD_REQUEST = 400

_log = logging.getLogger("oauth2_m2m")


class Marks:
    """Digests of marks, each until nothing is left that it could hit.

    Args:
        leeway: how long after its expiry a token is still taken here.
        most: how many are kept.
    """

    def __init__(self, leeway: timedelta, most: int = MOST_MARKS) -> None:
        self._leeway = leeway.total_seconds()
        self._most = most
        self._ends: dict[bytes, int] = {}
        #: By the minute of their ends, so that forgetting never goes through all of them.
        self._minutes: dict[int, list[bytes]] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def hits(self, marks: Iterable[str]) -> bool:
        """Whether one of these marks is among them."""
        return any(digest_of(mark) in self._ends for mark in marks)

    def add(self, revoked: Iterable[tuple[bytes, int]], now: float) -> None:
        """Keep marks; where one has two ends, the later counts.

        Raises:
            OverflowError: there are too many.
        """
        for digest, end in revoked:
            if self._ends.get(digest, 0) < end:
                self._ends[digest] = end
                self._minutes.setdefault(end // 60, []).append(digest)
        self._forget_before(int(now - self._leeway) // 60)
        if len(self._ends) > self._most:
            raise OverflowError(f"more than {self._most:,} live revocations")

    def _forget_before(self, minute: int) -> None:
        for past in [each for each in self._minutes if each < minute]:
            for digest in self._minutes.pop(past):
                if self._ends.get(digest, 0) // 60 == past:  # else it ends later, or is gone
                    del self._ends[digest]

    def clear(self) -> None:
        """Forget everything."""
        self._ends.clear()
        self._minutes.clear()


class FeedPage(NamedTuple):
    """A page of the feed: pairs of a digest and its end, how far it goes, and whether to go on."""

    revoked: list[tuple[bytes, int]]
    cursor: str
    more: bool


def page_from(document: Any) -> FeedPage:
    """Read a page.

    Raises:
        ValueError: it is none.
    """
    try:
        cursor, more = document["cursor"], document["more"]
        revoked = [(digest_from(name), _second(end)) for name, end in document["revoked"]]
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ValueError("the answer is no page of a revocation feed") from None
    if not isinstance(cursor, str) or not isinstance(more, bool) or len(cursor) > _LONGEST_CURSOR:
        raise ValueError("the answer is no page of a revocation feed")
    return FeedPage(revoked, cursor, more)


def _second(value: object) -> int:
    if type(value) is not int:
        raise ValueError("not a second")
    return value


class RevocationFollower:
    """Keeps what an issuer has revoked, and knows how old that knowledge is.

    Args:
        find_feed: finds the feed's URL; `ValueError` says why it cannot.
        max_lag: how old the knowledge may become. It is asked for four times as often.
        leeway: how long after its expiry a token is still taken here.
        most_marks: how many marks are kept.
        attempted: told of each attempt, when it has ended.

    Attributes:
        fault: why nothing could be learnt last time; `None` when it could, or nobody has tried.
    """

    def __init__(
        self,
        find_feed: Callable[[], Awaitable[str]],
        *,
        max_lag: timedelta,
        leeway: timedelta,
        most_marks: int = MOST_MARKS,
        attempted: Callable[[RevocationFollower], None] = lambda _: None,
    ) -> None:
        self.marks = Marks(leeway, most_marks)
        self.fault: str | None = None
        self._find_feed = find_feed
        self._attempted = attempted
        self._max_lag = max_lag.total_seconds()
        self._pause = max(self._max_lag / POLLS_IN_A_LAG, SHORTEST_PAUSE_SECONDS)
        self._cursor: str | None = None
        self._pass_began: _Moment | None = None
        self._known_at: _Moment | None = None
        self._overflowed = False
        self._has_warned = False

    @property
    def lag(self) -> float:
        """How old the knowledge is, in seconds; infinite while there is none."""
        return math.inf if self._known_at is None else self._known_at.age()

    @property
    def is_lagging(self) -> bool:
        """Whether the knowledge is older than it may be."""
        return self.lag > self._max_lag

    @property
    def has_overflowed(self) -> bool:
        """Whether there was more to know than can be kept: then nothing is known at all."""
        return self._overflowed

    async def run(self, calls: IssuerCalls, ended: asyncio.Event) -> None:
        """Follow for ever.

        Args:
            calls: how to ask.
            ended: set for a moment after each attempt, to wake those who wait for it.
        """
        self.fault = None
        while True:
            await self._attempt(calls)
            self._attempted(self)
            ended.set()
            ended.clear()
            await asyncio.sleep(self._until_next())

    async def _attempt(self, calls: IssuerCalls) -> None:
        """One pass, or what is left of one; whatever happens, there will be another."""
        try:
            await self._pass(calls)
        except OverflowError as fault:
            self._overflowed = True
            self._known_at = self._cursor = self._pass_began = None
            self.marks.clear()
            self._note(str(fault))
        except (CallFailed, ValueError) as fault:
            if getattr(fault, "status_code", None) == _BAD_REQUEST:
                self._cursor = self._pass_began = None  # not a cursor of this server: begin again
            self._note(str(fault))
        except Exception as error:
            self._note(f"a bug: {type(error).__name__}")
        else:
            self._note(None)

    async def _pass(self, calls: IssuerCalls) -> None:
        url = await self._find_feed()
        # A pass that was interrupted goes on; what it then knows is as old as its beginning.
        began = self._pass_began = self._pass_began or _Moment()
        more = True
        while more:
            # No two addresses are the same: an answer that somebody kept would be taken for news.
            asked = {"asked": make_id(8)}
            after = {} if self._cursor is None else {"after": self._cursor}
            page = page_from(await calls.get(url, **after, **asked))
            if page.more and page.cursor == self._cursor:
                raise ValueError("the feed does not go on")
            self.marks.add(page.revoked, time.time())
            self._cursor, more = page.cursor, page.more
        self._pass_began, self._known_at, self._overflowed = None, began, False

    def _until_next(self) -> float:
        if self._overflowed:
            return OVERFLOW_PAUSE_SECONDS
        # So that not all who follow ask at once.
        spread = self._pause * random.uniform(0.8, 1.0)  # noqa: S311
        if self.fault is not None or self._known_at is None:
            return min(spread, RETRY_SECONDS)
        return max(spread - self._known_at.age(), SHORTEST_PAUSE_SECONDS)

    def _note(self, fault: str | None) -> None:
        self.fault = fault
        if fault is not None and not self._has_warned:
            _log.warning("revocations cannot be followed: %s", fault)
        if fault is None and self._has_warned:
            _log.warning("revocations are followed again")
        self._has_warned = fault is not None


class _Moment:
    """A moment, whose age counts time in which the machine slept, too."""

    def __init__(self) -> None:
        self._steady, self._wall = time.monotonic(), time.time()

    def age(self) -> float:
        return max(time.monotonic() - self._steady, time.time() - self._wall)
