"""The revocation feed: for followers elsewhere, every mark that can still hit a token.

A follower asks again and again what came after its cursor. The order is that of the marks' `seq`,
which the database sets. A mark can become visible a moment after one with a later `seq`, so each
pass begins a little before the end of the one before; marks are repeated, and followers keep a set.
"""

from __future__ import annotations

import asyncio
import json
import math
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from _oauth2_m2m.config import LONGEST_ACCESS_TOKEN_LIFETIME
from _oauth2_m2m.errors import InvalidRequest
from _oauth2_m2m.metrics import Queue
from _oauth2_m2m.revocation import published
from _oauth2_m2m.signatures import b64url_decode, b64url_encode
from _oauth2_m2m.storage import Document, Storage, as_sequence, as_utc, sequence_value

MOST_MARKS_IN_A_PAGE = 2_000
#: More than two database commands may take: what was acknowledged was visible by then.
OVERLAP_SECONDS = 10
#: Marks of families and clients live as long as refresh tokens, but the access tokens that they
#: hit do not. The hour is for tokens that were being issued, for leeway and for clocks.
PUBLISHED_FOR = LONGEST_ACCESS_TOKEN_LIFETIME + timedelta(hours=1)
#: Followers that keep up share one reading; only those that catch up need their own.
_MOST_READINGS_AT_ONCE = 4
#: Of these, for passes that begin at the newest marks: anybody may ask for a thousand old pages,
#: and those who keep up shall not fall behind for it.
_READINGS_KEPT_FREE = 2
#: How far before the newest mark such a pass begins: in so many seconds there are as many, and no
#: more, however many ask.
_NEAR_SECONDS = 60
#: Catching up takes at most a third of a worker's time, and goes on nevertheless.
_REST, _LONGEST_REST_SECONDS = 2.0, 1.0

_CURSOR = struct.Struct(">QQ")


class Cursor(NamedTuple):
    """How far a follower has read.

    Attributes:
        floor: the newest mark when its last pass began; its next pass begins a little before.
        position: in the midst of a pass the last mark that it was given, else 0.
    """

    floor: int = 0
    position: int = 0

    def __str__(self) -> str:
        """As it goes over the wire."""
        return b64url_encode(_CURSOR.pack(*self)).decode("ascii")


def cursor_from(text: str) -> Cursor:
    """Read a cursor.

    Raises:
        InvalidRequest: it is none of ours.
    """
    try:
        return Cursor(*_CURSOR.unpack(b64url_decode(text.encode("ascii"))))
    except (ValueError, struct.error):
        raise InvalidRequest("after is not a cursor of this feed") from None


class Span(NamedTuple):
    """What to read: a page of the marks after a place. Equal spans are read once for all.

    Attributes:
        after: the place.
        begins: whether a pass begins here.
    """

    after: int
    begins: bool

    def is_near(self, newest: int) -> bool:
        """Whether a pass begins here that has little to read: a follower's who keeps up."""
        return self.begins and 0 <= (newest >> 32) - (self.after >> 32) <= _NEAR_SECONDS


class Question(NamedTuple):
    """A span that somebody waits for, and since when, in seconds of a steady clock."""

    span: Span
    since: float


def next_spans(questions: Iterable[Question], newest: int) -> list[Span]:
    """What to read next: whoever has waited longest comes first, on either side.

    Args:
        questions: what is asked for.
        newest: the place of the newest mark, as far as it is known.
    """
    since: dict[Span, float] = {}
    for question in questions:
        since[question.span] = min(question.since, since.get(question.span, math.inf))
    waiting = sorted(since, key=since.__getitem__)
    near = [span for span in waiting if span.is_near(newest)][:_READINGS_KEPT_FREE]
    others = [span for span in waiting if span not in near]
    return [*near, *others[: _MOST_READINGS_AT_ONCE - len(near)]]


def beginning(now: datetime) -> Span:
    """Everything that can still hit a token; the same for a minute, so that it can be shared."""
    return Span((int((now - PUBLISHED_FOR).timestamp()) // 60 * 60) << 32, begins=True)


def next_span(cursor: Cursor, now: datetime) -> Span:
    """What to read for a follower who has come that far; what can hit nothing is left out."""
    oldest = beginning(now).after
    if cursor.position:
        return Span(max(cursor.position, oldest), begins=False)
    # Whole seconds: followers who stand close together share a reading.
    before = max((cursor.floor >> 32) - OVERLAP_SECONDS, 0) << 32
    return Span(max(before, oldest), begins=True)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found in a span.

    Attributes:
        revoked: pairs of a published mark and when it hits nothing any more, in seconds since
            1970, as a JSON list.
        last: the place of the last mark, alive or not; 0 when there is none.
        newest: where a pass begins, the place of the newest mark of all; 0 when there is none.
        is_full: whether there is more after the last mark.
    """

    revoked: str
    last: int
    newest: int
    is_full: bool


@dataclass(frozen=True, slots=True)
class Page:
    """What a follower is given at a time.

    Attributes:
        revoked: as in `Reading`.
        cursor: how far it goes.
    """

    revoked: str
    cursor: Cursor

    @property
    def more(self) -> bool:
        """Whether the pass goes on. Once it ends, nothing is missing that was set before it."""
        return self.cursor.position > 0

    def as_json(self) -> bytes:
        """The page as it goes over the wire."""
        more = "true" if self.more else "false"
        return f'{{"revoked":{self.revoked},"cursor":"{self.cursor}","more":{more}}}'.encode()


def page_after(cursor: Cursor, reading: Reading) -> Page:
    """The page that a reading is to the follower who asked for it."""
    floor = cursor.floor if cursor.position else reading.newest
    return Page(reading.revoked, Cursor(floor, reading.last if reading.is_full else 0))


class RevocationFeed:
    """Reads the collection `revoked_tokens` for followers, who share commands."""

    def __init__(self, storage: Storage, page_size: int = MOST_MARKS_IN_A_PAGE) -> None:
        self._marks = storage.collection("revoked_tokens")
        self._page_size = page_size
        # Who keeps up never waits behind those who catch up.
        self._near = storage.queue(Queue.FEED_NEAR, self._read_all)
        self._far = storage.queue(Queue.FEED_CATCHING_UP, self._read_far)
        self._rest_until = 0.0
        self._newest_seen = 0

    async def page(self, cursor: Cursor, now: datetime) -> Page:
        """What comes after a cursor, as the database stands after this call.

        Raises:
            TemporarilyUnavailable: the database does not answer.
        """
        page = page_after(cursor, await self._shared(next_span(cursor, now)))
        if page.cursor.floor < cursor.floor:
            # A pass meets the mark that its floor was, or newer ones. When it does not, marks have
            # been removed, or a backup was restored: nobody knows what else is different.
            page = page_after(Cursor(), await self._shared(beginning(now)))
        return page

    async def _shared(self, span: Span) -> Reading:
        question = Question(span, time.monotonic())
        readings = self._near if span.is_near(self._newest_seen) else self._far
        while (reading := await readings.ask(question)) is None:
            pass  # others came first; the request's deadline ends this
        return reading

    async def _read_far(self, questions: Sequence[Question]) -> Sequence[Reading | None]:
        """For those who catch up: a part of the time only, for anybody may ask for old pages."""
        await asyncio.sleep(max(self._rest_until - time.monotonic(), 0.0))
        began = time.monotonic()
        try:
            return await self._read_all(questions)
        finally:
            took = time.monotonic() - began
            self._rest_until = time.monotonic() + min(_REST * took, _LONGEST_REST_SECONDS)

    async def _read_all(self, questions: Sequence[Question]) -> Sequence[Reading | None]:
        """A reading for each question; when they are many, only for those whose turn it is."""
        now = datetime.now(UTC)
        chosen = next_spans(questions, self._newest_seen)
        found = await asyncio.gather(*(self._read(span, now) for span in chosen))
        readings = dict(zip(chosen, found, strict=True))
        self._newest_seen = max(self._newest_seen, *(reading.newest for reading in found))
        return [readings.get(question.span) for question in questions]

    async def _read(self, span: Span, now: datetime) -> Reading:
        marks = await self._marks_after(span.after, self._page_size + 1)
        is_full = len(marks) > self._page_size
        if is_full:
            # Two shards may give out one place: whoever shares it comes in one page.
            beyond = marks[-1]["seq"]
            marks = [mark for mark in marks if mark["seq"] < beyond]
        last = as_sequence(marks[-1]["seq"]) if marks else 0
        newest = await self._newest() if is_full and span.begins else last
        return Reading(_revoked(marks, now), last, newest, is_full)

    async def _newest(self) -> int:
        marks = await self._marks_after(0, 1, newest_first=True)
        return as_sequence(marks[0]["seq"]) if marks else 0

    async def _marks_after(
        self, place: int, limit: int, *, newest_first: bool = False
    ) -> list[Document]:
        query = {"_id": {"$type": "string"}, "seq": {"$gt": sequence_value(place)}}
        return await self._marks.page(
            query, "seq", limit, newest_first=newest_first, fields=["seq", "expires_at"]
        )


def _revoked(marks: Sequence[Document], now: datetime) -> str:
    seconds = now.timestamp()
    pairs = [(published(mark["_id"]), _end(mark)) for mark in marks]
    return json.dumps([pair for pair in pairs if pair[1] > seconds], separators=(",", ":"))


def _end(mark: Document) -> int:
    """The second by which a mark hits nothing any more."""
    latest = (as_sequence(mark["seq"]) >> 32) + int(PUBLISHED_FOR.total_seconds())
    expires_at = as_utc(mark.get("expires_at"))
    return latest if expires_at is None else min(latest, math.ceil(expires_at.timestamp()))
