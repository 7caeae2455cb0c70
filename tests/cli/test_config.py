"""`oauth2-m2m config`, and the room behind it."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from _oauth2_m2m.config import SAMPLE_KEYS, new_secret_key, reading_of
from _oauth2_m2m.config_management import value_from
from oauth2_m2m import ConfigChanged, ConfigurationError, OAuth2M2M
from tests.command_line import CommandLine
from tests.machine import new_machine
from tests.server import configure, running

KEY = "a-secret-key-of-the-tests-with-more-than-32-bytes"
GOOD = {"_id": "jwt_config", "SECRET_KEY": KEY, "ISSUER": "https://auth.example.com"}


def stored(database: Database[Any]) -> dict[str, Any]:
    """The config document without its id."""
    document = database["config"].find_one({"_id": "jwt_config"}, {"_id": 0})
    return document or {}


def recorded(database: Database[Any]) -> list[str]:
    """What the audit log says of changes, oldest first."""
    found = database["audit_logs"].find({"event_type": "config_changed"}, sort=[("timestamp", 1)])
    return [record["reason"] for record in found]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("MAX_REQUESTS_PER_MINUTE", "600", 600),
        ("ISSUE_REFRESH_TOKENS", "false", False),
        ("ISSUER", "https://auth.example.com", "https://auth.example.com"),
        ("ISSUER", '"https://auth.example.com"', "https://auth.example.com"),
        ("SECRET_KEY", "1234567890", "1234567890"),
        ("AUDIENCE", "true", "true"),
        ("PREVIOUS_SECRET_KEYS", '["one", "two"]', ["one", "two"]),
        ("PREVIOUS_SECRET_KEYS", "one, two", ["one", "two"]),
        ("PREVIOUS_SECRET_KEYS", "one", ["one"]),
        ("AUDIENCE", "null", None),
        ("MAX_REQUESTS_PER_MINUTE", "many", "many"),
        ("LEEWAY_SECONDS", "[" * 100_000, "[" * 100_000),
    ],
)
def test_a_typed_value_is_read_as_its_field_takes_it(name: str, text: str, value: Any) -> None:
    """Numbers, booleans, texts and lists are typed bare; JSON is fine, too."""
    read = value_from(name, text)
    assert (type(read), read) == (type(value), value)


def test_fields_are_changed_and_audited(command_line: CommandLine, database: Database[Any]) -> None:
    """Several fields change at once; the record names who did it and what, at once."""
    database["config"].insert_one(GOOD)
    result = command_line(
        "config", "set", "MAX_REQUESTS_PER_MINUTE=600", "ISSUE_REFRESH_TOKENS=false"
    )
    assert stored(database)["MAX_REQUESTS_PER_MINUTE"] == 600
    assert stored(database)["ISSUE_REFRESH_TOKENS"] is False
    assert "MAX_REQUESTS_PER_MINUTE: (default) -> 600" in result.stdout
    (reason,) = recorded(database)
    assert reason.startswith("set by ")
    assert "@" in reason
    assert "MAX_REQUESTS_PER_MINUTE from the default to 600" in reason
    command_line("config", "set", "MAX_REQUESTS_PER_MINUTE=null")
    assert "MAX_REQUESTS_PER_MINUTE" not in stored(database)


def test_what_is_set_already_is_no_change(
    command_line: CommandLine, database: Database[Any]
) -> None:
    """Setting it again writes and records nothing."""
    database["config"].insert_one({**GOOD, "LEEWAY_SECONDS": 5})
    assert "Nothing is different" in command_line("config", "set", "LEEWAY_SECONDS=5").stderr
    assert recorded(database) == []


def test_a_dry_run_writes_nothing(command_line: CommandLine, database: Database[Any]) -> None:
    """It says what would change, also where there is no config at all."""
    change = command_line.json("config", "set", "LEEWAY_SECONDS=5", "--dry-run")
    assert change["fields"] == [{"name": "LEEWAY_SECONDS", "before": None, "after": 5}]
    assert change["written"] is False
    assert database.list_collection_names() == []


def test_a_database_without_a_config_gets_one(
    command_line: CommandLine, database: Database[Any]
) -> None:
    """What is not named is made as a first start would make it."""
    command_line("config", "set", "ISSUER=https://auth.example.com")
    assert len(stored(database)["SECRET_KEY"]) >= 43
    assert stored(database)["ISSUER"] == "https://auth.example.com"


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("MAX_REQUESTS_PER_MINUTE=-1", "must be from 0"),
        ("MAX_REQUESTS_PER_MINUTES=1", "is it MAX_REQUESTS_PER_MINUTE?"),
        ("issuer=https://auth.example.com", "is it ISSUER?"),
        ("NOTHING_OF_THE_KIND=1", "it has ACCESS_TOKEN_EXPIRE_MINUTES"),
        ("_id=other", "no field _id"),
        ("SECRET_KEY=null", "SECRET_KEY is missing"),
        ("PROFILE=fapi2", "ALGORITHM must be ES256"),
        ("SECRET_KEY=-----BEGIN PUBLIC KEY-----", "public key"),
    ],
)
def test_a_change_to_nonsense_is_refused(
    command_line: CommandLine, database: Database[Any], assignment: str, says: str
) -> None:
    """It is wrong usage; together with a good change, nothing is written."""
    database["config"].insert_one({**GOOD, "ALGORITHM": "HS256"})
    result = command_line("config", "set", "LEEWAY_SECONDS=5", assignment, code=2)
    assert says in result.stderr
    assert stored(database) == {**stored(database), "ALGORITHM": "HS256", "SECRET_KEY": KEY}
    assert "LEEWAY_SECONDS" not in stored(database)
    assert recorded(database) == []


@pytest.mark.parametrize(
    "arguments", [["LEEWAY_SECONDS"], ["=5"], ["LEEWAY_SECONDS=5", "LEEWAY_SECONDS=6"], []]
)
def test_an_assignment_is_a_name_and_a_value(
    command_line: CommandLine, arguments: list[str]
) -> None:
    """Anything else is wrong usage, and never reaches the database."""
    command_line("config", "set", *arguments, code=2)


def test_a_broken_document_can_be_mended(
    command_line: CommandLine, database: Database[Any]
) -> None:
    """Every mistake is shown; a change that mends them all is taken, one that does not is not."""
    broken = {**GOOD, "LEEWAY_SECONDS": "much", "ISSUE_REFRESH_TOKENS": 1, "SECRETKEY": "pasted"}
    database["config"].insert_one(broken)
    shown = {field["name"]: field for field in command_line.json("config", "show")}
    assert shown["LEEWAY_SECONDS"]["mistake"] == "must be a whole number"
    assert shown["SECRETKEY"] == {
        "name": "SECRETKEY",
        "value": None,
        "is_set": True,
        "mistake": "is not known to this version",
    }
    refused = command_line("config", "set", "LEEWAY_SECONDS=5", code=1)
    assert "ISSUE_REFRESH_TOKENS must be true or false" in refused.stderr
    command_line("config", "set", "LEEWAY_SECONDS=5", "ISSUE_REFRESH_TOKENS=true")
    assert stored(database)["ISSUE_REFRESH_TOKENS"] is True


def test_secrets_are_named_and_never_shown(
    command_line: CommandLine, database: Database[Any]
) -> None:
    """Neither `show` nor a change, nor the audit log, holds a secret: only which one it is."""
    database["config"].insert_one({**GOOD, "PREVIOUS_SECRET_KEYS": ["older" * 8]})
    new = new_secret_key()
    shown = command_line("config", "show").output + command_line("config", "show", "--json").output
    changed = command_line("config", "set", "SECRET_KEY=-", answer=f"{new}\n").output
    assert stored(database)["SECRET_KEY"] == new
    everything = shown + changed + str(recorded(database))
    for secret in (KEY, "older" * 8, new):
        assert secret not in everything
    assert "SECRET_KEY: (secret " in changed
    assert "are refused within 30 s" in changed  # what the old key has signed


def test_every_field_with_key_material_is_masked() -> None:
    """Whatever is called a secret or a key is one of those that are never shown."""
    reading = reading_of({})
    named = {name for name in reading.known if "SECRET" in name or name.endswith(("KEY", "KEYS"))}
    assert {name for name in named if not isinstance(reading.values.get(name), bool)} == (
        reading.secret
    )


def test_weaknesses_are_warned_of(command_line: CommandLine, database: Database[Any]) -> None:
    """In development a weak setting is written, and said to be none for production."""
    database["config"].insert_one(GOOD)
    result = command_line("config", "set", "ISSUER=http://auth.example.com")
    assert "warning: ISSUER is http://auth.example.com" in result.stderr
    assert stored(database)["ISSUER"] == "http://auth.example.com"


def test_production_takes_no_new_weakness(
    command_line: CommandLine, database: Database[Any]
) -> None:
    """A weakness that is there already does not stand in the way of mending another."""
    database["config"].insert_one({**GOOD, "SECRET_KEY": min(SAMPLE_KEYS)})
    production = command_line.using(ENVIRONMENT="production")
    refused = production("config", "set", "ISSUER=http://auth.example.com", code=1)
    assert "nothing was changed, since in production ISSUER" in refused.stderr
    production("config", "set", "LEEWAY_SECONDS=5")
    production("config", "set", f"SECRET_KEY={KEY}")
    assert stored(database)["SECRET_KEY"] == KEY


async def test_a_change_between_reading_and_writing_is_not_overwritten(
    async_database: AsyncDatabase[Any], database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was checked is what is written to, or nothing is."""
    database["config"].insert_one(GOOD)
    m2m = OAuth2M2M(async_database)
    settings = m2m.configuration._services.settings
    look = settings.look

    async def look_and_be_overtaken() -> Any:
        found = await look()
        database["config"].update_one({}, {"$set": {"PROFILE": "fapi2"}})
        return found

    monkeypatch.setattr(settings, "look", look_and_be_overtaken)
    with pytest.raises(ConfigChanged):
        await m2m.configuration.change({"ALGORITHM": "RS256"})  # good before, no more now
    assert "ALGORITHM" not in stored(database)


async def test_a_running_service_takes_its_own_change_at_once(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """`m2m.configuration.change` in a worker counts for its next request."""
    configure(database, ISSUE_REFRESH_TOKENS=True)
    async with running(async_database) as server:
        machine = await new_machine(server)
        assert (await machine.get_token()).refresh
        change = await server.m2m.configuration.change({"ISSUE_REFRESH_TOKENS": False}, by="me")
        assert change.written
        assert not (await machine.get_token()).refresh
        with pytest.raises(ConfigurationError, match="is it ISSUER"):
            await server.m2m.configuration.change({"ISUER": "https://auth.example.com"})
    assert any(
        reason.startswith("set by me: ISSUE_REFRESH_TOKENS") for reason in recorded(database)
    )


@pytest.mark.parametrize("password", ["one/two", "one/two?x", "one:two", "one%two", "one@two"])
def test_a_url_that_cannot_be_read_is_not_quoted(command_line: CommandLine, password: str) -> None:
    """What stands in it may be a password, whole or in part."""
    away = command_line.using(MONGODB_URL=f"mongodb://user:{password}@localhost:1/")
    result = away("config", "show", code=2)
    assert result.stdout == ""
    assert "two" not in result.stderr
