"""`oauth2-m2m import`: machines come over from another server and notice nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from _oauth2_m2m.cli.running import operator
from tests.command_line import CommandLine
from tests.machine import Machine
from tests.server import configure, running

ROW = {
    "id": "billing",
    "client_name": "Billing",
    "client_secret": bcrypt.hashpw(b"a secret of old", bcrypt.gensalt(4)).decode(),
    "grant_types": "client_credentials",
    "scope": "read write",
    "token_endpoint_auth_method": "client_secret_basic",
}
PERSON = {**ROW, "id": "web", "grant_types": "authorization_code"}


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Two clients of Hydra, one of them for people."""
    path = tmp_path / "hydra.json"
    path.write_text(json.dumps([ROW, PERSON]))
    return path


async def test_a_machine_comes_over_with_its_secret(
    async_database: AsyncDatabase[Any],
    database: Database[Any],
    command_line: CommandLine,
    export: Path,
) -> None:
    """It logs in as before, and from then on its secret is stored our way, under the same id."""
    configure(database)
    done = command_line.json("import", "hydra", export)
    assert [each["client_id"] for each in done["imported"]] == ["billing"]
    assert [each["client_id"] for each in done["not_imported"]] == ["web"]
    assert ROW["client_secret"] not in json.dumps(done)
    (before,) = command_line.json("secrets", "list", "billing")
    assert (before["stored"], before["label"]) == ("imported", "imported from hydra")
    async with running(async_database) as server, server.http() as http:
        machine = Machine(http, "billing", "a secret of old")
        assert (await machine.using(client_secret="wrong").ask_token()).status_code == 401
        hashed = str(ROW["client_secret"])
        for no_secret in (hashed, "imported$" + hashed):
            assert (await machine.using(client_secret=no_secret).ask_token()).status_code == 401
        for _ in range(2):
            assert (await machine.get_token()).scope == "read write"
            (after,) = command_line.json("secrets", "list", "billing")
            assert (after["stored"], after["id"]) == ("typed", before["id"])
    records = list(database.audit_logs.find({"event_type": "client_created"}))
    assert [record["reason"] for record in records] == [f"imported from hydra, by {operator()}"]


async def test_a_dry_run_says_the_same_and_writes_nothing(
    database: Database[Any], command_line: CommandLine, export: Path
) -> None:
    """Neither clients nor the setting; a second import leaves alone what is there."""
    configure(database)
    planned = command_line.json("import", "hydra", export, "--dry-run")
    assert database.clients.count_documents({}) == 0
    assert "IMPORTED_SECRETS" not in (database.config.find_one() or {})
    done = command_line.json("import", "hydra", export)
    assert planned == done
    assert (database.config.find_one() or {})["IMPORTED_SECRETS"] is True
    before = database.clients.find_one()
    again = command_line.json("import", "hydra", export)
    assert again["imported"] == []
    assert {"client_id": "billing", "reason": "it is registered here already"} in again[
        "not_imported"
    ]
    assert command_line.json("import", "hydra", export, "--dry-run") == again
    assert database.clients.find_one() == before


async def test_a_secret_in_the_clear_is_hashed_when_it_comes(
    async_database: AsyncDatabase[Any],
    database: Database[Any],
    command_line: CommandLine,
    tmp_path: Path,
) -> None:
    """It stands nowhere in the database, works at once, and needs no setting."""
    configure(database)
    client = {"client_id": "billing", "client_secret": "auth0 secret", "name": "B", "app_type": "x"}
    grants = [{"client_id": "billing", "audience": "https://a.example/", "scope": ["read"]}]
    export = tmp_path / "auth0.json"
    members = {**client, "grant_types": ["client_credentials"]}
    export.write_text(json.dumps({"clients": [members], "client_grants": grants}))
    command_line("import", "auth0", export)
    assert "auth0 secret" not in str(database.clients.find_one())
    assert "IMPORTED_SECRETS" not in (database.config.find_one() or {})
    async with running(async_database) as server, server.http() as http:
        assert (await Machine(http, "billing", "auth0 secret").get_token()).scope == "read"


async def test_people_are_told_what_is_left_to_do(
    database: Database[Any], command_line: CommandLine, export: Path, tmp_path: Path
) -> None:
    """On the standard error: who did not come and why, and that workers need a moment."""
    configure(database)
    result = command_line("import", "hydra", export)
    assert result.stdout.splitlines() == ["+ billing: read write"]
    assert "not imported: web: it is for people" in result.stderr
    assert "30 s" in result.stderr
    (tmp_path / "nonsense").write_text("nonsense")
    assert "no JSON" in command_line("import", "hydra", tmp_path / "nonsense", code=2).stderr


def test_what_an_export_calls_a_client_does_not_steer_the_terminal(
    command_line: CommandLine, tmp_path: Path
) -> None:
    """Nor what stands there else: it is another server's, and is said all the same."""
    export = tmp_path / "clients.json"
    members = {"client_id": "evil\x1b[2J", "grant_types": ["client_credentials"]}
    export.write_text(json.dumps([members]), encoding="utf-8")
    result = command_line("import", "hydra", export)
    assert "evil" in result.stderr
    assert "\x1b" not in result.output + result.stderr
