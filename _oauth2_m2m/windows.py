"""The minutes, hours and days that requests are counted in: their limits, and their keys.

Plain functions of values; the room `rate_limits` counts. All windows begin and end by UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

MINUTE_SECONDS = 60
HOUR_SECONDS = 3600
DAY_SECONDS = 86_400

#: Stands for the address in the key of a quota, which counts those of all addresses together.
_EVERYWHERE = "*"
#: Ends the key of a record of requests that a quota would have refused.
_OBSERVED = ":observed"


class Period(IntEnum):
    """How long a window is, in seconds."""

    MINUTE = MINUTE_SECONDS
    HOUR = HOUR_SECONDS
    DAY = DAY_SECONDS

    def __str__(self) -> str:
        return self.name.lower()


#: How the beginning of a window is written at the end of its key, each in a length of its own.
_FORMATS = {
    Period.MINUTE: "%Y%m%d%H%M",
    Period.HOUR: "%Y%m%d%H",
    Period.DAY: "%Y%m%d",
}


class Limits(NamedTuple):
    """How many requests of one client are let through; 0 is any number, which is not counted.

    Attributes:
        minute: in a minute, from one address.
        hour, day: the quotas: in an hour and in a day, from all addresses together.
        observes: whether a quota that is used up is only noted, and refuses nothing.
    """

    minute: int
    hour: int = 0
    day: int = 0
    observes: bool = False

    @property
    def counts(self) -> bool:
        """Whether there is any limit at all."""
        return any(self[:3])


class Window(NamedTuple):
    """One window that a request is counted in.

    Attributes:
        key: the `_id` of its document.
        timestamp: what the document is dated with, from which it is kept for a day.
        period: how long it is.
        limit: how many places it has.
        observes: whether a place beyond that is only noted.
    """

    key: str
    timestamp: datetime
    period: Period
    limit: int
    observes: bool = False

    @property
    def is_quota(self) -> bool:
        """Whether it is a client's own, whatever the address."""
        return self.period is not Period.MINUTE

    @property
    def observed_key(self) -> str:
        """The key of the record of those who were let through beyond the limit."""
        return self.key + _OBSERVED


def window_key(name: str, network: str, now: datetime) -> str:
    """The window of this minute: of a client or a bucket of failures, at an address.

    No client id begins with `~` as buckets do, so nobody's budget is touched by whoever cannot
    prove to be them.
    """
    return f"{name}:{network}:{_span(Period.MINUTE, now)[0]}"


def budget(client_id: str, network: str, limits: Limits, now: datetime) -> Sequence[Window]:
    """The windows that a client's request from an address is counted in."""
    windows = []
    if limits.minute:
        key = window_key(client_id, network, now)
        windows.append(Window(key, now, Period.MINUTE, limits.minute))
    if limits.hour:
        windows.append(_quota(client_id, Period.HOUR, limits.hour, limits.observes, now))
    if limits.day:
        windows.append(_quota(client_id, Period.DAY, limits.day, limits.observes, now))
    return windows


def _quota(client_id: str, period: Period, limit: int, observes: bool, now: datetime) -> Window:
    # Dated with its end: its document must outlive it, also when the database's clock is ahead.
    stamp, end = _span(period, now)
    return Window(f"{client_id}:{_EVERYWHERE}:{stamp}", end, period, limit, observes)


def exceeded(windows: Sequence[Window], places: Sequence[int]) -> Sequence[Window]:
    """The windows in which a request has a place beyond the limit, the shortest first."""
    taken = zip(windows, places, strict=True)
    return [window for window, place in taken if place > window.limit]


def seconds_left(period: Period, now: datetime) -> int:
    """Until the window of this moment ends: at least 1."""
    return period - int(now.timestamp() // 1) % period


def _span(period: Period, now: datetime) -> tuple[str, datetime]:
    return _numbered_span(period, int(now.timestamp() // period))


@lru_cache(maxsize=16)
def _numbered_span(period: Period, number: int) -> tuple[str, datetime]:
    """How the window of this number since 1970 is written, and when it ends."""
    begin = datetime.fromtimestamp(number * period, UTC)
    return begin.strftime(_FORMATS[period]), begin + timedelta(seconds=period)
