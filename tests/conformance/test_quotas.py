"""Quotas per hour and day: contract section 5, points 4 and 6, over HTTP and in the database.

These are windows of the wall clock, so every test begins with enough of its minute left.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from pymongo import AsyncMongoClient, monitoring
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from tests.conformance.conftest import Start
from tests.machine import Document, Machine, audit, basic, new_machine
from tests.proofs import key
from tests.server import HOME, configure, running

#: What a test needs of its minute, on a busy machine too.
SECONDS_NEEDED = 20
ELSEWHERE = "198.51.100.7"
SECONDS = {"hour": 3600, "day": 86_400}
FORMATS = {"hour": "%Y%m%d%H", "day": "%Y%m%d"}
PERIODS = pytest.mark.parametrize("period", SECONDS)

Database_ = Database[Any]


@pytest.fixture(autouse=True)
async def within_a_minute() -> None:
    """Wait for the next minute when too little of this one, and so of its hour, is left."""
    left = 60 - time.time() % 60
    if left < SECONDS_NEEDED:
        await asyncio.sleep(left + 0.1)


def setting(period: str) -> str:
    return f"MAX_REQUESTS_PER_{period.upper()}"


def quota_key(machine: Machine, period: str, now: datetime | None = None) -> str:
    return f"{machine.client_id}:*:{(now or datetime.now(UTC)).strftime(FORMATS[period])}"


def counted(database: Database_, key: str) -> int | None:
    document = database["rate_limits"].find_one({"_id": key})
    return None if document is None else document["count"]


def refusals(database: Database_) -> list[Document]:
    return audit(database, event_type="rate_limit_exceeded")


def assert_refused(response: httpx.Response, limit: int, period: str) -> None:
    """429 with everything that the caller needs to know, of this window."""
    now = time.time()
    assert response.status_code == 429
    assert response.json()["error"] == "rate_limit_exceeded"
    assert response.headers["ratelimit-limit"] == str(limit)
    assert response.headers["ratelimit-remaining"] == "0"
    assert response.headers["retry-after"] == response.headers["ratelimit-reset"]
    left = SECONDS[period] - now % SECONDS[period]
    assert abs(int(response.headers["retry-after"]) - left) < SECONDS_NEEDED


@PERIODS
async def test_whatever_a_client_does_anywhere_is_one_quota(
    start: Start, database: Database_, period: str
) -> None:
    """Tokens, refreshes, calls, introspection and revocation, over all of its addresses."""
    server = await start(**{setting(period): 7})
    machine = await new_machine(server)
    elsewhere = machine.using(http=server.http(ELSEWHERE))
    tokens = await machine.get_token()  # 1
    plain = await elsewhere.using(method="plain").get_token()  # 2
    assert (await elsewhere.call(tokens)).status_code == 200  # 3
    tokens = await machine.refresh(tokens)  # 4
    await elsewhere.refresh_plainly(plain)  # 5
    assert (await machine.post("/introspect", token=tokens.access)).json()["active"]  # 6
    assert (await elsewhere.revoke("no token at all")).status_code == 200  # 7
    for response in (
        await machine.ask_token(),
        await elsewhere.using(method="plain").ask_token(),
        await machine.call(tokens),
        await elsewhere.ask_refresh(tokens),
        await machine.ask_refresh_plainly(tokens),
        await elsewhere.post("/introspect", token=tokens.access),
        await machine.revoke(tokens.access),
    ):
        assert_refused(response, 7, period)
    assert counted(database, quota_key(machine, period)) == 7
    (record,) = refusals(database)
    assert record["_id"] == f"rate_limit_exceeded:{quota_key(machine, period)}"
    assert (record["count"], record["client_id"]) == (7, machine.client_id)
    assert period in record["reason"]
    # Another client has its own.
    assert (await (await new_machine(server)).ask_token()).status_code == 200


@PERIODS
@pytest.mark.parametrize(
    ("setting_", "own", "admitted"),
    [(5, 2, 2), (2, 5, 5), (1, 0, None), (0, None, None), (0, 2, 2)],
)
async def test_a_clients_own_quota_goes_before_the_settings(
    start: Start, period: str, setting_: int, own: int | None, admitted: int | None
) -> None:
    """Lower, higher or off; and 0 in either place is no quota."""
    server = await start(**{setting(period): setting_})
    quota: dict[str, Any] = {f"max_requests_per_{period}": own}
    machine = await new_machine(server, **quota)
    responses = [await machine.ask_token() for _ in range(7)]
    responses += [await machine.call(responses[0].json()["access_token"])]
    statuses = Counter(response.status_code for response in responses)
    assert statuses == ({200: 8} if admitted is None else {200: admitted, 429: 8 - admitted})


@PERIODS
async def test_a_new_window_is_a_new_quota(start: Start, database: Database_, period: str) -> None:
    """What was used up before this hour or day does not matter any more, and the rest does."""
    server = await start(**{setting(period): 3})
    machine = await new_machine(server)
    before = datetime.now(UTC) - timedelta(seconds=SECONDS[period])
    past, present = quota_key(machine, period, before), quota_key(machine, period)
    database["rate_limits"].insert_many([{"_id": past, "count": 9}, {"_id": present, "count": 2}])
    assert (await machine.ask_token()).status_code == 200
    assert_refused(await machine.ask_token(), 3, period)


async def test_who_is_refused_for_the_minute_uses_up_no_quota(
    start: Start, database: Database_
) -> None:
    """Nor for another quota: hours and days count what was let through."""
    server = await start(MAX_REQUESTS_PER_MINUTE=3, MAX_REQUESTS_PER_HOUR=5, MAX_REQUESTS_PER_DAY=9)
    machine = await new_machine(server)
    elsewhere = machine.using(http=server.http(ELSEWHERE))
    answers = [(await machine.ask_token()).status_code for _ in range(6)]
    assert answers == [200] * 3 + [429] * 3
    assert counted(database, quota_key(machine, "hour")) == 3
    assert [(await elsewhere.ask_token()).status_code for _ in range(3)] == [200, 200, 429]
    assert_refused(await elsewhere.ask_token(), 5, "hour")
    assert counted(database, quota_key(machine, "hour")) == 5
    assert counted(database, quota_key(machine, "day")) == 5


@pytest.mark.parametrize("dead", ["revoked", "of a client that was stopped"])
async def test_a_dead_token_is_no_claim_on_the_quota(
    start: Start, database: Database_, dead: str
) -> None:
    """Whoever stole it cannot use up its client's day, and its client goes on."""
    server = await start(MAX_REQUESTS_PER_DAY=3)
    machine = await new_machine(server)
    tokens = await machine.get_token()
    if dead == "revoked":
        await server.m2m.revoke(tokens.access)
    else:
        await server.m2m.clients.revoke_tokens(machine.client_id)
    thief = machine.using(http=server.http(ELSEWHERE))
    answers = await asyncio.gather(*(thief.call(tokens) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {401}
    assert counted(database, quota_key(machine, "day")) == 1
    assert [(await machine.ask_token()).status_code for _ in range(3)] == [200, 200, 429]


async def test_a_repeated_proof_is_no_claim_on_the_quota(start: Start, database: Database_) -> None:
    """A request whose DPoP proof was seen gives its places back, in each of its windows."""
    server = await start(MAX_REQUESTS_PER_HOUR=50, MAX_REQUESTS_PER_DAY=50)
    machine, holder = await new_machine(server), key("holder")
    issuer = "http://localhost:8000"
    headers = {
        "Authorization": basic(machine.client_id, machine.client_secret),
        "DPoP": holder.proof("POST", f"{issuer}/token"),
    }
    form = {"grant_type": "client_credentials"}
    token = (await machine.http.post("/token", data=form, headers=headers)).json()["access_token"]
    call = holder.proof("GET", f"{issuer}/protected", access_token=token)
    headers = {"Authorization": f"DPoP {token}", "DPoP": call}
    answers = [await machine.http.get("/protected", headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 401, 401]
    for period in SECONDS:
        assert counted(database, quota_key(machine, period)) == 2


async def test_a_known_client_that_was_stopped_leaves_its_quota_as_it_was(
    start: Start, database: Database_
) -> None:
    """Its places were taken ahead for the secret that was good, and are given back."""
    server = await start(MAX_REQUESTS_PER_HOUR=9, MAX_REQUESTS_PER_DAY=9)
    machine = await new_machine(server)
    for _ in range(3):
        await machine.get_token()
    registered = await server.m2m.clients.rotate_secret(machine.client_id)
    answers = await asyncio.gather(*(machine.ask_token() for _ in range(20)))
    assert {answer.status_code for answer in answers} == {401}
    renewed = machine.using(client_secret=registered.client_secret)
    assert [(await renewed.ask_token()).status_code for _ in range(7)] == [200] * 6 + [429]
    assert counted(database, quota_key(machine, "day")) == 9


async def test_a_quota_that_is_changed_by_hand_counts_at_once(
    start: Start, database: Database_
) -> None:
    """Set, lowered or lifted: at the next token request, and no place is lost or gained."""
    server = await start()
    machine = await new_machine(server)
    mine = {"client_id": machine.client_id}
    for own, statuses in (
        (4, [200, 200, 200, 200, 429]),
        (6, [200, 200, 429]),
        (0, [200] * 3),
        (5, [429]),
        (7, [200, 429]),
    ):
        database["clients"].update_one(mine, {"$set": {"max_requests_per_day": own}})
        assert [(await machine.ask_token()).status_code for _ in statuses] == statuses
    assert counted(database, quota_key(machine, "day")) == 7


async def test_observed_quotas_refuse_nothing_and_say_what_they_would_have(
    start: Start, database: Database_
) -> None:
    """`QUOTA_MODE: observe` leaves a record of its own, and the limit of a minute goes on."""
    server = await start(
        QUOTA_MODE="observe",
        MAX_REQUESTS_PER_HOUR=2,
        MAX_REQUESTS_PER_DAY=4,
        MAX_REQUESTS_PER_MINUTE=6,
    )
    machine = await new_machine(server)
    tokens = await machine.get_token()
    answers = [(await machine.call(tokens)).status_code for _ in range(7)]
    assert answers == [200] * 5 + [429] * 2
    await server.m2m._services.drain()
    records = {
        record["_id"].removeprefix("rate_limit_exceeded:"): record for record in refusals(database)
    }
    hour, day = (records.pop(f"{quota_key(machine, p)}:observed") for p in ("hour", "day"))
    assert (hour["count"], hour["observed"], hour["ip"]) == (4, True, HOME)
    assert (day["count"], day["observed"], day["client_id"]) == (2, True, machine.client_id)
    (refused,) = records.values()
    assert (refused["count"], refused.get("observed")) == (2, None)
    assert counted(database, quota_key(machine, "hour")) == 6


async def test_without_a_quota_nothing_is_counted_for_one(
    start: Start, database: Database_
) -> None:
    """Off, as they are by themselves, they leave no document behind."""
    server = await start(MAX_REQUESTS_PER_MINUTE=5)
    machine = await new_machine(server)
    tokens = await machine.get_token()
    await machine.call(tokens)
    assert not list(database["rate_limits"].find({"_id": {"$regex": ":\\*:"}}))


async def test_the_quota_is_exact_over_all_instances(
    start: Start, async_database: AsyncDatabase[Any], database: Database_
) -> None:
    """However many ask at once, wherever, from several addresses: N places, N successes."""
    limit = 25
    first = await start(MAX_REQUESTS_PER_HOUR=limit, MAX_REQUESTS_PER_DAY=8 * limit)
    machine = await new_machine(first)
    tokens = (await machine.get_token()).access
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(running(async_database)) for _ in range(4)]
        there = [
            machine.using(http=server.http(f"198.51.100.{n}")) for n, server in enumerate(servers)
        ]
        work = [there[n % 4].call(tokens) for n in range(2 * limit)]
        work += [there[n % 4].ask_token() for n in range(2 * limit)]
        answers = await asyncio.gather(*work)
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses == {200: limit - 1, 429: 4 * limit - (limit - 1)}
    for period in SECONDS:
        assert counted(database, quota_key(machine, period)) == limit
    assert [record["count"] for record in refusals(database)] == [statuses[429]]


# --- What it costs ------------------------------------------------------------------------------


class Rounds(monitoring.CommandListener):
    """The names of the commands on `rate_limits`."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Note the command."""
        if event.command.get(event.command_name) == "rate_limits":
            self.names.append(event.command_name)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing to note."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing to note."""


@pytest.mark.parametrize("quotas", [0, 1000])
async def test_a_quota_costs_no_round_of_its_own(
    mongo_url: str, database_name: str, database: Database_, quotas: int
) -> None:
    """Its windows are counted beside the minute's, one command each, and without one none is."""
    configure(database, MAX_REQUESTS_PER_HOUR=quotas, MAX_REQUESTS_PER_DAY=quotas)
    rounds = Rounds()
    async with (
        AsyncMongoClient[Any](mongo_url, event_listeners=[rounds]) as client,
        running(client[database_name]) as server,
    ):
        machine = await new_machine(server)
        tokens = [await machine.get_token() for _ in range(2)]
        rounds.names.clear()
        assert (await machine.call(tokens[0])).status_code == 200
        assert rounds.names == ["findAndModify"] * (3 if quotas else 1)
        rounds.names.clear()
        await machine.get_token()
        looks = rounds.names.count("find")
        assert looks == 1  # how full the bucket of failures is
        assert rounds.names.count("findAndModify") == (3 if quotas else 1)
