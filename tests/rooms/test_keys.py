"""The collection `keys`: made once, announced, superseded and forgotten, without a leader."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from _oauth2_m2m.audit import AuditLog
from _oauth2_m2m.config import Settings, settings_from
from _oauth2_m2m.errors import ConfigurationError, TemporarilyUnavailable
from _oauth2_m2m.key_ring import ANNOUNCED_FOR, KEPT, SIGNS_FOR, StoredKey
from _oauth2_m2m.key_sealing import KeySealer
from _oauth2_m2m.keys import WRITTEN_AHEAD, Keys
from _oauth2_m2m.signatures import thumbprint
from _oauth2_m2m.storage import Storage
from tests.rooms.conftest import Commands

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
SECOND = timedelta(seconds=1)


def worker(storage: Storage, *encryption_keys: bytes) -> Keys:
    return Keys(storage, AuditLog(storage), KeySealer(encryption_keys))


def settings(algorithm: str = "ES256", **fields: Any) -> Settings:
    return settings_from({"SECRET_KEY": "s" * 40, "ALGORITHM": algorithm, **fields})


def reasons(database: Database[Any]) -> list[str]:
    return [d["reason"] for d in database.audit_logs.find({"event_type": "key_rotated"})]


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
async def test_many_workers_that_start_at_once_make_one_key(
    storage: Storage, database: Database[Any], algorithm: str
) -> None:
    """It is named by its thumbprint, signs at once, is recorded once, and all have it."""
    rings = await asyncio.gather(
        *(worker(storage).refresh(settings(algorithm), NOW) for _ in range(8))
    )
    (document,) = database["keys"].find()
    assert {ring.signing.kid for ring in rings} == {document["_id"]}
    assert document["_id"] == thumbprint(document["public"])
    assert document["signs_from"] == NOW
    assert document["signs_until"] == NOW + SIGNS_FOR
    (reason,) = reasons(database)
    assert reason.startswith(f"{algorithm} key {document['_id']} made")


async def test_a_shared_secret_needs_no_document(storage: Storage, database: Database[Any]) -> None:
    """HS256 signs with the key of the config."""
    ring = await worker(storage).refresh(settings("HS256"), NOW)
    assert ring.signing.algorithm == "HS256"
    assert database["keys"].count_documents({}) == 0


async def test_keys_that_were_never_read_are_unavailable(storage: Storage) -> None:
    """Nobody mistakes that for having none."""
    with pytest.raises(TemporarilyUnavailable):
        _ = worker(storage).ring


async def test_an_unchanged_ring_is_the_same_object(
    storage: Storage, database: Database[Any]
) -> None:
    """So what was verified with it stays remembered."""
    keys = worker(storage)
    ring = await keys.refresh(settings(), NOW)
    await keys.ring_until(NOW + MINUTE)
    assert await keys.refresh(settings(), NOW + HOUR) is ring
    assert keys.ring is ring
    assert len(reasons(database)) == 1


async def test_a_whole_life_without_a_leader(storage: Storage, database: Database[Any]) -> None:
    """Announced for a day, it signs for 90, verifies until its last token ends, and is gone."""
    workers = [worker(storage) for _ in range(3)]

    async def rings(now: datetime) -> tuple[set[str], set[frozenset[str]]]:
        found = await asyncio.gather(*(keys.refresh(settings(), now) for keys in workers))
        return {r.signing.kid for r in found}, {frozenset(r.verifying) for r in found}

    ((first,), _) = await rings(NOW)
    ends = NOW + SIGNS_FOR
    assert await rings(ends - ANNOUNCED_FOR - SECOND) == ({first}, {frozenset({first})})

    _, (verifying,) = await rings(ends - ANNOUNCED_FOR)
    (second,) = verifying - {first}
    both = {frozenset({first, second})}
    last_expiry = ends + HOUR
    await workers[0].ring_until(last_expiry)
    assert await rings(ends - SECOND) == ({first}, both)
    assert await rings(ends) == ({second}, both)

    forgotten = last_expiry + WRITTEN_AHEAD + KEPT
    assert await rings(forgotten) == ({second}, both)
    await rings(forgotten + SECOND)
    assert await rings(forgotten + SECOND) == ({second}, {frozenset({second})})
    assert [document["_id"] for document in database["keys"].find()] == [second]
    assert len(reasons(database)) == 2


async def test_nobody_was_there_when_the_successor_was_due(storage: Storage) -> None:
    """Then the old key signs on, until the new one has been announced for a day."""
    first = (await worker(storage).refresh(settings(), NOW)).signing.kid
    late = NOW + 10 * SIGNS_FOR
    keys = worker(storage)
    assert (await keys.refresh(settings(), late)).signing.kid == first
    assert len(keys.ring.verifying) == 2
    assert (await keys.refresh(settings(), late + ANNOUNCED_FOR - SECOND)).signing.kid == first
    assert (await keys.refresh(settings(), late + ANNOUNCED_FOR)).signing.kid != first


async def test_what_a_key_signed_is_written_down_before_it_is_handed_out(
    watched_storage: Storage, database: Database[Any], commands: Commands
) -> None:
    """An hour ahead, so that it is one write an hour, however many ask at once."""
    keys = worker(watched_storage)
    await keys.refresh(settings(), NOW)
    commands.sent.clear()
    for minute in range(0, 59, 10):
        until = NOW + 15 * MINUTE + minute * MINUTE
        rings = await asyncio.gather(*(keys.ring_until(until) for _ in range(20)))
        assert {ring.signing.kid for ring in rings} == set(keys.ring.verifying)
        (document,) = database["keys"].find()
        assert document["last_expiry"] >= until
    assert len(commands.named("findAndModify")) == 1
    await keys.ring_until(NOW + DAY)
    assert len(commands.named("findAndModify")) == 2
    await keys.ring_until(NOW)
    (document,) = database["keys"].find()
    assert document["last_expiry"] == NOW + DAY + WRITTEN_AHEAD


async def test_the_longest_of_a_batch_is_written(storage: Storage, database: Database[Any]) -> None:
    """Those who share a write have different lifetimes."""
    keys = worker(storage)
    await keys.refresh(settings(), NOW)
    await asyncio.gather(*(keys.ring_until(NOW + n * HOUR) for n in (1, 24, 2, 12)))
    (document,) = database["keys"].find()
    assert document["last_expiry"] == NOW + 25 * HOUR


async def test_a_worker_that_lags_does_not_take_back_what_another_wrote(
    storage: Storage, database: Database[Any]
) -> None:
    """The last expiry only ever grows."""
    one, other = worker(storage), worker(storage)
    await one.refresh(settings(), NOW)
    await other.refresh(settings(), NOW)
    await one.ring_until(NOW + DAY)
    await other.ring_until(NOW + MINUTE)
    (document,) = database["keys"].find()
    assert document["last_expiry"] == NOW + DAY + WRITTEN_AHEAD


async def test_a_shared_secret_that_signs_is_noted(
    storage: Storage, database: Database[Any]
) -> None:
    """So it verifies on when another algorithm signs, until its last token has ended."""
    keys = worker(storage)
    shared = (await keys.refresh(settings("HS256"), NOW)).signing.kid
    await keys.ring_until(NOW + DAY)
    (document,) = database["keys"].find()
    assert document == {
        "_id": shared, "algorithm": "HS256", "last_expiry": NOW + DAY + WRITTEN_AHEAD,
    }  # fmt: skip
    end = NOW + DAY + WRITTEN_AHEAD + KEPT
    assert shared in (await keys.refresh(settings(), NOW + HOUR)).verifying
    assert shared in (await keys.refresh(settings(), end - SECOND)).verifying
    assert shared not in (await keys.refresh(settings(), end + SECOND)).verifying
    assert database["keys"].count_documents({"_id": shared}) == 0


@pytest.mark.parametrize("algorithm", ["ES256", "HS256"])
async def test_a_key_that_was_given_up_meanwhile_signs_nothing_more(
    storage: Storage, database: Database[Any], algorithm: str
) -> None:
    """Who asks is told to come again, and the worker knows that it has to read the keys."""
    keys = worker(storage)
    kid = (await keys.refresh(settings(algorithm), NOW)).signing.kid
    await worker(storage).burn(kid, algorithm, NOW, NOW + DAY)
    assert not keys.outdated
    with pytest.raises(TemporarilyUnavailable):
        await keys.ring_until(NOW + 2 * DAY)
    assert keys.outdated
    (document,) = database["keys"].find()
    assert document["burned_at"] == NOW
    assert document["last_expiry"] == NOW + DAY
    assert "private" not in document
    if algorithm == "ES256":
        await keys.refresh(settings(), NOW)
        assert not keys.outdated
        assert (await keys.ring_until(NOW + 2 * DAY)).signing.kid != kid


async def test_a_forgotten_key_signs_nothing_more(
    storage: Storage, database: Database[Any]
) -> None:
    """A worker that did not notice cannot bring it back by a token."""
    keys = worker(storage)
    await keys.refresh(settings(), NOW)
    database["keys"].delete_many({})
    with pytest.raises(TemporarilyUnavailable):
        await keys.ring_until(NOW + MINUTE)
    assert database["keys"].count_documents({}) == 0


class Overtaken(Keys):
    """Reads the keys, and is overtaken by another worker that signs with the oldest of them."""

    database: Database[Any]

    async def list(self) -> Sequence[StoredKey]:
        """As it says."""
        stored = await super().list()
        self.database["keys"].update_one({"number": 1}, {"$set": {"last_expiry": NOW + 900 * DAY}})
        return stored


async def test_a_key_that_signs_while_it_is_being_forgotten_stays(
    storage: Storage, database: Database[Any]
) -> None:
    """What was written down after the keys were read counts."""
    first = (await worker(storage).refresh(settings(), NOW)).signing.kid
    await worker(storage).make("ES256", 2, NOW + DAY, NOW)
    keys = Overtaken(storage, AuditLog(storage), KeySealer())
    keys.database = database
    await keys.refresh(settings(), NOW + 20 * DAY)
    assert database["keys"].count_documents({"_id": first}) == 1
    await worker(storage).refresh(settings(), NOW + 20 * DAY)
    assert database["keys"].count_documents({"_id": first}) == 1


async def test_a_key_can_be_made_once_by_its_number(
    storage: Storage, database: Database[Any]
) -> None:
    """Of many that make the same, one has made it."""
    made = await asyncio.gather(*(worker(storage).make("ES256", 7, NOW, NOW) for _ in range(6)))
    assert sorted(made) == [False] * 5 + [True]
    assert await worker(storage).make("RS256", 7, NOW, NOW)
    assert len(reasons(database)) == 2


async def test_a_key_is_brought_forward_and_never_back(
    storage: Storage, database: Database[Any]
) -> None:
    """It signs for as long as ever, counted from when it begins."""
    keys = worker(storage)
    await keys.make("ES256", 1, NOW + DAY, NOW)
    (document,) = database["keys"].find()
    (stored,) = await keys.list()
    assert [await keys.bring_forward(stored, m) for m in (NOW + HOUR, NOW + DAY)] == [True, False]
    (document,) = database["keys"].find()
    assert (document["signs_from"], document["signs_until"]) == (
        NOW + HOUR, NOW + HOUR + SIGNS_FOR,
    )  # fmt: skip


ONE, TWO = b"1" * 32, b"2" * 32


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
async def test_private_keys_lie_sealed(
    storage: Storage, database: Database[Any], algorithm: str
) -> None:
    """The first encryption key seals; workers that have it at all sign with the same key."""
    ring = await worker(storage, ONE, TWO).refresh(settings(algorithm), NOW)
    (document,) = database["keys"].find()
    assert document["sealed_with"]
    assert KeySealer([ONE]).open(document["private"], document["_id"], document["sealed_with"])
    other = await worker(storage, TWO, ONE).refresh(settings(algorithm), NOW)
    assert other.signing.kid == ring.signing.kid
    signature = other.signing.sign(b"message")
    assert ring.verifying[other.signing.kid].verify(b"message", signature)


@pytest.mark.parametrize("later", [timedelta(0), SIGNS_FOR - HOUR, 2 * SIGNS_FOR])
async def test_a_key_that_does_not_open_is_never_replaced_in_silence(
    storage: Storage, database: Database[Any], later: timedelta
) -> None:
    """Neither by a first key nor by a successor, when that is due."""
    kid = (await worker(storage, ONE).refresh(settings(), NOW)).signing.kid
    with pytest.raises(ConfigurationError, match=rf"{kid}.*OAUTH2_M2M_KEY_ENCRYPTION_KEY"):
        await worker(storage, TWO).refresh(settings(), NOW + later)
    assert [document["_id"] for document in database["keys"].find()] == [kid]
    assert len(reasons(database)) == 1


async def test_an_encryption_key_is_changed_by_a_rotation(storage: Storage) -> None:
    """The new one is put first; when all keys that sign are sealed with it, the old one may go."""
    old = (await worker(storage, ONE).refresh(settings(), NOW)).signing.kid
    both = worker(storage, TWO, ONE)
    await both.refresh(settings(), NOW)
    await both.ring_until(NOW + DAY)
    await both.make("ES256", 2, NOW, NOW)
    ring = await worker(storage, TWO).refresh(settings(), NOW)
    assert ring.signing.kid != old
    assert old in ring.verifying


async def test_too_many_keys_are_refused_and_not_cut(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read a part of them would be to forget the others."""
    monkeypatch.setattr("_oauth2_m2m.keys.MOST_KEYS", 3)
    keys = worker(storage)
    for number in range(1, 4):
        await keys.make("ES256", number, NOW, NOW)
    assert len((await keys.refresh(settings(), NOW)).verifying) == 3
    await keys.make("ES256", 4, NOW, NOW)
    with pytest.raises(ConfigurationError, match="more than 3 keys"):
        await keys.refresh(settings(), NOW)
    assert len(keys.ring.verifying) == 3
