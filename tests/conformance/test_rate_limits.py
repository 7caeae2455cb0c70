"""Rate limits: contract section 5, point 6, over HTTP and as the database counts it.

A window is a minute of the wall clock, so every test begins with enough of its minute left.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from _oauth2_m2m.admission import Admission
from _oauth2_m2m.credentials import SecretChecker
from _oauth2_m2m.windows import Limits
from tests.conformance.conftest import Start
from tests.expectations import expect_error, wording
from tests.machine import Document, Machine, Tokens, audit, basic, new_machine, type_client
from tests.server import HOME, Server, running

#: What a test needs of its minute, on a busy machine too.
SECONDS_NEEDED = 20

#: Of the shape that this software makes, checksum included, so that it costs no slow hash.
WRONG_SECRET = "m2ms_00000000000000000000000000000000000000000003Wu5oz"

Database_ = Database[Any]


@pytest.fixture(autouse=True)
async def within_a_minute() -> None:
    """Wait for the next minute when too little of this one is left."""
    left = 60 - time.time() % 60
    if left < SECONDS_NEEDED:
        await asyncio.sleep(left + 0.1)


def counts(database: Database_) -> dict[str, int]:
    """What was counted, by key without its minute."""
    found: Counter[str] = Counter()
    for document in database["rate_limits"].find():
        found[document["_id"].rpartition(":")[0]] += document["count"]
    return dict(found)


def statuses(responses: Iterable[httpx.Response]) -> Counter[int]:
    return Counter(response.status_code for response in responses)


def refusals(database: Database_, **query: Any) -> list[Document]:
    return audit(database, event_type="rate_limit_exceeded", **query)


def assert_refused(response: httpx.Response, limit: int) -> None:
    """429 with everything that the caller needs to know, of now and of this minute."""
    now = time.time()
    assert response.status_code == 429
    assert response.json()["error"] == "rate_limit_exceeded"
    assert response.json()["error_description"] == response.json()["detail"]
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["ratelimit-limit"] == str(limit)
    assert response.headers["ratelimit-remaining"] == "0"
    assert response.headers["retry-after"] == response.headers["ratelimit-reset"]
    seconds = int(response.headers["retry-after"])
    assert 1 <= seconds <= 60
    assert abs(seconds - (60 - now % 60)) < SECONDS_NEEDED
    assert "www-authenticate" not in response.headers


async def wrong_secret(http: httpx.AsyncClient, client_id: str) -> httpx.Response:
    """A failed authentication."""
    form = {"client_id": client_id, "client_secret": WRONG_SECRET}
    form["grant_type"] = "client_credentials"
    return await http.post("/token", data=form)


# --- One budget for a client at an address ------------------------------------------------------


async def test_tokens_refreshes_and_calls_are_one_budget(start: Start, database: Database_) -> None:
    """Whatever an authenticated client does from an address is counted under one key."""
    server = await start(MAX_REQUESTS_PER_MINUTE=6)
    machine = await new_machine(server)
    tokens = await machine.get_token()  # 1
    plain = await machine.using(method="plain").get_token()  # 2
    assert (await machine.call(tokens)).status_code == 200  # 3
    tokens = await machine.refresh(tokens)  # 4
    await machine.refresh_plainly(plain)  # 5
    assert (await machine.revoke("no token at all")).status_code == 200  # 6
    assert counts(database) == {f"{machine.client_id}:{HOME}": 6}
    for response in (
        await machine.ask_token(),
        await machine.using(method="plain").ask_token(),
        await machine.using(method="post").ask_token(),
        await machine.call(tokens),
        await machine.ask_refresh(tokens),
        await machine.ask_refresh_plainly(tokens),
        await machine.revoke(tokens.access),
    ):
        assert_refused(response, 6)
    # Nothing but the budget was touched: what was refused was neither spent nor revoked.
    elsewhere = machine.using(http=server.http("192.0.2.99"))
    assert (await elsewhere.call(tokens)).status_code == 200
    await elsewhere.refresh(tokens)


async def test_what_an_authenticated_client_does_wrong_is_on_its_own_budget(
    start: Start, database: Database_
) -> None:
    """A forbidden scope, grant or route is no failure of authentication."""
    server = await start(MAX_REQUESTS_PER_MINUTE=5)
    machine = await new_machine(server)
    tokens = await machine.get_token("write")
    assert (await machine.ask_token("admin")).status_code == 400
    assert (await machine.post("/token", grant_type="implicit")).status_code == 400
    assert (await machine.ask_refresh("m2mr_unknown")).status_code == 400
    assert (await machine.call(tokens)).status_code == 403
    assert counts(database) == {f"{machine.client_id}:{HOME}": 5}
    assert_refused(await machine.ask_token("admin"), 5)


async def test_every_address_has_a_budget_of_its_own(start: Start, database: Database_) -> None:
    """A client at two addresses has two budgets, and two clients at one address too."""
    server = await start(MAX_REQUESTS_PER_MINUTE=2)
    one, two = await new_machine(server), await new_machine(server)
    elsewhere = one.using(http=server.http("198.51.100.7"))
    for machine in (one, two, elsewhere):
        assert statuses([await machine.ask_token() for _ in range(3)]) == {200: 2, 429: 1}
    assert counts(database).keys() == {
        f"{one.client_id}:{HOME}",
        f"{two.client_id}:{HOME}",
        f"{one.client_id}:198.51.100.7",
    }


@pytest.mark.parametrize(
    ("first", "second", "network"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::"),
        ("2001:db8:1:2::1", "2001:0DB8:0001:0002:0:0:0:2", "2001:db8:1:2::"),
        ("192.0.2.5", "::ffff:192.0.2.5", "192.0.2.5"),
        ("::ffff:192.0.2.5", "::ffff:c000:205", "192.0.2.5"),
        ("fe80::1%eth0", "fe80::2%eth1", "fe80::"),
    ],
)
async def test_addresses_of_one_network_share_a_budget(
    start: Start, database: Database_, first: str, second: str, network: str
) -> None:
    """IPv6 counts by its /64, and an IPv4 address is one address however it is spelt."""
    server = await start(MAX_REQUESTS_PER_MINUTE=2)
    machine = await new_machine(server, ip=first)
    await machine.get_token()
    await machine.using(http=server.http(second)).get_token()
    assert_refused(await machine.ask_token(), 2)
    assert_refused(await machine.using(http=server.http(second)).ask_token(), 2)
    assert counts(database).keys() == {f"{machine.client_id}:{network}"}


@pytest.mark.parametrize(
    ("first", "second"),
    [("2001:db8:1:2::1", "2001:db8:1:3::1"), ("192.0.2.5", "192.0.2.6")],
)
async def test_neighbouring_networks_share_nothing(start: Start, first: str, second: str) -> None:
    """The next /64 is somebody else, and so is the next IPv4 address."""
    server = await start(MAX_REQUESTS_PER_MINUTE=1)
    machine = await new_machine(server, ip=first)
    await machine.get_token()
    await machine.using(http=server.http(second)).get_token()
    assert_refused(await machine.ask_token(), 1)


@pytest.mark.parametrize(
    ("setting", "own", "admitted"),
    [(5, 2, 2), (2, 5, 5), (1, 0, None), (0, None, None), (0, 2, 2)],
)
async def test_a_clients_own_limit_goes_before_the_settings(
    start: Start, setting: int, own: int | None, admitted: int | None
) -> None:
    """Lower, higher or off; and 0 in either place switches the limit off."""
    server = await start(MAX_REQUESTS_PER_MINUTE=setting)
    machine = await new_machine(server, max_requests_per_minute=own)
    responses = [await machine.ask_token() for _ in range(8)]
    responses += [await machine.call(responses[0].json()["access_token"])]
    expected = {200: 9} if admitted is None else {200: admitted, 429: 9 - admitted}
    assert statuses(responses) == expected
    if admitted is not None:
        assert_refused(responses[-1], admitted)


async def test_0_switches_off_the_limit_of_failures_too(start: Start, database: Database_) -> None:
    """Then nothing is counted, and every mistake is answered and audited for itself."""
    server = await start(MAX_REQUESTS_PER_MINUTE=0)
    machine = await new_machine(server)
    responses = [await wrong_secret(machine.http, machine.client_id) for _ in range(10)]
    responses += [await machine.call("x") for _ in range(10)]
    assert statuses(responses) == {401: 20}
    assert counts(database) == {}
    assert len(audit(database)) == 20


async def test_a_new_minute_is_a_new_budget(start: Start, database: Database_) -> None:
    """A full window of an earlier minute does not matter any more."""
    server = await start(MAX_REQUESTS_PER_MINUTE=1)
    machine = await new_machine(server)
    minute = time.strftime("%Y%m%d%H%M", time.gmtime(time.time() - 60))
    key = f"{machine.client_id}:{HOME}"
    database["rate_limits"].insert_one({"_id": f"{key}:{minute}", "count": 1_000_000})
    assert (await machine.ask_token()).status_code == 200
    assert_refused(await machine.ask_token(), 1)


# --- Failures are counted apart -----------------------------------------------------------------


async def test_failures_leave_the_clients_budget_alone(start: Start, database: Database_) -> None:
    """Nobody can use up another's budget: neither with its id, nor with its expired tokens."""
    server = await start(MAX_REQUESTS_PER_MINUTE=3)
    machine = await new_machine(server)
    tokens = await machine.get_token()
    stranger = server.http()
    for _ in range(5):
        await wrong_secret(stranger, machine.client_id)
        await stranger.get("/protected", headers={"Authorization": f"Bearer {tokens.access}x"})
    assert counts(database)[f"{machine.client_id}:{HOME}"] == 1
    elsewhere = machine.using(http=server.http("198.51.100.7"))
    assert statuses([await elsewhere.ask_token() for _ in range(4)]) == {200: 3, 429: 1}


async def test_a_revoked_token_does_not_use_up_its_clients_budget(
    start: Start, database: Database_
) -> None:
    """A stolen token that was revoked is a bad token, counted with those of its address."""
    server = await start(MAX_REQUESTS_PER_MINUTE=4)
    machine = await new_machine(server)
    tokens = await machine.get_token()
    await server.m2m.revoke(tokens.access)
    assert statuses([await machine.call(tokens) for _ in range(6)]) == {401: 4, 429: 2}
    assert (await machine.ask_token()).status_code == 200


async def test_a_revoked_token_leaves_its_clients_budget_as_it_was(
    start: Start, database: Database_
) -> None:
    """However often it comes, one by one or at once, the count of its client does not move."""
    server = await start()
    machine = await new_machine(server)
    tokens = await machine.get_token()
    await server.m2m.revoke(tokens.access)
    responses = [await machine.call(tokens) for _ in range(5)]
    responses += await asyncio.gather(*(machine.call(tokens) for _ in range(40)))
    assert statuses(responses) == {401: 45}
    assert counts(database) == {f"{machine.client_id}:{HOME}": 1, f"~:{HOME}": 45}


async def test_a_flood_of_a_revoked_token_refuses_none_of_its_clients_requests(
    start: Start,
) -> None:
    """Its client goes on beside it at the same address, up to the last request of its budget.

    A worker learns that a token is dead at its first presentation, which holds a place meanwhile.
    """
    server = await start(MAX_REQUESTS_PER_MINUTE=4)
    machine = await new_machine(server)
    dead, good = await machine.get_token(), await machine.get_token()
    await server.m2m.revoke(dead.access)
    elsewhere = machine.using(http=server.http("198.51.100.99"))
    assert (await elsewhere.call(dead)).status_code == 401

    async def flood(there: Machine) -> None:
        while True:
            await there.call(dead)

    responses = []
    for number in range(10):  # every address has a budget of its own
        there = machine.using(http=server.http(f"198.51.100.{number}"))
        async with asyncio.TaskGroup() as group:
            floods = [group.create_task(flood(there)) for _ in range(20)]
            responses += [await there.call(good) for _ in range(4)]
            for task in floods:
                task.cancel()
    assert statuses(responses) == {200: 40}


@pytest.mark.parametrize("dead", ["spent", "expired", "revoked", "of an unknown client"])
async def test_a_dead_refresh_token_leaves_its_clients_budget_as_it_was(
    start: Start, database: Database_, dead: str
) -> None:
    """At /refresh it proves nothing, so each time it is a failure and nobody's request."""
    server = await start()
    machine = await new_machine(server)
    tokens = await machine.get_token()
    if dead == "spent":
        await machine.refresh(tokens)
    elif dead == "expired":
        past = datetime.now(UTC) - timedelta(seconds=1)
        database["tokens"].update_one({}, {"$set": {"expires_at": past}})
    elif dead == "revoked":
        await server.m2m.revoke(tokens.refresh)
    else:
        database["tokens"].update_one({}, {"$set": {"client_id": "unknown"}})
    before = counts(database)
    responses = [await machine.ask_refresh_plainly(tokens) for _ in range(5)]
    assert statuses(responses) == {401: 5}
    after = counts(database)
    failures = {key: count for key, count in after.items() if key.startswith("~")}
    assert list(failures.values()) == [5]
    assert after == {**before, **failures}


async def test_a_network_has_a_bound_of_slow_secrets_that_wait(
    start: Start, database: Database_, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ninth at once from a network is 503 and a failure like any; another network goes on."""
    released, all_asked, asked = threading.Event(), asyncio.Event(), 0
    ask = SecretChecker._scrypt

    def slow(secret: bytes, salt: bytes) -> bytes:
        released.wait(30)
        return b"x" * 32

    async def counting(*args: Any) -> bytes:
        nonlocal asked
        asked += 1
        if asked == 10:
            all_asked.set()
        return await ask(*args)

    server = await start()
    neighbour = type_client(server, database, "neighbour", "by hand")
    neighbour = neighbour.using(http=server.http("198.51.100.7"))
    made = await new_machine(server)
    guesser = made.using(client_id="guesser", client_secret="a guess")
    monkeypatch.setattr("_oauth2_m2m.credentials._scrypt", slow)
    monkeypatch.setattr(SecretChecker, "_scrypt", counting)
    try:
        guesses = [asyncio.create_task(guesser.ask_token()) for _ in range(9)]
        (refused,), waiting = await asyncio.wait(guesses, return_when=asyncio.FIRST_COMPLETED)
        expect_error(refused.result(), 503, "temporarily_unavailable")
        others = asyncio.create_task(neighbour.ask_token())
        await asyncio.wait_for(all_asked.wait(), 4)
        assert len(waiting) == 8
        assert not others.done()
        assert (await made.ask_token()).status_code == 200  # a made secret waits for nobody
    finally:
        released.set()
    assert statuses([await guess for guess in waiting]) == {401: 8}
    assert (await others).status_code == 200
    counted = {key: n for key, n in counts(database).items() if key.startswith("~")}
    assert list(counted.values()) == [9]
    (record,) = audit(
        database, event_type="login_failure", reason={"$regex": "^temporarily_unavailable"}
    )
    assert (record["client_id"], record["ip"]) == ("guesser", HOME)
    assert len(audit(database, event_type="login_failure")) == 9


async def test_the_buckets_of_known_and_unknown_ids_are_the_same(
    start: Start, database: Database_
) -> None:
    """429 comes at the same count for an id that exists and one that does not."""
    server = await start(MAX_REQUESTS_PER_MINUTE=3)
    machine = await new_machine(server)
    known = [await wrong_secret(machine.http, machine.client_id) for _ in range(5)]
    http = server.http("198.51.100.7")
    unknown = [await wrong_secret(http, f"{machine.client_id}-not") for _ in range(5)]
    assert [r.status_code for r in known] == [r.status_code for r in unknown]
    assert statuses(known) == {401: 3, 429: 2}
    volatile = {"date", "retry-after", "ratelimit-reset", "x-request-id", "x-error-id"}
    for one, other in zip(known, unknown, strict=True):
        assert re.sub(rb"\d+ s", b"", wording(one)) == re.sub(rb"\d+ s", b"", wording(other))
        assert [header for header in one.headers.items() if header[0] not in volatile] == [
            header for header in other.headers.items() if header[0] not in volatile
        ]
    keys = counts(database)
    assert all(re.fullmatch(r"~\d+:(192\.0\.2\.1|198\.51\.100\.7)", key) for key in keys)


async def test_made_up_ids_cannot_fill_the_database(start: Start, database: Database_) -> None:
    """2,000 of them from one address are 64 counts a minute, and records are bounded likewise."""
    server = await start(MAX_REQUESTS_PER_MINUTE=5)
    http = server.http()
    gate = asyncio.Semaphore(50)

    async def one(number: int) -> httpx.Response:
        async with gate:
            return await wrong_secret(http, f"made-up-{number}")

    responses = await asyncio.gather(*(one(number) for number in range(2_000)))
    minutes = len({d["_id"].rpartition(":")[2] for d in database["rate_limits"].find()})
    assert minutes <= 2  # the test itself may take its time on a busy machine
    assert database["rate_limits"].count_documents({}) <= 64 * minutes
    assert all(re.fullmatch(rf"~\d+:{re.escape(HOME)}", key) for key in counts(database))
    failures = audit(database, event_type="login_failure")
    assert len(failures) == statuses(responses)[401] <= 64 * 5 * minutes
    assert statuses(responses)[401] + statuses(responses)[429] == 2_000
    assert len(refusals(database)) <= 64 * minutes
    assert sum(record["count"] for record in refusals(database)) == statuses(responses)[429]


async def test_made_up_tokens_cannot_fill_the_database(start: Start, database: Database_) -> None:
    """Guesses at /refresh and /revoke fall into the same buckets, those at a route into one."""
    server = await start(MAX_REQUESTS_PER_MINUTE=2)
    http = server.http()
    for number in range(150):
        await http.post("/refresh", json={"refresh_token": f"made-up-{number}"})
        await http.post("/revoke", json={"access_token": f"made-up-{number}"})
    for number in range(10):
        await http.get("/protected", headers={"Authorization": f"Bearer made-up-{number}"})
    minutes = len({d["_id"].rpartition(":")[2] for d in database["rate_limits"].find()})
    assert database["rate_limits"].count_documents({}) <= 65 * minutes
    assert f"~:{HOME}" in counts(database)


async def test_one_machines_mistakes_do_not_lock_out_its_neighbours(start: Start) -> None:
    """Behind one address the others go on working, with a good secret and with a good token."""
    server = await start(MAX_REQUESTS_PER_MINUTE=3)
    clumsy, neighbour = await new_machine(server), await new_machine(server, client_id="neighbour")
    tokens = await neighbour.get_token()
    mistaken = clumsy.using(client_secret=WRONG_SECRET, client_id="clumsy")
    assert statuses([await mistaken.ask_token() for _ in range(6)]) == {401: 3, 429: 3}
    assert statuses([await clumsy.call("x") for _ in range(6)]) == {401: 3, 429: 3}
    assert (await neighbour.call(tokens)).status_code == 200
    assert (await neighbour.ask_token()).status_code == 200


async def test_over_the_limit_no_secret_is_checked(start: Start) -> None:
    """Past the limit even the right secret gets 429, so that guessing on tells nothing."""
    server = await start(MAX_REQUESTS_PER_MINUTE=3)
    machine = await new_machine(server)
    for _ in range(3):
        await wrong_secret(machine.http, machine.client_id)
    for method in ("basic", "post", "plain"):
        assert_refused(await machine.using(method=method).ask_token(), 3)
    assert_refused(await machine.revoke("whatever"), 3)
    elsewhere = machine.using(http=server.http("198.51.100.7"))
    assert (await elsewhere.ask_token()).status_code == 200


async def test_over_the_limit_no_slow_hash_is_computed(start: Start) -> None:
    """Nobody can keep the processors busy with guesses at typed secrets."""
    server = await start(MAX_REQUESTS_PER_MINUTE=2)
    machine = await new_machine(server, client_secret="typed by a person")
    guessing = machine.using(client_secret="a guess")
    slow = time.perf_counter()
    assert statuses([await guessing.ask_token() for _ in range(2)]) == {401: 2}
    slow = (time.perf_counter() - slow) / 2
    responses, quickest = [], slow
    for _ in range(10):
        begun = time.perf_counter()
        responses.append(await guessing.ask_token())
        quickest = min(quickest, time.perf_counter() - begun)
    assert statuses(responses) == {429: 10}
    assert quickest < slow / 2


async def test_good_tokens_pass_while_bad_ones_are_refused(
    start: Start, database: Database_
) -> None:
    """At a guarded route only further bad tokens get 429; missing ones count like bad ones."""
    server = await start(MAX_REQUESTS_PER_MINUTE=4)
    machine = await new_machine(server)
    tokens = await machine.get_token()
    assert (await machine.http.get("/protected")).status_code == 401
    assert (await machine.call("")).status_code == 401
    assert statuses([await machine.call(f"{tokens.access}x") for _ in range(5)]) == {401: 2, 429: 3}
    assert_refused(await machine.http.get("/protected"), 4)
    for _ in range(3):
        assert (await machine.call(tokens)).status_code == 200
    assert_refused(await machine.call(tokens), 4)
    assert counts(database) == {f"{machine.client_id}:{HOME}": 5, f"~:{HOME}": 8}


async def test_malformed_requests_are_counted_too(start: Start) -> None:
    """A body that cannot even be read is a failure of its address, not free of charge."""
    server = await start(MAX_REQUESTS_PER_MINUTE=3)
    http = server.http()
    for path, status in [("/token", 400), ("/refresh", 422), ("/revoke", 422)]:
        responses = [await http.post(path, content=b"\xff") for _ in range(3)]
        assert statuses(responses).keys() <= {status, 429}
    assert_refused(await http.post("/token", content=b"\xff"), 3)


# --- A place that was taken ahead ---------------------------------------------------------------

#: Where a client is made known, so that its budget at home is untouched.
ELSEWHERE = "198.51.100.200"


@pytest.fixture
def expectations(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each authentication, whether its place was taken ahead: so that a test knows it was."""
    found: list[bool] = []
    really_open = Admission.open

    async def watched(*args: Any, expected: Limits | None) -> Any:
        found.append(expected is not None)
        return await really_open(*args, expected=expected)

    monkeypatch.setattr(Admission, "open", watched)
    return found


async def warm(server: Server, machine: Machine, expectations: list[bool]) -> None:
    """Let a worker find out that a client's secret is right."""
    elsewhere = machine.using(http=server.http(ELSEWHERE))
    await elsewhere.get_token()
    await elsewhere.get_token()
    assert expectations == [False, True]
    expectations.clear()


def budget(database: Database_, machine: Machine, ip: str = HOME) -> int | None:
    """What a client's budget at an address has counted; nothing when it has no document."""
    return counts(database).get(f"{machine.client_id}:{ip}")


@pytest.mark.parametrize("method", ["basic", "post", "plain"])
@pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "one by one"])
async def test_a_limit_is_exact_for_a_client_known_or_new(
    start: Start,
    database: Database_,
    expectations: list[bool],
    method: str,
    is_warm: bool,
    at_once: bool,
) -> None:
    """N requests pass and the next ones do not, however the place of each was taken."""
    server = await start()
    machine = await new_machine(server, method=method, max_requests_per_minute=7)
    if is_warm:
        await warm(server, machine, expectations)
    if at_once:
        responses = await asyncio.gather(*(machine.ask_token() for _ in range(20)))
    else:
        responses = [await machine.ask_token() for _ in range(20)]
        assert [r.status_code for r in responses] == [200] * 7 + [429] * 13
    assert statuses(responses) == {200: 7, 429: 13}
    assert expectations[0] is is_warm
    assert budget(database, machine) == 20
    assert not [key for key in counts(database) if key.startswith("~")]


async def test_what_a_known_client_does_wrong_takes_one_place(
    start: Start, database: Database_, expectations: list[bool]
) -> None:
    """A refused scope, grant or refresh token is one request of its budget, and no failure."""
    server = await start()
    machine = await new_machine(server)
    await warm(server, machine, expectations)
    assert (await machine.ask_token("admin")).status_code == 400
    assert (await machine.post("/token", grant_type="implicit")).status_code == 400
    assert (await machine.ask_refresh("m2mr_unknown")).status_code == 400
    assert (await machine.revoke("no token at all")).status_code == 200
    assert expectations == [True] * 4
    assert counts(database) == {
        f"{machine.client_id}:{ELSEWHERE}": 2,
        f"{machine.client_id}:{HOME}": 4,
    }


@pytest.mark.parametrize(
    "stop", ["rotated", "disabled", "removed", "moved away", "expired", "malformed"]
)
@pytest.mark.parametrize("used", [0, 3], ids=["budget untouched", "budget in use"])
async def test_a_known_client_that_was_stopped_leaves_its_budget_as_it_was(
    start: Start, database: Database_, expectations: list[bool], stop: str, used: int
) -> None:
    """401 for each, counted as failures only, also when many come before the worker has learnt."""
    server = await start()
    machine = await new_machine(server)
    await warm(server, machine, expectations)
    for _ in range(used):
        await machine.get_token()
    expectations.clear()
    changes: dict[str, Document] = {
        "moved away": {"allowed_networks": ["203.0.113.0/24"]},
        "expired": {"client_secret": None, "secrets": []},
        "malformed": {"scopes": "read"},
    }
    if stop == "rotated":
        await server.m2m.clients.rotate_secret(machine.client_id)
    elif stop == "disabled":
        await server.m2m.clients.disable(machine.client_id)
    elif stop == "removed":
        await server.m2m.clients.remove(machine.client_id)
    else:
        database["clients"].update_one({"client_id": machine.client_id}, {"$set": changes[stop]})
    responses = await asyncio.gather(*(machine.ask_token() for _ in range(20)))
    assert any(expectations), "no place was taken ahead"
    expectations.clear()
    responses += [await machine.ask_token() for _ in range(5)]
    assert not any(expectations), "a worker does not expect again what was refused"
    assert statuses(responses) == {401: 25}
    assert (budget(database, machine) or 0) == used
    failures = {key: n for key, n in counts(database).items() if key.startswith("~")}
    assert list(failures.values()) == [25]
    assert len(audit(database, event_type="login_failure")) == 25


async def test_a_rotated_clients_budget_is_all_its_own(
    start: Start, database: Database_, expectations: list[bool]
) -> None:
    """After requests with the old secret the new one has the whole limit, to the last place."""
    server = await start()
    machine = await new_machine(server, max_requests_per_minute=4)
    await warm(server, machine, expectations)
    registered = await server.m2m.clients.rotate_secret(machine.client_id)
    assert statuses([await machine.ask_token() for _ in range(9)]) == {401: 9}
    renewed = machine.using(client_secret=registered.client_secret)
    assert statuses([await renewed.ask_token() for _ in range(9)]) == {200: 4, 429: 5}
    assert budget(database, machine) == 9


async def test_during_an_overlap_both_secrets_share_one_budget(
    start: Start, database: Database_, expectations: list[bool]
) -> None:
    """A known secret and a new one take their places from the same count."""
    server = await start()
    machine = await new_machine(server, max_requests_per_minute=6)
    await warm(server, machine, expectations)
    overlap = timedelta(hours=1)
    registered = await server.m2m.clients.rotate_secret(machine.client_id, overlap=overlap)
    renewed = machine.using(client_secret=registered.client_secret)
    responses = [await m.ask_token() for m in (machine, renewed) * 5]
    assert expectations[:4] == [True, False, True, True]
    assert [r.status_code for r in responses] == [200] * 6 + [429] * 4
    assert budget(database, machine) == 10


async def test_a_client_that_works_again_is_counted_exactly(
    start: Start, database: Database_, expectations: list[bool]
) -> None:
    """Disabled and enabled again: every request that was admitted is in the count, once."""
    server = await start()
    machine = await new_machine(server, max_requests_per_minute=5)
    await warm(server, machine, expectations)
    await machine.get_token()
    await server.m2m.clients.disable(machine.client_id)
    assert statuses([await machine.ask_token() for _ in range(4)]) == {401: 4}
    await server.m2m.clients.enable(machine.client_id)
    assert statuses([await machine.ask_token() for _ in range(6)]) == {200: 4, 429: 2}
    assert budget(database, machine) == 7


async def test_a_full_bucket_of_failures_leaves_a_known_clients_budget_as_it_was(
    start: Start, database: Database_, expectations: list[bool]
) -> None:
    """Somebody's guesses at an address bar the client there, but they cost it no place."""
    server = await start(MAX_REQUESTS_PER_MINUTE=3)
    machine = await new_machine(server, max_requests_per_minute=6)
    await warm(server, machine, expectations)
    await machine.get_token()
    for _ in range(3):
        assert (await wrong_secret(machine.http, machine.client_id)).status_code == 401
    before = counts(database)
    expectations.clear()
    responses = [await machine.ask_token() for _ in range(4)]
    responses += await asyncio.gather(*(machine.ask_token() for _ in range(20)))
    assert all(expectations)
    for response in responses:
        assert_refused(response, 3)
    assert counts(database) == before
    assert budget(database, machine) == 1
    elsewhere = machine.using(http=server.http(ELSEWHERE))
    assert statuses([await elsewhere.ask_token() for _ in range(6)]) == {200: 4, 429: 2}


@pytest.mark.parametrize("method", ["basic", "plain"])
async def test_a_client_without_a_limit_is_not_counted(
    start: Start, database: Database_, expectations: list[bool], method: str
) -> None:
    """Limit 0: no document for its budget, neither for its first request nor for later ones."""
    server = await start()
    machine = await new_machine(server, method=method, max_requests_per_minute=0)
    responses = [await machine.ask_token() for _ in range(4)]
    responses += await asyncio.gather(*(machine.ask_token() for _ in range(20)))
    responses += [await machine.call(Tokens.of(responses[0]))]
    assert statuses(responses) == {200: 25}
    assert counts(database) == {}


async def test_a_known_client_whose_limit_was_lifted_is_counted_no_more(
    start: Start, database: Database_, expectations: list[bool]
) -> None:
    """Limit 0 from now on: no document for its budget; and with a limit again it is exact."""
    server = await start()
    machine = await new_machine(server, max_requests_per_minute=5)
    await warm(server, machine, expectations)
    mine = {"client_id": machine.client_id}
    database["clients"].update_one(mine, {"$set": {"max_requests_per_minute": 0}})
    assert statuses([await machine.ask_token() for _ in range(8)]) == {200: 8}
    assert not budget(database, machine)
    database["clients"].update_one(mine, {"$set": {"max_requests_per_minute": 5}})
    assert statuses([await machine.ask_token() for _ in range(8)]) == {200: 5, 429: 3}
    assert budget(database, machine) == 8


# --- The audit of refusals ----------------------------------------------------------------------


async def test_a_minutes_refusals_are_one_record_with_a_count(
    start: Start, database: Database_
) -> None:
    """One for each key, however many there were and whoever of the workers refused them."""
    server = await start(MAX_REQUESTS_PER_MINUTE=2)
    machine, other = await new_machine(server), await new_machine(server)
    for _ in range(2 + 7):
        await machine.ask_token()
    for _ in range(2 + 3):
        await other.ask_token()
    for _ in range(2 + 4):
        await machine.call("x")
    by_client = {record["client_id"]: record for record in refusals(database)}
    assert len(refusals(database)) == 3
    assert by_client.keys() == {machine.client_id, other.client_id, None}
    assert by_client[machine.client_id]["count"] == 7
    assert by_client[other.client_id]["count"] == 3
    assert by_client[None]["count"] == 4
    for record in by_client.values():
        assert record["ip"] == HOME
        assert "2" in record["reason"]
        assert record["timestamp"].tzinfo is not None


# --- Exactness ----------------------------------------------------------------------------------


@asynccontextmanager
async def instances(database: AsyncDatabase[Any], number: int) -> AsyncIterator[list[Server]]:
    """Several servers on one database, as workers are."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running(database)) for _ in range(number)]


async def test_exactly_the_limit_is_admitted_over_all_instances(
    start: Start, async_database: AsyncDatabase[Any], database: Database_
) -> None:
    """However many ask at once and wherever: N places, N successes, at routes and endpoints."""
    limit = 25
    first = await start(MAX_REQUESTS_PER_MINUTE=limit)
    caller, asker = await new_machine(first), await new_machine(first)
    tokens = await caller.using(http=first.http("198.51.100.7")).get_token()
    async with instances(async_database, 4) as servers:
        clients = [server.http() for server in servers]
        at_route = await asyncio.gather(
            *(caller.using(http=clients[n % 4]).call(tokens) for n in range(4 * limit))
        )
        at_endpoint = await asyncio.gather(
            *(asker.using(http=clients[n % 4]).ask_token() for n in range(4 * limit))
        )
    assert statuses(at_route) == {200: limit, 429: 3 * limit}
    assert statuses(at_endpoint) == {200: limit, 429: 3 * limit}
    assert counts(database)[f"{caller.client_id}:{HOME}"] == 4 * limit
    assert [record["count"] for record in refusals(database)] == [3 * limit, 3 * limit]


async def test_failures_are_answered_exactly_to_the_limit_over_all_instances(
    start: Start, async_database: AsyncDatabase[Any]
) -> None:
    """Guesses that are sent at once over many workers get no more answers than one by one."""
    limit = 10
    first = await start(MAX_REQUESTS_PER_MINUTE=limit)
    machine = await new_machine(first)
    async with instances(async_database, 3) as servers:
        clients = [server.http() for server in servers]
        guesses = await asyncio.gather(
            *(wrong_secret(clients[n % 3], machine.client_id) for n in range(60))
        )
        bad_tokens = await asyncio.gather(
            *(machine.using(http=clients[n % 3]).call("x") for n in range(60))
        )
    assert statuses(guesses) == {401: limit, 429: 50}
    assert statuses(bad_tokens) == {401: limit, 429: 50}


# --- Whose address it is ------------------------------------------------------------------------

FORWARDED = [
    {"X-Forwarded-For": "203.0.113.{}"},
    {"X-Real-IP": "203.0.113.{}"},
    {"Forwarded": "for=203.0.113.{}"},
    {"CF-Connecting-IP": "203.0.113.{}"},
    {"True-Client-IP": "203.0.113.{}"},
    {"X-Client-IP": "203.0.113.{}"},
    {"X-Forwarded-For": "203.0.113.{}, 127.0.0.1"},
]


@pytest.mark.parametrize("forwarded", FORWARDED, ids=str)
async def test_a_forwarded_header_makes_no_new_budget(
    start: Start, database: Database_, forwarded: dict[str, str]
) -> None:
    """The library never believes one: which proxy to trust is for the server that runs it."""
    server = await start(MAX_REQUESTS_PER_MINUTE=3)
    machine = await new_machine(server)
    responses = []
    for number in range(6):
        headers = {name: value.format(number) for name, value in forwarded.items()}
        headers["Authorization"] = basic(machine.client_id, machine.client_secret)
        form = {"grant_type": "client_credentials"}
        responses.append(await machine.http.post("/token", data=form, headers=headers))
    assert statuses(responses) == {200: 3, 429: 3}
    assert counts(database) == {f"{machine.client_id}:{HOME}": 6}
    assert {record["ip"] for record in audit(database)} == {HOME}


@pytest.mark.parametrize("host", ["unknown", "_hidden", "not an address", "", "1.2.3.4:80"])
async def test_what_is_no_address_is_one_unknown_caller(
    start: Start, database: Database_, host: str
) -> None:
    """What a proxy puts there may be anything; it is neither an error nor a budget of its own."""
    server = await start(MAX_REQUESTS_PER_MINUTE=2)
    machine: Machine = await new_machine(server, ip=host)
    assert statuses([await machine.ask_token() for _ in range(3)]) == {200: 2, 429: 1}
    assert counts(database) == {f"{machine.client_id}:unknown": 3}
