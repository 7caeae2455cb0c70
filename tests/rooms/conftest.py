"""What the rooms' tests share: a bound for hypothesis, good settings, a storage, query plans."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from pymongo import AsyncMongoClient, monitoring
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from _oauth2_m2m.config import Settings, settings_from
from _oauth2_m2m.key_ring import KeyRing, build_ring
from _oauth2_m2m.key_sealing import KeySealer
from _oauth2_m2m.storage import Storage

# No deadlines, for a busy machine is no defect. Examples share a test's database and its clients.
settings.register_profile(
    "rooms",
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("rooms")

SECRET_KEY = "a-secret-key-of-the-tests-with-more-than-32-bytes"


@pytest.fixture(scope="session")
def room_settings() -> Settings:
    """Settings such as a config document that was typed by hand gives them."""
    return settings_from({"SECRET_KEY": SECRET_KEY, "ISSUER": "https://auth.example.com"})


@pytest.fixture(scope="session")
def ring(room_settings: Settings) -> KeyRing:
    """The keys of those settings."""
    return build_ring(room_settings, [], KeySealer(), datetime.now(UTC))


@pytest.fixture
def storage(async_database: AsyncDatabase[dict[str, Any]]) -> Storage:
    """The test's database as the rooms see it."""
    return Storage(async_database)


class Commands(monitoring.CommandListener):
    """What is sent to MongoDB, as it is sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Keep the command."""
        self.sent.append(copy.deepcopy(dict(event.command)))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing to keep."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing to keep."""

    def named(self, *names: str) -> list[dict[str, Any]]:
        """The commands of these names."""
        return [command for command in self.sent if next(iter(command)) in names]

    def plans(self, database: Database[dict[str, Any]]) -> list[Plan]:
        """How MongoDB runs each find, update and findAndModify that was sent."""
        return [
            Plan(database, single)
            for command in self.named("find", "findAndModify", "update")
            for single in _singles(command)
        ]


class Plan:
    """How MongoDB runs one command."""

    def __init__(self, database: Database[dict[str, Any]], command: Mapping[str, Any]) -> None:
        private = {"lsid", "txnNumber", "readConcern", "writeConcern", "maxTimeMS"}
        explained = {
            name: value
            for name, value in command.items()
            if name not in private and not name.startswith("$")
        }
        found = database.command("explain", explained, verbosity="executionStats")
        plan = found["queryPlanner"]["winningPlan"]
        self.stages = set(_values(plan, "stage"))
        self.indexes = set(_values(plan, "indexName"))
        self.examined: int = found["executionStats"]["totalDocsExamined"]

    def __repr__(self) -> str:
        return f"<{self.stages} {self.indexes} examined={self.examined}>"


def _singles(command: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A command for each update of a batch: `explain` takes one at a time."""
    if "updates" not in command:
        return [dict(command)]
    return [{**command, "updates": [update]} for update in command["updates"]]


def _values(plan: object, name: str) -> Iterator[str]:
    if isinstance(plan, Mapping):
        if name in plan:
            yield str(plan[name])
        for part in plan.values():
            yield from _values(part, name)
    elif isinstance(plan, list):
        for part in plan:
            yield from _values(part, name)


@pytest.fixture
def commands() -> Commands:
    """What the watched storage sends."""
    return Commands()


@pytest.fixture
async def watched_storage(
    mongo_url: str, database_name: str, commands: Commands
) -> AsyncIterator[Storage]:
    """The test's database through a client whose commands are kept."""
    async with AsyncMongoClient[dict[str, Any]](mongo_url, event_listeners=[commands]) as client:
        yield Storage(client[database_name])
