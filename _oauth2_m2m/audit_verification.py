"""Whether the audit log is as it was written: what was removed, altered or added, and where.

Everything is read once, in order, and no more is remembered than where each chain stands; so it
takes as little memory for millions of records as for ten. What no signature reaches is not called
good: it is counted as unproven.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from _oauth2_m2m.audit import Event
from _oauth2_m2m.audit_chain import NOTHING, digest, is_canonical, place_of, record_id
from _oauth2_m2m.audit_checkpoints import KEPT_LONGER, Mark, hash_of, is_signed
from _oauth2_m2m.storage import Document, as_utc

#: More findings than this are counted only.
MOST_FINDINGS = 1000
#: The database's clock decides what has expired; it may be ahead of ours by so much.
CLOCK_SKEW = timedelta(minutes=5)


class Wrong(StrEnum):
    """What was done to the log."""

    REMOVED = "removed"
    ALTERED = "altered"
    ADDED = "added"
    FORGED = "forged"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was written.

    Attributes:
        what: what was done.
        where: the `_id` of the record, the first and last of several, or the checkpoint.
        why: what shows it.
    """

    what: Wrong
    where: str
    why: str


@dataclass(slots=True)
class AuditReport:
    """What `m2m.audit.verify` found.

    Attributes:
        findings: what is wrong, at most a thousand; `more_findings` counts the others.
        records: how many records are there.
        writers: how many writers they have.
        checkpoints: how many checkpoints are there.
        expired: how many records are gone because their time was over.
        in_doubt: how many were written perhaps, and perhaps not, as their writer says itself: the
            requests were answered 503. One that was taken out later cannot be told.
        unsigned: how many have no checkpoint after them. They fit their chain, but whoever can
            write to the database could have made them so. Those of the last minute are always
            among them.
        maybe_missing: how many may be missing among the unsigned ones, or were never written.
        counting: how many records of `rate_limit_exceeded` are not sealed yet.
        unchained: how many were written before there was a chain.
        kept_from: nothing that is younger may be missing.
        keys: the thumbprints of the keys that signed. Who can write to the database could have put
            one of their own there: compare them with what you noted elsewhere.
        head: the newest checkpoint: note it elsewhere, and no later check can be shown less.
    """

    findings: list[Finding] = field(default_factory=list)
    more_findings: int = 0
    records: int = 0
    writers: int = 0
    checkpoints: int = 0
    expired: int = 0
    in_doubt: int = 0
    unsigned: int = 0
    maybe_missing: int = 0
    counting: int = 0
    unchained: int = 0
    kept_from: datetime | None = None
    keys: list[str] = field(default_factory=list)
    head: Mark | None = None

    @property
    def is_intact(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def add(self, what: Wrong, where: str, why: str) -> None:
        """Report something, if there is room."""
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(Finding(what, where, why))
        else:
            self.more_findings += 1


class Verification:
    """One reading of the log: first `checkpoint` for each of them, then `walk`, then `end`.

    Args:
        keys: the public keys, by thumbprint.
        clock: tells the time; records expire while they are read.
        retention: how long records are kept as is set now.
        pins: the keys that may sign, by thumbprint; any when there is none.
        anchors: the hashes of checkpoints as they were noted elsewhere, by number.
        kept: how long records must have been kept, whatever the database says of that.
    """

    def __init__(
        self,
        keys: Mapping[str, Any],
        clock: Callable[[], datetime],
        retention: timedelta,
        pins: Collection[str] = (),
        anchors: Mapping[int, str] | None = None,
        kept: timedelta | None = None,
    ) -> None:
        self.report = AuditReport()
        self._keys = keys
        self._clock = clock
        self._retention = retention
        self._pins = pins
        self._anchors = dict(anchors or {})
        self._kept = kept
        self._expired_once: datetime | None = None  # what expired, as checkpoints say
        self._first: Document | None = None
        self._marks: dict[str, Mark] = {}

    def kept_from(self) -> datetime:
        """Nothing that is younger may be missing. A shorter retention in between counts too."""
        if self._kept is not None:
            return self._clock() - self._kept + CLOCK_SKEW
        moment = self._clock() - self._retention
        return max(moment, self._expired_once or moment) + CLOCK_SKEW

    # --- Checkpoints, in the order of their numbers -----------------------------------------------

    def checkpoint(self, checkpoint: Document) -> None:
        """Read the next checkpoint."""
        self.report.checkpoints += 1
        number = checkpoint["_id"]
        try:
            if not is_whole(checkpoint):
                raise ValueError("a field is missing, or of the wrong type")
            self._check_signature(checkpoint)
            self._check_place(checkpoint)
            days = checkpoint["retention_days"]
            if days is not None:
                moment = checkpoint["time"] - timedelta(days=days)
                self._expired_once = max(moment, self._expired_once or moment)
        except (KeyError, TypeError, ValueError, OverflowError):
            self.report.add(Wrong.ALTERED, _checkpoint(number), "it is no checkpoint")

    def end_of_checkpoints(self) -> None:
        """Judge what only all of them together show."""
        first = self._first
        if first is not None and first["_id"] != 1:
            before, is_known = first.get("previous_time"), first.get("previous_kid") is not None
            is_over = isinstance(before, datetime) and before < self.kept_from() - KEPT_LONGER
            if not (is_known and is_over):
                where = f"checkpoints 1 to {first['_id'] - 1}"
                self.report.add(Wrong.REMOVED, where, "their time is not over")
        if self._pins and not self.report.keys:
            self.report.add(Wrong.REMOVED, "all checkpoints", "none is signed with that key")
        head = self.report.head
        for number, noted in self._anchors.items():
            if head is None or number > head.number:
                why = f"it was noted elsewhere, with the hash {noted}"
                self.report.add(Wrong.REMOVED, _checkpoint(number), why)

    def _check_signature(self, checkpoint: Document) -> None:
        number, kid = checkpoint["_id"], checkpoint["kid"]
        if not (is_canonical(checkpoint) and is_signed(checkpoint, self._keys)):
            self.report.add(Wrong.ALTERED, _checkpoint(number), "its signature does not fit it")
            return
        self._check_key(kid, number)
        before = checkpoint.get("previous_kid")
        if before is not None and before != kid:
            self._check_key(before, number - 1)

    def _check_key(self, kid: str, number: int) -> None:
        if kid not in self.report.keys:
            self.report.keys.append(kid)
        if self._pins and kid not in self._pins:
            self.report.add(Wrong.FORGED, _checkpoint(number), f"signed with another key, {kid}")

    def _check_place(self, checkpoint: Document) -> None:
        number, head = checkpoint["_id"], self.report.head
        mark = Mark(number, hash_of(checkpoint))
        if head is None:
            self._first = checkpoint
            if number == 1 and checkpoint["previous"] != NOTHING:
                self.report.add(Wrong.ALTERED, _checkpoint(number), "it was not the first")
        elif number != head.number + 1:
            where = f"checkpoints {head.number + 1} to {number - 1}"
            self.report.add(Wrong.REMOVED, where, "later ones are there")
        elif checkpoint["previous"] != head.hash:
            self.report.add(Wrong.ALTERED, _checkpoint(head.number), "the next one knew another")
        if self._anchors.get(number, mark.hash) != mark.hash:
            why = f"another was noted elsewhere: {self._anchors[number]}"
            self.report.add(Wrong.ALTERED, _checkpoint(number), why)
        self._check_own(checkpoint, number)
        self._marks[checkpoint["writer"]] = mark
        self.report.head = mark

    def _check_own(self, checkpoint: Document, number: int) -> None:
        """A writer remembers its last checkpoint: the end of the chain cannot be cut under it."""
        own, known = checkpoint["own"], self._marks.get(checkpoint["writer"])
        if own is None or self._first is None or own["number"] < self._first["_id"]:
            return
        # Its newest one may be newer than it knows: it did not learn what became of it.
        is_newer = known is not None and own["number"] < known.number
        if not is_newer and (known is None or own != known.as_member()):
            why = f"checkpoint {number} was made by a writer that had made another {own['number']}"
            self.report.add(Wrong.REMOVED, _checkpoint(own["number"]), why)

    # --- Records, in the order of their ids, with the checkpoints of their writers ----------------

    async def walk(
        self, records: AsyncIterable[Document], checkpoints: AsyncIterable[Document]
    ) -> AsyncIterator[Document]:
        """Read the records.

        Args:
            records: all of them, by `_id`.
            checkpoints: the same as before, by writer and number of the record.

        Yields:
            What is in no chain: counted records of limits, for `counted`.
        """
        chain: _Walk | None = None
        signed = (each async for each in checkpoints if is_whole(each))
        due = await anext(signed, None)
        async for record in records:
            self.report.records += 1
            place = place_of(record["_id"])
            if place is None:
                if record.get("event_type") == Event.RATE_LIMIT_EXCEEDED and "sealed" in record:
                    yield record
                else:
                    self._unchained(record)
                continue
            while due is not None and (due["writer"], due["seq"]) < place:
                chain = self._chain_of(due["writer"], chain)
                chain.signed_by(due)
                due = await anext(signed, None)
            chain = self._chain_of(place[0], chain)
            chain.record(record, place[1])
        while due is not None:
            chain = self._chain_of(due["writer"], chain)
            chain.signed_by(due)
            due = await anext(signed, None)
        if chain is not None:
            chain.end()
        self.report.kept_from = self.kept_from()

    def _chain_of(self, writer: str, chain: _Walk | None) -> _Walk:
        if chain is not None and chain.writer == writer:
            return chain
        if chain is not None:
            chain.end()
        self.report.writers += 1
        return _Walk(writer, self.report, self.kept_from)

    def _unchained(self, record: Document) -> None:
        """What has no place in a chain must be older than the first checkpoint."""
        moment = as_utc(record.get("timestamp"))
        if self._first is None or (moment is not None and moment < self._first["time"]):
            self.report.unchained += 1
        else:
            self.report.add(Wrong.ADDED, str(record["_id"]), "it is in no chain")

    # --- Counted records, which grow for a minute and are sealed afterwards -----------------------

    def seals(self, checkpoint: Document, found: Mapping[str, Document]) -> None:
        """Compare what a checkpoint sealed with what is there, by `_id`."""
        for each in checkpoint["counted"]:
            record = found.get(each["id"])
            if record is None:
                if each["timestamp"] >= self.kept_from():
                    why = f"sealed by {_checkpoint(checkpoint['_id'])}"
                    self.report.add(Wrong.REMOVED, each["id"], why)
                else:
                    self.report.expired += 1
            elif digest(record, "sealed") != each["hash"] or record.get("sealed") == 0:
                why = f"{_checkpoint(checkpoint['_id'])} sealed it as something else"
                self.report.add(Wrong.ALTERED, each["id"], why)

    def counted(self, records: Sequence[Document], seals: Mapping[int, Collection[str]]) -> None:
        """Look for counted records that nobody sealed.

        Args:
            records: counted records.
            seals: the ids that their checkpoints sealed, by the checkpoint's number.
        """
        head = self.report.head
        for record in records:
            sealed = record["sealed"]
            if not isinstance(sealed, int) or (head and 0 < sealed <= head.number):
                if record["_id"] not in seals.get(sealed, ()):
                    why = f"{_checkpoint(sealed)} did not seal it"
                    self.report.add(Wrong.ADDED, record["_id"], why)
            else:
                self.report.counting += 1


@dataclass(slots=True)
class _Gap:
    """Numbers without records: from and to, and the hash of the record before them."""

    first: int
    last: int
    hash: str
    after: datetime | None  # the `timestamp` of the record behind them
    #: Whether nothing is left before them that no checkpoint signs: then they may have expired.
    is_leading: bool
    #: Whether the writer says later that it had written them.
    is_proven: bool = False

    @property
    def size(self) -> int:
        return self.last - self.first + 1


class _Walk:
    """Where the reading of one writer's chain stands."""

    def __init__(self, writer: str, report: AuditReport, kept_from: Callable[[], datetime]) -> None:
        self.writer = writer
        self._report = report
        self._kept_from = kept_from
        self._seq, self._hash = 0, NOTHING
        self._signed = 0
        self._unsigned = 0
        self._doubted = 0  # up to where numbers were said to be in doubt
        self._is_suspect = False  # whether the last record was reported
        self._gaps: list[_Gap] = []

    def record(self, record: Document, seq: int) -> None:
        """Read the next record that is there."""
        is_altered = not _is_whole_record(record) or digest(record, "hash") != record["hash"]
        if is_altered:
            self._add(Wrong.ALTERED, seq, "its hash is not that of what it says")
        if seq != self._seq + 1:
            after = as_utc(record.get("timestamp"))
            is_leading = self._unsigned == 0
            self._gaps.append(_Gap(self._seq + 1, seq - 1, self._hash, after, is_leading))
        elif not (is_altered or self._is_suspect) and record["previous"] != self._hash:
            self._add(Wrong.ALTERED, max(seq - 1, 1), f"record {seq} was written after another")
        if "resumes" in record and not is_altered:
            self._resume(record["resumes"], seq)
        self._seq, self._hash = seq, str(record.get("hash"))
        self._is_suspect = is_altered
        self._unsigned += 1

    def _resume(self, known: Mapping[str, Any], seq: int) -> None:
        """The writer knew that it had written up to here; what came after it is in doubt."""
        remaining = []
        for gap in self._gaps:
            if gap.first == known["seq"] + 1 and gap.hash != known["hash"]:
                self._add(Wrong.ALTERED, known["seq"], f"record {seq} knew another")
            last = min(gap.last, known["seq"])
            if last >= gap.first:
                remaining.append(replace(gap, last=last, is_proven=not gap.is_leading))
        self._gaps = remaining
        self._report.in_doubt += seq - 1 - max(known["seq"], self._doubted)
        self._doubted = seq - 1

    def signed_by(self, checkpoint: Document) -> None:
        """Compare with the next checkpoint of this writer: what it signed was written."""
        seq, number = checkpoint["seq"], checkpoint["_id"]
        if seq < self._seq:
            return
        oldest = checkpoint["oldest"]
        is_old = oldest is not None and oldest < self._kept_from()
        gaps = [*self._gaps]
        if self._seq < seq:
            gaps.append(_Gap(self._seq + 1, seq, self._hash, None, is_leading=False))
        elif self._hash != checkpoint["head"] and not self._is_suspect:
            self._add(Wrong.ALTERED, seq, f"{_checkpoint(number)} signed another")
        for gap in gaps:
            # What is before this stretch, and has no checkpoint any more, went with it.
            before = min(gap.last, checkpoint["since"]) if self._signed < checkpoint["since"] else 0
            self._missing(gap.first, before, is_expired=True, why="")
            first = max(gap.first, before + 1)
            why = f"signed by {_checkpoint(number)}"
            self._missing(first, gap.last, is_expired=is_old, why=why)
        self._seq, self._hash, self._signed = seq, checkpoint["head"], seq
        self._gaps, self._unsigned, self._is_suspect = [], 0, False

    def end(self) -> None:
        """The chain has ended: nothing signs what is left."""
        self._report.unsigned += self._unsigned
        for gap in self._gaps:
            is_old = gap.after is not None and gap.after < self._kept_from()
            if is_old or gap.is_proven:
                why = "written, as later records say"
                self._missing(gap.first, gap.last, is_expired=is_old, why=why)
            else:
                self._report.maybe_missing += gap.size

    def _missing(self, first: int, last: int, *, is_expired: bool, why: str) -> None:
        if last < first:
            return
        if is_expired:
            self._report.expired += last - first + 1
            return
        where = record_id(self.writer, first)
        if last > first:
            where += f" to {record_id(self.writer, last)}"
        self._report.add(Wrong.REMOVED, where, why)

    def _add(self, what: Wrong, seq: int, why: str) -> None:
        self._report.add(what, record_id(self.writer, seq), why)


def is_whole(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a document has the fields of a checkpoint, each of its type."""
    return (
        isinstance(checkpoint["_id"], int)
        and all(isinstance(checkpoint.get(name), int) for name in ("since", "seq"))
        and all(isinstance(checkpoint.get(name), str) for name in ("writer", "head", "previous"))
        and isinstance(checkpoint.get("time"), datetime)
        and isinstance(checkpoint.get("oldest"), datetime | None)
        and isinstance(checkpoint.get("counted"), list)
        and all(
            isinstance(each, dict)
            and isinstance(each.get("id"), str)
            and isinstance(each.get("timestamp"), datetime)
            for each in checkpoint["counted"]
        )
    )


def _is_whole_record(record: Mapping[str, Any]) -> bool:
    resumes = record.get("resumes", {"seq": 0})
    return (
        is_canonical(record)
        and isinstance(record.get("previous"), str)
        and isinstance(record.get("hash"), str)
        and isinstance(resumes, dict)
        and isinstance(resumes.get("seq"), int)
    )


def _checkpoint(number: object) -> str:
    return f"checkpoint {number}"
