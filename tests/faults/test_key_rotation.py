"""Keys turn over under load, at four workers and an operator's process: nobody notices."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from tests.faults.test_workers import WORKERS, four_workers
from tests.rotation_load import PLAN, turn_over_under_load

#: They share the cores, so these processes come after the other four.
pytestmark = pytest.mark.xdist_group("workers")


@pytest.mark.timeout(600)
def test_no_good_token_is_refused_while_keys_turn_over(
    mongo_url: str,
    mongo_client: MongoClient[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Five rotations at once and two changes of ALGORITHM: all keys sign, no token is doubted."""
    config = {"MAX_REQUESTS_PER_MINUTE": 0, "ALGORITHM": "HS256"}
    with four_workers(mongo_client, mongo_url, tmp_path, **config) as service:
        counts = asyncio.run(turn_over_under_load(service, PLAN, 0.2))
        served = service.served("/protected")
        mistakes = service.lines("(ERROR|CRITICAL|Traceback)")
    with capsys.disabled():
        print(f"\n{counts}")
    assert counts.refused == []
    assert not mistakes
    assert len(served) == WORKERS, "a worker took no part: nothing was proven"
    signed = Counter(algorithm for algorithm, _ in counts.keys)
    assert signed == {"HS256": 3, "ES256": 4, "RS256": 1}
    assert counts.calls > counts.tokens > 5 * len(PLAN)
