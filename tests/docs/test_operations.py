"""docs/operations.md: its queries, its steps, and every bound in its table."""

from __future__ import annotations

import importlib
import re
import shlex
from datetime import UTC, datetime, timedelta
from textwrap import indent
from typing import Any

import pytest
import typer
from fastapi import FastAPI
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from _oauth2_m2m.audit import AuditLog, Event
from _oauth2_m2m.cli import app
from _oauth2_m2m.client_changes import check_wanted, diff
from _oauth2_m2m.client_files import wanted_from
from _oauth2_m2m.storage import Storage
from oauth2_m2m import ConfigurationError, OAuth2M2M
from tests.machine import Machine, Tokens, new_machine
from tests.papers import ROOT, TEST, blocks, codes, is_there, mongosh, paper, section, table
from tests.server import configure, running

OPERATIONS = paper("docs/operations.md")
AUDIT = section(OPERATIONS, "Reading the audit log")
BOUNDS = table(OPERATIONS, "what")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "day": "days", "days": "days"}
SOURCES = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "_oauth2_m2m").rglob("*.py"))
WRITTEN = sorted({Event[name] for name in re.findall(r"\bEvent\.([A-Z_]+)", SOURCES)})


@pytest.mark.parametrize("row", BOUNDS, ids=lambda row: codes(row[3])[0])
def test_a_bound_is_what_the_code_says(row: list[str]) -> None:
    """The number in the table is the constant that it names."""
    module, _, constant = codes(row[3])[0].rpartition(".")
    value = getattr(importlib.import_module(f"_oauth2_m2m.{module}"), constant)
    number, _, unit = row[1].partition(" ")
    expected: Any = float(number)
    if isinstance(value, timedelta):
        expected = timedelta(**{UNITS[unit]: expected})
    assert value == expected


def test_every_bound_is_in_the_table() -> None:
    """A constant that is named like a bound is in the table."""
    named = {codes(row[3])[0].rpartition(".")[2] for row in BOUNDS}
    pattern = r"^(_?(?:LARGEST|LONGEST|MOST|DEEPEST)_\w+|\w+_SECONDS)\b.* = "
    # The same bound in another unit.
    assert set(re.findall(pattern, SOURCES, re.M)) - named == {"_LONGEST_LIFETIME_MINUTES"}


#: What only says how often or how long something is tried, and refuses nothing.
PACES = {
    "storage.INDEX_SECONDS",
    "issuer_calls.MOST_CONNECTIONS",
    "issuer_calls._IDLE_SECONDS",
    "remote_judge.LONGEST_START_SECONDS",
    "remote_documents.MOST_WAITING",
    "audit_checkpoints.MOST_ATTEMPTS",
    "audit_reading.FOLLOW_SECONDS",
    "audit_checkpoints.MOST_KEYS",
}


@pytest.mark.parametrize("row", BOUNDS, ids=lambda row: codes(row[3])[0])
def test_a_bound_has_a_test_at_its_edge(row: list[str]) -> None:
    """Each row names the test that tries it, and that test is there."""
    if codes(row[3])[0] in PACES:
        assert row[4] == "a pace, not tried"
        return
    assert re.fullmatch(TEST, codes(row[4])[0])
    assert is_there(*codes(row[4])[0].split("::"))


def test_what_others_bound_names_tests_that_are_there() -> None:
    """The table below, of what is not ours to bound, was tried as well."""
    named = re.findall(TEST, section(OPERATIONS, "Every bound").partition("What others bound")[2])
    assert len(named) == 2
    assert all(is_there(*name) for name in named)


def test_every_event_is_explained_and_has_a_query() -> None:
    """Whatever the code can record is a row of the table, and a query finds it."""
    assert sorted(codes(row[0])[0] for row in table(AUDIT, "event")) == WRITTEN
    queried = " ".join(blocks(AUDIT, "js"))
    assert [event for event in WRITTEN if f'"{event}"' not in queried] == []


async def test_the_queries_of_the_audit_log_find_what_they_are_for(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """Each line that can be pasted into mongosh finds the records of its events."""
    log = AuditLog(Storage(async_database))
    for event in WRITTEN:
        await log.record(
            event, datetime.now(UTC), client_id="billing", jti="CuZp4rZiyaZLpvhaRNfm3q"
        )
    lines = blocks(AUDIT, "js")
    assert lines
    for line in lines:
        assert mongosh(line, database), line


async def call(database: AsyncDatabase[Any], tokens: Tokens) -> int:
    """The status that a worker answers which has just read the config."""
    async with running(database) as server, server.http() as http:
        return (await Machine(http, "", "").call(tokens)).status_code


async def test_rotating_the_signing_key_in_three_steps_ends_no_token_early(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """A token of either key is good on workers before and after the second step."""
    steps = blocks(section(OPERATIONS, "Rotating SECRET_KEY"), "js")
    configure(database, SECRET_KEY="<old key>")
    async with running(async_database) as server:
        before = await (await new_machine(server)).get_token()
    mongosh(steps[0], database)
    async with running(async_database) as announced:  # a worker that has not seen step 2 yet
        mongosh(steps[1], database)
        async with running(async_database) as server:
            after = await (await new_machine(server)).get_token()
        async with announced.http() as http:
            machine = Machine(http, "", "")
            assert (await machine.call(after)).status_code == 200
            assert (await machine.call(before)).status_code == 200
    assert await call(async_database, before) == 200
    mongosh(steps[2], database)
    assert await call(async_database, before) == 401
    assert await call(async_database, after) == 200


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
            (block,) = blocks(section(OPERATIONS, title), "python")
            exec(f"async def run():\n{indent(block, '    ')}", names)  # noqa: S102
            await names["run"]()
        assert (await machine.call(str(names["token"]))).status_code == 401
    assert database["clients"].find_one({"client_id": "billing"}) is None


async def test_keys_are_rotated_and_burned_as_shown(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """The block runs; what the burned key signed is refused, what the last one signs is not."""
    configure(database, ALGORITHM="ES256")
    async with running(async_database) as server:
        machine = await new_machine(server)
        before = await machine.get_token()
        kid = (await server.m2m.keys.list())[0].kid
        (block,) = blocks(section(OPERATIONS, "Signing keys"), "python")
        names: dict[str, Any] = {"m2m": server.m2m, "kid": kid}
        exec(f"async def run():\n{indent(block, '    ')}", names)  # noqa: S102
        await names["run"]()
        assert (await machine.call(before)).status_code == 401
        assert (await machine.call(await machine.get_token())).status_code == 200
    assert database["keys"].count_documents({}) == 2


async def test_a_key_that_does_not_open_is_given_up_by_hand(
    async_database: AsyncDatabase[Any], database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line for mongosh lets the server start again, with another key."""
    configure(database, ALGORITHM="ES256")
    monkeypatch.setenv("OAUTH2_M2M_KEY_ENCRYPTION_KEY", "k" * 43)
    async with running(async_database) as server:
        kid = (await server.m2m.keys.list())[0].kid
    monkeypatch.delenv("OAUTH2_M2M_KEY_ENCRYPTION_KEY")
    with pytest.raises(ConfigurationError, match=kid):
        async with running(async_database):
            pass
    (line,) = blocks(section(OPERATIONS, "Signing keys"), "js")
    mongosh(line.replace("<kid>", kid), database)
    async with running(async_database) as server:
        (signing,) = [key.kid for key in await server.m2m.keys.list() if key.signs]
    assert signing != kid


async def test_a_client_is_disabled_by_hand(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """The line for mongosh ends the client's next token request at once."""
    configure(database)
    (line,) = blocks(section(OPERATIONS, "Stopping a client"), "js")
    async with running(async_database) as server:
        machine = await new_machine(server, client_id="billing")
        assert (await machine.ask_token()).status_code == 200
        mongosh(line, database)
        assert (await machine.ask_token()).status_code == 401


async def test_a_first_start_in_production_needs_a_config(database: Database[Any]) -> None:
    """The config that is made by itself is not for production, as the page says."""
    with pytest.raises(Exception, match="ISSUER"):
        async with OAuth2M2M(database, environment="production").lifespan(FastAPI()):
            pass


def test_the_file_of_clients_that_is_shown_can_be_applied() -> None:
    """Every field in it is one, and it says what its names say."""
    (text,) = blocks(section(OPERATIONS, "Clients on the command line"), "yaml")
    wanted = check_wanted(wanted_from(text))
    assert [change.action for change in diff([], wanted)] == ["create", "create", "disable"]


@pytest.mark.parametrize(
    "title",
    ["Clients on the command line", "Rotating a client's secret", "Coming from another server"],
)
def test_the_command_lines_that_are_shown_are_ones(title: str) -> None:
    """Each names a command that there is, with options that it has."""
    (lines,) = blocks(section(OPERATIONS, title), "sh")
    for line in lines.splitlines():
        words = shlex.split(line.partition("  #")[0].partition(" > ")[0])
        assert words[0] == "oauth2-m2m"
        command: Any = typer.main.get_command(app)
        while hasattr(command, "commands"):
            words = words[1:]
            command = command.commands[words[0]]
        options = {option for each in command.params for option in each.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
