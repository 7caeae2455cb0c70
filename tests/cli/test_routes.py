"""`oauth2-m2m routes`: what is listed, and when `--check` fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pymongo.database import Database
from typer.testing import CliRunner, Result

from _oauth2_m2m.cli import app as commands
from tests.papers import ROOT

#: Nobody listens there: a listing needs no database.
NOWHERE = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=200"

PROGRAM = """
import sys
from enum import StrEnum
from fastapi import Depends, FastAPI, Security
from pymongo import MongoClient
from oauth2_m2m import OAuth2M2M

class Scope(StrEnum):
    READ = "read"

m2m = OAuth2M2M(MongoClient("mongodb://127.0.0.1:1", connect=False).nowhere, scopes=Scope)
app = FastAPI()
app.include_router(m2m.router)
print("hello from the app")

@app.get("/reports", dependencies=[Depends(m2m.requires(Scope.READ, role="admin"))])
async def reports(): ...

def make():
    return app
"""
OPEN = """
@app.get("/status/{part}")
async def status(): ...
"""
UNKNOWN = """
@app.get("/typo", dependencies=[Security(m2m.access_token, scopes=["raed"])])
async def typo(): ...
"""

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Write a program, and run the command on its app; modules and paths are undone later."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("MONGODB_URL", NOWHERE)

    def run(program: str, *options: str, name: str = "app") -> Result:
        module = f"app_{uuid4().hex}"
        (tmp_path / f"{module}.py").write_text(program, encoding="utf-8")
        arguments = ["routes", f"{module}:{name}", "--app-dir", str(tmp_path), *options]
        result = CliRunner().invoke(commands, arguments)
        sys.modules.pop(module, None)
        return result

    return run


def test_the_routes_are_listed_for_people_and_programs(run: Run) -> None:
    """Methods, path, access, scopes and role of each, without a database; nothing else beside."""
    shown = run(PROGRAM + OPEN)
    assert shown.exit_code == 0
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert lines[0] == ["methods", "path", "access", "scopes", "roles"]
    assert ["GET", "/reports", "guarded", "read", "admin"] in lines
    assert ["GET", "/status/{part}", "open"] in lines
    rows = json.loads(run(PROGRAM, "--json").stdout)
    assert rows[-1] == {
        "methods": ["GET"],
        "path": "/reports",
        "access": "guarded",
        "scopes": ["read"],
        "roles": ["admin"],
    }


@pytest.mark.parametrize(
    ("program", "options", "exit_code", "said"),
    [
        (PROGRAM, [], 0, ""),
        (PROGRAM + OPEN, [], 1, "GET /status/{part} is open"),
        (PROGRAM + OPEN, ["--public", "/status/{part}"], 0, ""),
        (PROGRAM + OPEN, ["--public", "/status"], 1, "is open"),
        (PROGRAM + OPEN, ["--public-prefix", "/status"], 0, ""),
        (PROGRAM + OPEN, ["--public-prefix", "/status/"], 0, ""),
        (PROGRAM + OPEN, ["--public-prefix", "/stat"], 1, "is open"),
        (PROGRAM + OPEN, ["--public-prefix", "/"], 0, ""),
        (PROGRAM + OPEN.replace('")', '", dependencies=[Depends(m2m.public)])'), [], 0, ""),
        (PROGRAM + UNKNOWN, [], 3, "MongoDB is unreachable"),
        (PROGRAM + UNKNOWN + OPEN, [], 1, "is open"),
    ],
)
def test_a_check_fails_on_what_is_open(
    run: Run, program: str, options: list[str], exit_code: int, said: str
) -> None:
    """Each open route is named, unless it is said to be public by its whole path or a folder."""
    checked = run(program, "--check", *options)
    assert (checked.exit_code, said in checked.stderr) == (exit_code, True)
    assert "error" not in checked.stdout


def test_a_scope_that_nobody_has_is_unknown(
    run: Run, mongo_url: str, database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The app does not offer it, so the clients are looked through; the first who has it helps."""
    monkeypatch.setenv("MONGODB_URL", mongo_url)
    monkeypatch.setenv("MONGODB_DB", database.name)
    unknown = run(PROGRAM + UNKNOWN, "--check")
    assert unknown.exit_code == 1
    assert "GET /typo asks for the scope raed, which nobody offers or has" in unknown.stderr
    database["clients"].insert_one({"client_id": "billing", "scopes": ["write", "raed"]})
    assert run(PROGRAM + UNKNOWN, "--check").exit_code == 0


@pytest.mark.parametrize(
    ("program", "name", "options", "said"),
    [
        (PROGRAM, "ap", [], 'Attribute "ap" not found'),
        (PROGRAM, "Scope", [], "no routes"),
        (PROGRAM, "make", [], "no routes"),
        ("raise RuntimeError('no such setting')", "app", [], "RuntimeError: no such setting"),
        ("import sys; sys.exit(0)", "app", [], "SystemExit: 0"),
        ("import not_installed_here", "app", [], "ModuleNotFoundError"),
        (PROGRAM, "Scope", ["--factory"], "cannot be imported"),
    ],
)
def test_what_cannot_be_imported_is_a_wrong_use(
    run: Run, program: str, name: str, options: list[str], said: str
) -> None:
    """One line says why, and the exit code is that of a wrong use."""
    refused = run(program, "--check", *options, name=name)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert said in refused.stderr.splitlines()[-1]


def test_an_app_may_be_made_by_a_function(run: Run) -> None:
    """As uvicorn's `--factory` does."""
    assert "/reports" in run(PROGRAM, "--factory", name="make").stdout


def test_the_example_passes_its_own_check() -> None:
    """From the current folder, as CI runs it; all that is open there is its documentation."""
    command = ["-m", "oauth2_m2m", "routes", "example.main:app", "--check"]
    checked = subprocess.run(
        [sys.executable, *command, "--public-prefix", "/docs/assets"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "/admin-only" in checked.stdout
