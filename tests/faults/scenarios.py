"""The faults, one function each, and the scenarios that are made of them.

Those of the database itself are in `scenarios_database`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pymongo import AsyncMongoClient

from oauth2_m2m import OAuth2M2M, TooManyKeys
from tests.faults.crowds import come_together, dawdle, send_too_much
from tests.faults.history import Kind, Outcome, read_history
from tests.faults.links import Rule
from tests.faults.scenarios_database import DATABASE_SCENARIOS
from tests.faults.stage import Scenario, Stage


def nothing(stage: Stage) -> None:
    """No fault at all: what holds here, the faults are held against."""
    stage.go_on(5)


def kill_primary(stage: Stage) -> None:
    """The primary is killed, comes back, and the next one is killed."""
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
        began, said = time.monotonic(), len(primary.log())
        stage.cluster.isolate(primary)
        stage.cluster.successor(primary)
        stage.go_on_between(2, 4)
        stage.stale.append((began, began + NOTICED_SECONDS))
        stage.cluster.heal()
        stage.mark(f"{primary.name} back")
        stage.go_on_between(1, 2)
        if ROLLBACK not in primary.log()[said:]:
            stage.findings.append(f"nothing was rolled back on {primary.name}: nothing was proven")


def kill_workers(stage: Stage) -> None:
    """Every second one of the workers is killed, and started again at once."""
    killed = 0
    for _ in range(6 * stage.rounds):
        ready = [worker for worker in stage.workers if worker.is_answering()]
        if len(ready) > 1:
            victim = stage.rng.choice(ready)
            victim.kill()
            victim.start()
            killed += 1
        stage.go_on(1)
    if not killed:
        stage.findings.append("no worker was killed: nothing was proven")


def swallow_replies(stage: Stage) -> None:
    """The database does what it is asked, and its answers never arrive, for seconds at a time."""
    for _ in range(2 * stage.rounds):
        stage.go_on_between(1, 2)
        primary = stage.cluster.primary()
        with stage.outage("the silence"):
            for worker in stage.workers:
                stage.cluster.links.set(worker.name, primary.name, Rule(swallow_replies=True))
            # Shorter and longer than a worker waits for an answer.
            stage.go_on(stage.rng.choice([1, 2, 6]))
            stage.cluster.links.heal()


def stop_workers(stage: Stage) -> None:
    """A worker is told to stop while its requests wait for a slow database; then the next one."""
    stage.cluster.links.set("*", "*", Rule(delay_ms=60))
    for worker in stage.workers * stage.rounds:
        stage.go_on_between(2, 4)
        told, stopped = time.monotonic(), worker.log.read_text().count(STOPPED)
        worker.terminate()
        stage.mark(f"{worker.name} stopped")
        if worker.log.read_text().count(STOPPED) == stopped:
            stage.findings.append(f"{worker.name} did not stop in good order")
        worker.start()
        worker.wait_until_ready()
        stage.findings += [
            f"{operation.id} was not finished when {worker.name} stopped"
            for operation in read_history([stage.load.history])
            if operation.worker == worker.name
            and operation.outcome is Outcome.UNKNOWN
            and operation.start < told - ARRIVED_SECONDS
            and operation.end > told
        ]


def come_in_crowds(stage: Stage) -> None:
    """Two thousand connections at once, and two hundred that send a byte now and then."""

    async def crowds(ports: Sequence[int]) -> tuple[Counter[int], Counter[int]]:
        return await asyncio.gather(come_together(ports, 2000), dawdle(ports, 200, 14))

    ports = [worker.port for worker in stage.workers]
    for _ in range(stage.rounds):
        stage.go_on_between(1, 2)
        quick, slow = asyncio.run(crowds(ports))
        if set(quick) - {401, 503} or not quick[401]:
            stage.findings.append(f"the crowd was answered {dict(quick)}")
        if set(slow) - {0, 408, 400}:
            stage.findings.append(f"the dawdlers were answered {dict(slow)}")


def send_floods(stage: Stage) -> None:
    """Bodies of megabytes, many at a time."""
    ports = [worker.port for worker in stage.workers]
    for _ in range(10 * stage.rounds):
        answers = asyncio.run(send_too_much(ports, 50))
        # Whoever goes on sending is cut off, and may not see the answer. Somebody does.
        if set(answers) - {0, 413} or not answers[413]:
            stage.findings.append(f"too much was answered {dict(answers)}")
        stage.go_on(0.5)


def rotate_keys(stage: Stage) -> None:
    """An operator has new keys sign, again and again."""

    async def rotate() -> None:
        async with AsyncMongoClient[dict[str, Any]](stage.cluster.url) as mongo:
            with suppress(TooManyKeys):  # those before are still needed
                await OAuth2M2M(mongo[stage.database]).keys.rotate()

    for _ in range(4 * stage.rounds):
        stage.go_on_between(1, 3)
        asyncio.run(rotate())
        stage.mark("rotated")


def edit_config(stage: Stage) -> None:
    """An operator types nonsense into the config, and after a while something good."""
    with stage.cluster.client() as client:
        database = client[stage.database]
        config = database["config"]

        def audited(beginning: str) -> int:
            reason = {"event_type": "config_changed", "reason": {"$regex": f"^{beginning}"}}
            return database["audit_logs"].count_documents(reason)

        for number, nonsense in enumerate(NONSENSE[: stage.rounds]):
            good, refused, changed = config.find_one({}) or {}, *map(audited, AUDITED)
            config.replace_one({}, {**good, **nonsense})
            stage.mark(f"config says {nonsense}")
            stage.go_on(SETTINGS_SECONDS)
            if audited(AUDITED[0]) == refused:
                stage.findings.append(f"{nonsense} was not audited")
            config.replace_one({}, {**good, "ACCESS_TOKEN_EXPIRE_MINUTES": 20 + number})
            stage.go_on(SETTINGS_SECONDS)
            if audited(AUDITED[1]) == changed:
                stage.findings.append("a good change was not audited")


#: What mongod's log says when it undoes what the others never had.
ROLLBACK = '"newState":"ROLLBACK"'
#: What uvicorn's log says at the end of a worker that stopped in good order.
STOPPED = "Application shutdown complete"
#: A request that was sent so long ago has arrived.
ARRIVED_SECONDS = 0.1
#: A change of the config is seen by running workers within that time, and a little more.
SETTINGS_SECONDS = 33.0
#: How the reasons of records begin, of nonsense and of a change that was taken.
AUDITED = ("refused", "changed: ACCESS_TOKEN_EXPIRE_MINUTES")
NONSENSE: Sequence[Mapping[str, Any]] = (
    {"ALGORITHM": "none"},
    {"ACCESS_TOKEN_EXPIRE_MINUTES": -1},
    {"SECRET_KEY": 7},
    {"MAX_REQUESTS_PER_MINUTE": "many"},
    {"ISSUER": ""},
)
#: A primary that was cut off has noticed: the election timeout of 2 s, and a heartbeat more.
NOTICED_SECONDS = 2.5
LIMITS = {"limit": 40, "parallel": 4}
OFTEN_TWICE = {
    "twice": 0.5,
    "mix": json.dumps({Kind.REFRESH: 50, Kind.TOKEN: 30, Kind.ASSERTION: 5, Kind.CALL: 15}),
}
GRACE = {"REFRESH_GRACE_SECONDS": 10}

#: All that is here; a scenario's name is what `python -m tests.faults` takes.
SCENARIOS = (
    Scenario("no-fault", nothing, is_fault=False),
    Scenario("primary-killed", kill_primary, recovers_within=8, is_short=True),
    Scenario("primary-paused-3s", pause_primary(3), recovers_within=8, is_short=True),
    Scenario("primary-paused-15s", pause_primary(15)),
    Scenario(
        "rollback-linearizable",
        isolate_primary,
        config={"REVOCATION_READ_CONCERN": "linearizable"},
        is_short=True,
    ),
    Scenario("rollback-majority", isolate_primary),
    Scenario("worker-killed", kill_workers, workers=3, is_short=True, ends_workers=True),
    Scenario("replies-swallowed", swallow_replies, is_short=True),
    Scenario("presented-twice", nothing, load=OFTEN_TWICE, is_short=True, is_fault=False),
    Scenario("limits", nothing, load=LIMITS, is_short=True, is_fault=False),
    Scenario("limits-primary-killed", kill_primary, load=LIMITS, is_short=True),
    Scenario("presented-twice-with-grace", nothing, GRACE, load=OFTEN_TWICE, is_fault=False),
    Scenario("replies-swallowed-with-grace", swallow_replies, GRACE),
    Scenario("worker-killed-with-grace", kill_workers, GRACE, workers=3, ends_workers=True),
    Scenario("worker-stopped", stop_workers, ends_workers=True),
    Scenario("crowds", come_in_crowds, is_fault=False),
    Scenario("oversized-bodies", send_floods, is_fault=False),
    Scenario(
        "worker-clocks",
        nothing,
        workers=3,
        worker_clocks={1: 300, 2: -300},
        # Proofs and assertions name the moment that they were made at, which must not be far off.
        load={"bound": 0},
        expect={"refusable": (Kind.ASSERTION,)},
    ),
    Scenario(
        "worker-clocks-20s",
        nothing,
        workers=3,
        worker_clocks={1: 20, 2: -20},
        load={"twice": 0.3},
        is_fault=False,
    ),
    Scenario("keys-rotated", rotate_keys, {"ALGORITHM": "ES256"}),
    Scenario("keys-rotated-hs256", rotate_keys),
    Scenario("config-edited", edit_config, known_errors=("the changed config is refused",)),
    *DATABASE_SCENARIOS,
)
