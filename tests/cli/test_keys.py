"""`oauth2-m2m keys`, and the sealing of private keys anew."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from _oauth2_m2m.cli.running import operator
from tests.command_line import CommandLine
from tests.machine import new_machine
from tests.server import configure, running

VARIABLE = "OAUTH2_M2M_KEY_ENCRYPTION_KEY"
OLD, NEW = secrets.token_urlsafe(32), secrets.token_urlsafe(32)


def with_keys(command_line: CommandLine, *keys: str) -> CommandLine:
    """The command in an environment with these encryption keys."""
    return command_line.using(**{VARIABLE: ",".join(keys)})


def sealed_with(database: Database[Any]) -> list[str | None]:
    """What each private key is sealed with, by the order in which they were made."""
    found = database["keys"].find({"private": {"$exists": True}}, sort=[("number", 1)])
    return [document["sealed_with"] for document in found]


def test_keys_are_listed_rotated_and_burned(
    command_line: CommandLine, database: Database[Any]
) -> None:
    """The three commands do what `m2m.keys` does."""
    configure(database, ALGORITHM="ES256")
    (first,) = command_line.json("keys", "list")
    command_line("keys", "rotate")
    second, *_ = [key for key in command_line.json("keys", "list") if key["signs"]]
    assert second["kid"] != first["kid"]
    command_line("keys", "burn", second["kid"], code=1)  # nobody said yes
    command_line("keys", "burn", second["kid"], "--yes")
    (burned,) = [key for key in command_line.json("keys", "list") if key["burned_at"]]
    assert burned["kid"] == second["kid"]
    assert "there is no key" in command_line("keys", "burn", "unknown", "--yes", code=1).stderr


def test_every_private_key_is_sealed_anew(
    command_line: CommandLine, database: Database[Any]
) -> None:
    """Those in the clear and of another key, the audit's too; again it does nothing."""
    configure(database, ALGORITHM="ES256")
    command_line("keys", "rotate")
    with_keys(command_line, OLD)("keys", "rotate")
    clear, old = sorted(set(sealed_with(database)), key=str, reverse=True)
    assert {clear, old} >= {None}
    both = with_keys(command_line, NEW, OLD)
    done = both.json("keys", "rewrap")
    kids = {key["_id"] for key in database["keys"].find({"private": {"$exists": True}})}
    of_audit = [key["kid"] for key in database["audit_keys"].find()]
    assert {key["kid"] for key in done} == {*kids, *of_audit}
    assert of_audit
    (new,) = set(sealed_with(database))
    assert new not in {None, clear, old}
    assert both.json("keys", "rewrap") == []
    with_keys(command_line, NEW)("keys", "list")  # the old one is not needed any more
    audited = database["audit_logs"].find({"event_type": "key_rotated"})
    reasons = [record["reason"] for record in audited]
    for key in done:
        assert f"key {key['kid']} sealed anew, with {new}, by {operator()}" in reasons


def test_one_key_that_does_not_open_keeps_no_other_open(
    command_line: CommandLine, database: Database[Any]
) -> None:
    """All that open are sealed anew; what does not is named, and stays as it was."""
    configure(database, ALGORITHM="ES256")
    with_keys(command_line, OLD)("keys", "rotate")
    before = database["keys"].find_one({"number": 1})
    assert before is not None
    database["keys"].update_one({"number": 1}, {"$set": {"sealed_with": "lost"}})
    result = with_keys(command_line, NEW, OLD)("keys", "rewrap", code=1)
    assert before["_id"] in result.stderr
    others = sealed_with(database)[1:]
    assert others
    assert "lost" not in others
    assert before["sealed_with"] not in others
    after = database["keys"].find_one({"number": 1})
    assert after == {**before, "sealed_with": "lost"}


def test_without_an_encryption_key_nothing_is_opened(
    command_line: CommandLine, database: Database[Any]
) -> None:
    """A forgotten variable is said; it never leaves a key in the clear."""
    configure(database, ALGORITHM="ES256")
    with_keys(command_line, OLD)("keys", "rotate")
    before = list(database["keys"].find())
    assert f"{VARIABLE} is not set" in command_line("keys", "rewrap", code=1).stderr
    assert list(database["keys"].find()) == before


async def test_a_key_that_is_burned_meanwhile_stays_burned(
    command_line: CommandLine,
    async_database: AsyncDatabase[Any],
    database: Database[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside a running server: what was read is what is replaced, or nothing is."""
    configure(database, ALGORITHM="ES256")
    async with running(async_database):
        pass
    monkeypatch.setenv(VARIABLE, NEW)
    async with running(async_database) as server:
        keys = server.m2m.keys._services.keys
        listed = keys.list
        (signing,) = [key.kid for key in await server.m2m.keys.list() if key.signs]

        async def list_and_be_overtaken() -> Any:
            found = await listed()
            database["keys"].update_one({"_id": signing}, {"$unset": {"private": ""}})
            return found

        monkeypatch.setattr(keys, "list", list_and_be_overtaken)
        assert signing not in await server.m2m.keys.rewrap()
    document = database["keys"].find_one({"_id": signing})
    assert document is not None
    assert "private" not in document


async def test_tokens_live_while_keys_are_sealed_anew(
    command_line: CommandLine,
    async_database: AsyncDatabase[Any],
    database: Database[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A running server signs and verifies as before, and so does one that starts afterwards."""
    configure(database, ALGORITHM="ES256")
    both = f"{NEW},{OLD}"
    monkeypatch.setenv(VARIABLE, OLD)
    async with running(async_database):
        pass
    monkeypatch.setenv(VARIABLE, both)
    async with running(async_database) as server:
        machine = await new_machine(server)
        before = await machine.get_token()
        with_keys(command_line, NEW, OLD)("keys", "rewrap")
        assert (await machine.call(before)).status_code == 200
        assert (await machine.call(await machine.get_token())).status_code == 200
    monkeypatch.setenv(VARIABLE, NEW)
    async with running(async_database) as server:
        http = server.http()
        assert (await machine.using(http=http).call(before)).status_code == 200
