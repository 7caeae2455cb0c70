"""docs/operations.md: its queries and its steps."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from textwrap import indent
from typing import Any

import pytest
from fastapi import FastAPI
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from _oauth2_m2m.audit import AuditLog, Event
from _oauth2_m2m.storage import Storage
from oauth2_m2m import ConfigurationError, OAuth2M2M
from tests.machine import Machine, Tokens, new_machine
from tests.papers import ROOT, blocks, codes, mongosh, paper, section, table
from tests.server import configure, running

OPERATIONS = paper("docs/operations.md")
AUDIT = section(OPERATIONS, "Reading the audit log")
SOURCES = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "_oauth2_m2m").rglob("*.py"))
WRITTEN = sorted({Event[name] for name in re.findall(r"\bEvent\.([A-Z_]+)", SOURCES)})


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


async def test_a_first_start_in_production_needs_a_config(database: Database[Any]) -> None:
    """The config that is made by itself is not for production, as the page says."""
    with pytest.raises(Exception, match="ISSUER"):
        async with OAuth2M2M(database, environment="production").lifespan(FastAPI()):
            pass
