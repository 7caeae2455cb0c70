"""Settings in the database: made once, changed while running, and nonsense never takes effect."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from _oauth2_m2m.audit import AuditLog
from _oauth2_m2m.config import Environment, Settings
from _oauth2_m2m.errors import ConfigurationError, TemporarilyUnavailable
from _oauth2_m2m.key_sealing import KeySealer
from _oauth2_m2m.keys import Keys
from _oauth2_m2m.settings import MOST_WAITING_FOR_A_KEY, REREAD_SECONDS, SettingsSource
from _oauth2_m2m.storage import Storage
from tests.clocks import Clock
from tests.rooms.conftest import Commands

KEY = "k" * 40
GOOD = {"_id": "jwt_config", "SECRET_KEY": KEY, "ISSUER": "https://auth.example.com"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Lets seconds pass for what remembers settings."""
    return Clock(monkeypatch, "settings")


def source(
    storage: Storage,
    environment: Environment = Environment.DEVELOPMENT,
    *,
    keys: Keys | None = None,
    sealer: KeySealer | None = None,
) -> SettingsSource:
    audit = AuditLog(storage)
    keys = keys or Keys(storage, audit, sealer or KeySealer())
    return SettingsSource(storage, audit, keys, environment)


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


async def test_who_notices_a_change_did_not_make_it(
    storage: Storage, database: Database[Any]
) -> None:
    """A command that finds the config changed does not put its operator's name to that."""
    database.config.insert_one(GOOD)
    audit = AuditLog(storage, operator="me@here")
    settings = SettingsSource(
        storage, audit, Keys(storage, audit, KeySealer()), Environment.DEVELOPMENT
    )
    await settings.load()
    database.config.update_one({}, {"$set": {"LEEWAY_SECONDS": 7}})
    await settings.fresh()
    assert reasons(database) == ["changed: LEEWAY_SECONDS"]


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
    keys = Keys(storage, AuditLog(storage), KeySealer())
    settings = source(storage, Environment.PRODUCTION, keys=keys)
    first = await settings.load()
    ring = keys.ring
    database.config.update_one({}, {"$set": changes})
    for _ in range(3):
        clock.let_pass(30)
        assert await settings.current() is first
        assert keys.ring is ring
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


async def test_a_fresh_reading_begins_after_it_was_asked_for(
    storage: Storage, database: Database[Any]
) -> None:
    """What was written before is seen, however young the last reading is."""
    settings = source(storage)
    await settings.load()
    for limit in (7, 8):
        database.config.update_one({}, {"$set": {"MAX_REQUESTS_PER_MINUTE": limit}})
        assert (await settings.fresh()).max_requests_per_minute == limit


async def test_fresh_readings_come_once_a_second_however_many_ask(
    watched_storage: Storage, commands: Commands, database: Database[Any]
) -> None:
    """All who come in between wait for the next one, and share it."""
    database.config.insert_one(GOOD)
    settings = source(watched_storage)
    first = await settings.load()
    commands.sent.clear()
    began = time.monotonic()
    asked = [asyncio.ensure_future(settings.fresh()) for _ in range(50)]
    await asyncio.sleep(REREAD_SECONDS / 2)
    asked += [asyncio.ensure_future(settings.fresh()) for _ in range(50)]
    assert {id(found) for found in await asyncio.gather(*asked)} == {id(first)}
    assert time.monotonic() - began > REREAD_SECONDS / 2
    assert len([c for c in commands.named("find") if c["find"] == "config"]) == 1


async def test_no_more_wait_for_a_fresh_reading_than_there_is_room(
    storage: Storage, database: Database[Any]
) -> None:
    """More are refused at once; those who wait get their answer, and then there is room again."""
    database.config.insert_one(GOOD)
    settings = source(storage)
    first = await settings.load()
    asked = [asyncio.ensure_future(settings.fresh()) for _ in range(MOST_WAITING_FOR_A_KEY)]
    await asyncio.sleep(0)
    with pytest.raises(TemporarilyUnavailable):
        await settings.fresh()
    asked[0].cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert {task.result() for task in asked[1:]} == {first}
    assert await settings.fresh() is first


async def test_settings_come_with_their_keys(
    storage: Storage, database: Database[Any], clock: Clock
) -> None:
    """Whoever has read them finds the key of their ALGORITHM in the ring."""
    database.config.insert_one(GOOD)
    keys = Keys(storage, AuditLog(storage), KeySealer())
    settings = source(storage, keys=keys)
    await settings.load()
    for algorithm in ("ES256", "RS256", "HS256"):
        database.config.update_one({}, {"$set": {"ALGORITHM": algorithm}})
        clock.let_pass(30)
        assert (await settings.current()).algorithm == algorithm
        assert keys.ring.signing.algorithm == algorithm


async def test_an_algorithm_whose_key_does_not_open_is_refused_until_it_does(
    storage: Storage, database: Database[Any], clock: Clock
) -> None:
    """The last good settings and keys stay; once the key is mended, the change counts."""
    database.config.insert_one({**GOOD, "ALGORITHM": "ES256"})
    await source(storage, sealer=KeySealer([b"k" * 32])).load()
    sealed = database["keys"].find_one({}, {"_id": 0})
    assert sealed is not None
    database.config.replace_one({}, GOOD)
    keys = Keys(storage, AuditLog(storage), KeySealer())
    settings = source(storage, keys=keys)
    first = await settings.load()
    database.audit_logs.delete_many({})

    database.config.update_one({}, {"$set": {"ALGORITHM": "ES256"}})
    for _ in range(3):
        clock.let_pass(30)
        assert await settings.current() is first
        assert keys.ring.signing.algorithm == "HS256"
    (refusal,) = reasons(database)
    assert "OAUTH2_M2M_KEY_ENCRYPTION_KEY" in refusal
    assert database["keys"].count_documents({}) == 1

    database["keys"].update_one({}, {"$set": {"burned_at": datetime.now(UTC)}})
    clock.let_pass(30)
    assert (await settings.current()).algorithm == "ES256"
    assert keys.ring.signing.algorithm == "ES256"
    assert reasons(database) == [refusal, "changed: ALGORITHM"]


async def test_a_refused_change_that_is_taken_back_is_no_change(
    storage: Storage, database: Database[Any], clock: Clock
) -> None:
    """The settings that stayed are those that stand there again."""
    database.config.insert_one(GOOD)
    settings = source(storage)
    first = await settings.load()
    database.config.update_one({}, {"$set": {"ALGORITHM": "none"}})
    clock.let_pass(30)
    assert await settings.current() is first
    database.config.replace_one({}, GOOD)
    clock.let_pass(30)
    assert await settings.current() is first
    assert len(reasons(database)) == 1


async def test_keys_that_cannot_be_used_any_more_leave_the_last_ring(
    storage: Storage, database: Database[Any], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A running worker goes on with what it has, and logs an error; another does not start."""
    database.config.insert_one({**GOOD, "ALGORITHM": "ES256"})
    keys = Keys(storage, AuditLog(storage), KeySealer())
    settings = source(storage, keys=keys)
    first = await settings.load()
    ring = keys.ring
    database["keys"].update_one({}, {"$set": {"public": {}, "private": b"", "algorithm": 7}})
    clock.let_pass(30)
    with caplog.at_level(logging.ERROR, "oauth2_m2m"):
        assert await settings.current() is first
    assert keys.ring is ring
    assert f"the keys are refused, the last good ones stay: signing key {ring.signing.kid}" in (
        caplog.text
    )
    with pytest.raises(ConfigurationError, match=ring.signing.kid):
        await source(storage).load()
    assert database["keys"].count_documents({}) == 1
