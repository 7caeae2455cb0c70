"""What every command prints for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer.main
from pymongo.database import Database

from _oauth2_m2m.cli import app
from tests.command_line import CommandLine
from tests.server import configure


def commands(group: Any, *names: str) -> Iterator[tuple[str, Any]]:
    """Every command below a group, by its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *names, name)
        else:
            yield " ".join([*names, name]), command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_answer_for_programs(name: str) -> None:
    """Each takes `--json`."""
    assert "--json" in [option for each in COMMANDS[name].params for option in each.opts]


def test_what_changes_a_client_says_so_to_programs(command_line: CommandLine) -> None:
    """One JSON value each, and nothing beside it on the standard output."""
    command_line("clients", "create", "billing", "--scope", "read")
    disabled = command_line.json("clients", "disable", "billing", "--yes")
    assert disabled == {"client_id": "billing", "disabled": True}
    enabled = command_line.json("clients", "enable", "billing")
    assert enabled == {"client_id": "billing", "disabled": False}
    new = command_line.json("secrets", "add", "billing")["secret_id"]
    assert command_line.json("secrets", "retire", "billing", new, "--yes") == {
        "client_id": "billing",
        "secret_id": new,
        "retired": True,
        "tokens_ended": False,
    }
    revoked = command_line.json("tokens", "revoke", "--client", "billing", "--yes")
    assert revoked == {"revoked": "client", "id": "billing"}
    assert command_line.json("tokens", "revoke", "--jti", "a") == {"revoked": "jti", "id": "a"}
    exported = command_line.json("clients", "export")
    assert exported["clients"]["billing"]["scopes"] == ["read"]
    removed = command_line.json("clients", "remove", "billing", "--yes")
    assert removed == {"client_id": "billing", "removed": True}


@pytest.mark.parametrize("algorithm", ["HS256", "ES256"])
def test_a_rotation_names_the_key_that_takes_over(
    command_line: CommandLine, database: Database[Any], algorithm: str
) -> None:
    """Its id and when it signs, as the list of keys has it; so does burning it."""
    configure(database, ALGORITHM=algorithm)
    rotated = command_line.json("keys", "rotate")
    (signing,) = [key for key in command_line.json("keys", "list") if key["signs"]]
    assert rotated == {name: signing[name] for name in ("kid", "algorithm", "signs_from")}
    assert command_line.json("keys", "burn", rotated["kid"], "--yes") == {
        "kid": rotated["kid"],
        "burned": True,
    }


def test_a_key_that_is_announced_says_when_it_signs(
    command_line: CommandLine, database: Database[Any]
) -> None:
    """Not the one that signs meanwhile; again, and it is still the same one."""
    configure(database, ALGORITHM="ES256")
    before = datetime.now(UTC)
    (signing,) = command_line.json("keys", "list")
    rotated = command_line.json("keys", "rotate", "--announce-minutes", 60)
    assert rotated["kid"] != signing["kid"]
    assert datetime.fromisoformat(rotated["signs_from"]) >= before + timedelta(minutes=59)
    again = command_line.json("keys", "rotate", "--announce-minutes", 120)
    assert again == rotated


def test_the_log_is_exported_as_one_value(command_line: CommandLine) -> None:
    """With `--json` it is an array of what stands on the lines without, also when it is empty."""
    assert command_line.json("audit", "export") == []
    command_line("clients", "create", "one")
    command_line("clients", "create", "two")
    lines = command_line("audit", "export").stdout.splitlines()
    assert len(lines) == 2
    assert command_line.json("audit", "export") == list(map(json.loads, lines))
