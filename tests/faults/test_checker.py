"""The checker itself: each lie turns its rule red, and what a good server may answer never does."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.checker import Expectations, Violation, check
from tests.faults.checker_rules import RULES, window_name
from tests.faults.history import Kind, Outcome
from tests.faults.lies import LIES, LIMIT, Honest, Lie
from tests.faults.model_server import Fate, ModelServer

GRACE = 10.0
#: A tenth of what the checker must bear, in much more than a tenth of its time.
MANY, MANY_SECONDS = 20_000, 10
CLIENTS = ("north", "south", "west")


def seen_by(server: ModelServer, **expected: Any) -> list[Violation]:
    known: dict[str, Any] = {"grace": server.grace, "limits": {"mail": server.limit}}
    known |= {"wall_offset": 0.0, **expected}
    return check(server.history, server.dump(), Expectations(**known))


def rules_of(violations: list[Violation]) -> set[str]:
    return {violation.rule for violation in violations}


@pytest.mark.parametrize(
    ("rule", "told"), [pytest.param(rule, told, id=f"{rule}-{name}") for rule, name, told in LIES]
)
def test_a_lie_turns_its_rule_red_and_no_other(rule: str, told: Lie) -> None:
    """The run is green, and with one lie told about it exactly one rule is red."""
    run = Honest()
    assert seen_by(run) == []
    told(run)
    violations = seen_by(run)
    assert rules_of(violations) == {rule}, violations


def test_a_successor_is_the_same_within_the_grace_and_there_is_none_beyond() -> None:
    """With a grace a repeated refresh is no fault, another successor is, and so is one too late."""
    run = Honest(grace=GRACE)
    again = run.refresh(run.first)
    late = run.refresh(run.first, pause=2 * GRACE)
    assert again.refresh_digest == run.second.refresh_digest
    assert late.error == "invalid_grant"
    assert seen_by(run) == []

    other = run.made("digest")
    run.forge(again, refresh_digest=other)
    run.tokens[other] = run.tokens[run.first.refresh_digest]
    run.tokens[run.first.refresh_digest] = {}  # so that one more of the family can be
    assert rules_of(seen_by(run)) == {"R1"}

    run = Honest(grace=GRACE)
    late = run.refresh(run.first, pause=2 * GRACE)
    run.forget("refresh_token_reuse", late)
    run.marks.clear()
    received = {"jti": run.made("jti"), "refresh_digest": run.second.refresh_digest}
    run.record("token_refreshed", late.client_id, late.id, received["jti"])
    run.forge(late, outcome=Outcome.OK, status=200, error="", **received)
    assert rules_of(seen_by(run)) == {"R1"}


def test_a_repeat_within_the_grace_may_not_be_refused() -> None:
    """Whoever lost the answer and asks again in time is stranded by a refusal."""
    run = Honest(grace=GRACE)
    run.refresh(run.second, fate=Fate.ANSWER_LOST)
    again = run.refresh(run.second)
    run.refuse(again, 401, "invalid_grant")
    del run.tokens[again.refresh_digest]
    assert rules_of(seen_by(run)) == {"R2"}


@pytest.mark.parametrize(
    "body",
    [
        'Traceback (most recent call last):\n  File "/srv/app.py", line 1',
        "pymongo.errors: not primary",
        "MongoDB: AutoReconnect",
        "mongodb://db.internal/",
        "no answer from 10.0.0.7:27017",
        "localhost:27017 refused",
        "ServerSelectionTimeoutError",
        "m2mr_0123456789abcdef",
        "m2ms_0123456789abcdef",
        "sha256$00ff",
        "scrypt$16384,8,5$",
        "eyJhbGciOiJIUzI1NiJ9.e30.",
    ],
)
def test_a_body_that_tells_of_our_insides_is_seen(body: str) -> None:
    """Traces, drivers, addresses, exceptions, digests and secrets have no place in an answer."""
    run = Honest()
    run.forge(run.garbage, body=f'{{"error": "invalid_token", "detail": "{body}"}}')
    assert rules_of(seen_by(run)) == {"R8"}


@pytest.mark.parametrize(
    "body",
    [
        "The access token is invalid, expired or revoked",
        '{"detail": [{"type": "json_invalid", "loc": ["body"], "msg": "The body is no JSON"}]}',
        '{"status": "unavailable", "checks": {"mongodb": "no answer to a ping within 1 s"}}',
        "Invalid HTTP request received.",
        "Rate limit exceeded: try again in 17 s",
    ],
)
def test_a_body_of_ours_is_let_pass(body: str) -> None:
    """What the service documents is nothing of its insides."""
    run = Honest()
    run.forge(run.garbage, body=body)
    assert seen_by(run) == []


# --- Faults, and what they excuse -----------------------------------------------------------------


def in_a_fault(run: Honest) -> tuple[float, float]:
    """Everything fails for ten seconds, in every way that there is."""
    began = run.now + 0.5
    for fate in Fate:
        run.do(Kind.TOKEN, fate=fate)
        run.call(run.asserted, fate=fate)
    run.refresh(run.second, fate=Fate.FAILED_AFTER)
    return began, run.now + 0.5


def test_what_fails_in_a_fault_and_recovers_is_no_violation() -> None:
    """Refusals with 503 and lost answers are legal until the time of recovery is over."""
    run = Honest()
    fault = in_a_fault(run)
    run.do(Kind.TOKEN, fate=Fate.FAILED_BEFORE)
    run.do(Kind.TOKEN, pause=5)
    assert seen_by(run, fault=fault, recovery_seconds=3) == []


@pytest.mark.parametrize("fate", [Fate.FAILED_BEFORE, Fate.FAILED_AFTER, Fate.ANSWER_LOST])
def test_what_fails_after_the_recovery_is_a_violation(fate: Fate) -> None:
    """One good operation that fails when the service must have recovered is enough."""
    run = Honest()
    fault = in_a_fault(run)
    run.do(Kind.TOKEN, pause=5)
    run.do(Kind.CALL, presented=run.asserted.jti, fate=fate)
    assert rules_of(seen_by(run, fault=fault, recovery_seconds=3)) == {"R10"}


def test_a_recovery_that_nobody_saw_is_a_violation() -> None:
    """A run that ends with the fault proves no recovery."""
    run = Honest()
    fault = in_a_fault(run)
    assert rules_of(seen_by(run, fault=fault, recovery_seconds=3)) == {"R10"}


def test_the_honest_exception_of_a_stale_primary_is_excused_for_that_long_only() -> None:
    """While a primary is cut off, majority reads may be old, and linearizable ones may not."""
    run = Honest()
    run.revoke(run.second)
    called = run.accept(run.call(run.second))
    window = (called.start - 0.5, called.end + 0.5)
    assert seen_by(run, stale_primary=[window]) == []
    assert rules_of(seen_by(run, stale_primary=[window], linearizable=True)) == {"R3"}
    assert rules_of(seen_by(run, stale_primary=[(0, called.start - 0.1)])) == {"R3"}


def test_kinds_that_a_fault_may_refuse_are_excused() -> None:
    """A worker whose clock is wrong refuses good proofs, if the scenario says so."""
    run = Honest()
    run.refuse(run.proved, 401, "invalid_dpop_proof")
    assert rules_of(seen_by(run)) == {"R2"}
    assert seen_by(run, refusable=[Kind.PROOF]) == []


def test_a_busy_machine_may_add_to_answers_and_to_silence() -> None:
    """What it may add is said, and no more is excused, whether an answer came in the end or not."""
    run = Honest()
    run.forge(run.called, end=run.called.start + 9, outcome=Outcome.UNKNOWN, status=None)
    run.forge(run.bystander, end=run.bystander.start + 9)
    assert len(seen_by(run)) == 2
    assert rules_of(seen_by(run)) == {"R8"}
    assert seen_by(run, busy_allowance=5) == []


def test_a_worker_whose_clock_is_ahead_counts_in_its_own_minute() -> None:
    """Each clock names a window of its own, and none of them may admit more than the limit."""
    run = Honest()
    run.limit, run.now = LIMIT, 20_400.0
    here = [run.do(Kind.TOKEN, "mail", pause=0.1) for _ in range(LIMIT)]
    run.now += 300
    ahead = [run.do(Kind.TOKEN, "mail", pause=0.1) for _ in range(LIMIT)]
    for operation in ahead:  # at the same time as the others, by a worker 300 s ahead
        run.forge(operation, start=operation.start - 300, end=operation.end - 300, worker="ahead")
    assert len(here) == LIMIT
    assert seen_by(run, clocks={"ahead": 300.0}) == []
    assert rules_of(seen_by(run)) == {"R5"}


def test_a_window_that_is_named_counts_where_no_clock_is_known() -> None:
    """A scenario that keeps within a minute names its window."""
    run = Honest()
    asked = run.use_up()
    name = window_name("mail", "127.0.0.1", run.now)
    for operation in asked:
        run.forge(operation, window=name)
    assert seen_by(run, wall_offset=None) == []
    counted = run.audit.pop(f"rate_limit_exceeded:{name}")
    run.audit["rate_limit_exceeded:of-another-window"] = counted
    assert rules_of(seen_by(run, wall_offset=None)) == {"R4"}
    run.audit[f"rate_limit_exceeded:{name}"] = counted
    run.accept(run.history[-1])
    assert rules_of(seen_by(run, wall_offset=None)) == {"R5"}


# --- Any history ----------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from([*Kind, Kind.REFRESH, Kind.REFRESH, Kind.CALL, Kind.TOKEN]),
        st.integers(0, 10_000),  # which client, token, assertion or proof
        st.sampled_from([*Fate, Fate.ANSWERED, Fate.ANSWERED, Fate.ANSWERED]),
        st.floats(0.001, 5),  # pause
        st.floats(0.001, 2),  # before
        st.floats(0.001, 2),  # after
    ),
    max_size=40,
)


def play(run: ModelServer, steps: list[Any]) -> None:
    """Have clients do all this with what they had received when they began."""
    names: dict[Kind, list[str]] = {Kind.ASSERTION: [], Kind.PROOF: []}
    for kind, choice, fate, pause, before, after in steps:
        start = run.now + pause - before
        mine = [o for o in run.history if o.client_id in CLIENTS]
        known = [o for o in mine if o.jti and o.end < start]
        how: dict[str, Any] = {"fate": fate, "pause": pause, "before": before, "after": after}
        client_id = CLIENTS[choice % len(CLIENTS)]
        if kind in names:  # a new one, or one of before
            names[kind].append(run.made("once"))
            once = names[kind][-1 - choice % min(3, len(names[kind]))]
        if kind in {Kind.TOKEN, Kind.OTHER, Kind.DISABLE}:
            run.do(kind, client_id, **how)
        elif kind is Kind.ASSERTION:
            run.do(kind, client_id, once, **how)
        elif known:
            tokens = known[-1 - choice % min(6, len(known))]
            spent = kind in {Kind.REFRESH, Kind.REVOKE_REFRESH}
            presented = tokens.refresh_digest if spent else tokens.jti
            how["proof"] = once if kind is Kind.PROOF else ""
            run.do(kind, tokens.client_id, presented, **how)


@settings(max_examples=200, deadline=None)
@given(STEPS, st.sampled_from([0.0, GRACE]), st.sampled_from([0, LIMIT]))
def test_whatever_a_good_server_does_is_green(steps: list[Any], grace: float, limit: int) -> None:
    """However requests overlap, fail and get lost, a server that keeps its promises is believed."""
    run = ModelServer(grace=grace, limit=limit)
    play(run, steps)
    assert seen_by(run, limits={}, default_limit=limit) == []


@settings(max_examples=100, deadline=None)
@given(STEPS, st.sampled_from(LIES))
def test_one_lie_in_any_history_is_found_out(steps: list[Any], told: tuple[str, str, Lie]) -> None:
    """Whatever else happened, the rule that a lie is about is red."""
    rule, _, tell = told
    run = Honest()
    tell(run)
    play(run, steps)
    assert rule in rules_of(seen_by(run))


def test_every_rule_has_its_lies() -> None:
    """No rule is there that nothing was shown to turn red."""
    assert {rule for rule, _, _ in LIES} | {"R10"} == set(RULES)


def test_many_operations_are_checked_quickly() -> None:
    """The checker is no more than linear: a long run costs seconds, not hours."""
    run = ModelServer()
    tokens = run.do(Kind.TOKEN)
    while len(run.history) < MANY:
        tokens = run.do(Kind.REFRESH, presented=tokens.refresh_digest, before=0)
        run.do(Kind.CALL, presented=tokens.jti, before=0)
    began = time.process_time()
    assert seen_by(run) == []
    assert time.process_time() - began < MANY_SECONDS
