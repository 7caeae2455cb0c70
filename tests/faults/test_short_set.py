"""The faults that every change is tried against: the short set, with one seed.

`make faults` plays all of them, longer and with more seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster, running_cluster
from tests.faults.scenarios import SCENARIOS
from tests.faults.stage import Scenario, perform

#: Fewer would show that the load did not come up.
FEWEST_OPERATIONS = 200
#: What a machine that runs other tests beside may add to answers.
BUSY_SECONDS = 5.0

#: Few enough to be answered in time there.
PARALLEL = 24

#: All share the cluster, and so the pytest worker that starts it.
pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three members, healthy again after each test."""
    with running_cluster() as cluster:
        yield cluster


@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if s.is_short], ids=lambda s: s.name)
def test_every_promise_is_kept(scenario: Scenario, cluster: Cluster, tmp_path: Path) -> None:
    """Nothing is lost and nobody let in, whatever clients saw, and it recovers by itself."""
    result = perform(
        scenario, cluster, folder=tmp_path, parallel=PARALLEL, busy_seconds=BUSY_SECONDS
    )
    assert not result.violations, (tmp_path / "violations.txt").read_text()
    assert result.operations >= FEWEST_OPERATIONS
