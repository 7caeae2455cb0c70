"""The chains of the audit log: each writer's records, each bound to the one before it by a hash.

A writer is the audit log of one process and event loop. Its records are numbered without holes and
hold the hash of the record before, so that none can be taken out, altered, added or moved without
the next one showing it. A batch whose outcome is unknown keeps its numbers; the record after it
says how far the writer knew that it had written (`resumes`). Plain functions of values.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from _oauth2_m2m.signatures import b64url_encode
from _oauth2_m2m.storage import Document

_RECORD_ID = re.compile(r"([\w-]{16}):([0-9]{12})", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
#: What the first record of a writer has before it.
NOTHING = ""


def record_id(writer: str, seq: int) -> str:
    """The `_id` of a record: it sorts by writer and number, so that no further index is needed."""
    return f"{writer}:{seq:012d}"


def place_of(identity: object) -> tuple[str, int] | None:
    """The writer and number that an `_id` names; `None` when it is no place in a chain."""
    found = _RECORD_ID.fullmatch(identity) if isinstance(identity, str) else None
    return (found[1], int(found[2])) if found else None


def digest(document: Mapping[str, Any], *left_out: str) -> str:
    """SHA-256 over a document as canonical JSON, in base64url.

    The JSON has its names sorted, no white space, ASCII alone; a date is `{"$date": <milliseconds
    since 1970>}`, as BSON keeps it.

    Args:
        document: what is hashed.
        left_out: names of its members that are not.
    """
    return b64url_encode(hashlib.sha256(canonical(document, *left_out)).digest()).decode()


def canonical(document: Mapping[str, Any], *left_out: str) -> bytes:
    """The one spelling of a document that is hashed and signed: see `digest`."""
    if left_out:
        document = {name: value for name, value in document.items() if name not in left_out}
    return _encode(document).encode()


def is_canonical(value: object) -> bool:
    """Whether a value has no other that is spelled like it: no member is called like a type."""
    if isinstance(value, Mapping):
        return all(name[:1] != "$" and is_canonical(each) for name, each in value.items())
    return all(map(is_canonical, value)) if isinstance(value, list) else True


def milliseconds(moment: datetime) -> int:
    """A moment as BSON keeps it: milliseconds since 1970."""
    return (moment - _EPOCH) // _MILLISECOND


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a chain, from after one checkpoint to the next.

    Attributes:
        writer: whose.
        since: the number of the last record before it.
        seq: the number of its last record, which is known to be written.
        head: the hash of that record.
        oldest, newest: the `timestamp`s of its records lie between them.
    """

    writer: str
    since: int
    seq: int
    head: str
    oldest: datetime | None
    newest: datetime | None


class Chain:
    """Where a writer's next record continues."""

    __slots__ = ("_hash", "_seq", "_signed", "_times", "_under_way", "_written", "writer")

    def __init__(self) -> None:
        self.writer = secrets.token_urlsafe(12)
        self._seq, self._hash = 0, NOTHING  # of the last record that was made
        self._written = (0, NOTHING)  # of the last one that is known to be in the database
        self._signed = 0
        # The oldest and the newest `timestamp` of what is written and not signed, and of the rest.
        self._times: list[datetime] = []
        self._under_way: list[datetime] = []

    @property
    def unsigned(self) -> int:
        """How many records were written since the last checkpoint, about."""
        return self._written[0] - self._signed

    def link(self, documents: Sequence[Document]) -> list[Document]:
        """Give documents their places, as records to be written together."""
        seq, written = self._written
        resumes = {"resumes": {"seq": seq, "hash": written}} if seq != self._seq else {}
        records = []
        for document in documents:
            self._seq += 1
            identity = {"_id": record_id(self.writer, self._seq)}
            record = {**identity, **document, "previous": self._hash, **resumes}
            record["hash"] = self._hash = digest(record)
            records.append(record)
            resumes = {}
        times = [document["timestamp"] for document in documents]
        self._under_way = _extremes([*self._under_way, *times])
        return records

    def written(self) -> None:
        """Note that everything that was linked is known to be written."""
        self._written = self._seq, self._hash
        self._times, self._under_way = _extremes([*self._times, *self._under_way]), []

    def span(self) -> Span:
        """What is to be signed now; `signed` or `not_signed` says what came of it."""
        seq, head = self._written
        oldest, newest = self._times or (None, None)
        self._times = []
        return Span(self.writer, self._signed, seq, head, oldest, newest)

    def signed(self, span: Span) -> None:
        """Note that a checkpoint signs a span."""
        self._signed = span.seq

    def not_signed(self, span: Span) -> None:
        """Put a span back: there is no checkpoint of it."""
        times = [each for each in (span.oldest, span.newest) if each]
        self._times = _extremes([*self._times, *times])


def _extremes(moments: Sequence[datetime]) -> list[datetime]:
    return [min(moments), max(moments)] if moments else []


def _typed(value: object) -> object:
    """A value that JSON has no word for."""
    if isinstance(value, datetime):
        return {"$date": milliseconds(value)}
    return {f"${type(value).__name__}": str(value)}


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_typed).encode
