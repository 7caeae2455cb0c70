"""Where a scenario plays: a cluster, workers and load, a fault, and the judgement afterwards.

A scenario harms what it likes while the load is on, and marks the moments from which recovery is
counted. All the rest is the same for all of them: `perform`.
"""

from __future__ import annotations

import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from bson import json_util

from tests.faults.checker import Expectations, Span, Violation, check
from tests.faults.cluster import Cluster
from tests.faults.crowds import allow_many_files
from tests.faults.history import Dump, Kind, Operation, Outcome, read_history
from tests.faults.workers import Worker, running_workers
from tests.uvicorn_process import ROOT

#: The load is on when so much was done.
WARM_OPERATIONS = 100
#: A scenario that makes no progress ends, and is told to have failed.
LONGEST_SECONDS = 1800.0
#: Everything that was on its way has its answer, or its client has given up.
STOP_SECONDS = 40.0
POLL_SECONDS = 0.1
UNAVAILABLE = 503
#: Machines at work at a time, unless it is said otherwise.
PARALLEL = 80
#: The harm is repeated until such a share of the operations was done.
HARMED_SHARE = 0.5
#: Where nothing is harmed, a busy machine is too slow for a few.
MOST_FAILED_WITHOUT_A_FAULT = 0.1
NEVER = float("inf")


@dataclass(frozen=True)
class Scenario:
    """A fault, and what is expected to come of it.

    Attributes:
        name: what it is called on the command line and in the table.
        run: does the harm while the load is on, and returns when it is over; what it leaves
            behind is healed. It waits by `stage.go_on`, chooses by `stage.rng`, and calls
            `stage.mark` at the moments from which recovery is counted.
        config: fields of the config document that differ; limits are off.
        cluster: options of `running_cluster`; with none, the cluster is shared.
        workers: how many.
        worker_clocks: seconds that the clocks of some workers are ahead, by number.
        load: options of `python -m tests.faults.load`.
        is_short: belongs to the set that runs in CI.
        settle_seconds: how long the load goes on after the harm was healed.
        recovers_within: the most seconds from a mark until all is well, see `recovery_seconds`.
        known_errors: patterns of lines that workers may log as errors.
        expect: fields of the checker's `Expectations` that differ.
        is_fault: whether anything is harmed; else limits are exact.
        ends_workers: whether connections to workers may break, so that some have no answer.
    """

    name: str
    run: Callable[[Stage], None]
    config: Mapping[str, Any] = field(default_factory=dict)
    cluster: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 2
    worker_clocks: Mapping[int, float] = field(default_factory=dict)
    load: Mapping[str, Any] = field(default_factory=dict)
    is_short: bool = False
    settle_seconds: float = 6
    recovers_within: float = 15
    known_errors: Sequence[str] = ()
    expect: Mapping[str, Any] = field(default_factory=dict)
    is_fault: bool = True
    ends_workers: bool = False


class Load:
    """A process of `tests.faults.load`."""

    def __init__(self, history: Path, command: Sequence[str], output: Path) -> None:
        self.history = history
        self.output = output
        self._count = Path(f"{history}.count")
        with output.open("wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.load", *command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def operations(self) -> int:
        """How many there are so far.

        Raises:
            StageError: the process has ended.
        """
        if self._process.poll() is not None:
            raise StageError(f"the load has ended:\n{self.output.read_text()[-3000:]}")
        try:
            return int(self._count.read_text() or 0)
        except FileNotFoundError:
            return 0

    def stop(self) -> None:
        """Have what was begun finished, and wait for it."""
        self._process.terminate()
        if self._process.wait(STOP_SECONDS):
            raise StageError(f"the load failed:\n{self.output.read_text()[-3000:]}")

    def kill(self) -> None:
        """End it, if it is still there."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class StageError(Exception):
    """The harness itself failed: nothing is known about the service."""


@dataclass
class Stage:
    """What a scenario works with.

    Attributes:
        cluster: the database.
        workers: the workers, `w0` and so on.
        database: the name of the database.
        rng: what the scenario leaves to chance; when requests meet is never the same twice.
        rounds: how often a fault that can be repeated is.
        marks: the moments from which recovery is counted, each with what happened then.
        stale: while a primary was cut off and had not noticed.
        findings: what a scenario found wrong itself.
        outages: while nothing could be answered OK.
    """

    cluster: Cluster
    workers: list[Worker]
    database: str
    folder: Path
    rng: random.Random
    rounds: int
    load: Load
    marks: list[tuple[float, str]] = field(default_factory=list)
    stale: list[Span] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    outages: list[Span] = field(default_factory=list)

    @contextmanager
    def outage(self, what: str) -> Iterator[None]:
        """While nothing can be answered OK. Recovery is counted from its end."""
        began = time.monotonic()
        yield
        self.mark(f"{what} is over")
        self.outages.append((began, time.monotonic()))

    def mark(self, what: str) -> None:
        """From now on the service recovers of this."""
        self.marks.append((time.monotonic(), what))

    def go_on(self, seconds: float) -> None:
        """Let the load go on."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.load.operations()  # it has not ended
            time.sleep(min(left, 0.5))

    def go_on_between(self, least: float, most: float) -> None:
        """Let the load go on for a while that only the seed knows."""
        self.go_on(self.rng.uniform(least, most))

    def go_on_until(self, operations: int) -> None:
        """Let the load go on until so much was done."""
        deadline = time.monotonic() + LONGEST_SECONDS
        while self.load.operations() < operations:
            if time.monotonic() > deadline:
                raise StageError(f"only {self.load.operations()} operations")
            time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class Result:
    """What came of a scenario with a seed.

    Attributes:
        operations, harmed: how many there were, and how many of them from the first harm to the
            end of the last.
        unknown, unavailable: how many had no answer, and were answered 503.
        violations: none is what is wanted.
        longest: seconds of the longest answer.
        recovery: seconds, see `recovery_seconds`; `None` where there is no mark.
        folder: where history, logs and violations are, if they were kept.
    """

    name: str
    seed: int
    operations: int
    harmed: int
    unknown: int
    unavailable: int
    seconds: float
    violations: Sequence[Violation]
    longest: float
    recovery: float | None
    folder: Path


def perform(
    scenario: Scenario,
    cluster: Cluster,
    *,
    seed: int = 1,
    operations: int = 0,
    rounds: int = 1,
    folder: Path | None = None,
    parallel: int = PARALLEL,
    busy_seconds: float = 0,
) -> Result:
    """Play a scenario, and judge what came of it.

    Args:
        scenario: which.
        cluster: made with the scenario's options; it is healthy again afterwards.
        seed: of all chance.
        operations: the load goes on until so much was done, and the harm for half of that.
        rounds: how often the fault is repeated at least, where it can be.
        folder: where history and logs go; by default a new one. What an earlier run of the
            scenario left there is replaced.
        parallel: how many machines are at work at a time. More share the rounds to the database,
            and each waits longer.
        busy_seconds: what others on this machine may add to answers.

    Raises:
        StageError: the harness failed, nothing is known about the service.
    """
    folder = folder or Path(tempfile.mkdtemp(prefix=f"faults-{scenario.name}-"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.monotonic()
    allow_many_files()
    options = {"seed": seed, "parallel": parallel, **scenario.load}
    stage, fault = _play(scenario, cluster, folder, options, operations, rounds)
    history = sorted(read_history([stage.load.history]), key=lambda operation: operation.start)
    dump = cluster.dump(stage.database)
    cluster.clean(stage.database)
    violations, recovery = _judge(scenario, stage, fault, history, dump, busy_seconds)
    result = Result(
        scenario.name,
        seed,
        len(history),
        sum(fault[0] <= operation.end and operation.start <= fault[1] for operation in history),
        sum(operation.outcome is Outcome.UNKNOWN for operation in history),
        sum(operation.status == UNAVAILABLE for operation in history),
        time.monotonic() - began,
        violations,
        max((o.seconds for o in history if o.outcome is not Outcome.UNKNOWN), default=0.0),
        recovery,
        folder,
    )
    _write(result, stage, history, dump)
    return result


def _play(
    scenario: Scenario,
    cluster: Cluster,
    folder: Path,
    options: Mapping[str, Any],
    operations: int,
    rounds: int,
) -> tuple[Stage, Span]:
    """Do the harm while the load is on; from when until when that was."""
    database = f"faults_{secrets.token_hex(6)}"
    _configure(cluster, database, scenario.config)
    with ExitStack() as stack:
        workers = stack.enter_context(
            running_workers(
                cluster.url,
                database,
                folder,
                number=scenario.workers,
                registry=cluster.links,
                clock_offsets=scenario.worker_clocks,
            )
        )
        load = stack.enter_context(_load(scenario, cluster, workers, database, folder, options))
        rng = random.Random(options["seed"])  # noqa: S311
        stage = Stage(cluster, workers, database, folder, rng, rounds, load)
        stage.go_on_until(WARM_OPERATIONS)
        fault = _harm(scenario, stage, int(operations * HARMED_SHARE))
        stage.go_on(scenario.settle_seconds)
        stage.go_on_until(operations)
        load.stop()
        # Scenarios start again what they end: nobody else may need it.
        ended = [worker.name for worker in workers if not worker.is_running()]
        stage.findings += [f"{name} has ended by itself" for name in ended]
    return stage, fault


def _judge(
    scenario: Scenario,
    stage: Stage,
    fault: Span,
    history: Sequence[Operation],
    dump: Dump,
    busy_seconds: float,
) -> tuple[list[Violation], float | None]:
    """Every promise that was broken, and how long a recovery took at the most."""
    expected = _expectations(scenario, stage, fault, busy_seconds)
    violations = [
        *(Violation("scenario", text) for text in stage.findings),
        *check(history, dump, expected),
        *_unanswered(scenario, history),
        *_complaints(scenario, stage.workers),
    ]
    if not stage.marks:
        return violations, None
    counted = [o for o in history if not any(a <= o.end < b for a, b in stage.outages)]
    recovery = recovery_seconds(counted, [moment for moment, _ in stage.marks])
    if recovery > scenario.recovers_within and not busy_seconds:  # the odd 503 would be the last
        late = f"recovered after {recovery:.1f} s, not within {scenario.recovers_within:g} s"
        violations.append(Violation("R10", late))
    return violations, recovery


def recovery_seconds(history: Sequence[Operation], marks: Sequence[float]) -> float:
    """The longest time from a mark until all was well again.

    That is when the first tokens that were asked for after it arrived, or when the last operation
    that failed had ended, whichever is later. It failed if it was answered 503, or not at all. An
    operation is looked at with the last mark before its end. Where nobody got tokens until the next
    mark, nothing had recovered, and the earlier mark counts on.
    """
    longest, since = 0.0, NEVER
    for mark, until in pairwise([*marks, NEVER]):
        since = min(since, mark)
        those = [o for o in history if mark <= o.end < until]
        failed = [o.end for o in those if o.outcome is Outcome.UNKNOWN or o.status == UNAVAILABLE]
        given = [o.end for o in those if o.jti and o.start >= mark]
        longest = max([longest, *(end - since for end in [*failed, *sorted(given)[:1]])])
        since = NEVER if given else since
    return longest


def _configure(cluster: Cluster, database: str, fields: Mapping[str, Any]) -> None:
    """Write the config as an operator does, before anything starts."""
    config = {"_id": "jwt_config", "MAX_REQUESTS_PER_MINUTE": 0, **fields}
    with cluster.client() as client:
        client[database]["config"].insert_one(config)


def _harm(scenario: Scenario, stage: Stage, operations: int) -> Span:
    """Play the scenario until so much was done; from when until all was whole again."""
    begin = time.monotonic()
    scenario.run(stage)
    while stage.load.operations() < operations:
        scenario.run(stage)
    stage.cluster.heal()
    for worker in stage.workers:
        if worker.is_running():
            worker.wait_until_ready()
    return begin, time.monotonic()


def _expectations(scenario: Scenario, stage: Stage, fault: Span, busy: float) -> Expectations:
    known: dict[str, Any] = {
        "wall_offset": time.time() - time.monotonic(),
        "grace": float(scenario.config.get("REFRESH_GRACE_SECONDS", 0)),
        "linearizable": scenario.config.get("REVOCATION_READ_CONCERN") == "linearizable",
        "clocks": {f"w{place}": offset for place, offset in scenario.worker_clocks.items()},
        "stale_primary": stage.stale,
        "recovery_seconds": scenario.settle_seconds / 2,
        "busy_allowance": busy,
    }
    if scenario.is_fault:
        known["fault"] = fault
    return Expectations(**{**known, **scenario.expect})


def _unanswered(scenario: Scenario, history: Sequence[Operation]) -> Iterator[Violation]:
    """Who had no answer though no worker was ended, and who failed though nothing was harmed."""
    asked = [operation for operation in history if operation.kind is not Kind.DISABLE]
    lost = [operation.id for operation in asked if operation.outcome is Outcome.UNKNOWN]
    if lost and not scenario.ends_workers:
        yield Violation("R8", f"{len(lost)} had no answer, and no worker was ended", tuple(lost))
    failed = len(lost) + sum(operation.status == UNAVAILABLE for operation in asked)
    if not scenario.is_fault and failed > MOST_FAILED_WITHOUT_A_FAULT * len(asked):
        yield Violation("R10", f"{failed} of {len(asked)} failed, and nothing was harmed")


def _complaints(scenario: Scenario, workers: Sequence[Worker]) -> Iterator[Violation]:
    for worker in workers:
        for line in worker.complaints(scenario.known_errors):
            yield Violation("log", f"{worker.name}: {line}")


@contextmanager
def _load(
    scenario: Scenario,
    cluster: Cluster,
    workers: Sequence[Worker],
    database: str,
    folder: Path,
    options: Mapping[str, Any],
) -> Iterator[Load]:
    history = folder / "history.jsonl"
    options = {
        "mongo-url": cluster.url,
        "database": database,
        "history": history,
        "grace": scenario.config.get("REFRESH_GRACE_SECONDS", 0),
        **options,
    }
    command = [f"--{name}={value}" for name, value in options.items()]
    command += [f"--worker={worker.name}={worker.url}" for worker in workers]
    load = Load(history, command, folder / "load.log")
    cluster.links.register("load", load.pid)
    try:
        yield load
    finally:
        load.kill()


def _write(result: Result, stage: Stage, history: Sequence[Operation], dump: Dump) -> None:
    """Keep what is needed to understand a violation: each with its operations."""
    if not result.violations:
        return
    operations = {operation.id: operation for operation in history}
    with (result.folder / "violations.txt").open("w") as stream:
        for moment, what in stage.marks:
            print(f"{moment:.3f} {what}", file=stream)
        for violation in result.violations:
            print(f"\n{violation.rule}: {violation.text}", file=stream)
            for identity in violation.operations:
                print(f"    {operations.get(identity, identity)}", file=stream)
    (result.folder / "dump.json").write_text(json_util.dumps(dump.collections))
