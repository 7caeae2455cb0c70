"""`oauth2-m2m clients`: registered, changed, applied from a file, and seen at work."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from _oauth2_m2m.cli.running import operator
from tests.assertions import es256_key, jwks
from tests.command_line import CommandLine
from tests.machine import Machine, Tokens
from tests.server import Server, configure, running

LONG_AGO = datetime(2020, 1, 2, tzinfo=UTC)


async def token_of(server: Server, client_id: str, secret: str) -> Tokens:
    return await Machine(server.http(), client_id, secret).get_token()


def fields_of(database: Database[Any], client_id: str) -> dict[str, Any]:
    return database.clients.find_one({"client_id": client_id}, {"_id": 0}) or {}


def changed(database: Database[Any]) -> list[str]:
    query = {"event_type": {"$regex": "^client_"}}
    return [d["event_type"] for d in database.audit_logs.find(query).sort("timestamp", 1)]


async def test_a_client_lives_its_life_on_the_command_line(
    async_database: AsyncDatabase[Any], database: Database[Any], command_line: CommandLine
) -> None:
    """It is created, shown, changed, disabled, enabled and removed, and each of it counts."""
    configure(database)
    created = command_line.json(
        "clients", "create", "billing", "--scope", "read", "--scope", "write", "--name", "Billing"
    )
    async with running(async_database) as server:
        tokens = await token_of(server, "billing", created["client_secret"])
        assert tokens.scope == "read write"
        updated = command_line.json(
            "clients", "update", "billing", "--drop-scope", "write", "--role", "admin"
        )
        assert (updated["scopes"], updated["role"], updated["name"]) == (
            ["read"],
            "admin",
            "Billing",
        )
        assert (await token_of(server, "billing", created["client_secret"])).scope == "read"
        command_line("clients", "disable", "billing", "-y")
        async with server.http() as http:
            machine = Machine(http, "billing", created["client_secret"])
            assert (await machine.ask_token()).status_code == 401
            assert (await machine.call(tokens)).status_code == 401
            command_line("clients", "enable", "billing")
            assert (await machine.ask_token()).status_code == 200
            command_line("clients", "remove", "billing", "-y")
            assert (await machine.ask_token()).status_code == 401
    assert command_line.json("clients", "list") == []
    assert changed(database) == [
        "client_created",
        "client_updated",
        "client_disabled",
        "client_updated",
        "client_disabled",
    ]
    record = database.audit_logs.find_one({"event_type": "client_updated"}) or {}
    assert record["reason"] == f"changed: scopes -write, role user -> admin, by {operator()}"


async def test_what_a_client_uses_and_does_not_need_is_shown(
    async_database: AsyncDatabase[Any], database: Database[Any], command_line: CommandLine
) -> None:
    """The scopes that routes wanted, where its secret was used from, and what could go."""
    configure(database)
    async with running(async_database) as server:
        registered = await server.m2m.clients.register("billing", scopes=["read", "write", "admin"])
        async with server.http("192.0.2.9") as http:
            machine = Machine(http, "billing", str(registered.client_secret))
            tokens = await machine.get_token("read admin")
            assert (await machine.call(tokens)).status_code == 200
            assert (await machine.call(tokens, "/admin-only")).status_code == 403
    shown = command_line.json("clients", "show", "billing")
    used = {(use["kind"], use["name"]) for use in shown["uses"]}
    assert {("scope", "read"), ("asked_scope", "admin")} <= used
    assert ("role", "admin") not in used
    assert shown["last_used_at"]
    assert shown["secrets"][0]["last_used_from"][0]["ip"] == "192.0.2.9"
    assert shown["superfluous"] == []
    database.clients.update_one({}, {"$unset": {"created_at": ""}})
    database.client_usage.update_one({"_id": "since"}, {"$set": {"since": LONG_AGO}})
    spare = command_line.json("clients", "show", "billing")["superfluous"]
    assert [(each["what"], each["name"]) for each in spare] == [
        ("scope", "write"),
        ("refresh tokens", ""),
        ("networks", ""),
    ]
    assert "Could go: scope write" in command_line("clients", "show", "billing").stdout
    for each in spare:
        command_line(*each["how"].split()[1:])
    assert command_line.json("clients", "show", "billing")["superfluous"] == []


FILE = """\
clients:
  billing:
    scopes: [read, write]
    allowed_networks: [192.0.2.0/24]
  reports:
    scopes: [read]
    name: Reports
"""


async def test_a_file_is_applied_and_a_second_time_there_is_nothing_to_do(
    async_database: AsyncDatabase[Any],
    database: Database[Any],
    command_line: CommandLine,
    tmp_path: Path,
) -> None:
    """A dry run says what the real one does; new secrets are shown once, old ones stay."""
    configure(database)
    file = tmp_path / "clients.yaml"
    file.write_text(FILE)
    planned = command_line.json("clients", "apply", file, "--dry-run")
    assert database.clients.count_documents({}) == 0
    done = command_line.json("clients", "apply", file)
    assert done["changes"] == planned["changes"]
    assert planned["secrets"] == []
    assert [each["client_id"] for each in done["secrets"]] == ["billing", "reports"]
    again = command_line.json("clients", "apply", file)
    assert again == {"changes": [], "secrets": []}
    async with running(async_database) as server:
        await token_of(server, "billing", done["secrets"][0]["client_secret"])
        file.write_text(FILE.replace("[read, write]", "[read, admin]"))
        result = command_line("clients", "apply", file)
        assert "~ update billing: scopes +admin -write" in result.stdout
        tokens = await token_of(server, "billing", done["secrets"][0]["client_secret"])
    assert tokens.scope == "admin read"


async def test_pruning_removes_who_is_not_in_the_file(
    database: Database[Any], command_line: CommandLine, tmp_path: Path
) -> None:
    """After a question, which nobody there to answer answers with no."""
    configure(database)
    file = tmp_path / "clients.yaml"
    file.write_text(FILE)
    for client_id in ("billing", "stranger"):
        command_line("clients", "create", client_id, "--scope", "read")
    command_line("clients", "apply", file, "--prune", code=1)
    assert database.clients.count_documents({}) == 2
    result = command_line("clients", "apply", file, "--prune", "--yes")
    assert "- remove stranger" in result.stdout
    left = [document["client_id"] for document in database.clients.find().sort("client_id", 1)]
    assert left == ["billing", "reports"]


async def test_what_is_exported_can_be_applied(
    database: Database[Any], command_line: CommandLine, tmp_path: Path
) -> None:
    """It changes nothing where it comes from, makes the same clients elsewhere, and no secret."""
    configure(database)
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(jwks(es256_key("one"))))
    command_line("clients", "create", "signer", "--scope", "read", "--jwks", keys, "--dpop")
    command_line("clients", "create", "billing", "--no-refresh-tokens", "--network", "10.0.0.0/8")
    command_line("clients", "disable", "billing", "-y")
    file = tmp_path / "clients.yaml"
    file.write_text(command_line("clients", "export").stdout)
    assert command_line.json("clients", "apply", file, "--prune")["changes"] == []
    before = [fields_of(database, client_id) for client_id in ("billing", "signer")]
    assert "sha256" not in file.read_text()
    database.clients.delete_many({})
    command_line("clients", "apply", file, "--yes")
    for document in before:
        after = fields_of(database, document["client_id"])
        for own in ("epoch", "created_at", "client_secret", "client_secret_details"):
            after.pop(own, None)
            document.pop(own, None)
        assert after == document


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("clients:\n  fine:\n    scopes: []\n  bad:\n    scopes: [a b]\n", "client 'bad': scopes"),
        ("clients:\n  fine:\n    scopes: []\n  fine:\n    scopes: []\n", "twice"),
        ("clients:\n  a:\n    scopes: []\n    client_secret: x\n", "does not belong"),
        ("clients:\n  a b:\n    scopes: []\n", "client_id"),
        ("- a", "nothing else"),
    ],
    ids=range(5),
)
async def test_a_file_with_a_mistake_changes_nothing(
    database: Database[Any], command_line: CommandLine, tmp_path: Path, text: str, word: str
) -> None:
    """Whatever stands before it: the file is checked as a whole, and the mistake is named."""
    configure(database)
    file = tmp_path / "clients.yaml"
    file.write_text(text)
    assert word in command_line("clients", "apply", file, code=2).stderr
    assert database.clients.count_documents({}) == 0
    assert changed(database) == []


async def test_a_client_mistyped_by_hand_is_listed_with_what_is_wrong(
    database: Database[Any], command_line: CommandLine
) -> None:
    """One bad document hides no other client, and pages follow each other."""
    configure(database)
    for client_id in ("a", "c"):
        command_line("clients", "create", client_id, "--scope", "read")
    database.clients.insert_one({"client_id": "b", "scopes": "read", "client_secret": "plain"})
    rows = command_line.json("clients", "list")
    assert [row["client_id"] for row in rows] == ["a", "b", "c"]
    assert [bool(row["malformed"]) for row in rows] == [False, True, False]
    page = command_line("clients", "list", "--limit", "2")
    assert "--after b" in page.stderr
    assert [row["client_id"] for row in command_line.json("clients", "list", "--after", "b")] == [
        "c"
    ]
    assert "plain" not in page.stdout + json.dumps(rows)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["create", "billing"], 1),
        (["create", "a b"], 2),
        (["create", "x", "--scope", "a b"], 2),
        (["update", "nobody", "--role", "x"], 1),
        (["update", "billing", "--scope", "a", "--add-scope", "b"], 2),
        (["update", "billing", "--usual", "epoch"], 2),
        (["update", "billing", "--jwks", "no-such-file"], 2),
        (["disable", "billing"], 1),
        (["remove", "billing"], 1),
        (["remove", "nobody", "-y"], 1),
        (["show", "nobody"], 1),
        (["apply", "no-such-file"], 2),
    ],
    ids=str,
)
async def test_what_cannot_be_done_with_a_client_is_told(
    database: Database[Any], command_line: CommandLine, words: list[str], code: int
) -> None:
    """On the standard error, with the exit code that scripts go by; nothing changes."""
    configure(database)
    command_line("clients", "create", "billing", "--scope", "read")
    before = list(database.clients.find())
    result = command_line("clients", *words, code=code)
    assert result.stdout.strip() == ""
    assert result.stderr
    assert list(database.clients.find()) == before
