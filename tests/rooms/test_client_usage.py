"""What each client really uses: gathered in memory, written in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from _oauth2_m2m import client_usage
from _oauth2_m2m.client_usage import (
    CALLS_NOTED_EVERY,
    LOGINS_NOTED_EVERY,
    MOST_ADDRESSES,
    ClientUsage,
    Use,
    Used,
)
from _oauth2_m2m.errors import TemporarilyUnavailable
from _oauth2_m2m.storage import Storage

NOW = datetime(2030, 1, 2, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HERE, THERE = "192.0.2.1", "192.0.2.2"


class Told:
    """Keeps what it was told, and can be away."""

    def __init__(self) -> None:
        self.last_uses: dict[str, datetime] = {}
        self.is_away = False

    async def __call__(self, last_uses: Mapping[str, datetime]) -> None:
        """Be told."""
        if self.is_away:
            raise TemporarilyUnavailable
        self.last_uses |= last_uses


@pytest.fixture
def told() -> Told:
    """Who else is told when clients were here."""
    return Told()


@pytest.fixture
async def usage(storage: Storage, told: Told) -> ClientUsage:
    """The room, prepared."""
    room = ClientUsage(storage, told)
    await room.prepare()
    return room


def summary(uses: Sequence[Use]) -> dict[str, list[str]]:
    return {
        kind.value: sorted(use.name for use in uses if use.kind is kind)
        for kind in Used
        if any(use.kind is kind for use in uses)
    }


async def test_what_a_client_used_is_known_by_kind(usage: ClientUsage, told: Told) -> None:
    """Its secret, its grant, what it asked for by name and what routes wanted of it."""
    usage.note_login("a", NOW, HERE, "one")
    usage.note_grant("a", NOW, HERE, "client_credentials", ["read", "write"])
    usage.note_call("a", NOW + MINUTE, HERE, ["read"], "admin")
    usage.note_login("b", NOW, HERE)
    await usage.drain()
    assert summary(await usage.of("a")) == {
        "client": [""],
        "secret": ["one"],
        "grant": ["client_credentials"],
        "asked_scope": ["read", "write"],
        "scope": ["read"],
        "role": ["admin"],
    }
    assert told.last_uses == {"a": NOW + MINUTE, "b": NOW}
    assert list(await usage.of_all(["a", "b", "nobody"])) == ["a", "b", "nobody"]
    assert summary((await usage.of_all(["b"]))["b"]) == {"client": [""]}


async def test_first_and_last_use_and_where_from_are_kept(
    storage: Storage, usage: ClientUsage, told: Told
) -> None:
    """Whichever worker writes when, the earliest and the latest moment stay."""
    other = ClientUsage(storage, told)
    usage.note_login("a", NOW + MINUTE, HERE, "one")
    other.note_login("a", NOW + 2 * MINUTE, THERE, "one")
    await other.drain()
    await usage.drain()
    other.note_login("a", NOW, HERE, "one")
    await other.drain()
    (use,) = [use for use in await usage.of("a") if use.kind is Used.SECRET]
    assert (use.first_used_at, use.last_used_at) == (NOW, NOW + 2 * MINUTE)
    assert next(iter(use.addresses)) == THERE
    assert set(use.addresses) == {HERE, THERE}


async def test_addresses_are_kept_in_the_form_that_is_asked_for(
    storage: Storage, told: Told
) -> None:
    """What the audit log is not to know stands here neither."""
    room = ClientUsage(storage, told, lambda ip: f"hidden {ip[-1]}")
    room.note_login("a", NOW, HERE)
    room.note_login("a", NOW, None, "one")
    await room.drain()
    assert [list(use.addresses) for use in await room.of("a")] == [["hidden 1"], []]


async def test_so_many_addresses_are_kept(usage: ClientUsage, database: Database[Any]) -> None:
    """The latest ones: a secret that goes round the world fills no document."""
    for number in range(3 * MOST_ADDRESSES):
        usage.note_login("a", NOW + number * MINUTE, f"192.0.2.{number}", "one")
        if number % 7 == 0:
            await usage.drain()
    await usage.drain()
    (use,) = [use for use in await usage.of("a") if use.kind is Used.SECRET]
    latest = range(3 * MOST_ADDRESSES - 1, 2 * MOST_ADDRESSES - 1, -1)
    assert list(use.addresses) == [f"192.0.2.{number}" for number in latest]


async def test_the_same_thing_is_noted_once_in_a_while(
    usage: ClientUsage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand requests are one note; another address or scope is another one."""
    noted: list[tuple[str, datetime]] = []
    monkeypatch.setattr(usage, "_note", lambda client_id, uses, now, ip: noted.append((ip, now)))
    every = {"login": LOGINS_NOTED_EVERY, "call": CALLS_NOTED_EVERY}
    for number in range(1000):
        now = NOW + number * timedelta(milliseconds=1)
        usage.note_login("a", now, HERE, "one")
        usage.note_call("a", now, HERE, ["read"])
    assert len(noted) == 2
    usage.note_login("a", NOW, THERE, "one")
    usage.note_login("a", NOW, HERE, "two")
    usage.note_call("a", NOW, HERE, ["write"])
    usage.note_call("a", NOW, HERE, ["read"], "admin")
    assert len(noted) == 6
    for kind, note in (("login", usage.note_login), ("call", usage.note_call)):
        argument: Any = "one" if kind == "login" else ["read"]
        before = len(noted)
        note("a", NOW + every[kind] - timedelta(seconds=1), HERE, argument)
        assert len(noted) == before
        note("a", NOW + every[kind], HERE, argument)
        assert len(noted) == before + 1


async def test_what_was_noted_is_written_in_the_background(
    usage: ClientUsage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it, and nobody has to ask for it."""
    monkeypatch.setattr(client_usage, "FLUSH_SECONDS", 0.01)
    usage.note_login("a", NOW, HERE)
    for _ in range(500):
        if await usage.of("a"):
            break
        await asyncio.sleep(0.02)
    assert summary(await usage.of("a")) == {"client": [""]}


async def test_what_cannot_be_written_is_written_later(usage: ClientUsage, told: Told) -> None:
    """A database that is away costs neither a request nor what was noted before."""
    told.is_away = True
    usage.note_login("a", NOW, HERE, "one")
    await usage.drain()
    usage.note_login("a", NOW + MINUTE, THERE, "one")
    told.is_away = False
    await usage.drain()
    assert told.last_uses == {"a": NOW + MINUTE}
    (use,) = [use for use in await usage.of("a") if use.kind is Used.SECRET]
    assert set(use.addresses) == {HERE, THERE}


async def test_what_waits_to_be_written_is_bounded(
    usage: ClientUsage, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database is away, memory does not grow; known things go on being noted."""
    monkeypatch.setattr(client_usage, "_MOST_PENDING", 3)
    monkeypatch.setattr(client_usage, "_LARGEST_WRITE", 2)
    for client_id in "abcde":
        usage.note_login(client_id, NOW, HERE)
    usage.note_login("a", NOW + MINUTE, HERE)
    await usage.drain()
    assert told.last_uses == {"a": NOW + MINUTE, "b": NOW, "c": NOW}


async def test_odd_names_are_names(usage: ClientUsage) -> None:
    """No name is taken for a command of the database."""
    usage.note_login("$client", NOW, "$$ROOT", "$secret")
    await usage.drain()
    (use,) = [use for use in await usage.of("$client") if use.kind is Used.SECRET]
    assert use.name == "$secret"
    assert list(use.addresses) == ["$$ROOT"]


async def test_the_indexes_serve_a_client_and_forget_old_use(
    usage: ClientUsage, database: Database[Any]
) -> None:
    """They are those of the page on storage, and can be made again."""
    await usage.prepare()
    indexes = database.client_usage.index_information()
    assert indexes["client_id_1_kind_1_name_1"]["unique"] is True
    assert indexes["last_used_at_1"]["expireAfterSeconds"] == 400 * 24 * 3600
