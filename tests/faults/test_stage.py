"""How long a recovery took, as the table of `make faults` tells it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.faults.history import Kind, Operation, Outcome
from tests.faults.stage import recovery_seconds


def asked(start: float, end: float, status: int | None = 200) -> Operation:
    """A token request, answered so or not at all."""
    outcome = Outcome.UNKNOWN if status is None else Outcome.REFUSED
    if status == 200:
        return Operation("id", Kind.TOKEN, start, end, Outcome.OK, jti="jti", status=status)
    return Operation("id", Kind.TOKEN, start, end, outcome, status=status)


@pytest.mark.parametrize(
    ("history", "marks", "seconds"),
    [
        ([asked(1, 2, 503)], [], 0),
        ([asked(1, 2), asked(11, 12)], [10], 2),
        ([asked(9, 10.5)], [10], 0),
        ([asked(9, 13), asked(13, 14)], [10], 4),
        ([asked(9, 13, 503), asked(11, 12)], [10], 3),
        ([asked(9, 13, None), asked(11, 12)], [10], 3),
        ([asked(11, 12, 503), asked(12, 17), asked(14, 15, 503), asked(18, 19)], [10], 7),
        ([asked(9, 13, 401), asked(11, 12)], [10], 2),
        ([asked(11, 12), asked(15, 21, 503), asked(21, 21.5)], [10, 20], 2),
        ([asked(11, 12, 503), asked(21, 22, 503), asked(23, 24)], [10, 20], 14),
    ],
)
def test_a_recovery_ends_with_the_last_failure_and_the_first_tokens(
    history: Sequence[Operation], marks: Sequence[float], seconds: float
) -> None:
    """A failure counts with the last fault before its end, also when it was asked for before."""
    assert recovery_seconds(history, marks) == seconds
