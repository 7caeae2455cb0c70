"""The faults, one function each, and the scenarios that are made of them.

Those of the database itself are in `scenarios_database`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.faults.links import Rule
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
        stage.cluster.heal()
        stage.stale.append((began, time.monotonic()))
        stage.mark(f"{primary.name} back")
        stage.go_on_between(1, 2)


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
    for _ in range(3 * stage.rounds):
        stage.go_on_between(1, 2)
        primary = stage.cluster.primary()
        stage.mark("replies swallowed")
        for worker in stage.workers:
            stage.cluster.links.set(worker.name, primary.name, Rule(swallow_replies=True))
        stage.go_on_between(1, 2)
        stage.cluster.links.heal()
        stage.mark("replies arrive")


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
)
