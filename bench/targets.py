"""What we want to reach, as ratios within one round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.rounds import Turn

OURS = "ours, everything on"
UNCOUNTED = "ours without the rate count"
BARE = "bare FastAPI route"
OIDC = "oidc-provider, MongoDB"


@dataclass(frozen=True, slots=True)
class Target:
    """One ratio that we want.

    Attributes:
        who, against: two contenders.
        connections: the concurrency.
        bound: the ratio that is wanted.
        measure: `rate`, `p99` or `cpu` (server and database together); a rate is to be at least
            the bound, the others at most.
    """

    who: str
    against: str
    connections: int
    bound: float
    measure: str = "rate"

    @property
    def at_least(self) -> bool:
        """Whether more is better."""
        return self.measure == "rate"

    def met(self, ratio: float) -> bool:
        """Whether a ratio is good enough."""
        return ratio >= self.bound if self.at_least else ratio <= self.bound


PROTECTED = (
    Target(OURS, BARE, 64, 0.60),
    Target(OURS, BARE, 16, 0.40),
    Target(UNCOUNTED, BARE, 64, 0.72),
    Target(UNCOUNTED, BARE, 16, 0.60),
    Target(OURS, "PyJWT as in FastAPI's tutorial", 64, 1.2),
    Target(OURS, "PyJWT + one command per effect", 64, 4.5),
    Target(OURS, BARE, 64, 3.0, "p99"),
)
TOKENS = (
    Target(OURS, OIDC, 64, 3.5),
    Target(OURS, OIDC, 16, 1.6),
    Target(OURS, "oidc-provider, in memory", 64, 1.3),
    Target(OURS, "aioauth on FastAPI, MongoDB", 64, 4.5),
    Target(OURS, OIDC, 64, 0.30, "cpu"),
    Target(OURS, "one command per effect", 1, 1.2),
    Target(OURS, OIDC, 1, 0.6),
)


def ratio(
    turns: Sequence[Turn], who: str, against: str, connections: int, measure: str = "rate"
) -> float | None:
    """The median over the rounds of the ratio within a round, so that drift cancels out."""
    ours, theirs = (
        {
            turn.round: _value(turn, measure)
            for turn in turns
            if (turn.contender, turn.connections) == (name, connections)
        }
        for name in (who, against)
    )
    ratios = [ours[n] / theirs[n] for n in ours.keys() & theirs.keys() if theirs[n]]
    return statistics.median(ratios) if ratios else None


def _value(turn: Turn, measure: str) -> float:
    if measure == "cpu":
        return turn.server_cpu + turn.database_cpu
    return turn.p99 if measure == "p99" else turn.rate
