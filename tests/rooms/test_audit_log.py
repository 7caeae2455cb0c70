"""The audit log in its database: chained when written, signed in the background, read back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from _oauth2_m2m import audit as audit_room
from _oauth2_m2m.audit import (
    COUNTED_FOR,
    MOST_COUNTED,
    AuditLog,
    Event,
    refusal_document,
    refusal_fields,
)
from _oauth2_m2m.audit_addresses import addresses_from
from _oauth2_m2m.audit_chain import digest, place_of
from _oauth2_m2m.audit_reading import MOST_FOUND, AuditReading
from _oauth2_m2m.audit_verification import AuditReport
from _oauth2_m2m.callers import Caller
from _oauth2_m2m.config import Environment, settings_from
from _oauth2_m2m.errors import ConfigurationError, InvalidClient, TemporarilyUnavailable
from _oauth2_m2m.key_sealing import KeySealer
from _oauth2_m2m.rules import Broken, Flow, Rule
from _oauth2_m2m.services import Services
from _oauth2_m2m.storage import Storage
from tests.rooms.conftest import Commands

Document = dict[str, Any]

CALLER = Caller("192.0.2.7", {"x-request-id": "a-request", "user-agent": "curl/8"})
RETENTION = timedelta(days=90)
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def audit(storage: Storage) -> AuditLog:
    """The room, prepared."""
    return await log_of(storage)


@pytest.fixture
async def services(async_database: AsyncDatabase[Any]) -> AsyncIterator[Services]:
    """All rooms, prepared, their own records signed."""
    found = Services(async_database, Environment.DEVELOPMENT, KeySealer())
    await found.prepare()
    yield found
    await found.drain()


async def log_of(storage: Storage, sealer: KeySealer | None = None) -> AuditLog:
    log = AuditLog(storage, sealer=sealer)
    await log.prepare(RETENTION)
    return log


async def write(log: AuditLog, count: int = 1, **fields: Any) -> None:
    """Write records side by side, as requests do."""
    now = datetime.now(UTC)
    fields = {"caller": CALLER, "client_id": "billing", **fields}
    written = [log.record(Event.LOGIN_SUCCESS, now, **fields) for _ in range(count)]
    for each in written:
        await each


async def verify(services: Services, **options: Any) -> AuditReport:
    return await AuditReading(services).verify(**options)


def found(report: AuditReport) -> list[tuple[str, str]]:
    return [(str(each.what), each.where) for each in report.findings]


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait for what happens in the background."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.02)


async def test_many_writers_make_chains_that_verify(
    services: Services, storage: Storage, database: Database[Any]
) -> None:
    """Workers, event loops and batches: each loop of each log is a chain without holes."""
    logs = [services.audit, await log_of(storage), await log_of(storage)]

    def elsewhere() -> None:
        asyncio.run(in_another_loop())

    async def in_another_loop() -> None:
        log = AuditLog(Storage(database))  # a synchronous database works in any loop
        await write(log, 20)
        await log.drain()

    await asyncio.gather(*(write(log, 30) for log in logs for _ in range(4)))
    await asyncio.to_thread(elsewhere)
    for log in logs:
        await log.drain()
    report = await verify(services)
    assert report.is_intact
    assert (report.records, report.writers, report.unsigned) == (380, 4, 0)
    assert report.checkpoints == report.head.number == 4  # type: ignore[union-attr]
    places = [place_of(each["_id"]) for each in database["audit_logs"].find()]
    numbers = sorted(seq for place in places if place for seq in place[1:])
    assert numbers == sorted([*range(1, 21), *(n for _ in range(3) for n in range(1, 121))])


async def test_a_record_that_is_altered_or_removed_by_hand_is_named(
    services: Services, database: Database[Any]
) -> None:
    """As somebody would do it who got into the database."""
    await write(services.audit, 10)
    await services.audit.drain()
    names = sorted(each["_id"] for each in database["audit_logs"].find())
    database["audit_logs"].update_one({"_id": names[4]}, {"$set": {"client_id": "another"}})
    assert found(await verify(services)) == [("altered", names[4])]
    database["audit_logs"].update_one({"_id": names[4]}, {"$set": {"client_id": "billing"}})
    assert (await verify(services)).is_intact
    database["audit_logs"].delete_one({"_id": names[9]})
    database["audit_logs"].delete_one({"_id": names[2]})
    assert found(await verify(services)) == [("removed", names[2]), ("removed", names[9])]
    database["audit_logs"].insert_one({"_id": ObjectId(), "timestamp": datetime.now(UTC)})
    assert "added" in {what for what, _ in found(await verify(services))}


@pytest.mark.parametrize("is_written", [False, True], ids=["nothing", "everything"])
async def test_a_batch_of_unknown_outcome_leaves_no_break(
    services: Services,
    database: Database[Any],
    monkeypatch: pytest.MonkeyPatch,
    is_written: bool,
) -> None:
    """Its requests fail; the next record says from where the writer goes on."""
    log = services.audit
    await write(log, 3)
    insert = type(log._records).insert

    async def insert_in_doubt(self: Any, documents: Sequence[Document]) -> list[bool]:
        if is_written:
            await insert(self, documents)
        raise TemporarilyUnavailable(detail="the answer was lost")

    monkeypatch.setattr(type(log._records), "insert", insert_in_doubt)
    with pytest.raises(TemporarilyUnavailable):
        await write(log, 2)
    monkeypatch.setattr(type(log._records), "insert", insert)
    await write(log, 2)
    await write(log)
    await log.drain()
    report = await verify(services)
    assert report.is_intact
    assert (report.in_doubt, report.unsigned) == (2, 0)
    assert report.records == (8 if is_written else 6)
    (resumed,) = database["audit_logs"].find({"resumes": {"$exists": True}})
    assert (place_of(resumed["_id"]) or ("", 0))[1] == 6
    assert resumed["resumes"]["seq"] == 3
    database["audit_logs"].delete_one({"_id": {"$regex": ":000000000003$"}})
    assert [what for what, _ in found(await verify(services))] == ["removed"]


async def test_a_place_that_is_taken_fails_the_request_and_shows(
    services: Services, database: Database[Any]
) -> None:
    """Whoever puts a record ahead of a writer stops one batch, and is found."""
    log = services.audit
    await write(log, 2)
    last = database["audit_logs"].find_one(sort=[("_id", -1)])
    assert last is not None
    name = last["_id"][:-1] + "3"
    made_up = {**last, "_id": name, "previous": last["hash"]}
    database["audit_logs"].insert_one({**made_up, "hash": digest(made_up, "hash")})
    with pytest.raises(TemporarilyUnavailable):
        await write(log)
    await write(log)
    await log.drain()
    assert ("altered", name) in found(await verify(services))


# --- Checkpoints --------------------------------------------------------------------------------


async def test_a_checkpoint_is_made_after_so_many_records(
    audit: AuditLog, database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the requests, without waiting for the minute."""
    monkeypatch.setattr(audit_room, "MOST_UNSIGNED", 50)
    await write(audit, 49)
    await asyncio.sleep(0.2)
    assert database["audit_checkpoints"].count_documents({}) == 0
    await write(audit)
    await until(lambda: database["audit_checkpoints"].count_documents({}))
    (checkpoint,) = database["audit_checkpoints"].find()
    assert checkpoint["seq"] == 50
    assert checkpoint["retention_days"] == 90


async def test_a_checkpoint_is_made_in_time(
    audit: AuditLog, database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One record is enough, once the minute is over; then there is nothing more to sign."""
    monkeypatch.setattr(audit_room, "SIGNED_WITHIN_SECONDS", 0.1)
    await write(audit)
    await until(lambda: database["audit_checkpoints"].count_documents({}))
    await asyncio.sleep(0.5)
    assert database["audit_checkpoints"].count_documents({}) == 1
    await write(audit)
    await until(lambda: database["audit_checkpoints"].count_documents({}) == 2)


@pytest.mark.parametrize("put", [{"_id": "z"}, {"_id": 2**63 - 1}, {"_id": 9, "kid": {}}], ids=str)
async def test_the_end_of_an_app_does_not_fail_for_what_was_put_among_the_checkpoints(
    audit: AuditLog,
    services: Services,
    database: Database[Any],
    caplog: pytest.LogCaptureFixture,
    put: dict[str, Any],
) -> None:
    """The log says so, and so does whoever verifies."""
    database["audit_checkpoints"].insert_one(put)
    await write(audit)
    await audit.drain()
    assert "the newest checkpoint is none" in caplog.text
    assert found(await verify(services)) == [("altered", f"checkpoint {put['_id']}")]


async def test_the_end_does_not_wait_for_a_database_that_is_away(
    audit: AuditLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The records are durable; that they are not signed is said in the log."""
    monkeypatch.setattr(audit_room, "LAST_CHECKPOINT_SECONDS", 0.2)
    await write(audit)

    async def never(*_: Any) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(audit._checkpoints, "add", never)
    began = time.monotonic()
    await audit.drain()
    assert time.monotonic() - began < 10
    assert "not signed" in caplog.text


async def test_writers_that_sign_at_once_make_one_chain(
    services: Services, storage: Storage, database: Database[Any]
) -> None:
    """A dozen of them: no number twice, none missing, one key."""
    logs = [await log_of(storage) for _ in range(12)]
    for log in logs:
        await write(log, 2)
    await asyncio.gather(*(log.drain() for log in logs))
    numbers = sorted(each["_id"] for each in database["audit_checkpoints"].find())
    assert numbers == list(range(1, 13))
    assert database["audit_keys"].count_documents({}) == 1
    assert (await verify(services)).is_intact


async def test_what_cannot_be_signed_delays_and_fails_nobody(
    services: Services,
    storage: Storage,
    database: Database[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A key that does not open: records are written, the log says it, and the next key signs."""
    first = await log_of(storage, KeySealer([b"1" * 32]))
    await write(first)
    await first.drain()
    (key,) = database["audit_keys"].find()
    assert key["sealed_with"] is not None
    other = await log_of(storage, KeySealer([b"2" * 32]))
    await write(other)
    await other.drain()
    assert "the audit log is not signed" in caplog.text
    report = await verify(services)
    assert (report.is_intact, report.unsigned) == (True, 1)
    database["audit_keys"].update_one({"_id": 1}, {"$unset": {"private": ""}})
    await write(other)
    await other.drain()
    report = await verify(services)
    assert (report.is_intact, report.unsigned, len(report.keys)) == (True, 0, 2)


async def test_the_key_is_sealed_anew_with_another_first_key(
    storage: Storage, database: Database[Any]
) -> None:
    """So the old encryption key is needed no more; and one in the clear is sealed."""
    sealers = [KeySealer(), KeySealer([b"1" * 32]), KeySealer([b"2" * 32, b"1" * 32])]
    for sealer in sealers:
        log = await log_of(storage, sealer)
        await write(log)
        await log.drain()
        (key,) = database["audit_keys"].find()
        assert key["sealed_with"] == sealer.seals_with
    log = await log_of(storage, KeySealer([b"2" * 32]))
    await write(log)
    await log.drain()
    assert database["audit_checkpoints"].count_documents({}) == 4


async def test_with_the_key_sealed_the_database_alone_cannot_sign(
    storage: Storage, database: Database[Any]
) -> None:
    """What lies in the collection is no private key."""
    log = await log_of(storage, KeySealer([b"1" * 32]))
    await write(log)
    await log.drain()
    (key,) = database["audit_keys"].find()
    with pytest.raises(ConfigurationError):
        KeySealer().open(key["private"], key["kid"], key["sealed_with"])


async def test_a_key_that_was_put_there_in_the_clear_does_not_sign(
    services: Services, storage: Storage, database: Database[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Where keys are sealed, who can only write to the database brings none in."""
    sealer = KeySealer([b"1" * 32])
    first = await log_of(storage, sealer)
    await write(first)
    await first.drain()
    stranger = await log_of(storage, KeySealer())
    database["audit_keys"].update_one({"_id": 1}, {"$unset": {"private": ""}})
    await write(stranger)
    await stranger.drain()
    planted = database["audit_keys"].find_one({"_id": 2})
    assert planted is not None
    assert planted["sealed_with"] is None
    log = await log_of(storage, sealer)
    await write(log)
    await log.drain()
    assert "is not sealed" in caplog.text
    newest = database["audit_checkpoints"].find_one(sort=[("_id", -1)])
    assert newest is not None
    assert newest["kid"] != planted["kid"]
    assert (await verify(services)).is_intact


# --- Counted refusals ---------------------------------------------------------------------------


async def refuse(log: AuditLog, key: str, ago: timedelta, caller: Caller = CALLER) -> None:
    first = refusal_document(datetime.now(UTC) - ago, caller, "billing", 60)
    await log.refused(log.kept_key(key, caller.network), first)


async def test_counted_refusals_are_sealed_when_their_minute_is_over(
    services: Services, storage: Storage, database: Database[Any]
) -> None:
    """Until then they count; afterwards nobody can, and what is changed in them shows."""
    log = services.audit
    young, old = "billing:192.0.2.7:203001010000", "billing:192.0.2.7:202901010000"
    for _ in range(3):
        await refuse(log, young, COUNTED_FOR - MINUTE)
        await refuse(await log_of(storage), old, COUNTED_FOR + MINUTE)
    await write(log)
    await log.drain()
    sealed = {each["_id"]: each["sealed"] for each in database["audit_logs"].find({"count": 3})}
    assert sealed == {f"rate_limit_exceeded:{young}": 0, f"rate_limit_exceeded:{old}": 1}
    report = await verify(services)
    assert (report.is_intact, report.counting) == (True, 1)
    await refuse(log, young, timedelta(0))
    with pytest.raises(TemporarilyUnavailable):
        await refuse(log, old, COUNTED_FOR + MINUTE)
    name = f"rate_limit_exceeded:{old}"
    for change in ({"count": 2}, {"client_id": "another"}, {"sealed": 0}):
        before = database["audit_logs"].find_one_and_update({"_id": name}, {"$set": change})
        assert found(await verify(services)) == [("altered", name)], change
        database["audit_logs"].replace_one({"_id": name}, before or {})
    assert (await verify(services)).is_intact
    database["audit_logs"].delete_one({"_id": name})
    assert found(await verify(services)) == [("removed", name)]
    record = {"_id": "rate_limit_exceeded:made-up", "event_type": "rate_limit_exceeded"}
    database["audit_logs"].insert_one({**record, "sealed": 1, "timestamp": datetime.now(UTC)})
    assert ("added", record["_id"]) in found(await verify(services))


async def test_refusals_of_a_quota_are_sealed_when_their_day_is_over(
    services: Services, storage: Storage, database: Database[Any]
) -> None:
    """However long ago the first of them was; the key, which names no address, stays as it is."""
    log, now = services.audit, datetime.now(UTC)
    key, observed = "billing:*:20300101", "billing:*:20300101:observed"
    for name in (key, observed):
        assert log.kept_key(name, CALLER.network) == name
        first = refusal_document(
            now - COUNTED_FOR - MINUTE,
            CALLER,
            "billing",
            9,
            period="day",
            observed=name == observed,
        )
        # Midnight may be near.
        first["counted_until"] = max(first["counted_until"], now + MINUTE)
        for _ in range(2):
            await log.refused(name, first)
    await write(log)
    await log.drain()
    report = await verify(services)
    assert (report.is_intact, report.counting) == (True, 2)
    over = {"$set": {"counted_until": now - COUNTED_FOR - MINUTE}}
    database["audit_logs"].update_many({"counted_until": {"$exists": True}}, over)
    await write(log)
    await log.drain()
    report = await verify(services)
    assert (report.is_intact, report.counting) == (True, 0)
    counted = database["audit_logs"].find({"sealed": {"$gt": 0}}, {"count": 1, "observed": 1})
    assert {each["_id"].partition(":")[2]: each for each in counted} == {
        key: {"_id": f"rate_limit_exceeded:{key}", "count": 2},
        observed: {"_id": f"rate_limit_exceeded:{observed}", "count": 2, "observed": True},
    }


async def test_many_counted_records_are_sealed_by_several_checkpoints(
    services: Services, database: Database[Any]
) -> None:
    """A flood from many addresses waits for no further minute."""
    log = services.audit
    await asyncio.gather(*(
        refuse(log, f"~:192.0.2.7:{number}", COUNTED_FOR + MINUTE)
        for number in range(MOST_COUNTED + 1)
    ))  # fmt: skip
    await write(log)
    await log.drain()
    sizes = [len(each["counted"]) for each in database["audit_checkpoints"].find(sort=[("_id", 1)])]
    assert sizes == [MOST_COUNTED, 1]
    assert (await verify(services)).is_intact


async def test_what_a_dying_worker_left_closed_is_sealed_by_another(
    services: Services, database: Database[Any]
) -> None:
    """It had let nobody count on, and made no checkpoint."""
    await refuse(services.audit, "~:192.0.2.7:1", COUNTED_FOR + MINUTE)
    database["audit_logs"].update_one({}, {"$set": {"sealed": -1}})
    await write(services.audit)
    await services.audit.drain()
    report = await verify(services)
    assert (report.is_intact, report.counting) == (True, 0)


# --- Asking -------------------------------------------------------------------------------------

QUESTIONS: list[tuple[Document, str]] = [
    ({"client_id": "billing"}, "client_id_1_timestamp_1"),
    ({"event": "login_success"}, "event_type_1_timestamp_1"),
    ({"address": "192.0.2.7"}, "ip_1_timestamp_1"),
    ({"request_id": "a-request"}, "request_id_1"),
    ({"error_id": "an-error"}, "error_id_1"),
    ({"since": datetime(2030, 1, 1, tzinfo=UTC)}, "timestamp_1"),
    ({"until": datetime(2000, 1, 1, tzinfo=UTC)}, "timestamp_1"),
    ({}, "timestamp_1"),
]


@pytest.mark.parametrize(("question", "index"), QUESTIONS, ids=str)
async def test_every_question_is_answered_by_its_index(
    watched_storage: Storage,
    commands: Commands,
    database: Database[Any],
    question: Document,
    index: str,
) -> None:
    """However many other records there are, few are looked at."""
    services = Services(watched_storage._database, Environment.DEVELOPMENT, KeySealer())
    await services.prepare()
    now = datetime.now(UTC)
    database["audit_logs"].insert_many([
        {"client_id": f"c{n}", "event_type": f"e{n}", "ip": f"i{n}", "request_id": f"r{n}",
         "error_id": f"x{n}", "timestamp": now - n * MINUTE}
        for n in range(300)
    ])  # fmt: skip
    await write(services.audit, 3)
    await services.audit.drain()
    commands.sent.clear()
    await AuditReading(services).search(**question, limit=5)
    (plan,) = [
        plan
        for command, plan in zip(commands.named("find"), commands.plans(database), strict=True)
        if command["find"] == "audit_logs"
    ]
    assert index in plan.indexes
    assert "COLLSCAN" not in plan.stages
    assert plan.examined <= 5


async def test_a_search_finds_what_matches_the_newest_first(services: Services) -> None:
    """All that is given must match."""
    reading, log = AuditReading(services), services.audit
    now = datetime.now(UTC)
    for number in range(4):
        await log.record(
            Event.LOGIN_FAILURE, now - number * MINUTE, caller=CALLER, client_id=f"c{number % 2}"
        )
    both = await reading.search(client_id="c0", event="login_failure", address="192.0.2.7")
    assert [each["timestamp"] > now - MINUTE for each in both] == [True, False]
    between = await reading.search(since=now - 2.5 * MINUTE, until=now - 0.5 * MINUTE)
    assert [each["client_id"] for each in between] == ["c1", "c0"]
    assert await reading.search(client_id="c0", event="login_success") == []
    assert len(await reading.search(limit=3)) == 3


async def test_a_search_has_a_bound(services: Services) -> None:
    """An export has none."""
    reading = AuditReading(services)
    assert await reading.search(limit=MOST_FOUND) == []
    for limit in (0, MOST_FOUND + 1):
        with pytest.raises(ValueError, match="limit"):
            await reading.search(limit=limit)


async def test_following_shows_each_new_record_once(services: Services) -> None:
    """What is there already is not shown; what comes later is."""
    log = services.audit
    await write(log, 2)
    seen: list[Document] = []

    async def follow() -> None:
        async for record in AuditReading(services).follow(event="login_success"):
            seen.append(record)

    following = asyncio.create_task(follow())
    await asyncio.sleep(1.5)
    await write(log, 3)
    await until(lambda: len(seen) >= 3)
    await asyncio.sleep(1.5)
    following.cancel()
    assert len({each["_id"] for each in seen}) == len(seen) == 3


async def test_an_export_has_every_record_on_a_line_of_its_own(services: Services) -> None:
    """As an event of the schema, or as it stands."""
    await write(services.audit, 2500, reason="a \u2028 line")
    events = [json.loads(line) async for line in AuditReading(services).export()]
    assert len(events) == 2500
    assert {each["class_uid"] for each in events} == {3002}
    assert len({each["metadata"]["uid"] for each in events}) == 2500
    plain = AuditReading(services).export(ocsf=False, client_id="billing")
    first = json.loads(await anext(plain))
    assert first["event_type"] == "login_success"
    assert first["timestamp"].endswith("Z")


@asynccontextmanager
async def keeping(storage: Storage, form: str) -> AsyncIterator[AuditLog]:
    log = await log_of(storage)
    log.configure(settings_from({"SECRET_KEY": "s" * 40, "AUDIT_ADDRESSES": form}))
    yield log
    await log.drain()


@pytest.mark.parametrize(
    ("address", "truncated"),
    [("192.0.2.7", "192.0.2.0/24"), ("2001:db8:7:8:9::1", "2001:db8:7::/48")],
)
async def test_addresses_are_kept_as_the_setting_says(
    storage: Storage, database: Database[Any], address: str, truncated: str
) -> None:
    """In the record, and in the id of counted refusals; and a search finds all forms."""
    caller = Caller(address, {})
    key = f"a:b:{caller.network}:203001010000"
    for form in ("whole", "truncated", "hashed"):
        async with keeping(storage, form) as log:
            await write(log, caller=caller)
            await refuse(log, key, timedelta(0), caller)
    ips = [each["ip"] for each in database["audit_logs"].find({"event_type": "login_success"})]
    assert sorted(ip[:5] for ip in ips) == sorted([address[:5], truncated[:5], "hmac:"])
    assert {address, truncated} < set(ips)
    names = {e["_id"] for e in database["audit_logs"].find({"event_type": "rate_limit_exceeded"})}
    assert f"rate_limit_exceeded:{key}" in names
    assert f"rate_limit_exceeded:a:b:{truncated}:203001010000" in names
    assert len(names) == 3
    (hashed,) = [name for name in names if "hmac:" in name]
    assert caller.network not in hashed
    settings = settings_from({"SECRET_KEY": "s" * 40})
    assert set(ips) == set(addresses_from(settings).spellings(address))
    rotated = {"SECRET_KEY": "t" * 40, "PREVIOUS_SECRET_KEYS": ["s" * 40]}
    assert set(ips) < set(addresses_from(settings_from(rotated)).spellings(address))


async def test_a_refusal_does_not_tell_the_address_in_other_words(
    storage: Storage, database: Database[Any]
) -> None:
    """The facts of a refusal may name it: as the setting says."""
    broken = Broken(Rule.CLIENT_NETWORK, "outside", had="192.0.2.7", wanted=["10.0.0.0/8"])
    refusal = refusal_fields(InvalidClient().because(broken), Flow.TOKEN, broken.facts)
    async with keeping(storage, "truncated") as log:
        await write(log, refusal=refusal)
    (record,) = database["audit_logs"].find()
    assert "192.0.2.7" not in str(record)
    assert record["facts"]["had"] == "192.0.2.0/24"


async def test_what_is_no_address_is_kept_as_it_is(
    storage: Storage, database: Database[Any]
) -> None:
    """A Unix socket has none, and the operator's own calls come from nowhere."""
    async with keeping(storage, "hashed") as log:
        await write(log, caller=Caller(None, {}))
        await write(log, caller=None)
    assert {each["ip"] for each in database["audit_logs"].find()} == {"unknown", None}


async def test_a_report_is_plain_data(services: Services) -> None:
    """It can be printed as JSON, and says what to note."""
    await write(services.audit)
    await services.audit.drain()
    report = await verify(services)
    assert report.head is not None
    anchored = await verify(services, anchors={report.head.number: report.head.hash})
    assert anchored.is_intact
    assert json.loads(json.dumps(asdict(report), default=str))["head"]["number"] == 1
    database_is_gone = await verify(services, anchors={7: "x"})
    assert found(database_is_gone) == [("removed", "checkpoint 7")]
