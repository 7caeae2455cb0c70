"""The revocation feed: every follower comes to know every mark, whenever it asks."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from bson import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo.database import Database

from _oauth2_m2m.errors import InvalidRequest
from _oauth2_m2m.revocation import (
    Revocation,
    epoch_mark,
    family_mark,
    key_mark,
    published,
)
from _oauth2_m2m.revocation_feed import (
    OVERLAP_SECONDS,
    PUBLISHED_FOR,
    Cursor,
    Question,
    RevocationFeed,
    Span,
    cursor_from,
    next_spans,
)
from _oauth2_m2m.storage import COMMAND_SECONDS, Storage
from tests.followers import Follower

if TYPE_CHECKING:
    from tests.rooms.conftest import Commands


@pytest.fixture
async def revocation(storage: Storage) -> Revocation:
    """The room that sets marks, prepared."""
    room = Revocation(storage)
    await room.prepare()
    return room


def soon() -> datetime:
    """When marks of these tests end, a whole second."""
    return datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=15)


#: What may happen: a mark is set (again), by its number, or a follower takes a page.
EVENTS = st.lists(
    st.tuples(st.just("set"), st.integers(0, 9)) | st.tuples(st.just("page"), st.integers(0, 2)),
    max_size=40,
)


@given(EVENTS, st.integers(1, 4))
@settings(max_examples=60)
def test_every_follower_ends_with_the_marks_that_were_set(
    mongo_url: str, database: Database[Any], events: list[tuple[str, int]], page_size: int
) -> None:
    """However settings and pages follow each other, a whole pass misses nothing set before it."""
    database.revoked_tokens.delete_many({})
    storage = Storage(database)
    revocation, feed = Revocation(storage), RevocationFeed(storage, page_size)
    followers = [Follower(feed) for _ in range(3)]
    is_set: set[str] = set()
    before_pass = {number: set(is_set) for number in range(3)}

    async def run() -> None:
        for event, number in events:
            if event == "set":
                await revocation.revoke(f"m{number}", datetime.now(UTC), soon())
                is_set.add(published(f"m{number}"))
            elif not await followers[number].take_page():
                assert followers[number].known.keys() >= before_pass[number]
                before_pass[number] = set(is_set)
        for number, follower in enumerate(followers):
            await follower.catch_up()
            assert follower.known.keys() >= before_pass[number]
            await follower.catch_up()
            assert follower.known.keys() == is_set

    asyncio.run(run())


#: Seconds that pass, whether the mark set now is seen only later, and whether a follower reads.
TIMES = st.lists(st.tuples(st.integers(0, 25), st.booleans(), st.booleans()), max_size=30)


@given(TIMES, st.integers(1, 4))
@settings(max_examples=60)
def test_a_mark_that_becomes_visible_late_is_not_missed(
    mongo_url: str, database: Database[Any], times: list[tuple[int, bool, bool]], page_size: int
) -> None:
    """A command may take its time while marks with a later place are read already."""
    marks = database.revoked_tokens
    marks.delete_many({})
    start = seconds = int(datetime.now(UTC).timestamp()) - 3600
    follower = Follower(RevocationFeed(Storage(database), page_size))
    invisible: list[dict[str, Any]] = []
    names: set[str] = set()

    def show(until: float) -> None:
        for mark in [mark for mark in invisible if mark["seq"].time < until]:
            marks.insert_one(mark)
            invisible.remove(mark)

    async def run() -> None:
        nonlocal seconds
        for number, (passing, is_late, reads) in enumerate(times):
            seconds += passing
            show(until=seconds - 2 * COMMAND_SECONDS)
            place = Timestamp(seconds, number + 1)
            mark = {"_id": f"m{number}", "seq": place, "expires_at": soon()}
            names.add(published(f"m{number}"))
            (invisible.append if is_late else marks.insert_one)(mark)
            if reads:
                await follower.take_page()
        show(until=float("inf"))
        await follower.catch_up()
        await follower.catch_up()
        assert follower.known.keys() == names

    asyncio.run(run())
    assert start <= seconds


async def test_a_mark_that_became_visible_behind_a_long_pass_comes_with_the_next(
    storage: Storage, database: Database[Any]
) -> None:
    """The next pass begins before the newest mark of when this one began, not of when it ended."""
    marks = database.revoked_tokens
    start = int(datetime.now(UTC).timestamp()) - 3600

    def show(*seconds: int) -> None:
        marks.insert_many(
            {"_id": f"m{n}", "seq": Timestamp(start + n, 1), "expires_at": soon()} for n in seconds
        )

    show(0, 2, 3, 4)
    follower = Follower(RevocationFeed(storage, 2))
    assert await follower.take_page()
    show(1)  # behind the page that was taken
    show(*range(30, 40))  # the pass goes on, further than the overlap
    await follower.catch_up()
    await follower.catch_up()
    assert published("m1") in follower.known


async def test_a_follower_that_keeps_up_reads_only_what_is_new(
    storage: Storage, database: Database[Any]
) -> None:
    """What lies more than the overlap before its cursor is not sent again."""
    start = int(datetime.now(UTC).timestamp()) - 3600
    database.revoked_tokens.insert_many(
        {"_id": f"m{n}", "seq": Timestamp(start + n, 1), "expires_at": soon()} for n in range(100)
    )
    follower = Follower(RevocationFeed(storage))
    await follower.catch_up()
    assert len(follower.known) == 100
    follower.known.clear()
    await follower.catch_up()
    assert set(follower.known) == {published(f"m{n}") for n in range(99 - OVERLAP_SECONDS, 100)}


@pytest.mark.parametrize(
    "mark", ["a-jti", family_mark("f"), epoch_mark("billing", "e"), key_mark("a-kid")]
)
async def test_a_mark_is_published_as_half_a_digest_with_its_end(
    storage: Storage, revocation: Revocation, mark: str
) -> None:
    """The first 16 bytes of SHA-256, and the second in which the last token has expired."""
    ends = soon() + timedelta(milliseconds=1)
    await revocation.revoke(mark, datetime.now(UTC), ends, "sha256$digest")
    page = await RevocationFeed(storage).page(Cursor(), datetime.now(UTC))
    digest = base64.urlsafe_b64encode(hashlib.sha256(mark.encode()).digest()[:16]).decode()
    assert json.loads(page.revoked) == [[digest.rstrip("="), int(ends.timestamp()) + 1]]
    assert page.more is False


async def test_a_family_is_published_as_long_as_an_access_token_can_live(
    storage: Storage, revocation: Revocation
) -> None:
    """Marks that live for months by their refresh tokens are of no use to followers that long."""
    now = datetime.now(UTC)
    await revocation.revoke(family_mark("f"), now, now + timedelta(days=30))
    follower = Follower(RevocationFeed(storage))
    await follower.catch_up()
    (end,) = follower.known.values()
    assert abs(end - (now + PUBLISHED_FOR).timestamp()) <= 60


async def test_what_can_hit_nothing_is_left_out(storage: Storage, database: Database[Any]) -> None:
    """Expired marks and those set too long ago are not sent; what has no end is sent."""
    now = datetime.now(UTC)
    recent = Timestamp(int(now.timestamp()), 1)
    long_ago = Timestamp(int((now - PUBLISHED_FOR - timedelta(minutes=2)).timestamp()), 1)
    database.revoked_tokens.insert_many(
        [
            {"_id": "expired", "seq": recent, "expires_at": now - timedelta(seconds=2)},
            {"_id": "long ago", "seq": long_ago, "expires_at": soon()},
            {"_id": "endless", "seq": recent},
            {"token": "an older shape", "seq": recent, "expires_at": soon()},
            {"_id": "no place", "expires_at": soon()},
            {"_id": "alive", "seq": recent, "expires_at": soon()},
        ]
    )
    follower = Follower(RevocationFeed(storage))
    await follower.catch_up()
    assert follower.known.keys() == {published("endless"), published("alive")}


async def test_marks_of_before_the_feed_get_their_place(
    storage: Storage, database: Database[Any]
) -> None:
    """Preparing gives every mark without a place one of its own, and moves no other."""
    older = {"token": "eyJ", "expires_at": "2030-01-01T00:00:00"}
    marks = [{"_id": f"m{n}", "expires_at": soon()} for n in range(30)]
    database.revoked_tokens.insert_many([older, *marks])
    for _ in range(2):
        await Revocation(storage).prepare()
        places = database.revoked_tokens.distinct("seq")
        assert len(places) == 30
    assert "seq" not in (database.revoked_tokens.find_one({"token": "eyJ"}) or {"seq": 1})
    follower = Follower(RevocationFeed(storage, 7))
    await follower.catch_up()
    assert follower.known.keys() == {published(f"m{n}") for n in range(30)}


@pytest.mark.parametrize("removed", ["all", "the newest", "nothing"])
async def test_after_a_restore_the_follower_is_told_everything_again(
    storage: Storage, database: Database[Any], removed: str
) -> None:
    """A cursor beyond the newest mark says that the database is another one than it was."""
    start = int(datetime.now(UTC).timestamp()) - 3600
    kept = [
        {"_id": f"m{n}", "seq": Timestamp(start + n, 1), "expires_at": soon()} for n in range(60)
    ]
    lost = {"_id": "lost", "seq": Timestamp(start + 60, 1), "expires_at": soon()}
    database.revoked_tokens.insert_many([*kept, lost])
    feed = RevocationFeed(storage, 50)
    follower = Follower(feed)
    await follower.catch_up()
    query = {"all": {}, "the newest": {"_id": "lost"}, "nothing": {"_id": "x"}}[removed]
    database.revoked_tokens.delete_many(query)
    follower.known.clear()
    await follower.catch_up()
    assert len(follower.known) == {"all": 0, "the newest": 60, "nothing": 11}[removed]
    pages = follower.given
    await follower.catch_up()
    assert follower.given == pages + 1  # once, not for ever


async def test_marks_that_share_a_place_come_together(
    storage: Storage, database: Database[Any]
) -> None:
    """Two shards may give out one place, also where a page ends."""
    now = int(datetime.now(UTC).timestamp())
    database.revoked_tokens.insert_many(
        {"_id": f"m{n}", "seq": Timestamp(now, 1 + n // 2), "expires_at": soon()} for n in range(20)
    )
    follower = Follower(RevocationFeed(storage, 3))
    await follower.catch_up()
    assert len(follower.known) == 20


@pytest.mark.parametrize("followers", [1, 40])
async def test_followers_that_keep_up_share_a_command(
    watched_storage: Storage, commands: Commands, followers: int
) -> None:
    """Forty who ask at once cost the database no more than two do."""
    room = Revocation(watched_storage)
    await room.prepare()
    await room.revoke("a-jti", datetime.now(UTC), soon())
    feed = RevocationFeed(watched_storage)
    crowd = [Follower(feed) for _ in range(followers)]
    now = datetime.now(UTC)
    commands.sent.clear()
    await asyncio.gather(*(follower.catch_up(now) for follower in crowd))
    assert len(commands.named("find")) == 1
    await asyncio.gather(*(follower.catch_up(now) for follower in crowd))
    assert len(commands.named("find")) == 2
    assert all(follower.known.keys() == {published("a-jti")} for follower in crowd)


async def test_any_cursors_at_once_are_all_answered(
    watched_storage: Storage, commands: Commands
) -> None:
    """Sixty made-up cursors are served a few at a time; those who keep up do not wait for them."""
    room = Revocation(watched_storage)
    await room.prepare()
    await room.revoke("a-jti", datetime.now(UTC), soon())
    feed = RevocationFeed(watched_storage)
    up_to_date = Follower(feed)
    await up_to_date.catch_up()
    now = datetime.now(UTC)
    start = int(now.timestamp()) - 3600
    odd = [Cursor(position=(start + n) << 32) for n in range(60)]
    ended: list[str] = []

    async def ask(cursor: Cursor, name: str) -> None:
        await feed.page(cursor, now)
        ended.append(name)

    honest = [ask(cursor_from(up_to_date.cursor), "honest") for _ in range(3)]
    await asyncio.gather(*(ask(cursor, "odd") for cursor in odd), *honest)
    assert len(ended) == 63
    assert ended.index("honest") <= 10


NEWEST = 1_000_000 << 32


def old_page(number: int) -> Span:
    """A page in the midst of a pass, as anybody may ask for."""
    return Span(number << 32, begins=False)


@pytest.mark.parametrize("seconds_before", [0, OVERLAP_SECONDS, 60])
def test_those_who_keep_up_come_first(seconds_before: int) -> None:
    """However many ask for old pages, again and again, whoever keeps up is not made to wait."""
    crowd = [Question(old_page(n // 2), since=n) for n in range(500)]
    near = Span(NEWEST - (seconds_before << 32), begins=True)
    assert near in next_spans([*crowd, Question(near, since=1000)], NEWEST)


@pytest.mark.parametrize("seconds_before", [-(2**20), -1, 61])
def test_nobody_comes_first_by_a_made_up_cursor(seconds_before: int) -> None:
    """Passes that no follower who keeps up would begin wait like others."""
    crowd = [Question(old_page(n), since=n) for n in range(500)]
    odd = Span(NEWEST - (seconds_before << 32), begins=True)
    assert odd not in next_spans([*crowd, Question(odd, since=1000)], NEWEST)


def test_whoever_waits_longest_comes_next() -> None:
    """Everybody's turn comes, however often others ask for the same."""
    patient = Question(old_page(7), since=0)
    crowd = [Question(old_page(100 + n // 50), since=1 + n) for n in range(500)]
    near = [Question(Span(NEWEST - (n << 32), begins=True), since=n) for n in range(30)]
    assert patient.span in next_spans([*crowd, *near, patient], NEWEST)
    assert near[0].span in next_spans([*crowd, *near, patient], NEWEST)


async def test_no_reading_goes_through_all_marks(
    watched_storage: Storage, commands: Commands, database: Database[Any]
) -> None:
    """Among 20,000 marks a page reads its own, and what preparing adds reads none."""
    room = Revocation(watched_storage)
    await room.prepare()
    start = int(datetime.now(UTC).timestamp()) - 30_000
    database.revoked_tokens.insert_many(
        {"_id": f"jti-{n}", "seq": Timestamp(start + n, 1), "expires_at": soon()}
        for n in range(20_000)
    )
    commands.sent.clear()
    feed = RevocationFeed(watched_storage, 100)
    await room.prepare()
    page = await feed.page(Cursor(), datetime.now(UTC))
    await feed.page(page.cursor, datetime.now(UTC))
    await feed.page(Cursor(floor=(start + 19_999) << 32), datetime.now(UTC))
    plans = commands.plans(database)
    assert len(plans) == 5
    assert [plan.indexes for plan in plans] == [{"seq_1"}] * 5
    assert all(plan.examined <= 101 for plan in plans)


async def test_the_feed_reads_what_a_majority_holds(
    watched_storage: Storage, commands: Commands
) -> None:
    """What is sent can no longer be rolled back."""
    await RevocationFeed(watched_storage).page(Cursor(), datetime.now(UTC))
    (find,) = commands.named("find")
    assert find["readConcern"]["level"] == "majority"


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_cursor_is_read_back(floor: int, position: int) -> None:
    """What a follower hands back is what it was given."""
    text = str(Cursor(floor, position))
    assert cursor_from(text) == Cursor(floor, position)
    assert len(text) == 22


GOOD = str(Cursor(1 << 32, 2 << 32))


@pytest.mark.parametrize(
    "text",
    ["", "x", GOOD[:-1], GOOD + "A", GOOD + "=", GOOD + "==", GOOD[:-1] + "B", " " + GOOD[1:],
     "+" + GOOD[1:], "ä" * 22, "0", "null", "A" * 100_000, "\udcff"],
    ids=lambda text: repr(text)[:12],
)  # fmt: skip
def test_what_is_no_cursor_is_refused(text: str) -> None:
    """Another length, alphabet or spelling is an error of the request."""
    with pytest.raises(InvalidRequest) as refused:
        cursor_from(text)
    assert refused.value.description == "after is not a cursor of this feed"


async def test_odd_cursors_are_answered(storage: Storage, revocation: Revocation) -> None:
    """Whoever makes up a cursor gets a page, never an error of ours."""
    await revocation.revoke("a-jti", datetime.now(UTC), soon())
    feed = RevocationFeed(storage)
    most = 2**64 - 1
    for cursor in (
        Cursor(most, 0),
        Cursor(0, most),
        Cursor(most, most),
        Cursor(1, 1),
        Cursor(0, 1),
    ):
        page = await feed.page(cursor, datetime.now(UTC))
        assert page.more is False
