"""Following a feed: what is known, how old it is, and when it is too much."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from _oauth2_m2m.issuer_calls import CallFailed, IssuerCalls
from _oauth2_m2m.revocation import digest_of, published
from _oauth2_m2m.revocation_follower import Marks, RevocationFollower

NOW = 1_800_000_000
NO_LEEWAY = timedelta(0)


def named(*marks: str, end: int = NOW + 60) -> list[tuple[bytes, int]]:
    return [(digest_of(mark), end) for mark in marks]


def test_a_mark_is_known_by_its_own_words() -> None:
    """Any of a token's marks hits it, and nothing that only looks alike."""
    marks = Marks(NO_LEEWAY)
    marks.add(named("a-jti", "family:f"), NOW)
    assert marks.hits(["b-jti", "family:f"])
    assert marks.hits(["a-jti"])
    assert not marks.hits(["b-jti", "family:g", "f", published("a-jti")])
    assert not marks.hits([])


@pytest.mark.parametrize("leeway", [0, 60])
def test_a_mark_is_kept_as_long_as_a_token_is_taken(leeway: int) -> None:
    """Until the minute of its end and the leeway have passed; then it makes room."""
    marks = Marks(timedelta(seconds=leeway))
    marks.add(named("a", end=NOW + 10), NOW)
    marks.add([], NOW + 59 + leeway)
    assert marks.hits(["a"])
    marks.add([], NOW + 60 + leeway)
    assert len(marks) == 0


def test_the_later_end_counts() -> None:
    """A mark that is set again lives longer, in whatever order pages come."""
    marks = Marks(NO_LEEWAY)
    marks.add(named("a", end=NOW + 5000), NOW)
    marks.add(named("a", end=NOW + 10), NOW)
    marks.add(named("a", end=NOW + 6000), NOW)
    marks.add(named("a", end=NOW + 6001), NOW)
    marks.add([], NOW + 5900)
    assert marks.hits(["a"])
    marks.add([], NOW + 6060)
    assert len(marks) == 0


def test_too_many_marks_are_an_error_and_ended_ones_do_not_count() -> None:
    """Room is made first; what then is too much is not silently dropped."""
    marks = Marks(NO_LEEWAY, most=3)
    marks.add(named("a", "b", "c", end=NOW + 10), NOW)
    marks.add(named("d", "e", end=NOW + 120), NOW + 60)
    assert len(marks) == 2
    with pytest.raises(OverflowError):
        marks.add(named("f", "g", end=NOW + 120), NOW + 60)


class Feed(IssuerCalls):
    """A feed that answers as it is told, one page after another."""

    def __init__(self, *pages: Any) -> None:
        self.pages = list(pages)
        self.asked: list[str | None] = []

    async def get(self, url: str, **parameters: str) -> Any:
        """Give the next page, or raise what stands in its place."""
        self.asked.append(parameters.get("after"))
        page = self.pages.pop(0) if self.pages else {"revoked": [], "cursor": "end", "more": False}
        if isinstance(page, Exception):
            raise page
        return page


def page(*marks: str, cursor: str = "c", more: bool = False) -> dict[str, Any]:
    revoked = [[published(mark), 4_102_444_800] for mark in marks]
    return {"revoked": revoked, "cursor": cursor, "more": more}


async def feed_url() -> str:
    return "https://auth.example.com/revocations"


def follower(**given: Any) -> RevocationFollower:
    arguments = {"max_lag": timedelta(seconds=1), "leeway": NO_LEEWAY, **given}
    return RevocationFollower(feed_url, **arguments)


async def follow(following: RevocationFollower, feed: Feed, attempts: int) -> None:
    """Let it make so many attempts."""
    ended = asyncio.Event()
    task = asyncio.create_task(following.run(feed, ended))
    try:
        async with asyncio.timeout(30):
            for _ in range(attempts):
                await ended.wait()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_pass_follows_the_cursors() -> None:
    """Every page is asked for after the one before, and the next pass after the last."""
    feed = Feed(page("a", cursor="1", more=True), page("b", cursor="2", more=True), page("c"))
    following = follower()
    assert following.lag == float("inf")
    await follow(following, feed, 2)
    assert feed.asked == [None, "1", "2", "c"]
    assert all(following.marks.hits([mark]) for mark in "abc")
    assert following.lag < 30


async def test_an_interrupted_pass_goes_on_and_is_as_old_as_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What came before the interruption is known; the lag counts from the first page."""
    clock = SimpleNamespace(now=1000.0)
    still = SimpleNamespace(monotonic=lambda: clock.now, time=lambda: clock.now)
    monkeypatch.setattr("_oauth2_m2m.revocation_follower.time", still)

    class Slow(Feed):
        async def get(self, url: str, **parameters: str) -> Any:
            clock.now += 10
            return await super().get(url, **parameters)

    feed = Slow(page("a", cursor="1", more=True), CallFailed("gone"), page("b", cursor="2"))
    following = follower()
    await follow(following, feed, 1)
    assert following.marks.hits(["a"])
    assert following.fault == "gone"
    assert following.lag == float("inf")
    await follow(following, feed, 1)
    assert feed.asked == [None, "1", "1"]
    assert following.fault is None
    assert following.lag == 30


async def test_too_many_marks_are_no_knowledge_at_all() -> None:
    """It knows nothing, says why, and keeps none of them."""
    following = follower(most_marks=2)
    await follow(following, Feed(page("a", "b")), 1)
    assert not following.has_overflowed
    await follow(following, Feed(page("c")), 1)
    assert following.has_overflowed
    assert following.is_lagging
    assert len(following.marks) == 0
    assert "more than 2" in (following.fault or "")
    feed = Feed(page("d"))
    await follow(following, feed, 1)
    assert feed.asked == [None]
    assert not following.has_overflowed


async def test_after_a_failure_it_tries_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the lag that is allowed: a failure at the start must not last for minutes."""
    pauses: list[float] = []

    async def no_pause(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.Event().wait()

    quick = SimpleNamespace(sleep=no_pause, Event=asyncio.Event)
    monkeypatch.setattr("_oauth2_m2m.revocation_follower.asyncio", quick)
    for pages, shortest, longest in (
        ([CallFailed("gone")], 0.2, 5.0),
        ([page("a")], 600.0, 900.0),
    ):
        await follow(follower(max_lag=timedelta(hours=1)), Feed(*pages), 1)
        assert shortest <= pauses.pop() <= longest


async def test_a_bug_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever happens, there is another attempt, and the log says once that something did."""
    feed = Feed(RuntimeError("a secret"), RuntimeError("a secret"), page("a"))
    following = follower()
    await follow(following, feed, 3)
    assert following.marks.hits(["a"])
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "a secret" not in " ".join(lines)


async def test_time_that_the_machine_slept_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steady clock stands still in a suspended machine; what is known ages all the same."""
    clock = SimpleNamespace(steady=1000.0, wall=1_800_000_000.0)
    both = SimpleNamespace(monotonic=lambda: clock.steady, time=lambda: clock.wall)
    monkeypatch.setattr("_oauth2_m2m.revocation_follower.time", both)
    following = follower(max_lag=timedelta(seconds=5))
    await follow(following, Feed(page("a")), 1)
    assert not following.is_lagging
    clock.wall += 3600
    assert following.is_lagging
    clock.wall -= 7200
    assert not following.is_lagging
    clock.steady += 6
    assert following.is_lagging
