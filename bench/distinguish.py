"""Can two kinds of answers be told apart by their time? Plain functions of samples."""

from __future__ import annotations

import random
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

#: How often a difference may be seen where there is none.
FALSE_ALARMS = 0.01
#: How often one of the smallest detectable size is seen.
POWER = 0.95

_NORMAL = statistics.NormalDist()
_RESAMPLES = 500


@dataclass(frozen=True, slots=True)
class Verdict:
    """How samples compare with those of a base.

    Attributes:
        difference: of the medians; in the unit of the samples, like the next two.
        low, high: its 95 % confidence interval.
        p: how likely such samples are where there is no difference.
    """

    difference: float
    low: float
    high: float
    p: float

    @property
    def differs(self) -> bool:
        """Whether the two are told apart."""
        return self.p < FALSE_ALARMS


def compare(base: Sequence[float], other: Sequence[float]) -> Verdict:
    """Compare samples with those of a base: Mann-Whitney's U, and the difference of the medians."""
    share, n, m = larger(other, base), len(base), len(other)
    z = (share - 0.5) / sqrt((n + m + 1) / (12 * n * m))
    low, high = _interval(base, other)
    difference = statistics.median(other) - statistics.median(base)
    return Verdict(difference, low, high, 2 * (1 - _NORMAL.cdf(abs(z))))


def larger(some: Sequence[float], others: Sequence[float]) -> float:
    """How often one of some is larger than one of the others; a tie counts as half."""
    ranked = sorted(others)
    below = sum(bisect_left(ranked, x) + bisect_right(ranked, x) for x in some)
    return below / (2 * len(some) * len(ranked))


def smallest_detectable(base: Sequence[float]) -> float:
    """How much slower a kind must be to be told from the base, with as many samples of each.

    By Noether's formula (Journal of the American Statistical Association 82, 1987) for the share
    that must be larger; the shift that makes it so is looked for in the samples themselves.
    """
    z = _NORMAL.inv_cdf(1 - FALSE_ALARMS / 2) + _NORMAL.inv_cdf(POWER)
    wanted = 0.5 + z / sqrt(6 * len(base))
    low, high = 0.0, max(base) - min(base)
    for _ in range(30):
        middle = (low + high) / 2
        if larger([x + middle for x in base], base) < wanted:
            low = middle
        else:
            high = middle
    return high


def _interval(base: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """The bootstrap's 95 % confidence interval for the difference of the medians."""
    chance = random.Random(1)  # noqa: S311
    differences = sorted(
        statistics.median(chance.choices(other, k=len(other)))
        - statistics.median(chance.choices(base, k=len(base)))
        for _ in range(_RESAMPLES)
    )
    return differences[_RESAMPLES // 40], differences[-_RESAMPLES // 40 - 1]
