"""Rate limits: every request its own place, over all workers together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo import AsyncMongoClient
from pymongo.database import Database

from _oauth2_m2m.errors import RateLimitExceeded
from _oauth2_m2m.rate_limits import (
    BAD_TOKENS,
    FAILURE_BUCKETS,
    RateLimits,
    check_place,
    failure_bucket,
)
from _oauth2_m2m.storage import Storage
from _oauth2_m2m.windows import Limits, Period, Window, budget, window_key

if TYPE_CHECKING:
    from tests.rooms.conftest import Commands

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


async def take(room: RateLimits, key: str) -> int:
    return await room.take(key, NOW)


@pytest.mark.parametrize(("requests", "workers"), [(1, 1), (40, 1), (40, 8), (200, 4)])
async def test_parallel_requests_have_the_places_from_one(
    mongo_url: str, database_name: str, requests: int, workers: int
) -> None:
    """N requests over several workers get exactly the places 1 to N, the first ones included."""
    clients = [AsyncMongoClient[Any](mongo_url) for _ in range(workers)]
    rooms = [RateLimits(Storage(client[database_name])) for client in clients]
    places = await asyncio.gather(*(take(rooms[n % workers], "a") for n in range(requests)))
    assert sorted(places) == list(range(1, requests + 1))
    assert await rooms[0].taken("a") == requests
    for client in clients:
        await client.close()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), min_size=1, max_size=40))
@settings(max_examples=25)
def test_keys_do_not_mix(database: Database[Any], requests: list[tuple[str, int]]) -> None:
    """Whatever arrives together, each key counts its own requests and no others."""
    database.rate_limits.delete_many({})
    rooms = [RateLimits(Storage(database)) for _ in range(3)]

    async def take_all() -> list[int]:
        return await asyncio.gather(*(take(rooms[worker], key) for key, worker in requests))

    places: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    for (key, _), place in zip(requests, asyncio.run(take_all()), strict=True):
        places[key].append(place)
    assert {key: sorted(found) for key, found in places.items()} == {
        key: list(range(1, len(found) + 1)) for key, found in places.items()
    }


async def test_one_worker_serves_in_the_order_of_arrival(storage: Storage) -> None:
    """Whoever asks first has the earlier place."""
    room = RateLimits(storage)
    answers = [room.take("a", NOW) for _ in range(5)]
    assert [await answer for answer in answers] == [1, 2, 3, 4, 5]


async def test_a_window_admits_its_limit_and_no_more(storage: Storage) -> None:
    """Of sixty parallel requests over three workers, a limit of seven admits seven."""
    rooms = [RateLimits(storage) for _ in range(3)]
    key = window_key("reporter", "192.0.2.7", NOW)

    async def admitted(n: int) -> bool:
        try:
            check_place(await take(rooms[n % 3], key), 7, key, NOW)
        except RateLimitExceeded:
            return False
        return True

    assert Counter(await asyncio.gather(*map(admitted, range(60)))) == {True: 7, False: 53}


async def test_looking_takes_no_place(storage: Storage) -> None:
    """What was counted can be asked for without being counted."""
    room = RateLimits(storage)
    assert await room.taken("a") == 0
    await room.take("a", NOW)
    assert [await room.taken("a"), await room.taken("a"), await room.taken("b")] == [1, 1, 0]


async def test_a_window_is_one_document(storage: Storage, database: Database[Any]) -> None:
    """The contract's document, however many requests it counts, tidied after a day."""
    room = RateLimits(storage)
    await room.prepare()
    await asyncio.gather(*(take(room, "a") for _ in range(9)))
    await room.take("a", NOW + timedelta(seconds=30))
    assert list(database.rate_limits.find()) == [{"_id": "a", "count": 10, "timestamp": NOW}]
    indexes = database.rate_limits.index_information()
    assert indexes["timestamp_1"]["expireAfterSeconds"] == 86_400


async def test_counting_is_by_id(
    watched_storage: Storage, commands: Commands, database: Database[Any]
) -> None:
    """Among 20,000 windows, counting and looking read their own."""
    room = RateLimits(watched_storage)
    await room.prepare()
    database.rate_limits.insert_many(
        {"_id": f"client-{n}:192.0.2.7:203001020304", "count": 1, "timestamp": NOW}
        for n in range(20_000)
    )
    commands.sent.clear()
    keys = [f"client-{n}:192.0.2.7:203001020304" for n in (1, 2, 3, 99_999)]
    places = await asyncio.gather(*(take(room, key) for key in keys))
    assert places == [2, 2, 2, 1]
    await asyncio.gather(*(_taken(room, key) for key in keys))
    plans = commands.plans(database)
    assert len(plans) == 6
    assert not [plan for plan in plans if "COLLSCAN" in plan.stages]
    assert all(plan.examined <= 4 for plan in plans)


async def _taken(room: RateLimits, key: str) -> int:
    return await room.taken(key)


# Many windows at once

#: A batch of as many windows as an instance counts together, or of the few that it counts apart.
BATCH = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=12)
MANY = st.permutations("abcdefg").flatmap(
    lambda keys: BATCH.map(lambda more: [*keys[:5], *more])  # five at the least, some repeated
)


def assert_exact(batches: list[list[str]], answers: Sequence[Sequence[int]]) -> Counter[str]:
    """Every key has each place from 1 once; a batch has its places in a row, in its order."""
    found: dict[str, list[int]] = {}
    for batch, places in zip(batches, answers, strict=True):
        assert len(places) == len(batch)
        mine: dict[str, list[int]] = {}
        for key, place in zip(batch, places, strict=True):
            mine.setdefault(key, []).append(place)
        for key, row in mine.items():
            assert row == list(range(row[0], row[0] + len(row)))
            found.setdefault(key, []).extend(row)
    for key, row in found.items():
        assert sorted(row) == list(range(1, len(row) + 1)), key
    return Counter({key: len(row) for key, row in found.items()})


@given(st.lists(st.tuples(st.integers(0, 2), MANY | BATCH), min_size=1, max_size=8))
@settings(max_examples=20)
def test_batches_of_many_windows_are_exact(
    database: Database[Any], calls: list[tuple[int, list[str]]]
) -> None:
    """However instances count the same windows at once, together or apart, no place is lost."""
    database.rate_limits.delete_many({})
    rooms = [RateLimits(Storage(database)) for _ in range(3)]

    async def take_all() -> list[Sequence[int]]:
        work = (rooms[n].take_all([(key, NOW) for key in batch]) for n, batch in calls)
        return await asyncio.gather(*work)

    batches = [batch for _, batch in calls]
    taken = assert_exact(batches, asyncio.run(take_all()))
    assert {d["_id"]: d["count"] for d in database.rate_limits.find()} == taken


async def test_a_flood_of_many_windows_is_exact_and_notes_few_names(
    mongo_url: str, database_name: str, database: Database[Any]
) -> None:
    """Four workers, three calls at a time each: a window notes twelve names at the most.

    However many batches there were; and nothing else is written but what the contract names.
    """
    workers, at_once, rounds = 4, 3, 25
    clients = [AsyncMongoClient[Any](mongo_url) for _ in range(workers)]
    rooms = [RateLimits(Storage(client[database_name])) for client in clients]
    batches: list[list[str]] = []
    answers: list[Sequence[int]] = []

    async def work(room: RateLimits, first: int) -> None:
        for number in range(rounds):
            keys = [f"window-{(first + number + n) % 9}" for n in range(6)] * 2
            batches.append(keys)
            place = len(answers)
            answers.append([])
            answers[place] = await room.take_all([(key, NOW) for key in keys])

    calls = [work(room, call) for room in rooms for call in range(at_once)]
    await asyncio.gather(*calls)
    taken = assert_exact(batches, answers)
    assert taken.total() == workers * at_once * rounds * 12
    documents = list(database.rate_limits.find())
    assert {d["_id"]: d["count"] for d in documents} == taken
    for document in documents:
        assert document.keys() == {"_id", "count", "timestamp", "before"}
        assert document["timestamp"] == NOW
        assert 1 <= len(document["before"]) <= workers * at_once
    assert len({name for d in documents for name in d["before"]}) <= workers * at_once
    for client in clients:
        await client.close()


async def test_one_batch_after_another_notes_one_name(
    storage: Storage, database: Database[Any]
) -> None:
    """An instance whose calls do not overlap uses one name for all of its windows for ever."""
    room = RateLimits(storage)
    for _ in range(6):
        await room.take_all([(key, NOW) for key in "abcde"])
    names = [set(document["before"]) for document in database.rate_limits.find()]
    assert len(names) == 5
    assert len(set.union(*names)) == 1


async def test_few_windows_note_no_name(storage: Storage, database: Database[Any]) -> None:
    """A batch of few windows leaves the document of old behind, whatever came before it."""
    room = RateLimits(storage)
    assert await room.take_all([("a", NOW)] * 3) == [1, 2, 3]
    assert await room.take_all([("a", NOW), ("b", NOW), ("a", NOW)]) == [4, 1, 5]
    assert all(d.keys() == {"_id", "count", "timestamp"} for d in database.rate_limits.find())
    assert await room.take_all([(key, NOW) for key in "cbcad"]) == [1, 2, 2, 6, 1]
    later = NOW + timedelta(seconds=9)
    assert await room.take_all([(key, later) for key in "abba"]) == [7, 3, 4, 8]
    assert await room.take_all([(key, later) for key in "abef"]) == [9, 5, 1, 1]
    began = {d["_id"]: d["timestamp"] for d in database.rate_limits.find()}
    assert began == {**dict.fromkeys("abcd", NOW), **dict.fromkeys("ef", later)}


async def test_places_given_back_are_taken_again(storage: Storage) -> None:
    """Also of a window that was counted together with others."""
    room = RateLimits(storage)
    for _ in range(2):
        assert await room.take_all([(key, NOW) for key in "abcdeaa"]) == [1, 1, 1, 1, 1, 2, 3]
        await asyncio.gather(*(_give_back(room, key) for key in "abcdeaa"))
    assert await room.look_up_all(list("abcdex")) == [0] * 6


async def test_many_windows_cost_two_commands(
    watched_storage: Storage, commands: Commands, database: Database[Any]
) -> None:
    """One that counts and one that reads, both by id, for a hundred windows."""
    room = RateLimits(watched_storage)
    database.rate_limits.insert_many(
        {"_id": f"client-{n}", "count": n, "timestamp": NOW} for n in range(1_000)
    )
    keys = [f"client-{n}" for n in range(950, 1_050)]
    commands.sent.clear()
    places = await room.take_all([(key, NOW) for key in keys])
    assert places == [n + 1 if n < 1_000 else 1 for n in range(950, 1_050)]
    assert [next(iter(command)) for command in commands.sent] == ["update", "find"]
    (find,) = commands.named("find")
    (update,) = commands.named("update")
    update["updates"] = update["updates"][:3] + update["updates"][-3:]
    plans = commands.plans(database)
    assert len(plans) == 7
    assert not [plan for plan in plans if "COLLSCAN" in plan.stages]
    assert max(plan.examined for plan in plans) <= len(find["filter"]["_id"]["$in"]) == 100


async def _give_back(room: RateLimits, *keys: str) -> None:
    await room.give_back([Window(key, NOW, Period.MINUTE, 1) for key in keys])


# Several windows of one request

QUOTAS = Limits(minute=9, hour=9, day=9)


async def test_a_request_has_a_place_in_each_of_its_windows(
    storage: Storage, database: Database[Any]
) -> None:
    """The address's minute, and the client's hour and day, whatever the address."""
    room = RateLimits(storage)
    here, there = (budget("reporter", ip, QUOTAS, NOW) for ip in ("192.0.2.7", "192.0.2.8"))
    assert await room.take_each([here, there, here]) == [[1, 1, 1], [1, 2, 2], [2, 3, 3]]
    assert await room.take_each([there]) == [[2, 4, 4]]
    await room.give_back(there[1:])
    assert {d["_id"]: d["count"] for d in database.rate_limits.find()} == {
        "reporter:192.0.2.7:203001020304": 2,
        "reporter:192.0.2.8:203001020304": 2,
        "reporter:*:2030010203": 3,
        "reporter:*:20300102": 3,
    }


async def test_a_quota_outlives_its_window_by_a_day(
    storage: Storage, database: Database[Any]
) -> None:
    """Whatever the database's clock says, up to a day ahead: what was counted stays counted."""
    room = RateLimits(storage)
    await room.take_each([budget("a", "ip", QUOTAS, NOW)])
    more = [budget(client, "ip", QUOTAS, NOW) for client in "abcde"]
    await room.take_each(more)
    dated = {d["_id"]: d["timestamp"] for d in database.rate_limits.find()}
    assert len(dated) == 15
    for key, timestamp in dated.items():
        hour, day = NOW.replace(hour=4, minute=0, second=0), NOW.replace(day=3, hour=0, minute=0)
        expected = {12: NOW, 10: hour, 8: day.replace(second=0)}[len(key.rpartition(":")[2])]
        assert timestamp == expected


async def test_a_place_in_a_window_that_is_gone_is_not_given_back(
    storage: Storage, database: Database[Any]
) -> None:
    """A document that was tidied away is not made anew, with a count below nothing."""
    await _give_back(RateLimits(storage), "a", "b", "c", "d")
    assert database.rate_limits.count_documents({}) == 0


@pytest.mark.parametrize("requests", [1, 2, 30])
async def test_a_request_with_quotas_takes_one_round(
    watched_storage: Storage, commands: Commands, requests: int
) -> None:
    """All three windows are counted side by side, of one request or of thirty of one client."""
    room = RateLimits(watched_storage)
    commands.sent.clear()
    await room.take_each([budget("a", "ip", QUOTAS, NOW)] * requests)
    assert [next(iter(command)) for command in commands.sent] == ["findAndModify"] * 3


# The rules


@pytest.mark.parametrize(
    ("place", "limit", "admitted"),
    [(1, 1, True), (2, 1, False), (60, 60, True), (61, 60, False), (10**9, 0, True), (1, 0, True)],
)
def test_the_first_places_are_admitted(place: int, limit: int, admitted: bool) -> None:
    """As many as the limit says, and all when it is 0."""
    if admitted:
        check_place(place, limit, "key", NOW)
    else:
        with pytest.raises(RateLimitExceeded) as refusal:
            check_place(place, limit, "key", NOW, "reporter")
        assert (refusal.value.key, refusal.value.limit) == ("key", limit)
        assert refusal.value.client_id == "reporter"


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_refusal_says_when_the_window_ends(now: datetime) -> None:
    """From 1 to 60 seconds, and by then the window is another one."""
    with pytest.raises(RateLimitExceeded) as refusal:
        check_place(2, 1, "key", now)
    seconds = refusal.value.reset_seconds
    assert 1 <= seconds <= 60
    if now < datetime.max.replace(tzinfo=UTC) - timedelta(minutes=2):
        then = now + timedelta(seconds=seconds)
        assert window_key("a", "ip", then) != window_key("a", "ip", now)
        assert refusal.value.headers()["Retry-After"] == str(seconds)


def test_the_keys_are_those_of_the_contract() -> None:
    """The client, the address and the minute in UTC; failures apart from everybody's budget."""
    moment = NOW.astimezone()
    assert window_key("reporter", "192.0.2.7", moment) == "reporter:192.0.2.7:203001020304"
    assert window_key(BAD_TOKENS, "192.0.2.7", moment) == "~:192.0.2.7:203001020304"
    assert 0 <= int(failure_bucket("reporter").removeprefix("~")) < FAILURE_BUCKETS


def test_made_up_ids_share_a_bounded_number_of_windows() -> None:
    """However many ids somebody invents, an address has 64 windows of failures a minute."""
    buckets = {failure_bucket(f"made-up-{n}") for n in range(5000)}
    assert len(buckets) == FAILURE_BUCKETS
    assert all(bucket.startswith("~") for bucket in buckets)
