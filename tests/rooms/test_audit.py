"""The audit log: what is recorded, how much of it, and nothing that is secret."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from _oauth2_m2m.audit import AuditLog, Event, refusal_document
from _oauth2_m2m.callers import Caller
from _oauth2_m2m.credentials import make_client_secret, make_refresh_token
from _oauth2_m2m.storage import Storage

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
#: What gives a record its place in a chain.
CHAINED = {"_id", "previous", "hash"}
CALLER = Caller("2001:db8::7", {"x-request-id": "a-request", "user-agent": "curl/8"})


@pytest.fixture
async def audit(storage: Storage) -> AuditLog:
    """The room, prepared."""
    room = AuditLog(storage)
    await room.prepare(timedelta(days=90))
    return room


def test_the_events_are_those_of_the_contract() -> None:
    """The words that operators search for."""
    assert {event.value for event in Event} == {
        "login_success", "login_failure", "token_refreshed", "token_revoked",
        "refresh_token_reuse", "refresh_token_invalid", "rate_limit_exceeded", "token_invalid",
        "access_denied", "client_created", "client_updated", "client_disabled", "secret_rotated",
        "key_rotated", "config_changed",
    }  # fmt: skip


async def test_a_record_has_the_fields_of_the_contract(
    audit: AuditLog, database: Database[Any]
) -> None:
    """It stands in the database when the wait for it is over."""
    await audit.record(
        Event.LOGIN_FAILURE, NOW, caller=CALLER, client_id="reporter", reason="why", jti="a-jti"
    )
    found = database.audit_logs.find_one({})
    assert found is not None
    assert {name: found[name] for name in found if name not in CHAINED} == {
        "event_type": "login_failure",
        "client_id": "reporter",
        "ip": "2001:db8::7",
        "reason": "why",
        "timestamp": NOW,
        "jti": "a-jti",
        "request_id": "a-request",
        "user_agent": "curl/8",
    }


async def test_the_operators_own_calls_come_from_nowhere(
    audit: AuditLog, database: Database[Any]
) -> None:
    """A record without a request has the same fields, empty."""
    await audit.record(Event.CLIENT_CREATED, NOW, client_id="reporter")
    found = database.audit_logs.find_one({}, {"_id": 0})
    assert found is not None
    assert (found["ip"], found["request_id"], found["user_agent"], found["jti"]) == (None,) * 4


@pytest.mark.parametrize(
    ("presented", "stored"),
    [
        ("reporter", "reporter"),
        ("x" * 5000, "x" * 128),
        ("", ""),
        (None, None),
        ("$where", "$where"),
        (make_client_secret(), "m2ms_..."),
        (make_refresh_token(), "m2mr_..."),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0." + "s" * 43, "eyJ..."),
        ("eyJolly.example", "eyJolly.example"),
    ],
    ids=range(9),
)
async def test_a_presented_id_is_bounded_and_no_secret(
    audit: AuditLog, database: Database[Any], presented: str | None, stored: str | None
) -> None:
    """People paste secrets into the wrong field; only the secret's kind is kept."""
    await audit.record(Event.LOGIN_FAILURE, NOW, client_id=presented, reason="r" * 5000)
    first = refusal_document(NOW, CALLER, presented, 60)
    await audit.refused("~7:ip:minute", first)
    for found in database.audit_logs.find():
        assert found["client_id"] == stored
        assert len(found["reason"]) <= 300


async def test_a_reason_ends_with_who_the_operator_is(
    storage: Storage, database: Database[Any]
) -> None:
    """At its bound too, and without a secret; callers have an address, and no operator."""
    room = AuditLog(storage, operator="x" * 90 + "@" + "h" * 500)
    by = "by " + "x" * 90 + "@" + "h" * 9
    await room.record(Event.CLIENT_UPDATED, NOW, reason="r" * 5000)
    await room.record(Event.CLIENT_UPDATED, NOW, reason=make_client_secret() + " r" * 500)
    await room.record(Event.CLIENT_DISABLED, NOW)
    await room.record(Event.CONFIG_CHANGED, NOW, reason="seen", names_operator=False)
    await room.record(Event.LOGIN_FAILURE, NOW, caller=CALLER, reason="why")
    full, masked, alone, *others = [each["reason"] for each in database.audit_logs.find()]
    assert (len(full), full) == (300, "r" * (298 - len(by)) + f", {by}")
    assert masked.startswith("m2ms_... r")
    assert masked.endswith(f", {by}")
    assert (alone, others) == (by, ["seen", "why"])
    pasted = AuditLog(storage, operator=f"{make_client_secret()}\n@host")
    assert pasted.operator == "m2ms_...\N{REPLACEMENT CHARACTER}@host"


async def test_refusals_over_a_limit_are_one_record_with_a_count(
    storage: Storage, audit: AuditLog, database: Database[Any]
) -> None:
    """Sixty refusals of two keys over three workers are two records; the first one describes."""
    rooms = [audit, AuditLog(storage), AuditLog(storage)]
    await audit.refused("a:ip:1", refusal_document(NOW, CALLER, "a", 7))
    later = NOW + timedelta(seconds=30)
    await asyncio.gather(
        *(
            rooms[n % 3].refused(key, refusal_document(later, CALLER, "later", 9))
            for n in range(30)
            for key in ("a:ip:1", "b:ip:1")
        )
    )
    records = {d["_id"]: d for d in database.audit_logs.find()}
    assert {key: d["count"] for key, d in records.items()} == {
        "rate_limit_exceeded:a:ip:1": 31,
        "rate_limit_exceeded:b:ip:1": 30,
    }
    first = records["rate_limit_exceeded:a:ip:1"]
    assert (first["event_type"], first["client_id"], first["timestamp"]) == (
        "rate_limit_exceeded",
        "a",
        NOW,
    )
    assert first["reason"] == "more than 7 requests in a minute"


async def test_the_first_of_a_batch_describes_it(audit: AuditLog, database: Database[Any]) -> None:
    """Of refusals that are written together, the earliest one is the record."""
    await asyncio.gather(
        *(audit.refused("k", refusal_document(NOW, CALLER, f"client-{n}", 7)) for n in range(5))
    )
    found = database.audit_logs.find_one({})
    assert found is not None
    assert (found["client_id"], found["count"]) == ("client-0", 5)


async def test_drain_waits_for_what_nobody_awaits(audit: AuditLog, database: Database[Any]) -> None:
    """A record that was begun is written before the end."""
    for n in range(20):
        audit.record(Event.LOGIN_SUCCESS, NOW, client_id=str(n))
    await audit.drain()
    assert database.audit_logs.count_documents({}) == 20


async def test_the_indexes_are_those_of_the_contract(
    audit: AuditLog, database: Database[Any]
) -> None:
    """Records are found by client and by event, and kept as long as is set at the moment."""
    indexes = database.audit_logs.index_information()
    assert indexes["timestamp_1"]["expireAfterSeconds"] == 90 * 86_400
    assert {"client_id_1_timestamp_1", "event_type_1_timestamp_1"} <= set(indexes)
    await audit.prepare(timedelta(days=7))
    indexes = database.audit_logs.index_information()
    assert indexes["timestamp_1"]["expireAfterSeconds"] == 7 * 86_400
