"""docs/clients.md: its commands, its file and its lines run as they stand."""

from __future__ import annotations

import shlex
from textwrap import indent
from typing import Any

import pytest
import typer
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from _oauth2_m2m.cli import app
from _oauth2_m2m.client_changes import check_wanted, diff
from _oauth2_m2m.client_files import wanted_from
from tests.machine import new_machine
from tests.papers import blocks, mongosh, paper, section
from tests.server import configure, running

PAGE = paper("docs/clients.md")


async def test_the_python_blocks_run(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """What is shown for rotating secrets and stopping clients runs as it stands."""
    configure(database)
    async with running(async_database) as server:
        await server.m2m.clients.register("billing", scopes=["read"])
        machine = await new_machine(server)
        names: dict[str, Any] = {"m2m": server.m2m, "token": (await machine.get_token()).access}
        for title in ("Rotating a client's secret", "Stopping a client"):
            (block,) = blocks(section(PAGE, title), "python")
            exec(f"async def run():\n{indent(block, '    ')}", names)  # noqa: S102
            await names["run"]()
        assert (await machine.call(str(names["token"]))).status_code == 401
    assert database["clients"].find_one({"client_id": "billing"}) is None


async def test_a_client_is_disabled_by_hand(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """The line for mongosh ends the client's next token request at once."""
    configure(database)
    (line,) = blocks(section(PAGE, "Stopping a client"), "js")
    async with running(async_database) as server:
        machine = await new_machine(server, client_id="billing")
        assert (await machine.ask_token()).status_code == 200
        mongosh(line, database)
        assert (await machine.ask_token()).status_code == 401


def test_the_file_of_clients_that_is_shown_can_be_applied() -> None:
    """Every field in it is one, and it says what its names say."""
    (text,) = blocks(section(PAGE, "Clients on the command line"), "yaml")
    wanted = check_wanted(wanted_from(text))
    assert [change.action for change in diff([], wanted)] == ["create", "create", "disable"]


@pytest.mark.parametrize(
    "title",
    ["Clients on the command line", "Rotating a client's secret", "Coming from another server"],
)
def test_the_command_lines_that_are_shown_are_ones(title: str) -> None:
    """Each names a command that there is, with options that it has."""
    (lines,) = blocks(section(PAGE, title), "sh")
    for line in lines.splitlines():
        words = shlex.split(line.partition("  #")[0].partition(" > ")[0])
        assert words[0] == "oauth2-m2m"
        command: Any = typer.main.get_command(app)
        while hasattr(command, "commands"):
            words = words[1:]
            command = command.commands[words[0]]
        options = {option for each in command.params for option in each.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
