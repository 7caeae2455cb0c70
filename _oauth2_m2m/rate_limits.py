"""Rate limits, exact over all workers. The collection `rate_limits`.

One document for a key and window: a minute, or the hour or day of a quota. Requests that arrive
together are counted with one `$inc`, and each takes its own place in the count: the first `limit`
places of a window are admitted.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Sequence
from datetime import datetime, timedelta
from itertools import chain, count
from typing import NamedTuple

from _oauth2_m2m.credentials import make_id
from _oauth2_m2m.errors import RateLimitExceeded, TemporarilyUnavailable
from _oauth2_m2m.metrics import Queue
from _oauth2_m2m.storage import Document, Storage
from _oauth2_m2m.windows import Period, Window, seconds_left

#: Made-up client ids share this many documents for an address and minute.
FAILURE_BUCKETS = 64
#: The bucket of bad bearer tokens: the address alone.
BAD_TOKENS = "~"

#: So many windows of a batch are counted one by one, which takes one round instead of two: as many
#: as a request has.
_FEW = 3
_KEPT = timedelta(days=1)


class _Counted(NamedTuple):
    """A key, and how many requests of a batch are to be counted in it."""

    key: str
    number: int
    timestamp: datetime

    def update(self, name: str) -> list[Document]:
        """Count them, and note under a name how many had been counted before."""
        so_far = {"$ifNull": ["$count", 0]}
        return [{"$set": {
            "count": {"$add": [so_far, self.number]},
            "timestamp": {"$ifNull": ["$timestamp", self.timestamp]},
            f"before.{name}": so_far,
        }}]  # fmt: skip


class RateLimits:
    """Counts requests in `rate_limits`."""

    def __init__(self, storage: Storage) -> None:
        # Durable like everything else: a failover that forgets counts would admit too many.
        self._counts = storage.collection("rate_limits")
        self._take = storage.queue(Queue.PLACES, self.take_all)
        self._names: list[str] = []
        self._give = storage.queue(Queue.PLACES_GIVEN_BACK, self._give_places)
        self._look = storage.queue(Queue.FAILURES, self.look_up_all)

    async def prepare(self) -> None:
        """Make the index."""
        await self._counts.ensure_index([("timestamp", 1)], lifetime=_KEPT)

    def take(self, key: str, now: datetime) -> Awaitable[int]:
        """Count one request; the answer is its place in the window, from 1."""
        return self._take.ask((key, now))

    def give_back(self, windows: Sequence[Window]) -> Awaitable[None]:
        """Take a request's places in these windows back: it is not to be counted after all."""
        return self._give.ask([window.key for window in windows])

    def taken(self, key: str) -> Awaitable[int]:
        """How many requests the window has counted so far."""
        return self._look.ask(key)

    async def drain(self) -> None:
        """Wait until everything counted so far is written."""
        await self._take.drain()

    async def take_all(self, requests: Sequence[tuple[str, datetime]]) -> Sequence[int]:
        """Count a batch of requests, each a key and a moment; the place of each."""
        counts, moments = Counter(key for key, _ in requests), dict(requests)
        windows = [_Counted(key, number, moments[key]) for key, number in counts.items()]
        before = await (
            self._count_one_by_one(windows)
            if len(windows) <= _FEW
            else self._count_together(windows)
        )
        places = {
            window.key: count(start + 1) for window, start in zip(windows, before, strict=True)
        }
        return [next(places[key]) for key, _ in requests]

    async def take_each(self, requests: Sequence[Sequence[Window]]) -> Sequence[Sequence[int]]:
        """Count a batch of requests, each in several windows; the places of each."""
        taken = await self.take_all([(w.key, w.timestamp) for w in chain.from_iterable(requests)])
        places = iter(taken)
        return [[next(places) for _ in windows] for windows in requests]

    async def _count_one_by_one(self, windows: Sequence[_Counted]) -> Sequence[int]:
        """How many were counted in each window before: one command for each, side by side."""
        return await asyncio.gather(*(self._count(window) for window in windows))

    async def _count(self, window: _Counted) -> int:
        document = await self._counts.change(
            {"_id": window.key},
            {"$inc": {"count": window.number}, "$setOnInsert": {"timestamp": window.timestamp}},
            upsert=True,
            fields=["count"],
        )
        return int(document["count"]) - window.number if document else 0

    async def _count_together(self, windows: Sequence[_Counted]) -> Sequence[int]:
        """The same, in two commands for however many windows.

        One command that updates many documents returns none of them. So each window notes, under a
        name that nobody else uses meanwhile, what it had counted before us, and is read afterwards.
        """
        name = self._unused_name()
        await self._counts.upsert([({"_id": w.key}, w.update(name)) for w in windows])
        keys = [window.key for window in windows]
        found = await self._counts.find({"_id": {"$in": keys}}, [f"before.{name}"])
        # Not after a failure: an update that was given up may still be on its way.
        self._names.append(name)
        before = {d["_id"]: int(d["before"][name]) for d in found if name in d.get("before", {})}
        if len(before) < len(windows):
            raise TemporarilyUnavailable(detail="a failover has lost rate counts")
        return [before[window.key] for window in windows]

    def _unused_name(self) -> str:
        try:
            return self._names.pop()
        except IndexError:
            return make_id(8)

    async def _give_places(self, requests: Sequence[Sequence[str]]) -> Sequence[None]:
        counts = Counter(chain.from_iterable(requests))
        changes = [({"_id": key}, {"$inc": {"count": -n}}) for key, n in counts.items()]
        await self._counts.upsert(changes, make=False)
        return [None] * len(requests)

    async def look_up_all(self, keys: Sequence[str]) -> Sequence[int]:
        """How many requests each window of a batch has counted so far."""
        found = await self._counts.find({"_id": {"$in": list(set(keys))}}, ["count"])
        counts = {document["_id"]: int(document["count"]) for document in found}
        return [counts.get(key, 0) for key in keys]


def failure_bucket(presented: str) -> str:
    """Where a failure at the token endpoints counts: one of 64 buckets of the presented id."""
    return f"{BAD_TOKENS}{hashlib.sha256(presented.encode()).digest()[0] % FAILURE_BUCKETS}"


def check_place(
    place: int, limit: int, key: str, now: datetime, client_id: str | None = None
) -> None:
    """Admit the first `limit` places of a minute; a limit of 0 admits all.

    Raises:
        RateLimitExceeded: the place lies beyond the limit.
    """
    if limit and place > limit:
        raise RateLimitExceeded(key, limit, seconds_left(Period.MINUTE, now), client_id)
