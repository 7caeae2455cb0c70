"""A secret is rotated while machines work with it, and nobody notices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from tests.secret_rotation import rotation_at_workers
from tests.server import configure

SECONDS = 6.0

#: They share the cores with the other tests that start workers.
pytestmark = pytest.mark.xdist_group("workers")


def test_no_call_fails_while_a_secret_is_rotated(
    mongo_url: str, database_name: str, database: Database[Any], tmp_path: Path
) -> None:
    """Machines switch one after another, the old secret is retired, and every call is answered."""
    configure(database, MAX_REQUESTS_PER_MINUTE=0)
    said: list[str] = []
    counts, old = rotation_at_workers(tmp_path, mongo_url, database_name, SECONDS, said.append)
    assert counts.failures == []
    assert counts.tokens["old"] > 0
    assert counts.tokens["new"] > 0
    assert counts.calls > counts.tokens.total()
    assert old == 401
    rotated = [
        record["reason"] for record in database.audit_logs.find({"event_type": "secret_rotated"})
    ]
    assert len(rotated) == 2
    assert "takes over" in rotated[0]
    assert "retired" in rotated[1]
    assert any("2030" in line for line in said)
