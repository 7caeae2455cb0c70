"""What the rooms' tests share: a bound for hypothesis, good settings, a storage."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from pymongo.asynchronous.database import AsyncDatabase

from _oauth2_m2m.config import Settings, settings_from
from _oauth2_m2m.keys import KeyRing, Keys
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
    return Keys().ring(room_settings)


@pytest.fixture
def storage(async_database: AsyncDatabase[dict[str, Any]]) -> Storage:
    """The test's database as the rooms see it."""
    return Storage(async_database)
