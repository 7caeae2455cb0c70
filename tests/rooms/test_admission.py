"""Admission: no window admits more than its limit, and none loses a place for good."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo.database import Database

from _oauth2_m2m.admission import Admission, Attempt
from _oauth2_m2m.audit import AuditLog, Event
from _oauth2_m2m.callers import Caller
from _oauth2_m2m.client_documents import Client
from _oauth2_m2m.clients import Clients
from _oauth2_m2m.config import Secret, Settings
from _oauth2_m2m.credentials import SecretChecker
from _oauth2_m2m.errors import RateLimitExceeded
from _oauth2_m2m.rate_limits import RateLimits
from _oauth2_m2m.revocation import Question, Revocation
from _oauth2_m2m.storage import Storage
from _oauth2_m2m.windows import Limits, budget

#: Half an hour before a day ends, so that a few steps lead through hours into the next day.
NOW = datetime(2030, 1, 2, 23, 30, 59, tzinfo=UTC)
STEP = timedelta(minutes=20)
WORKERS = 3


class Call(NamedTuple):
    """One request, as the test makes it up."""

    worker: int
    client_id: str
    ip: str
    step: int
    kind: str

    @property
    def now(self) -> datetime:
        """When it comes."""
        return NOW + self.step * STEP

    def windows(self, limits: Limits) -> list[str]:
        """The keys that it counts in."""
        return [window.key for window in budget(self.client_id, self.ip, limits, self.now)]


CALLS = st.builds(
    Call,
    worker=st.integers(0, WORKERS - 1),
    client_id=st.sampled_from(["a", "b"]),
    ip=st.sampled_from(["192.0.2.7", "192.0.2.8"]),
    step=st.integers(0, 2),
    kind=st.sampled_from(["token", "route", "revoked"]),
)
LIMITS = st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 6)).map(
    lambda limits: Limits(*limits)
)


def attempt_of(call: Call) -> Attempt:
    """A request, as admission is told of it."""
    ids_from = Secret("a-secret-of-the-tests")
    return Attempt(Caller(call.ip, {}), call.now, Event.ACCESS_DENIED, limit=0, ids_from=ids_from)


class Worker:
    """Admission as one process has it."""

    def __init__(self, database: Database[Any], limits: Limits, base: Settings) -> None:
        storage = Storage(database)
        self.audit, revocation = AuditLog(storage), Revocation(storage)
        clients = Clients(storage, self.audit, revocation, SecretChecker())
        self.admission = Admission(storage, RateLimits(storage), self.audit, revocation, clients)
        self.settings = replace(
            base,
            max_requests_per_minute=limits.minute,
            max_requests_per_hour=limits.hour,
            max_requests_per_day=limits.day,
            quota_mode="observe" if limits.observes else "enforce",
        )

    async def let_through(self, call: Call) -> bool:
        """Whether a request comes through; whatever is refused is settled."""
        attempt = attempt_of(call)
        client = Client(client_id=call.client_id, scopes=frozenset())
        try:
            return await self._admit(call, attempt, client)
        except RateLimitExceeded as error:
            await self.admission.settle(attempt, error)
            return False

    async def _admit(self, call: Call, attempt: Attempt, client: Client) -> bool:
        if call.kind == "token":
            await self.admission.charge(attempt, client, self.settings)
            return True
        question = Question((call.kind,))
        windows = attempt.budget(client.client_id, client.limits(self.settings))
        return not await self.admission.check(attempt, question, client, windows)


def cleared(database: Database[Any]) -> None:
    """A database in which nothing was counted, and one mark is set."""
    for name in ("rate_limits", "audit_logs", "revoked_tokens"):
        database[name].delete_many({})
    database["revoked_tokens"].insert_one({"_id": "revoked"})


def counts(database: Database[Any], collection: str = "rate_limits") -> dict[str, int]:
    return {d["_id"]: d["count"] for d in database[collection].find() if d.get("count")}


@given(LIMITS, st.lists(CALLS, min_size=1, max_size=30))
@settings(max_examples=40)
def test_windows_admit_no_more_than_their_limits_and_forget_who_was_refused(
    database: Database[Any], room_settings: Settings, limits: Limits, calls: list[Call]
) -> None:
    """Whatever comes at once over several workers, in each minute, hour and day.

    Afterwards a minute has counted everybody whose token is alive, and an hour and a day exactly
    those who were let through; so the next request is let through when there is a place for it.
    """
    cleared(database)
    workers = [Worker(database, limits, room_settings) for _ in range(WORKERS)]
    asyncio.run(tried(database, workers, limits, calls))


async def tried(
    database: Database[Any], workers: list[Worker], limits: Limits, calls: list[Call]
) -> None:
    answers = await asyncio.gather(*(workers[c.worker].let_through(c) for c in calls))
    admitted: Counter[str] = Counter()
    came: Counter[str] = Counter()
    for call, passed in zip(calls, answers, strict=True):
        assert not (passed and call.kind == "revoked")
        admitted.update(call.windows(limits) if passed else [])
        came.update(call.windows(limits) if call.kind != "revoked" else [])
    room_of = {
        window.key: window.limit
        for call in calls
        for window in budget(call.client_id, call.ip, limits, call.now)
    }
    assert [key for key, number in admitted.items() if number > room_of[key]] == []
    found = counts(database)
    quotas = {key: n for key, n in found.items() if ":*:" in key}
    assert quotas == {key: n for key, n in admitted.items() if ":*:" in key}
    assert {k: n for k, n in found.items() if k not in quotas} == {
        key: n for key, n in came.items() if ":*:" not in key
    }
    refused = [a for c, a in zip(calls, answers, strict=True) if c.kind != "revoked" and not a]
    assert sum(counts(database, "audit_logs").values()) == len(refused)
    for call in calls:
        if call.kind != "revoked":
            room = all(found.get(key, 0) < room_of[key] for key in call.windows(limits))
            assert await workers[0].let_through(call) is room
            found = counts(database)


@given(st.integers(1, 9), st.integers(1, 30))
@settings(max_examples=15)
def test_of_requests_that_only_a_quota_refuses_exactly_the_limit_comes_through(
    database: Database[Any], room_settings: Settings, limit: int, requests: int
) -> None:
    """From many addresses over several workers at once, however the places are given back."""
    cleared(database)
    limits = Limits(minute=0, hour=limit)
    workers = [Worker(database, limits, room_settings) for _ in range(WORKERS)]
    calls = [Call(n % WORKERS, "a", f"192.0.2.{n}", 0, "token") for n in range(requests)]

    async def try_all() -> list[bool]:
        return await asyncio.gather(*(workers[c.worker].let_through(c) for c in calls))

    assert sum(asyncio.run(try_all())) == min(limit, requests)
    assert counts(database) == {"a:*:2030010223": min(limit, requests)}


@given(LIMITS, st.lists(CALLS, min_size=1, max_size=20))
@settings(max_examples=20)
def test_observed_quotas_refuse_nobody_and_say_whom_they_would_have(
    database: Database[Any], room_settings: Settings, limits: Limits, calls: list[Call]
) -> None:
    """The records of a quota that is observed count those who came through beyond it."""
    cleared(database)
    limits = limits._replace(minute=0, observes=True)
    calls = [call for call in calls if call.kind != "revoked"]  # which hold a place for a moment
    workers = [Worker(database, limits, room_settings) for _ in range(WORKERS)]

    async def try_all() -> list[bool]:
        answers = await asyncio.gather(*(workers[c.worker].let_through(c) for c in calls))
        for worker in workers:
            await worker.audit.drain()
        return answers

    assert all(asyncio.run(try_all()))
    came = Counter(key for call in calls for key in call.windows(limits))
    assert counts(database) == came
    room_of = {w.key: w.limit for c in calls for w in budget(c.client_id, c.ip, limits, c.now)}
    assert counts(database, "audit_logs") == {
        f"rate_limit_exceeded:{key}:observed": number - room_of[key]
        for key, number in came.items()
        if number > room_of[key]
    }
    for record in database["audit_logs"].find():
        assert record["observed"] is True
        assert "observed" in record["reason"]
        assert record["timestamp"] < record["counted_until"]


async def test_the_longest_window_that_refuses_is_named(
    database: Database[Any], room_settings: Settings
) -> None:
    """For before its end there is no use in coming back; and each is recorded under its own key."""
    for limits, key, seconds in (
        (Limits(1, 9, 9), "a:192.0.2.7:203001022330", 1),
        (Limits(1, 1, 9), "a:*:2030010223", 29 * 60 + 1),
        (Limits(1, 1, 1), "a:*:20300102", 29 * 60 + 1),
        (Limits(1, 9, 1), "a:*:20300102", 29 * 60 + 1),
        (Limits(0, 1, 0), "a:*:2030010223", 29 * 60 + 1),
    ):
        cleared(database)
        worker = Worker(database, limits, room_settings)
        call = Call(0, "a", "192.0.2.7", 0, "token")
        assert await worker.let_through(call)
        attempt = attempt_of(call)
        client = Client(client_id="a", scopes=frozenset())
        with pytest.raises(RateLimitExceeded) as refusal:
            await worker.admission.charge(attempt, client, worker.settings)
        error = refusal.value
        assert (error.key, error.limit, error.client_id) == (key, 1, "a")
        assert error.headers()["Retry-After"] == str(seconds)
        await worker.admission.settle(attempt, error)
        (record,) = database["audit_logs"].find()
        assert record["_id"] == f"rate_limit_exceeded:{key}"
        assert "observed" not in record
        period = {12: "a minute", 10: "an hour", 8: "a day"}[len(key.rpartition(":")[2])]
        assert record["reason"] == f"more than 1 requests in {period}"
