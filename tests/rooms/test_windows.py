"""The minutes, hours and days that requests are counted in, as plain functions of values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _oauth2_m2m.windows import (
    Limits,
    Period,
    Window,
    budget,
    exceeded,
    seconds_left,
    window_key,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
ALL = Limits(minute=60, hour=500, day=4000)
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
#: What an operator may type as a client's id.
TYPED_IDS = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=20)


def test_the_keys_are_those_of_the_contract() -> None:
    """A minute is counted for an address, an hour and a day for all of them; all are in UTC."""
    moment = NOW.astimezone()
    assert [window.key for window in budget("reporter", "192.0.2.7", ALL, moment)] == [
        "reporter:192.0.2.7:203001020304",
        "reporter:*:2030010203",
        "reporter:*:20300102",
    ]


@pytest.mark.parametrize(
    ("limits", "periods"),
    [
        (Limits(0), []),
        (Limits(1), [Period.MINUTE]),
        (Limits(0, hour=1), [Period.HOUR]),
        (Limits(0, day=1), [Period.DAY]),
        (Limits(0, day=1, observes=True), [Period.DAY]),
        (Limits(0, observes=True), []),
        (Limits(1, 2, 3), [Period.MINUTE, Period.HOUR, Period.DAY]),
    ],
)
def test_only_what_has_a_limit_is_counted(limits: Limits, periods: list[Period]) -> None:
    """A limit of 0 has no window, so it costs nothing."""
    windows = budget("reporter", "192.0.2.7", limits, NOW)
    assert [window.period for window in windows] == periods
    assert limits.counts is bool(periods)
    for window in windows:
        assert window.limit == getattr(limits, str(window.period))
        assert window.observes is (limits.observes and window.is_quota)


@given(MOMENTS)
def test_a_window_holds_its_moment_and_ends_when_it_says(now: datetime) -> None:
    """What is left of it is over when it is: later than now, after its length at the most."""
    for window in budget("reporter", "192.0.2.7", ALL, now):
        left = seconds_left(window.period, now)
        assert 1 <= left <= window.period
        end = (now + timedelta(seconds=left)).replace(microsecond=0)
        assert (end - EPOCH) % timedelta(seconds=window.period) == timedelta(0)
        if window.is_quota:
            assert window.timestamp == end


@given(MOMENTS, MOMENTS)
def test_a_window_is_one_for_all_its_moments(one: datetime, other: datetime) -> None:
    """Two moments share a key exactly when they lie in the same minute, hour or day."""
    pairs = zip(budget("a", "ip", ALL, one), budget("a", "ip", ALL, other), strict=True)
    same = [one.strftime(f) == other.strftime(f) for f in ("%F %H:%M", "%F %H", "%F")]
    assert [first.key == second.key for first, second in pairs] == same


@given(st.lists(TYPED_IDS, unique=True, min_size=2, max_size=2), MOMENTS)
def test_two_clients_share_no_quota(clients: list[str], now: datetime) -> None:
    """Whatever their ids look like, and no quota is anybody's window of a minute."""
    keys = [w.key for client in clients for w in budget(client, "192.0.2.7", ALL, now)]
    assert len(set(keys)) == 6


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=3))
def test_a_place_beyond_the_limit_exceeds_it(taken: list[tuple[int, int]]) -> None:
    """As many places as the limit are within it; and those that exceed it keep their order."""
    windows = [Window(str(n), NOW, Period.HOUR, limit) for n, (limit, _) in enumerate(taken)]
    found = exceeded(windows, [place for _, place in taken])
    assert [w.key for w in found] == [
        str(n) for n, (limit, place) in enumerate(taken) if place > limit
    ]


def test_an_address_is_part_of_a_minutes_key_alone() -> None:
    """Failures are counted by a key of the same shape."""
    assert window_key("~7", "2001:db8::", NOW) == "~7:2001:db8:::203001020304"
