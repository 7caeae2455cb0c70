"""`oauth2-m2m audit`: ask the log, hand it on, and find what was done to it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from tests.command_line import CommandLine
from tests.machine import new_machine
from tests.server import HOME, configure, running


@pytest.fixture
async def used(async_database: AsyncDatabase[Any], database: Database[Any]) -> Database[Any]:
    """A database in which a client got tokens, and failed to."""
    configure(database)
    async with running(async_database) as server:
        machine = await new_machine(server, client_id="billing")
        machine.http.headers["X-Request-ID"] = "the-request"
        for _ in range(3):
            await machine.get_token()
        await machine.using(client_secret="wrong").ask_token()
    return database


async def test_the_log_is_asked(used: Database[Any], command_line: CommandLine) -> None:
    """By all that it can be asked by; a table for people, JSON for programs."""
    (failure,) = command_line.json("audit", "search", "--event", "login_failure")
    assert failure["client_id"] == "billing"
    for words, number in (
        (["--client", "billing"], 5),
        (["--client", "billing", "--event", "login_success"], 3),
        (["--address", HOME], 4),
        (["--request-id", "the-request"], 4),
        (["--error-id", failure["error_id"]], 1),
        (["--since", "1h", "--until", "2100-01-01"], 5),
        (["--until", "30d"], 0),
        (["--limit", "2"], 2),
    ):
        assert len(command_line.json("audit", "search", *words)) == number, words
    assert "login_failure" in command_line("audit", "search").stdout
    assert "Nothing matches" in command_line("audit", "search", "--client", "nobody").stderr


async def test_the_tail_is_shown_with_the_newest_last(
    used: Database[Any], command_line: CommandLine
) -> None:
    """A line for each record."""
    lines = command_line("audit", "tail", "--limit", "2").stdout.splitlines()
    assert ["login_success" in lines[0], "login_failure" in lines[1]] == [True, True]
    (line,) = command_line("audit", "tail", "-n", "1", "--json").stdout.splitlines()
    assert json.loads(line)["event_type"] == "login_failure"


async def test_the_log_is_exported(used: Database[Any], command_line: CommandLine) -> None:
    """As events of the schema, or as it stands: the oldest first, one on a line."""
    lines = command_line("audit", "export", "--client", "billing").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert [each["metadata"]["event_code"] for each in events] == [
        "client_created",
        *["login_success"] * 3,
        "login_failure",
    ]
    lines = command_line("audit", "export", "--format", "plain").stdout.splitlines()
    assert {"_id", "hash"} <= json.loads(lines[0]).keys()


async def test_what_was_done_to_the_log_is_found(
    used: Database[Any], command_line: CommandLine
) -> None:
    """Exit code 0 when it is intact, 1 with the record's name when it is not."""
    assert "Intact" in command_line("audit", "verify").stderr
    report = command_line.json("audit", "verify")
    assert (report["intact"], report["unsigned"], report["records"]) == (True, 0, 5)
    record = used["audit_logs"].find_one({"event_type": "login_failure"})
    assert record is not None
    used["audit_logs"].update_one({"_id": record["_id"]}, {"$set": {"client_id": "another"}})
    shown = command_line("audit", "verify", code=1)
    assert "altered" in shown.stdout
    assert record["_id"] in shown.stdout
    used["audit_logs"].delete_one({"_id": record["_id"]})
    found = command_line.json("audit", "verify", code=1)["findings"]
    assert [(each["what"], each["where"]) for each in found] == [("removed", record["_id"])]


async def test_a_key_is_pinned_and_a_head_noted(
    used: Database[Any], command_line: CommandLine, tmp_path: Path
) -> None:
    """What was noted elsewhere finds what the database alone could not show."""
    report = command_line.json("audit", "verify")
    (key,) = report["keys"]
    heads = tmp_path / "heads.txt"
    noted = (
        f"# {datetime.now(UTC):%Y-%m-%d}\n\n{report['head']['number']} {report['head']['hash']}\n"
    )
    heads.write_text(noted, encoding="utf-8")
    command_line("audit", "verify", "--key", key, "--anchor", heads)
    command_line("audit", "verify", "--key", "another", code=1)
    for name in ("audit_logs", "audit_checkpoints"):
        used[name].delete_many({})
    command_line("audit", "verify")
    command_line("audit", "verify", "--key", key, code=1)
    command_line("audit", "verify", "--anchor", heads, code=1)


@pytest.mark.parametrize(
    "words",
    [
        ["search", "--since", "yesterday"],
        ["search", "--event", "nonsense"],
        ["search", "--limit", "0"],
        ["verify", "--anchor", "/nowhere"],
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(command_line: CommandLine, words: list[str]) -> None:
    """With the exit code of wrong usage."""
    command_line("audit", *words, code=2)


def test_a_file_that_holds_no_heads_is_refused(command_line: CommandLine, tmp_path: Path) -> None:
    """It says what a line must hold."""
    heads = tmp_path / "heads.txt"
    heads.write_text("one two three\n", encoding="utf-8")
    shown = command_line("audit", "verify", "--anchor", heads, code=2)
    assert "number of a checkpoint" in " ".join(shown.stderr.split())
