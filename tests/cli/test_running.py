"""How every command meets a service that is not well."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from pymongo.database import Database

from tests.command_line import CommandLine
from tests.server import configure

VARIABLE = "OAUTH2_M2M_KEY_ENCRYPTION_KEY"


@pytest.fixture(params=["broken config", "sealed keys"])
def unwell(
    request: pytest.FixtureRequest, command_line: CommandLine, database: Database[Any]
) -> str:
    """A service with a client, where no worker could start as things are; words that say why."""
    configure(database, ALGORITHM="ES256")
    sealing = command_line.using(**{VARIABLE: secrets.token_urlsafe(32)})
    sealing("clients", "create", "billing", "--scope", "read")
    sealing("keys", "list")
    if request.param == "sealed keys":
        return "sealed with a key that is not at hand"
    database["config"].update_one({}, {"$set": {"LEEWAY_SECONDS": "much"}})
    return "LEEWAY_SECONDS must be a whole number"


def test_a_client_is_stopped_whatever_else_is_wrong(
    command_line: CommandLine, database: Database[Any], unwell: str
) -> None:
    """Who must act at once need not mend the config first, nor hold the key of the keys."""
    command_line("clients", "disable", "billing", "--yes")
    client = database["clients"].find_one({"client_id": "billing"})
    assert client is not None
    assert client["disabled"] is True
    assert database["audit_logs"].count_documents({"event_type": "client_disabled"}) == 1


@pytest.mark.parametrize("words", [["keys", "rotate"], ["tokens", "inspect", "a.b.c"]])
def test_what_needs_the_settings_says_what_is_wrong_with_them(
    command_line: CommandLine, unwell: str, words: list[str]
) -> None:
    """One line that names the cause, with the exit code of what can be mended."""
    result = command_line(*words, code=1)
    assert unwell in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["clients", "disable", "billing", "--yes"], ["keys", "list"], ["config", "show"]]
)
def test_a_database_that_is_away_has_an_exit_code_of_its_own(words: list[str]) -> None:
    """Whether or not the command prepares the database first."""
    nowhere = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100"
    result = CommandLine(nowhere, "nothing")(*words, code=3)
    assert "MongoDB" in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_audit_log_says_who_did_it(command_line: CommandLine, database: Database[Any]) -> None:
    """Every deed of the command line has who did it once, whatever it changes."""
    configure(database, ALGORITHM="ES256")
    command_line = command_line.using(LOGNAME="alice")
    new = command_line.json("clients", "create", "billing", "--scope", "read")["secret_id"]
    command_line("clients", "update", "billing", "--scope", "write")
    command_line("secrets", "add", "billing")
    command_line("secrets", "retire", "billing", new, "--yes")
    command_line("tokens", "revoke", "--jti", "one")
    command_line("tokens", "revoke", "--client", "billing", "--yes")
    command_line("clients", "disable", "billing", "--yes")
    command_line("clients", "enable", "billing")
    command_line("clients", "remove", "billing", "--yes")
    kid = command_line.json("keys", "rotate")["kid"]
    command_line("keys", "burn", kid, "--yes")
    command_line("config", "set", "LEEWAY_SECONDS=5")
    records = list(database["audit_logs"].find())
    assert {record["event_type"] for record in records} == {
        "client_created",
        "client_updated",
        "client_disabled",
        "secret_rotated",
        "token_revoked",
        "key_rotated",
        "config_changed",
    }
    for record in records:
        assert record["reason"].count("by alice@") == 1, record
