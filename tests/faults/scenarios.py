"""The faults, one function each, and the scenarios that are made of them.

Those of the database itself are in `scenarios_database`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from tests.faults.history import Kind
from tests.faults.links import Rule
from tests.faults.scenarios_database import DATABASE_SCENARIOS
from tests.faults.stage import Scenario, Stage


def nothing(stage: Stage) -> None:
    """No fault at all: what holds here, the faults are held against."""
    stage.go_on(5)


def kill_primary(stage: Stage) -> None:
    """The primary loses its power, comes back, and the next one does."""
    for _ in range(stage.rounds):
        stage.go_on_between(1, 3)
        primary = stage.cluster.primary()
        stage.mark(f"{primary.name} killed")
        primary.kill()
        stage.cluster.successor(primary)
        stage.go_on_between(2, 4)
        primary.start()
        stage.cluster.wait_until_healthy()


def pause_primary(seconds: float) -> Callable[[Stage], None]:
    """The primary's machine stands still for so long, and then goes on as if nothing was."""

    def run(stage: Stage) -> None:
        for _ in range(stage.rounds):
            stage.go_on_between(1, 3)
            primary = stage.cluster.primary()
            stage.mark(f"{primary.name} paused")
            primary.pause()
            stage.go_on(seconds)
            stage.mark(f"{primary.name} woken")
            primary.wake()
            stage.go_on_between(3, 5)
            stage.cluster.wait_until_healthy()

    return run


def isolate_primary(stage: Stage) -> None:
    """The primary loses the others but not the workers; what it takes meanwhile is rolled back."""
    for _ in range(stage.rounds):
        stage.go_on_between(1, 3)
        primary = stage.cluster.primary()
        stage.mark(f"{primary.name} isolated")
        began = time.monotonic()
        stage.cluster.isolate(primary)
        stage.cluster.successor(primary)
        stage.go_on_between(2, 4)
        stage.stale.append((began, time.monotonic()))
        stage.cluster.heal()
        stage.mark(f"{primary.name} back")
        stage.go_on_between(1, 2)
        if ROLLBACK not in primary.output.read_text(errors="replace"):
            stage.findings.append(f"nothing was rolled back on {primary.name}: nothing was proven")


def kill_workers(stage: Stage) -> None:
    """Every second one of the workers is killed, and started again at once."""
    for _ in range(10 * stage.rounds):
        ready = [worker for worker in stage.workers if worker.is_answering()]
        if len(ready) > 1:
            victim = stage.rng.choice(ready)
            victim.kill()
            victim.start()
        stage.go_on(1)


def swallow_replies(stage: Stage) -> None:
    """The database does what it is asked, and its answers never arrive, for seconds at a time."""
    for _ in range(2 * stage.rounds):
        stage.go_on_between(1, 2)
        primary = stage.cluster.primary()
        stage.mark("replies swallowed")
        for worker in stage.workers:
            stage.cluster.links.set(worker.name, primary.name, Rule(swallow_replies=True))
        # Shorter and longer than a worker waits for an answer.
        stage.go_on(stage.rng.choice([1, 2, 6]))
        stage.cluster.links.heal()
        stage.mark("replies arrive")


#: What mongod's log says when it undoes what the others never had.
ROLLBACK = '"newState":"ROLLBACK"'
LIMIT = 40
LIMITS = {"limit": LIMIT, "parallel": 4}
OFTEN_TWICE = {
    "twice": 0.5,
    "mix": json.dumps({Kind.REFRESH: 50, Kind.TOKEN: 30, Kind.ASSERTION: 5, Kind.CALL: 15}),
}
GRACE = {"REFRESH_GRACE_SECONDS": 10}

#: All that is here; a scenario's name is what `python -m tests.faults` takes.
SCENARIOS = (
    Scenario("no-fault", nothing, is_fault=False),
    Scenario("primary-killed", kill_primary, is_short=True),
    Scenario("primary-paused-3s", pause_primary(3), is_short=True),
    Scenario("primary-paused-15s", pause_primary(15), is_short=True),
    Scenario(
        "rollback-linearizable",
        isolate_primary,
        config={"REVOCATION_READ_CONCERN": "linearizable"},
        is_short=True,
    ),
    Scenario("rollback-majority", isolate_primary, is_short=True),
    Scenario("worker-killed", kill_workers, workers=3, is_short=True),
    Scenario("replies-swallowed", swallow_replies, is_short=True),
    Scenario("presented-twice", nothing, load=OFTEN_TWICE, is_short=True, is_fault=False),
    Scenario("limits", nothing, load=LIMITS, is_short=True, is_fault=False),
    Scenario("limits-primary-killed", kill_primary, load=LIMITS, is_short=True),
    Scenario("presented-twice-with-grace", nothing, GRACE, load=OFTEN_TWICE, is_fault=False),
    Scenario("replies-swallowed-with-grace", swallow_replies, GRACE),
    Scenario("worker-killed-with-grace", kill_workers, GRACE, workers=3),
    *DATABASE_SCENARIOS,
)
