"""Settings in the database: made once, changed while running, and nonsense never takes effect."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest
from pymongo.database import Database

from _oauth2_m2m.audit import AuditLog
from _oauth2_m2m.config import Environment, Settings
from _oauth2_m2m.errors import ConfigurationError
from _oauth2_m2m.keys import Keys
from _oauth2_m2m.settings import SettingsSource
from _oauth2_m2m.storage import Storage
from tests.clocks import Clock

KEY = "k" * 40
GOOD = {"_id": "jwt_config", "SECRET_KEY": KEY, "ISSUER": "https://auth.example.com"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Lets seconds pass for what remembers settings."""
    return Clock(monkeypatch, "settings")


def source(storage: Storage, environment: Environment = Environment.DEVELOPMENT) -> SettingsSource:
    return SettingsSource(storage, AuditLog(storage), environment)


def reasons(database: Database[Any]) -> list[str]:
    return [d["reason"] for d in database.audit_logs.find({"event_type": "config_changed"})]


async def test_a_missing_document_is_made_once(storage: Storage, database: Database[Any]) -> None:
    """Many workers that start at once on an empty database have one and the same random key."""
    loaded = await asyncio.gather(*(source(storage).load() for _ in range(12)))
    (document,) = database.config.find()
    assert document["_id"] == "jwt_config"
    assert len(document["SECRET_KEY"]) >= 43
    assert {found.secret_key.value for found in loaded} == {document["SECRET_KEY"]}
    assert reasons(database) == []


async def test_a_document_typed_by_hand_is_honoured(
    storage: Storage, database: Database[Any]
) -> None:
    """It is read as it is, and not written to."""
    typed = {**GOOD, "ACCESS_TOKEN_EXPIRE_MINUTES": 5.0, "NOTE": "mine"}
    database.config.insert_one(typed)
    found = await source(storage).load()
    assert found.secret_key.value == KEY
    assert found.access_token_lifetime == timedelta(minutes=5)
    assert list(database.config.find()) == [typed]


async def test_a_document_without_a_key_gets_one(storage: Storage, database: Database[Any]) -> None:
    """Who typed only what matters to them has a key made, one for all workers."""
    database.config.insert_one({"_id": "jwt_config", "MAX_REQUESTS_PER_MINUTE": 7})
    loaded = await asyncio.gather(*(source(storage).load() for _ in range(8)))
    (document,) = database.config.find()
    assert {found.secret_key.value for found in loaded} == {document["SECRET_KEY"]}
    assert {found.max_requests_per_minute for found in loaded} == {7}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"ALGORITHM": "none"}, "ALGORITHM"),
        ({"SECRET_KEY": 7}, "SECRET_KEY"),
        ({"SECRET_KEY": None}, "SECRET_KEY"),
        ({"MAX_REQUESTS_PER_MINUTE": -1}, "MAX_REQUESTS_PER_MINUTE"),
    ],
)
async def test_nonsense_stops_the_start(
    storage: Storage, database: Database[Any], changes: dict[str, Any], field: str
) -> None:
    """The one line names the field."""
    database.config.insert_one({**GOOD, **changes})
    with pytest.raises(ConfigurationError, match=field):
        await source(storage).load()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"SECRET_KEY": "short"}, "SECRET_KEY"),
        ({"SECRET_KEY": "your-256-bit-secret"}, "sample"),
        ({"ISSUER": "http://auth.example.com"}, "ISSUER"),
        ({"PREVIOUS_SECRET_KEYS": ["short"]}, "SECRET_KEY"),
    ],
)
async def test_a_weakness_stops_production_and_warns_in_development(
    storage: Storage,
    database: Database[Any],
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, Any],
    word: str,
) -> None:
    """In production it is the end of the start, in development a line in the log."""
    database.config.insert_one({**GOOD, **changes})
    with pytest.raises(ConfigurationError, match=word):
        await source(storage, Environment.PRODUCTION).load()
    with caplog.at_level(logging.WARNING):
        await source(storage).load()
    assert word in caplog.text
    assert "short" not in caplog.text.replace("shorter", "")


async def test_good_settings_pass_production(storage: Storage, database: Database[Any]) -> None:
    """A strong key and an https issuer are all that production asks for."""
    database.config.insert_one(GOOD)
    assert (await source(storage, Environment.PRODUCTION).load()).secret_key.value == KEY


async def test_a_change_is_seen_within_30_seconds(
    storage: Storage, database: Database[Any], clock: Clock
) -> None:
    """Settings are remembered for a moment; then the change counts, audited by its field names."""
    database.config.insert_one(GOOD)
    settings = source(storage)
    first = await settings.load()
    database.config.update_one({}, {"$set": {"MAX_REQUESTS_PER_MINUTE": 7, "SECRET_KEY": "n" * 40}})
    assert await settings.current() is first
    clock.let_pass(30)
    changed = await asyncio.gather(*(settings.current() for _ in range(5)))
    assert {found.max_requests_per_minute for found in changed} == {7}
    assert settings.last_good is changed[0]
    assert reasons(database) == ["changed: MAX_REQUESTS_PER_MINUTE, SECRET_KEY"]


async def test_an_unchanged_document_is_no_change(
    storage: Storage, database: Database[Any], clock: Clock
) -> None:
    """Reading the same again keeps the very same settings, and says nothing."""
    database.config.insert_one(GOOD)
    settings = source(storage)
    first = await settings.load()
    for _ in range(3):
        clock.let_pass(30)
        assert await settings.current() is first
    assert reasons(database) == []


PUBLIC_KEY = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"ALGORITHM": "none"}, "ALGORITHM"),
        ({"SECRET_KEY": ""}, "SECRET_KEY"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY"),
        ({"SECRET_KEY": PUBLIC_KEY}, "SECRET_KEY"),
        ({"PREVIOUS_SECRET_KEYS": [PUBLIC_KEY]}, "SECRET_KEY"),
        ({"ISSUER": "http://auth.example.com"}, "ISSUER"),
        ({"ACCESS_TOKEN_EXPIRE_MINUTES": "5"}, "ACCESS_TOKEN_EXPIRE_MINUTES"),
    ],
    ids=lambda value: repr(value)[:50],
)
async def test_a_change_to_nonsense_is_refused(
    storage: Storage,
    database: Database[Any],
    clock: Clock,
    changes: dict[str, Any],
    word: str,
) -> None:
    """The last good settings stay and can be used; the refusal is audited once, with the reason."""
    database.config.insert_one(GOOD)
    settings = source(storage, Environment.PRODUCTION)
    first = await settings.load()
    database.config.update_one({}, {"$set": changes})
    for _ in range(3):
        clock.let_pass(30)
        current = await settings.current()
        Keys().ring(current)
        assert current is first
    (reason,) = reasons(database)
    assert word in reason
    assert reason.startswith("refused")
    database.config.replace_one({}, {**GOOD, "MAX_REQUESTS_PER_MINUTE": 7})
    clock.let_pass(30)
    assert (await settings.current()).max_requests_per_minute == 7
    assert len(reasons(database)) == 2


async def test_a_document_that_was_removed_is_refused_too(
    storage: Storage, database: Database[Any], clock: Clock
) -> None:
    """Running workers never invent a new key: live tokens would die of it."""
    database.config.insert_one(GOOD)
    settings = source(storage)
    first = await settings.load()
    database.config.delete_many({})
    clock.let_pass(30)
    assert await settings.current() is first
    assert database.config.count_documents({}) == 0
    assert "missing" in reasons(database)[0]


async def test_no_key_reaches_audit_log_or_log(
    storage: Storage,
    database: Database[Any],
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever is wrong with a key, it is shown nowhere."""
    secrets = ["a-secret-of-mine", ["a-secret-of-mine"], {"a": "a-secret-of-mine"}]
    database.config.insert_one(GOOD)
    settings = source(storage, Environment.PRODUCTION)
    with caplog.at_level(logging.DEBUG, "oauth2_m2m"):
        await settings.load()
        for secret in secrets:
            database.config.update_one({}, {"$set": {"SECRET_KEY": secret}})
            clock.let_pass(30)
            await settings.current()
    assert len(reasons(database)) == len(secrets)
    assert not [text for text in (*reasons(database), caplog.text) if "a-secret-of-mine" in text]


async def test_a_changed_retention_reaches_the_index(
    storage: Storage, database: Database[Any], clock: Clock
) -> None:
    """The audit log is kept as long as is set, without a restart."""
    database.config.insert_one(GOOD)
    settings = source(storage)
    await settings.load()
    database.config.update_one({}, {"$set": {"AUDIT_RETENTION_DAYS": 7}})
    clock.let_pass(30)
    await settings.current()
    index = database.audit_logs.index_information()["timestamp_1"]
    assert index["expireAfterSeconds"] == 7 * 86_400


async def test_reading_before_loading_makes_no_noise(
    storage: Storage, database: Database[Any], clock: Clock
) -> None:
    """Whoever asks first makes the document; later readings find it unchanged."""
    settings = source(storage)
    first: Settings = await settings.current()
    clock.let_pass(30)
    assert await settings.current() is first
    assert reasons(database) == []
