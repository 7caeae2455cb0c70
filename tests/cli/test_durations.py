"""Times as people type them."""

from __future__ import annotations

from datetime import timedelta

import pytest
import typer

from _oauth2_m2m.cli.durations import LONGEST, duration, spoken

GOOD = {
    "0": timedelta(0),
    "90s": timedelta(seconds=90),
    "30m": timedelta(minutes=30),
    "12h": timedelta(hours=12),
    "7d": timedelta(days=7),
    f"{LONGEST.days}d": LONGEST,
}
BAD = ["", "7", "d", "-1d", "1.5h", "7 d", "1w", "\u0667d", f"{LONGEST.days + 1}d", "999999999d"]


@pytest.mark.parametrize("text", GOOD)
def test_a_time_is_read_as_it_is_typed(text: str) -> None:
    """A number and a unit, up to the longest that there is."""
    assert duration(text) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_time_is_wrong_usage(text: str) -> None:
    """Nor is one so long that no date could hold its end."""
    with pytest.raises(typer.BadParameter):
        duration(text)


@pytest.mark.parametrize("text", ["30m", "12h", "7d", f"{LONGEST.days}d"])
def test_a_time_is_spoken_as_it_is_typed(text: str) -> None:
    """In the largest unit that shows it exactly."""
    assert spoken(duration(text)) == text
