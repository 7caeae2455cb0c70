"""What is remembered is bounded, and what was written last stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from _oauth2_m2m.newest import Newest


@given(st.integers(1, 5), st.lists(st.integers(0, 9)))
def test_the_newest_stay(most: int, written: list[int]) -> None:
    """As many as may, in the order in which they were written last."""
    remembered: Newest[int, int] = Newest(most)
    for place, key in enumerate(written):
        remembered[key] = place
    last = {key: place for place, key in enumerate(written)}
    kept = sorted(last.items(), key=lambda item: item[1])[-most:]
    assert list(remembered.items()) == kept
