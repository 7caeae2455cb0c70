"""Faults of the database itself: members that are gone, full, slow, or of another time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from pymongo.database import Database

from tests.faults.cluster import Member
from tests.faults.history import Kind, Outcome, read_history
from tests.faults.links import PASS, Rule
from tests.faults.stage import Scenario, Stage

#: A primary that sees no majority has noticed; the election timeout is 2 s.
NOTICED_SECONDS = 6
#: Longer than a driver and a worker wait for an answer.
STALL_SECONDS = 10
SMALL_DISK_MB = 320


def pause_secondary(stage: Stage) -> None:
    """A secondary stands still. A majority is left, though it may have to look for its source."""
    for _ in range(stage.rounds):
        stage.go_on_between(1, 3)
        secondary = stage.rng.choice(stage.cluster.secondaries())
        stage.mark(f"{secondary.name} paused")
        secondary.pause()
        stage.go_on(15)
        stage.mark(f"{secondary.name} woken")
        secondary.wake()
        stage.go_on_between(2, 4)
        stage.cluster.wait_until_healthy()


def kill_secondary(stage: Stage) -> None:
    """A secondary is killed, and comes back."""
    for _ in range(stage.rounds):
        stage.go_on_between(1, 3)
        secondary = stage.rng.choice(stage.cluster.secondaries())
        stage.mark(f"{secondary.name} killed")
        secondary.kill()
        stage.go_on_between(6, 8)
        stage.mark(f"{secondary.name} back")
        secondary.start()
        stage.cluster.wait_until_healthy()


def leave_one_of_three(stage: Stage) -> None:
    """Two members are gone: whoever is left is no majority, and nothing is answered OK."""
    for _ in range(stage.rounds):
        stage.go_on_between(1, 3)
        gone = stage.rng.sample(stage.cluster.members, 2)
        with stage.outage("the lack of a majority"):
            for member in gone:
                member.kill()
            stage.go_on(NOTICED_SECONDS)
            since = time.monotonic()
            stage.go_on_between(4, 8)
            until = time.monotonic()
            for member in gone:
                member.start()
        stage.cluster.wait_until_healthy()
        stage.findings += answered_between(stage, since, until)


def answered_between(stage: Stage, since: float, until: float) -> Iterator[str]:
    """What was answered OK though it was begun and ended while there was no majority."""
    for operation in read_history([stage.load.history]):
        is_within = since < operation.start and operation.end < until
        if is_within and operation.kind is not Kind.OTHER and operation.outcome is Outcome.OK:
            yield f"{operation.kind} {operation.id} was OK without a majority"


def step_down(stage: Stage) -> None:
    """The primary hands over, ten times."""
    for _ in range(10 * stage.rounds):
        stage.go_on_between(1, 3)
        former = stage.cluster.primary()
        stage.mark(f"{former.name} steps down")
        stage.cluster.step_down()
        stage.cluster.successor(former)
        stage.cluster.wait_until_healthy()


def fill_disk_of_primary(stage: Stage) -> None:
    """No byte is left on the primary's disk: it refuses writes, and ends sooner or later."""
    for _ in range(stage.rounds):
        stage.go_on_between(1, 3)
        primary = stage.cluster.primary()
        fill(stage, [primary])


def fill_all_disks(stage: Stage) -> None:
    """No byte is left on any disk."""
    for _ in range(stage.rounds):
        stage.go_on_between(1, 3)
        fill(stage, stage.cluster.members)


def fill(stage: Stage, members: Sequence[Member]) -> None:
    """Leave no room on the disks of these, for a while."""
    with stage.outage("the lack of room"):
        for member in members:
            stage.cluster.fill_disk(member)
        stage.go_on(STALL_SECONDS)
        for member in members:
            if not stage.cluster.has_felt_its_disk(member):
                stage.findings.append(f"{member.name} had room: nothing was proven")
            stage.cluster.free_disk(member)
    stage.cluster.heal()


def each_is_primary(stage: Stage) -> None:
    """Each member has its time as the primary, whatever its clock says."""
    seen = set()
    for _ in range(30):
        primary = stage.cluster.primary()
        seen.add(primary.name)
        stage.go_on_between(2, 3)
        if len(seen) == len(stage.cluster.members):
            return
        stage.mark(f"{primary.name} steps down")
        stage.cluster.step_down()
        stage.cluster.successor(primary)
        stage.cluster.wait_until_healthy()
    stage.findings.append(f"only {seen} were ever primary: nothing was proven")


def slow_down(milliseconds: float) -> Callable[[Stage], None]:
    """Everything that a worker asks of the database takes so much longer."""

    def run(stage: Stage) -> None:
        set_for_workers(stage, Rule(delay_ms=milliseconds / 2))
        stage.go_on(10 * stage.rounds)
        stage.mark("fast again")

    return run


def stall(stage: Stage) -> None:
    """Nothing passes between workers and database for ten seconds; then it comes, late."""
    for _ in range(stage.rounds):
        stage.go_on_between(1, 3)
        with stage.outage("the stall"):
            set_for_workers(stage, Rule(stalled=True))
            stage.go_on(STALL_SECONDS)
            set_for_workers(stage, PASS)
        stage.go_on_between(4, 6)


def set_for_workers(stage: Stage, rule: Rule) -> None:
    """Between each worker and each member."""
    for worker in stage.workers:
        for member in stage.cluster.members:
            stage.cluster.links.set(worker.name, member.name, rule)


def drop_indexes_before_a_start(stage: Stage) -> None:
    """Somebody has dropped all indexes; the workers that start next make them again."""
    with stage.cluster.client() as client:
        database = client[stage.database]
        for _ in range(stage.rounds):
            stage.go_on_between(1, 3)
            before = indexes(database)
            for worker in stage.workers:
                worker.terminate()
            for name in before:
                database[name].drop_indexes()
            stage.mark("indexes dropped")
            for worker in stage.workers:
                worker.start()
            for worker in stage.workers:
                worker.wait_until_ready()
            if indexes(database) != before:
                stage.findings.append(f"indexes were {before}, and are {indexes(database)}")
            stage.go_on_between(2, 4)


def indexes(database: Database[dict[str, object]]) -> dict[str, list[str]]:
    """The names of all indexes, by collection."""
    names = database.list_collection_names()
    return {name: sorted(database[name].index_information()) for name in sorted(names)}


SMALL_DISKS = {"disk_mb": SMALL_DISK_MB}
CLOCKS_APART = {"clock_offsets": {0: 300, 1: -300}}

DATABASE_SCENARIOS = (
    # A majority is there all the time, though it may have to look for its source.
    Scenario("secondary-paused", pause_secondary, recovers_within=8),
    Scenario("secondary-killed", kill_secondary, recovers_within=5),
    Scenario("two-of-three-gone", leave_one_of_three),
    Scenario("step-down-ten-times", step_down),
    Scenario("database-slow-50ms", slow_down(50), is_fault=False),
    Scenario("database-slow-200ms", slow_down(200), is_fault=False),
    Scenario("database-slow-1000ms", slow_down(1000)),
    Scenario("database-stalls-10s", stall),
    Scenario("indexes-dropped", drop_indexes_before_a_start, ends_workers=True),
    Scenario("disk-full-on-one", fill_disk_of_primary, cluster=SMALL_DISKS),
    Scenario("disk-full-on-all", fill_all_disks, cluster=SMALL_DISKS),
    Scenario("database-clocks-apart", each_is_primary, cluster=CLOCKS_APART),
)
