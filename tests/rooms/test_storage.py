"""The edge to MongoDB: both PyMongo APIs, one error, durable writes, dates in UTC."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from hypothesis import example, given
from hypothesis import strategies as st
from pymongo import AsyncMongoClient, MongoClient, WriteConcern
from pymongo.database import Database

from _oauth2_m2m.deadlines import Deadline
from _oauth2_m2m.errors import ConfigurationError, TemporarilyUnavailable
from _oauth2_m2m.storage import COMMAND_SECONDS, Collection, Storage, as_utc

if TYPE_CHECKING:
    from tests.rooms.conftest import Commands

NOW = datetime(2030, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
DAY = timedelta(days=1)
NOBODY = "mongodb://127.0.0.1:9/"


@pytest.fixture(params=["asynchronous", "synchronous"])
async def things(
    request: pytest.FixtureRequest, mongo_url: str, database_name: str
) -> AsyncIterator[Collection]:
    """A collection, through either API of PyMongo."""
    if request.param == "asynchronous":
        async with AsyncMongoClient[Any](mongo_url) as client:
            yield Storage(client[database_name]).collection("things")
    else:
        with MongoClient[Any](mongo_url) as blocking:
            yield Storage(blocking[database_name]).collection("things")


@pytest.mark.parametrize("wrong", [None, "mongodb://localhost", {}, 7], ids=repr)
def test_what_is_no_database_is_refused(wrong: Any) -> None:
    """Somebody who hands in an URL or a client is told what to hand in."""
    with pytest.raises(ConfigurationError, match="PyMongo database"):
        Storage(wrong)


def test_a_client_is_no_database(mongo_client: MongoClient[Any]) -> None:
    """A forgotten `.oauth2_m2m` is told apart from a database."""
    with pytest.raises(ConfigurationError, match="it got a MongoClient"):
        Storage(mongo_client)  # type: ignore[arg-type]


async def test_building_sends_nothing(commands: Commands, mongo_url: str) -> None:
    """Neither a storage nor a collection says a word to the database before its first use."""
    async with AsyncMongoClient[Any](mongo_url, event_listeners=[commands]) as client:
        storage = Storage(client.nothing)
        storage.collection("things").with_read_concern("linearizable")
        assert commands.sent == []
        await storage.ping(5)
        assert [next(iter(command)) for command in commands.sent] == ["ping"]


async def test_inserting_tells_for_each_whether_it_was_new(things: Collection) -> None:
    """Those that were there already, or stand twice in a batch, are told by their place."""
    assert await things.insert([{"_id": 1}, {"_id": 2}]) == [True, True]
    batch = [{"_id": 3}, {"_id": 1}, {"_id": 4}, {"_id": 3}, {"_id": 2}]
    assert await things.insert(batch) == [True, False, True, False, False]
    assert [d["_id"] for d in await things.page({}, "_id", 10)] == [1, 2, 3, 4]
    assert await things.insert_one({"_id": 5}) is True
    assert await things.insert_one({"_id": 5, "other": 1}) is False
    assert await things.find_one({"_id": 5}) == {"_id": 5}


async def test_reading(things: Collection) -> None:
    """Documents, single ones, parts of them, and pages in either order."""
    await things.insert([{"_id": n, "even": n % 2 == 0, "n": n} for n in range(5)])
    assert {d["_id"] for d in await things.find({"even": True})} == {0, 2, 4}
    assert await things.find({"_id": 9}) == []
    assert await things.find_one({"_id": 1}, ["n"]) == {"_id": 1, "n": 1}
    assert await things.find_one({"_id": 9}) is None
    assert [d["_id"] for d in await things.page({"n": {"$gt": 1}}, "n", 2)] == [2, 3]
    assert [d["_id"] for d in await things.page({}, "n", 2, newest_first=True)] == [4, 3]


async def test_changing(things: Collection) -> None:
    """Updates return the document as it is afterwards, or nothing."""
    assert await things.change({"_id": 1}, {"$inc": {"n": 1}}) is None
    assert await things.change({"_id": 1}, {"$inc": {"n": 1}}, upsert=True) == {"_id": 1, "n": 1}
    assert await things.change({"_id": 1}, {"$inc": {"n": 1}}, fields=["_id"]) == {"_id": 1}
    await things.upsert([({"_id": i}, {"$inc": {"n": 5}}) for i in (1, 2, 1)])
    assert {d["_id"]: d["n"] for d in await things.find({})} == {1: 12, 2: 5}
    assert await things.remove({"_id": 2}) == {"_id": 2, "n": 5}
    assert await things.remove({"_id": 2}) is None


async def test_dates_come_back_in_utc(things: Collection) -> None:
    """Every date that is read is aware, whatever the client's own options say."""
    await things.insert_one({"_id": 1, "at": NOW.astimezone(timezone(timedelta(hours=9)))})
    found = await things.find_one({"_id": 1})
    assert found is not None
    assert found["at"] == NOW
    assert found["at"].tzinfo is UTC or found["at"].utcoffset() == timedelta(0)


@pytest.mark.parametrize("milliseconds", [8_640_000_000_000_000, 2**63 - 1, -(2**62)], ids=repr)
async def test_a_date_beyond_the_calendar_stops_nothing(
    things: Collection, database: Database[Any], milliseconds: int
) -> None:
    """A `new Date(8640000000000000)` of mongosh raises no strange error, nor hides others."""
    far = bson.encode({"_id": 1, "at": bson.DatetimeMS(milliseconds)})
    await things.insert([{"_id": 2}])
    database.things.insert_one(RawBSONDocument(far))
    assert {document["_id"] for document in await things.find({})} == {1, 2}


async def test_writes_are_durable_and_reads_of_the_majority(
    watched_storage: Storage, commands: Commands
) -> None:
    """Every write is journaled by a majority before it returns."""
    durable = watched_storage.collection("a")
    await durable.insert([{"_id": 1}])
    await durable.insert_one({"_id": 2})
    await durable.change({"_id": 1}, {"$set": {"a": 1}})
    await durable.upsert([({"_id": 3}, {"$set": {"a": 1}})])
    await durable.remove({"_id": 3})
    await durable.find({})
    await durable.with_read_concern("linearizable").find_one({})
    concerns = [
        c["writeConcern"] for c in commands.named("insert", "findAndModify", "update", "delete")
    ]
    assert concerns == [{"w": "majority", "j": True}] * 5
    levels = [c["readConcern"]["level"] for c in commands.named("find")]
    assert levels == ["majority", "linearizable"]


@pytest.mark.parametrize("blocking", [True, False], ids=["synchronous", "asynchronous"])
async def test_an_unreachable_database_is_one_error(
    blocking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is asked, the answer is `TemporarilyUnavailable`, within the bound on a command."""
    assert COMMAND_SECONDS < 5
    monkeypatch.setattr("_oauth2_m2m.storage.COMMAND_DEADLINE", Deadline(0.3))
    client: Any = (MongoClient if blocking else AsyncMongoClient)(NOBODY)
    storage = Storage(client.nothing)
    things = storage.collection("things")
    started = time.monotonic()
    for ask in (
        lambda: storage.ping(0.2),
        lambda: things.find({}),
        lambda: things.insert([{"_id": 1}]),
        lambda: things.insert_one({"_id": 1}),
        lambda: things.upsert([({"_id": 1}, {"$set": {"a": 1}})]),
        lambda: things.change({"_id": 1}, {"$set": {"a": 1}}),
        lambda: things.remove({"_id": 1}),
        lambda: things.ensure_index([("a", 1)]),
    ):
        with pytest.raises(TemporarilyUnavailable, match="try again"):
            await ask()
    assert time.monotonic() - started < 10
    closing = client.close()
    if not blocking:
        await closing


async def test_a_ping_keeps_its_time() -> None:
    """Whoever asks for a sign of life within a tenth of a second has an answer soon after."""
    async with AsyncMongoClient[Any](NOBODY) as client:
        started = time.monotonic()
        with pytest.raises(TemporarilyUnavailable):
            await Storage(client.nothing).ping(0.1)
        assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "query", [{"$nonsense": 1}, {"a": {"$nonsense": 1}}, {"$where": 7}], ids=repr
)
async def test_what_the_server_refuses_is_the_same_error(
    things: Collection, query: dict[str, Any]
) -> None:
    """No PyMongo error gets through, and no word of the query."""
    with pytest.raises(TemporarilyUnavailable) as refusal:
        await things.find(query)
    assert "nonsense" not in refusal.value.detail


async def test_a_batch_that_fails_for_another_reason_is_no_duplicate(
    things: Collection, database: Database[Any]
) -> None:
    """A document that the server refuses must not count as written, nor as known already."""
    database.create_collection("things", validator={"$jsonSchema": {"required": ["good"]}})
    for batch in ([{"_id": 1}], [{"_id": 2, "good": 1}, {"_id": 3}]):
        with pytest.raises(TemporarilyUnavailable):
            await things.insert(batch)
    with pytest.raises(TemporarilyUnavailable):
        await things.upsert([({"_id": 4}, {"$set": {"a": 1}})])


# Indexes


async def test_an_index_is_made_once(things: Collection, database: Database[Any]) -> None:
    """Making it again, as every worker does, changes nothing."""
    for _ in range(2):
        await things.ensure_index([("a", 1), ("b", 1)])
        await things.ensure_index([("c", 1)], unique=True)
        await things.ensure_index([("at", 1)], lifetime=DAY)
    indexes = database.things.index_information()
    assert set(indexes) == {"_id_", "a_1_b_1", "c_1", "at_1"}
    assert indexes["c_1"]["unique"] is True
    assert indexes["at_1"]["expireAfterSeconds"] == 86_400


@pytest.mark.parametrize("before", [None, 60, 7 * 86_400])
async def test_a_lifetime_is_set_on_the_index_there_is(
    things: Collection, database: Database[Any], before: int | None
) -> None:
    """A changed retention, or an index without one, is changed in place."""
    options: dict[str, Any] = {} if before is None else {"expireAfterSeconds": before}
    database.things.create_index([("at", 1)], **options)
    await things.ensure_index([("at", 1)], lifetime=DAY)
    assert database.things.index_information()["at_1"]["expireAfterSeconds"] == 86_400


async def test_an_index_that_no_majority_takes_is_no_mistake_of_the_operator(
    mongo_url: str, database_name: str
) -> None:
    """A primary that steps down meanwhile is an outage, not an index that must be dropped."""
    everybody = WriteConcern(w=50)  # more members than a replica set may have
    async with AsyncMongoClient[Any](mongo_url) as client:
        collection = client[database_name].get_collection("things", write_concern=everybody)
        with pytest.raises(TemporarilyUnavailable):
            await Collection(collection, True).ensure_index([("name", 1)])


async def test_duplicates_in_the_way_of_an_index_are_told(
    things: Collection, database: Database[Any]
) -> None:
    """The operator reads which collection and field hold two of the same."""
    database.things.insert_many([{"a": 1}, {"a": 1}])
    with pytest.raises(ConfigurationError, match=r"cannot index things by a .*: two documents"):
        await things.ensure_index([("a", 1)], unique=True)


async def test_an_older_index_in_the_way_is_told(
    things: Collection, database: Database[Any]
) -> None:
    """An index of the same name with other options is for the operator to drop."""
    database.things.create_index([("a", 1)], sparse=True)
    with pytest.raises(ConfigurationError, match=r"cannot index things by a .*: drop the index"):
        await things.ensure_index([("a", 1)], unique=True)


# Moments


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (NOW, NOW),
        (NOW.replace(tzinfo=None), NOW),
        (NOW.astimezone(timezone(timedelta(hours=-5))), NOW),
        ("2030-01-02T03:04:05.678", NOW),
        ("2030-01-02T03:04:05.678Z", NOW),
        ("2030-01-02 05:04:05.678+02:00", NOW),
        ("2030-01-02", datetime(2030, 1, 2, tzinfo=UTC)),
        ("", None),
        ("soon", None),
        ("2030-02-30", None),
        (None, None),
        (1_900_000_000, None),
        (True, None),
        ({}, None),
    ],
    ids=repr,
)
def test_a_moment_is_read(value: object, moment: datetime | None) -> None:
    """BSON dates and the ISO texts of the older shape, in UTC; anything else is no moment."""
    found = as_utc(value)
    assert found == moment
    assert found is None or found.utcoffset() == timedelta(0)


@given(st.one_of(st.text(), st.datetimes().map(datetime.isoformat)), st.sampled_from(["", "Z"]))
@example("9999-12-31T23:59:59", "-05:00")
@example("0001-01-01T00:00:00", "+05:00")
def test_any_text_is_a_moment_or_none(text: str, zone: str) -> None:
    """No text in a date's place raises anything."""
    found = as_utc(text + zone)
    assert found is None or found.tzinfo is UTC


@given(st.datetimes(timezones=st.just(UTC)))
def test_iso_texts_are_read_as_they_were_written(moment: datetime) -> None:
    """What the older software wrote with `isoformat` is the moment that it meant."""
    assert as_utc(moment.isoformat()) == moment
    assert as_utc(moment.replace(tzinfo=None).isoformat()) == moment
