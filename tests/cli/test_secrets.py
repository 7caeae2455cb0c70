"""`oauth2-m2m secrets`: one secret takes over from another, in front of an operator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from _oauth2_m2m.credentials import is_made_here
from tests.command_line import CommandLine
from tests.machine import Machine, new_machine, secret_of
from tests.server import Server, configure, running

DAY = timedelta(days=1)


async def login(server: Server, secret: str, ip: str = "192.0.2.9") -> int:
    async with server.http(ip) as http:
        return (await Machine(http, "billing", secret).ask_token()).status_code


async def test_a_secret_is_rotated_without_an_outage(
    async_database: AsyncDatabase[Any], database: Database[Any], command_line: CommandLine
) -> None:
    """Old and new work side by side, who uses the old one is said, and retiring it ends it."""
    configure(database)
    async with running(async_database) as server:
        machine = await new_machine(server, client_id="billing")
        token = await machine.get_token()
        await server.m2m.clients.drain()
        rotated = command_line.json("secrets", "rotate", "billing", "--label", "2030")
        (old,) = rotated["still_live"]
        assert is_made_here(rotated["client_secret"])
        assert [each["ip"] for each in old["last_used_from"]] == ["192.0.2.1"]
        assert old["last_used_at"].endswith("Z")
        ends = datetime.fromisoformat(old["expires_at"]) - datetime.now(UTC)
        assert 6.9 * DAY < ends < 7 * DAY
        for secret in (machine.client_secret, rotated["client_secret"]):
            assert await login(server, secret) == 200
        listed = command_line.json("secrets", "list", "billing")
        assert [(each["id"], each["label"]) for each in listed] == [
            (rotated["secret_id"], "2030"),
            (old["id"], None),
        ]
        assert "Retired" in command_line("secrets", "retire", "billing", old["id"], "-y").stderr
        assert await login(server, machine.client_secret) == 401
        assert await login(server, rotated["client_secret"]) == 200
        assert (await machine.call(token)).status_code == 200


async def test_an_old_secret_ends_once_nobody_uses_it(
    async_database: AsyncDatabase[Any], database: Database[Any], command_line: CommandLine
) -> None:
    """Its use is written down before a token is had with it; unused it ends by itself."""
    configure(database)
    async with running(async_database) as server:
        machine = await new_machine(server, client_id="billing")
        command_line("secrets", "rotate", "billing", "--retire-when-idle", "7d")

        def move(by: timedelta) -> datetime:
            """Have the secret been used last at another moment."""
            (entry,) = (database.clients.find_one() or {})["secrets"]
            moved: datetime = entry["idle_until"] + by
            database.clients.update_one({}, {"$set": {"secrets.0.idle_until": moved}})
            return moved

        almost = move(-6 * DAY)
        assert await login(server, machine.client_secret) == 200
        assert move(timedelta(0)) > almost + 5 * DAY
        move(-8 * DAY)
        assert await login(server, machine.client_secret) == 401
        assert [each["live"] for each in command_line.json("secrets", "list", "billing")] == [
            True,
            False,
        ]


async def test_people_are_told_who_still_uses_the_old_secret(
    async_database: AsyncDatabase[Any], database: Database[Any], command_line: CommandLine
) -> None:
    """On the standard error, so that the standard output is the new secret alone."""
    configure(database)
    async with running(async_database) as server:
        machine = await new_machine(server, client_id="billing")
        await machine.get_token()
    result = command_line("secrets", "rotate", "billing", "--overlap", "12h")
    assert "last used" in result.stderr
    assert "192.0.2.1" in result.stderr
    assert "m2ms_" not in result.stderr
    assert result.stdout.count("m2ms_") == 1
    assert "192.0.2.1" in command_line("secrets", "list", "billing").stdout


async def test_adding_a_secret_shows_it_once(
    async_database: AsyncDatabase[Any], database: Database[Any], command_line: CommandLine
) -> None:
    """It stands neither in the list nor in the database nor in the audit log."""
    configure(database)
    async with running(async_database) as server:
        registered = await server.m2m.clients.register("billing", scopes=["read"])
        added = command_line.json(
            "secrets", "add", "billing", "--label", "host b", "--expires", "90d"
        )
        for secret in (secret_of(registered), added["client_secret"]):
            assert await login(server, secret) == 200
            listing = command_line("secrets", "list", "billing", "--json").stdout
            kept = [list(database[name].find()) for name in database.list_collection_names()]
            assert secret not in listing + str(kept)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["list", "nobody"], 1),
        (["add", "nobody"], 1),
        (["rotate", "nobody"], 1),
        (["retire", "nobody", "x", "-y"], 1),
        (["retire", "billing", "x", "-y"], 1),
        (["rotate", "billing", "--overlap", "soon"], 2),
        (["rotate", "billing", "--retire-when-idle", "1s"], 2),
        (["add", "billing", "--expires", "-1d"], 2),
        (["add", "billing", "--label", ""], 2),
        (["rotate", "billing", "--overlap", "0"], 1),
        (["retire", "billing", "x"], 1),
    ],
    ids=str,
)
async def test_what_cannot_be_done_is_told(
    async_database: AsyncDatabase[Any],
    database: Database[Any],
    command_line: CommandLine,
    words: list[str],
    code: int,
) -> None:
    """In one line on the standard error, with the exit code that scripts go by; nothing changes."""
    configure(database)
    async with running(async_database) as server:
        await server.m2m.clients.register("billing", scopes=["read"])
        before = database.clients.find_one()
        result = command_line("secrets", *words, code=code)
        assert result.stdout.strip() == ""  # a question leaves a blank there
        assert result.stderr
        assert database.clients.find_one() == before
