"""Explanations as plain functions of a record, the client's document, and what happened besides."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from _oauth2_m2m.config import Environment
from _oauth2_m2m.explaining import (
    MOST_CHANGES,
    Explanation,
    Outcome,
    explain,
    explanation_of,
    steps_of,
)
from _oauth2_m2m.key_sealing import KeySealer
from _oauth2_m2m.rules import RARE, Flow, Rule, rules_of
from _oauth2_m2m.services import Services
from _oauth2_m2m.storage import Storage

Document = dict[str, Any]

NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
RECORD: Document = {
    "error_id": "e" * 20,
    "event_type": "login_failure",
    "timestamp": NOW,
    "client_id": "billing",
    "reason": "invalid_client: wrong secret",
    "flow": "token",
    "rule": "secret_right",
    "facts": {"compared": 1},
}
CLIENT: Document = {
    "client_id": "billing",
    "client_secret": "sha256$" + "0" * 64,
    "scopes": ["read", "write"],
    "role": "user",
    "grant_types": ["client_credentials"],
    "allowed_networks": ["203.0.113.0/24"],
    "audience": ["https://api.example/"],
    "max_requests_per_minute": 7,
}


def explained(document: Document | None = CLIENT, **changes: Any) -> Explanation:
    """What is told of a record that differs so."""
    return explanation_of({**RECORD, **changes}, document, [], [], NOW)


@pytest.mark.parametrize("flow", Flow)
def test_each_rule_of_a_flow_can_be_the_one_that_failed(flow: Flow) -> None:
    """Those before it passed, those after it were not reached, rare ones are told only then."""
    rules = rules_of(flow)
    for failed in rules:
        steps = steps_of(rules, failed, {"had": "x"})
        place = [step.rule for step in steps].index(failed)
        assert {step.outcome for step in steps[:place]} <= {Outcome.PASSED}
        assert (steps[place].outcome, steps[place].found) == (Outcome.FAILED, "had: x")
        assert {step.outcome for step in steps[place + 1 :]} <= {Outcome.NOT_REACHED}
        assert {step.rule for step in steps} & RARE <= {failed}
    assert {step.outcome for step in steps_of(rules, None, {})} == {Outcome.PASSED}


def test_a_rule_of_another_flow_is_told_first() -> None:
    """It cannot be placed, and is no less what failed."""
    steps = steps_of(rules_of(Flow.ROUTE), Rule.PARAMETERS, {})
    assert (steps[0].rule, steps[0].outcome) == (Rule.PARAMETERS, Outcome.FAILED)
    assert {step.outcome for step in steps[1:]} == {Outcome.NOT_REACHED}


@pytest.mark.parametrize(
    ("rule", "facts", "words"),
    [
        ("secret_right", {}, "its secret 4e7c0d1f does not end"),
        ("client_network", {}, "it may come from 203.0.113.0/24"),
        ("client_method", {}, "it may use client_secret_basic client_secret_post"),
        ("grant_allowed", {"had": "refresh_token"}, "it may not use the grant refresh_token"),
        ("scope", {}, "it may ask for read write"),
        ("role", {"wanted": "admin"}, "its role is user; the route asks for admin"),
        ("resource", {}, "it may ask for https://api.example/ besides AUDIENCE"),
        ("budget", {}, "its own limit is 7 in one minute"),
        ("token_live", {}, "the client is enabled"),
    ],
)
def test_the_client_of_today_is_told_of(rule: str, facts: Document, words: str) -> None:
    """As far as the rule asks about it, so that one sees whether the request would pass now."""
    now = explained(rule=rule, facts=facts).now
    if rule == "secret_right":
        assert now[0].startswith("its secret ")
        assert now[0].endswith(" does not end")
        assert "sha256" not in now[0]
    else:
        assert now == (words,)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (None, "the client is not registered"),
        ({**CLIENT, "disabled": True}, "the client is disabled"),
        ({**CLIENT, "scopes": 3}, "the client's document is malformed: scopes must be a list"),
    ],
)
def test_a_client_that_is_none_is_told_of(document: Document | None, words: str) -> None:
    """Removed, disabled or malformed since: that comes before all else."""
    (said,) = explained(document).now
    assert said.startswith(words)


async def test_the_newest_changes_are_shown(
    storage: Storage, async_database: Any, database: Database[Any]
) -> None:
    """Of many before and many since, the nearest to today, each list within its bound."""
    services = Services(async_database, Environment.DEVELOPMENT, KeySealer())
    many = range(MOST_CHANGES + 1)
    for sign in (-1, 1):
        database["audit_logs"].insert_many(
            {
                "event_type": "client_updated",
                "client_id": "billing",
                "reason": f"{sign * (n + 1)}",
                "timestamp": NOW + sign * timedelta(minutes=n + 1),
            }
            for n in many
        )
    database["audit_logs"].insert_one(dict(RECORD))
    found = await explain(services, RECORD["error_id"])
    last = MOST_CHANGES + 1
    assert [change.reason for change in found.before] == [f"-{n}" for n in range(last - 1, 0, -1)]
    assert [change.reason for change in found.since] == [f"{n}" for n in range(2, last + 1)]
