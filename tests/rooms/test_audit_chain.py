"""The chain of the audit log: whatever happened verifies, and nothing can be undone in silence.

Without a database: histories are made as the rooms make them, and read as `verify` reads them.
"""

from __future__ import annotations

import copy
import random
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st

from _oauth2_m2m.audit_chain import Chain, canonical, digest, is_canonical, place_of, record_id
from _oauth2_m2m.audit_checkpoints import (
    KEPT_LONGER,
    Mark,
    _message,
    checkpoint_document,
    hash_of,
    verifying_keys,
)
from _oauth2_m2m.audit_verification import CLOCK_SKEW, MOST_FINDINGS, AuditReport, Verification
from _oauth2_m2m.signatures import b64url_encode, new_private_key, private_signing_key

Document = dict[str, Any]

NOW = datetime(2030, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
RETENTION = timedelta(days=1)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
KEY = private_signing_key(new_private_key("ES256"), "ES256")
OTHER_KEY = private_signing_key(new_private_key("ES256"), "ES256")
KEYS = verifying_keys([{"public": dict(KEY.public_jwk)}])


@dataclass
class World:
    """A database, its writers, and the time."""

    now: datetime = NOW
    records: dict[str, Document] = field(default_factory=dict)
    checkpoints: list[Document] = field(default_factory=list)
    writers: list[tuple[Chain, list[Mark]]] = field(
        default_factory=lambda: [(Chain(), []) for _ in range(3)]
    )
    number: int = 0

    def write(self, writer: int, size: int, outcome: str = "ok", mask: int = 0) -> None:
        """Write a batch; what is not `ok` was not acknowledged."""
        chain = self.writers[writer][0]
        linked = chain.link([self._document() for _ in range(size)])
        for place, record in enumerate(linked):
            is_there = {"ok": True, "lost": True, "none": False}.get(outcome, mask >> place & 1)
            if is_there:
                self.records[record["_id"]] = as_stored(record)
        if outcome == "ok":
            chain.written()

    def sign(self, writer: int, outcome: str = "ok") -> None:
        """Make a checkpoint; `lost` is one that the writer does not know of."""
        chain, own = self.writers[writer]
        span = chain.span()
        if outcome == "none":
            chain.not_signed(span)
            return
        before = self.checkpoints[-1] if self.checkpoints else None
        last = own[-1] if own else None
        made = checkpoint_document(before, span, [], last, RETENTION, self.now, KEY, KEYS)
        self.checkpoints.append(as_stored(made))
        if outcome == "ok":
            own.append(Mark(made["_id"], hash_of(made)))
            chain.signed(span)
        else:
            chain.not_signed(span)

    def wait(self, minutes: float) -> None:
        """Let time pass."""
        self.now += timedelta(minutes=minutes)

    def expire(self, lag: timedelta = timedelta(0)) -> None:
        """Do what the TTL indexes do, late or, where the clock is ahead, early."""
        before = self.now - RETENTION - lag
        self.records = {n: r for n, r in self.records.items() if r["timestamp"] >= before}
        self.checkpoints = [c for c in self.checkpoints if c["time"] >= before - KEPT_LONGER]

    def verify(self, **options: Any) -> AuditReport:
        """Read everything as `m2m.audit.verify` does."""
        options = {"keys": KEYS, "clock": lambda: self.now, "retention": RETENTION, **options}
        check = Verification(**options)
        for checkpoint in self.checkpoints:
            check.checkpoint(checkpoint)
        check.end_of_checkpoints()
        records = sorted(self.records.values(), key=lambda r: (_type(r["_id"]), r["_id"]))
        signed = sorted(self.checkpoints, key=lambda c: (str(c["writer"]), int(c["seq"])))

        async def walk() -> None:
            async for _ in check.walk(_each(records), _each(signed)):
                raise AssertionError("nothing is counted here")

        with pytest.raises(StopIteration):  # nothing is waited for, so no event loop is needed
            walk().send(None)
        return check.report

    def signed_up_to(self, writer: str) -> int:
        """The number of a writer's last record that a checkpoint signs."""
        return max((c["seq"] for c in self.checkpoints if c["writer"] == writer), default=0)

    def _document(self) -> Document:
        self.number += 1
        jitter = timedelta(seconds=self.number * 7 % 15)
        return {"event_type": "login_success", "timestamp": self.now - jitter, "n": self.number}


def as_stored(document: Document) -> Document:
    """What comes back from the database: dates count milliseconds."""
    return {name: _cut(value) for name, value in copy.deepcopy(document).items()}


def _cut(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(microsecond=value.microsecond // 1000 * 1000)
    return value


def _type(identity: object) -> int:
    return 1 if isinstance(identity, str) else 2


async def _each(documents: Iterable[Document]) -> AsyncIterator[Document]:
    for document in documents:
        yield document


WRITERS = st.integers(0, 2)
STEPS = st.one_of(
    st.tuples(st.just("write"), WRITERS, st.integers(1, 4), st.just("ok"), st.just(0)),
    st.tuples(
        st.just("write"),
        WRITERS,
        st.integers(1, 4),
        st.sampled_from(["lost", "none", "some"]),
        st.integers(0, 15),
    ),
    st.tuples(st.just("sign"), WRITERS, st.sampled_from(["ok", "ok", "lost", "none"])),
    st.tuples(st.just("wait"), st.integers(0, 900)),
)
HISTORIES = st.lists(STEPS, max_size=30)


def played(history: Iterable[tuple[Any, ...]]) -> World:
    """The world after a history."""
    world = World()
    for name, *arguments in history:
        getattr(world, name)(*arguments)
    return world


def busy() -> World:
    """Three writers, one of which failed in between, all signed but for a tail of the first."""
    world = World()
    for writer in range(3):
        world.write(writer, 4)
    world.write(1, 3, "some", 0b110)
    world.write(1, 2, "none")
    world.write(1, 2)
    for writer in range(3):
        world.sign(writer)
        world.wait(1)
    world.write(2, 3)
    world.sign(2)
    world.write(0, 3)
    return world


@given(HISTORIES, st.integers(-4, 120))
def test_any_history_verifies(history: list[tuple[Any, ...]], lag: int) -> None:
    """Batches that failed or whose answer was lost, checkpoints too, and what time took away."""
    world = played(history)
    before = world.verify()
    assert before.findings == []
    assert before.records == len(world.records)
    world.expire(lag * MINUTE)
    assert world.verify().findings == []


def alter(record: Document, world: World) -> None:
    """Change what it says."""
    record["n"] += 1


def alter_with_hash(record: Document, world: World) -> None:
    """Change what it says, and its hash with it."""
    record["n"] += 1
    record["hash"] = digest(record, "hash")


def backdate(record: Document, world: World) -> None:
    """Change when it was."""
    record["timestamp"] -= HOUR


def unlink(record: Document, world: World) -> None:
    """Change which one it follows."""
    record["previous"] = "x" * 43


def add_a_field(record: Document, world: World) -> None:
    """Add what it did not say."""
    record["more"] = None


def drop_a_field(record: Document, world: World) -> None:
    """Take away what it said."""
    del record["n"]


def disguise(record: Document, world: World) -> None:
    """Replace a date by what is hashed in its place."""
    moment = int(record["timestamp"].timestamp() * 1000)
    record["timestamp"] = {"$date": moment}


def remove(record: Document, world: World) -> None:
    """Take it out."""
    del world.records[record["_id"]]


def move(record: Document, world: World) -> None:
    """Give it the next place, if that is free, or exchange it with who has it."""
    writer, seq = place_of(record["_id"]) or ("", 0)
    old, new = record["_id"], record_id(writer, seq + 1)
    other = world.records.pop(new, None)
    world.records.pop(old)
    world.records[new] = {**record, "_id": new}
    if other is not None:
        world.records[old] = {**other, "_id": old}


Deed = Callable[[Document, World], None]
#: Which deeds show even where no signature and no later record is.
ALWAYS_SEEN: tuple[Deed, ...] = (
    alter, backdate, unlink, add_a_field, drop_a_field, disguise, move,
)  # fmt: skip


@pytest.mark.parametrize("deed", ALWAYS_SEEN, ids=lambda deed: deed.__name__)
@given(HISTORIES, st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_an_altered_record_is_named(
    deed: Deed, history: list[tuple[Any, ...]], chance: random.Random
) -> None:
    """Whichever it is, signed or not: the finding names it."""
    world = played(history)
    if not world.records:
        return
    name = chance.choice(sorted(world.records))
    deed(world.records[name], world)
    report = world.verify()
    assert any(finding.where.startswith(name[:17]) for finding in report.findings), name
    if deed is not move:
        assert name in {finding.where for finding in report.findings}


@pytest.mark.parametrize("deed", [remove, alter_with_hash], ids=lambda deed: deed.__name__)
@given(HISTORIES, st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_what_is_undone_with_care_is_named_or_unproven(
    deed: Deed, history: list[tuple[Any, ...]], chance: random.Random
) -> None:
    """Where a checkpoint signs it, it is found, unless its own writer was in doubt of it."""
    world = played([step for step in history if step[0] != "wait"])
    if not world.records:
        return
    clean = world.verify()
    name = chance.choice(sorted(world.records))
    writer, seq = place_of(name) or ("", 0)
    deed(world.records[name], world)
    report = world.verify()
    if report.findings:
        found = {finding.where for finding in report.findings}
        assert any(name in where or _covers(where, writer, seq) for where in found)
    else:
        is_signed = seq <= world.signed_up_to(writer)
        assert clean.in_doubt if is_signed else clean.unsigned


def _covers(where: str, writer: str, seq: int) -> bool:
    first, _, last = where.partition(" to ")
    if not last:
        return False
    (of, low), (_, high) = (place_of(each) or ("", 0) for each in (first, last))
    return of == writer and low <= seq <= high


def test_every_signed_record_of_a_history_is_missed() -> None:
    """One after the other is taken out, and each time it is named, perhaps with doubtful ones."""
    for name in sorted(busy_names()):
        world = busy_as_named()
        writer, seq = place_of(name) or ("", 0)
        if seq > world.signed_up_to(writer):
            continue
        del world.records[name]
        report = world.verify()
        if not report.findings:  # it is one that its writer was in doubt of
            assert writer == world.writers[1][0].writer
            assert 5 <= seq <= 9
        else:
            found = [finding.where for finding in report.findings]
            assert name in found or any(_covers(where, writer, seq) for where in found)
            assert len(found) == 1 or writer == world.writers[1][0].writer


_BUSY = busy()


def busy_names() -> list[str]:
    return list(_BUSY.records)


def busy_as_named() -> World:
    return copy.deepcopy(_BUSY)


@given(st.integers(1, 10))
def test_a_record_that_was_added_is_found_or_unproven(number: int) -> None:
    """In no chain, behind a chain, or in a made-up one."""
    world = busy_as_named()
    world.records[str(number)] = {"_id": ObjectId(), "timestamp": world.now, "n": number}
    assert [f.what for f in world.verify().findings] == ["added"]

    clean = busy_as_named().verify()
    for writer in ("x" * 16, world.writers[0][0].writer):
        world = busy_as_named()
        names = [name for name in world.records if name.startswith(writer)]
        last = world.records[max(names)] if names else {"_id": record_id(writer, 0), "hash": ""}
        name = record_id(writer, (place_of(last["_id"]) or ("", 0))[1] + 1)
        added = {"_id": name, "timestamp": world.now, "n": number, "previous": last["hash"]}
        world.records[name] = {**added, "hash": digest(added)}
        report = world.verify()
        assert report.findings == []
        assert report.unsigned == clean.unsigned + 1


def test_what_is_not_expired_may_not_be_missing() -> None:
    """Of the oldest records only those may be gone whose time is over."""
    for kept in range(1, 24):
        world = World()
        for _ in range(30):
            world.write(0, 2)
            world.sign(0)
            world.wait(60)
        old = sorted(world.records)[: 2 * (30 - kept)]
        for name in old:
            del world.records[name]
        report = world.verify()
        assert bool(report.findings) == (kept < 24 - 1), kept
        if not report.findings:
            assert report.expired == len(old)


def test_records_may_go_that_went_while_the_retention_was_shorter() -> None:
    """It stands in a checkpoint of that time; what came after it may not."""
    world = World()
    world.write(0, 2)
    world.sign(0)
    world.wait(120)
    world.write(0, 2)
    world.sign(0)
    world.checkpoints[-1]["retention_days"] = 1 / 24
    signed_anew(world)
    first, second, third, _ = sorted(world.records)
    del world.records[first], world.records[second]
    assert world.verify().findings == []
    del world.records[third]
    assert [f.where for f in world.verify().findings] == [third]


def test_records_must_be_there_as_long_as_somebody_says_who_knows() -> None:
    """Whoever can write to the database can shorten the retention there, and lengthen it again."""
    world = World()
    world.write(0, 2)
    world.sign(0)
    world.wait(60)
    world.write(0, 2)
    world.sign(0)
    world.checkpoints[-1]["retention_days"] = 1 / 48
    signed_anew(world)
    del world.records[min(world.records)]
    assert world.verify().findings == []
    assert world.verify(retention=MINUTE).findings == []
    for options in ({}, {"retention": MINUTE}):
        report = world.verify(kept=2 * HOUR, **options)
        assert [f.what for f in report.findings] == ["removed"]
    assert world.verify(kept=HOUR / 2).findings == []


def signed_anew(world: World, key: Any = KEY) -> None:
    """Give every checkpoint a signature and its successor's hash, as who has the key could."""
    before = None
    for checkpoint in world.checkpoints:
        checkpoint["previous"] = hash_of(before) if before else ""
        checkpoint["kid"], checkpoint["own"] = key.kid, None
        checkpoint["previous_kid"] = key.kid if before else None
        checkpoint["signature"] = b64url_encode(key.sign(_message(checkpoint))).decode()
        before = checkpoint


@pytest.mark.parametrize("place", range(4))
def test_a_checkpoint_cannot_be_taken_out_or_altered(place: int) -> None:
    """The next one knows its hash; the last one is missed by who noted it, or by its writer."""
    assert len(_BUSY.checkpoints) == 4
    world = busy_as_named()
    head = world.verify().head
    assert head is not None
    del world.checkpoints[place]
    report = world.verify(anchors={head.number: head.hash})
    assert [f.what for f in report.findings][:1] == ["removed"]
    assert str(place + 1) in report.findings[0].where

    world = busy_as_named()
    world.checkpoints[place]["seq"] += 1
    report = world.verify()
    assert f"checkpoint {place + 1}" in {f.where for f in report.findings}


def test_the_end_of_the_checkpoints_is_not_cut_under_a_living_writer() -> None:
    """It goes on from what it knows, and that tells of those that are gone."""
    world = busy_as_named()
    del world.checkpoints[2:]
    world.write(2, 1)
    world.sign(2)
    assert [f.what for f in world.verify().findings if "checkpoint" in f.where] == ["removed"]


def test_a_checkpoint_is_missed_when_another_writer_took_its_number() -> None:
    """Its writer names it in the next one: what it signed is not taken for expired."""
    world = World()
    for writer in (0, 1, 0):
        world.write(writer, 3)
        world.sign(writer)
    gone = world.checkpoints.pop()
    for seq in range(gone["since"] + 1, gone["seq"] + 1):
        del world.records[record_id(gone["writer"], seq)]
    for writer in (1, 0):
        world.write(writer, 3)
        world.sign(writer)
    found = world.verify().findings
    assert [(f.what, f.where) for f in found] == [("removed", "checkpoint 3")]


@pytest.mark.parametrize("by", [None, OTHER_KEY], ids=["nobody", "another key"])
def test_what_is_put_before_the_next_checkpoint_does_not_make_those_before_expire(by: Any) -> None:
    """It is followed, and not believed: whoever takes all before it away is found out."""
    world = busy_as_named()
    old = {**world.checkpoints[-1], "_id": 5, "time": NOW - 100 * RETENTION}
    if by is not None:
        old["kid"] = by.kid
        old["signature"] = b64url_encode(by.sign(_message(old))).decode()
    world.checkpoints.append(old)
    keys = verifying_keys([{"public": dict(key.public_jwk)} for key in (KEY, OTHER_KEY)])
    span = Chain().span()
    made = checkpoint_document(old, span, [], None, RETENTION, world.now, KEY, keys)
    world.checkpoints = [as_stored(made)]
    world.records = {}
    report = world.verify(keys=keys, pins=[KEY.kid])
    if by is None:
        assert [f.where for f in report.findings] == ["checkpoints 1 to 5"]
    else:
        assert [(f.what, f.where) for f in report.findings] == [("forged", "checkpoint 5")]
        assert set(world.verify(keys=keys).keys) == {KEY.kid, OTHER_KEY.kid}


def test_another_key_is_not_taken_for_ours() -> None:
    """Who can write all of the database can sign all of it anew: the pinned key shows it."""
    world = busy_as_named()
    signed_anew(world, OTHER_KEY)
    assert {f.what for f in world.verify().findings} == {"altered"}
    both = verifying_keys([{"public": dict(key.public_jwk)} for key in (KEY, OTHER_KEY)])
    forged = world.verify(keys=both)
    assert forged.findings == []
    assert forged.keys == [OTHER_KEY.kid]
    pinned = world.verify(keys=both, pins=[KEY.kid])
    assert {f.what for f in pinned.findings} == {"forged"}
    anchored = world.verify(keys=both, anchors={1: hash_of(_BUSY.checkpoints[0])})
    assert [f.where for f in anchored.findings] == ["checkpoint 1"]


@pytest.mark.parametrize(
    "change",
    [
        {"_id": "1"}, {"seq": "1"}, {"time": None}, {"counted": None}, {"counted": [1]},
        {"writer": None}, {"signature": 7}, {"own": 7}, {"retention_days": "x"}, {"kid": None},
        {"oldest": 7},
    ],
    ids=str,
)  # fmt: skip
def test_nonsense_is_a_finding_and_no_failure(change: Document) -> None:
    """Whatever somebody writes into the collections, the others are read."""
    world = busy_as_named()
    world.checkpoints[1].update(change)
    assert world.verify().findings
    world = busy_as_named()
    for fields in ({"resumes": 7}, {"hash": None}, {"previous": None}, {"timestamp": "x"}):
        name = sorted(world.records)[3]
        world.records[name].update(fields)
        assert world.verify().findings


def test_findings_are_bounded() -> None:
    """What is more is counted."""
    world = World()
    world.write(0, MOST_FINDINGS + 7)
    world.sign(0)
    for record in world.records.values():
        record["n"] = 0
    report = world.verify()
    assert len(report.findings) == MOST_FINDINGS
    assert report.more_findings == 7


def test_the_databases_clock_may_be_ahead() -> None:
    """By five minutes; what goes earlier than that is missed."""
    for ahead, is_found in ((CLOCK_SKEW - SECOND, False), (CLOCK_SKEW + SECOND, True)):
        world = World()
        world.write(0, 1)
        world.sign(0)
        world.write(0, 1)
        world.sign(0)
        record = world.records.pop(min(world.records))
        world.now = record["timestamp"] + RETENTION - ahead
        assert bool(world.verify().findings) is is_found


def test_the_canonical_form_is_what_the_page_says() -> None:
    """Somebody else can compute the hashes with any tool."""
    document = {"b": NOW, "a": "\u00e4", "c": [1, 1.0, True, None, {"y": 1, "x": 2}]}
    assert canonical(document) == (
        b'{"a":"\\u00e4","b":{"$date":1893553445678},"c":[1,1.0,true,null,{"x":2,"y":1}]}'
    )
    assert is_canonical(document)
    assert not is_canonical({"a": [{"b": {"$date": 1}}]})
    assert digest({**document, "hash": "x"}, "hash") == digest(document)


@pytest.mark.parametrize(
    "identity",
    ["x:000000000001", "x" * 16, "x" * 16 + ":1", "rate_limit_exceeded:~:ip:202001010000", 7, None],
    ids=str,
)
def test_what_is_no_place_in_a_chain(identity: object) -> None:
    """An id of another kind is not taken for one."""
    assert place_of(identity) is None
    assert place_of(record_id("w" * 16, 17)) == ("w" * 16, 17)


def test_a_hole_among_unsigned_records_is_counted() -> None:
    """It may be a removal, or a record that was never written: the report says how many."""
    world = busy_as_named()
    writer = world.writers[0][0].writer
    del world.records[record_id(writer, 6)]  # of 5 to 7, which nothing signs
    report = world.verify()
    assert (report.is_intact, report.maybe_missing, report.unsigned) == (True, 1, 2)
