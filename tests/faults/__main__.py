"""`make faults`: play the scenarios, and print what came of them as a table (Markdown).

    python -m tests.faults [names...] [--seeds 3] [--operations 100000] [--short] [--list]

Details of violations are kept in a folder that is named at the end.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from tests.faults.checker import Violation
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.scenarios import SCENARIOS
from tests.faults.stage import PARALLEL, Result, Scenario, perform

HEAD = (
    "| scenario | runs | operations | of these while harmed | unknown | answered 503 | violations "
    "| longest answer | recovery |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def main() -> int:
    """The exit code: 1 when a promise was broken."""
    # Whoever is told to stop takes along what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = arguments()
    chosen = [s for s in SCENARIOS if _is_chosen(s, options)]
    if options.list:
        for scenario in chosen:
            print(scenario.name, "(short)" if scenario.is_short else "")
        return 0
    folder = options.folder or Path(tempfile.mkdtemp(prefix="oauth2-m2m-faults-results-"))
    results = []
    for result in _results(chosen, options, folder):
        results.append(result)
        print(
            f"{row([result])} seed {result.seed}, {result.seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )
        for violation in result.violations[:10]:
            print(f"    {violation.rule}: {violation.text}", file=sys.stderr, flush=True)
    table = "\n".join([HEAD, *(row(list(those)) for _, those in groupby(results, _name))])
    print(table)
    (folder / "table.md").write_text(table + "\n")
    print(f"\nHistories, logs and violations: {folder}", file=sys.stderr)
    return 1 if any(result.violations for result in results) else 0


def row(results: Sequence[Result]) -> str:
    """The line of a scenario, over all its seeds."""
    operations = sum(result.operations for result in results)
    unknown = sum(result.unknown for result in results)
    unavailable = sum(result.unavailable for result in results)
    violations = sum(len(result.violations) for result in results)
    recoveries = [result.recovery for result in results if result.recovery is not None]
    return (
        f"| `{results[0].name}` | {len(results)} | {operations:,} "
        f"| {sum(result.harmed for result in results):,} "
        f"| {100 * unknown / max(operations, 1):.2f} % "
        f"| {100 * unavailable / max(operations, 1):.2f} % | {violations} "
        f"| {max(result.longest for result in results):.1f} s "
        f"| {f'{max(recoveries):.1f} s' if recoveries else ''} |"
    )


def _results(
    scenarios: Sequence[Scenario], options: argparse.Namespace, folder: Path
) -> Iterator[Result]:
    """One after another; those that need nothing special share a cluster."""
    ordered = sorted(scenarios, key=lambda scenario: bool(scenario.cluster))
    for own, those in groupby(ordered, lambda s: s.name if s.cluster else ""):
        group = list(those)
        with running_cluster(**(group[0].cluster if own else {})) as cluster:
            for scenario in group:
                for seed in range(options.seed, options.seed + options.seeds):
                    yield _result(scenario, cluster, seed, options, folder)


def _result(
    scenario: Scenario, cluster: Cluster, seed: int, options: argparse.Namespace, folder: Path
) -> Result:
    """A run in which the harness itself failed counts as a violation: it proved nothing."""
    mine = folder / f"{scenario.name}-{seed}"
    try:
        return perform(
            scenario,
            cluster,
            seed=seed,
            operations=options.operations,
            rounds=options.rounds,
            parallel=options.parallel,
            folder=mine,
        )
    except Exception as error:  # whatever it is, the other scenarios go on
        cluster.heal()
        (mine / "violations.txt").write_text(traceback.format_exc())
        failed = Violation("harness", f"{type(error).__name__}: {error}".splitlines()[-1])
        return Result(scenario.name, seed, 0, 0, 0, 0, 0, [failed], 0, None, mine)


def _is_chosen(scenario: Scenario, options: argparse.Namespace) -> bool:
    if options.names:
        return any(re.fullmatch(name, scenario.name) for name in options.names)
    return scenario.is_short or not options.short


def _name(result: Result) -> str:
    return result.name


def arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What stands on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", help="scenarios, regular expressions; else all")
    parser.add_argument("--seeds", type=int, default=1, help="how many runs of each")
    parser.add_argument("--seed", type=int, default=1, help="the first of them")
    parser.add_argument("--operations", type=int, default=0, help="at least so many in a run")
    parser.add_argument("--rounds", type=int, default=1, help="how often a fault is repeated")
    parser.add_argument("--parallel", type=int, default=PARALLEL, help="machines at work at a time")
    parser.add_argument("--short", action="store_true", help="only those that run in CI")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--folder", type=Path, help="where histories, logs and violations go")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
