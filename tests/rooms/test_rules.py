"""The rules by name: their words, their place in each flow, and facts that are small."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from _oauth2_m2m.errors import InvalidGrant, InvalidToken, OAuth2Error, RateLimitExceeded
from _oauth2_m2m.rule_words import SAYS, found_of, remedy_of
from _oauth2_m2m.rules import LONGEST_FACT, Broken, Flow, Rule, facts_of, rules_of

NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
WAYS = [{}, {"by_assertion": True}, {"by_token": True}]


@pytest.mark.parametrize("flow", Flow)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_flow_asks_each_rule_once(flow: Flow, way: dict[str, bool]) -> None:
    """So the rule that failed says which came before it."""
    rules = rules_of(flow, **way)
    assert len(rules) == len(set(rules)) > 1


def test_every_rule_is_asked_somewhere() -> None:
    """Those that nobody asks could never be explained; a 503 has no record."""
    asked = {rule for flow in Flow for way in WAYS for rule in rules_of(flow, **way)}
    assert set(Rule) - asked == {Rule.SERVICE}


@pytest.mark.parametrize("rule", Rule)
def test_a_rule_has_words(rule: Rule) -> None:
    """What it asks and what would have satisfied it, with facts and without."""
    assert SAYS[rule]
    for flow in (Flow.TOKEN, Flow.ROUTE):
        assert remedy_of(rule, flow, {})
        assert "{" not in remedy_of(rule, flow, {"had": "{x}", "wanted": "b"}).replace("{x}", "")


def test_every_error_breaks_a_rule_that_has_words() -> None:
    """Also one that was raised without naming its rule."""

    def below(kind: type[OAuth2Error]) -> set[type[OAuth2Error]]:
        return {kind}.union(*(below(each) for each in kind.__subclasses__()))

    assert {kind.rule for kind in below(OAuth2Error)} <= SAYS.keys()


def test_facts_are_small() -> None:
    """A text is cut at its bound; moments and lists become texts; what is unknown is left out."""
    fits, longer = "x" * LONGEST_FACT, "x" * (LONGEST_FACT + 1)
    facts = facts_of({"fits": fits, "longer": longer, "at": NOW, "all": ["a", "b"], "no": None})
    assert facts == {
        "fits": fits,
        "longer": "x" * (LONGEST_FACT - 3) + "...",
        "at": "2026-11-20T10:00:00Z",
        "all": "a b",
    }
    assert found_of({"had": "", "expired_at": "now"}) == "had: nothing; expired at: now"


def test_an_error_takes_over_the_rule_of_its_cause() -> None:
    """Whatever it is raised as in the end, the rule that was broken stays."""
    fault = Broken(Rule.TOKEN_LIVE, "expired", expired_at=NOW)
    error = InvalidToken(detail=str(fault)).because(fault, Rule.TOKEN_CLAIMS)
    assert (error.rule, error.facts) == (Rule.TOKEN_LIVE, {"expired_at": "2026-11-20T10:00:00Z"})
    other = InvalidToken().because(ValueError("exp is no moment"), Rule.TOKEN_CLAIMS)
    assert (other.rule, other.facts) == (Rule.TOKEN_CLAIMS, {})
    again = InvalidGrant().because(error)
    assert (again.rule, again.facts) == (error.rule, error.facts)


def test_a_full_window_is_a_clients_or_an_addresses() -> None:
    """A budget is somebody's; failures are not."""
    assert RateLimitExceeded("k", 3, 4, "billing").rule is Rule.BUDGET
    assert RateLimitExceeded("k", 3, 4).rule is Rule.FAILURE_LIMIT
