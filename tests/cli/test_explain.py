"""`oauth2-m2m explain`: refusals told to people and programs, and predictions."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from tests.command_line import CommandLine
from tests.machine import Machine, new_machine
from tests.server import Server, configure, running

PROGRAM = """
from fastapi import Depends, FastAPI, Security
from pymongo import MongoClient
from oauth2_m2m import OAuth2M2M

m2m = OAuth2M2M(MongoClient("mongodb://127.0.0.1:1", connect=False).nowhere)
app = FastAPI()
print("hello from the app")

@app.get("/reports/{number}", dependencies=[Depends(m2m.requires("read"))])
async def reports(): ...

@app.delete("/reports/{number}", dependencies=[Depends(m2m.requires("admin", role="admin"))])
async def delete(): ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where an app lies; modules and paths are undone later."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "predicted_app.py").write_text(PROGRAM)
    yield tmp_path
    sys.modules.pop("predicted_app", None)


@pytest.fixture
async def server(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> AsyncIterator[Server]:
    """A server on the database that the command line looks at."""
    configure(database)
    async with running(async_database) as started:
        yield started


@pytest.fixture
async def billing(server: Server) -> Machine:
    """A client whose name is known."""
    return await new_machine(server, client_id="billing")


async def test_people_read_the_decision_step_by_step(
    server: Server, billing: Machine, command_line: CommandLine
) -> None:
    """What passed, what failed and why, what was never asked, what would pass, what changed."""
    response = await billing.ask_token("read sudo")
    await server.m2m.clients.disable("billing")
    result = command_line("explain", response.json()["error_id"])
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert "passed       the client is registered" in lines
    assert "failed       the scope is allowed (had: read sudo; wanted: read write)" in lines
    assert "would have passed: no more than read write; it asked for read sudo" in lines
    assert "today: the client is disabled" in lines
    assert [line for line in lines if line.startswith("before: ") and "client_created" in line]
    assert [line for line in lines if line.startswith("since: ") and "client_disabled" in line]
    assert billing.client_secret not in result.stdout


async def test_programs_read_json(billing: Machine, command_line: CommandLine) -> None:
    """The same members as in Python."""
    response = await billing.http.get("/protected")
    told = command_line.json("explain", response.headers["x-error-id"])
    assert (told["error_id"], told["route"]) == (response.json()["error_id"], "GET /protected")
    assert told["steps"][0]["rule"] == "token_sent"
    assert told["steps"][0]["outcome"] == "failed"


async def test_an_id_that_nobody_was_given_is_1(server: Server, command_line: CommandLine) -> None:
    """In one line that says where else to look."""
    result = command_line("explain", "0" * 20, code=1)
    assert result.stdout == ""
    assert "503" in result.stderr


@pytest.mark.parametrize(
    ("method", "verdict", "code"),
    [("get", "let through", 0), ("DELETE", "refused", 1)],
)
async def test_a_token_from_stdin_is_tried_at_a_route(
    billing: Machine,
    command_line: CommandLine,
    folder: Path,
    method: str,
    verdict: str,
    code: int,
) -> None:
    """The exit code is the answer, and the token is shown to nobody."""
    token = (await billing.get_token()).access
    result = command_line(
        "explain", "--token", "-", "--route", "predicted_app:app/reports/7",
        "--method", method, "--app-dir", folder, answer=f"{token}\n", code=code,
    )  # fmt: skip
    assert verdict in result.stdout
    assert "billing" in result.stdout
    assert token not in result.output
    assert "hello from the app" not in result.stdout
    if code:
        assert "would pass: a token with the scope admin; this one has read write" in result.stdout


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--token", "x"],
        ["--route", "predicted_app:app/reports/7"],
        ["id", "--token", "x", "--route", "predicted_app:app/reports/7"],
        ["--token", "x", "--route", "predicted_app:app"],
        ["--token", "x", "--route", "predicted_app:app/nowhere"],
        ["--token", "x", "--route", "predicted_app:app/reports/7", "--method", "PUT"],
        ["--token", "x", "--route", "nowhere_to_be_found:app/reports/7"],
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_2(command_line: CommandLine, folder: Path, options: list[str]) -> None:
    """Nothing is asked of the database, and one line says what to name."""
    nowhere = command_line.using(MONGODB_URL="mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=1")
    result = nowhere("explain", *options, "--app-dir", folder, code=2)
    assert result.stdout == ""
    assert result.stderr
