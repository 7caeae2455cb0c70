"""`oauth2-m2m doctor`: the command, and that it gathers what is really there."""

from __future__ import annotations

import re
import secrets
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from _oauth2_m2m.doctor import examination
from _oauth2_m2m.doctor.findings import ADVICE
from oauth2_m2m import OAuth2M2M
from tests.command_line import CommandLine
from tests.papers import codes, paper, section, table
from tests.server import guarded_app

VARIABLE = "OAUTH2_M2M_KEY_ENCRYPTION_KEY"
GOOD = {
    "_id": "jwt_config",
    "SECRET_KEY": secrets.token_urlsafe(32),
    "ISSUER": "https://auth.example.com",
}
#: What is found of the MongoDB of any test run, which is one member without a password.
OF_THE_TESTS = {
    "disk-full",
    "majority-lags",  # for a moment, on a busy machine
    "no-access-control",
    "not-checked",
    "replica-set-small",
    "standalone",
}


def ids(findings: Any) -> set[str]:
    """What was found, but for what is found of the tests' own MongoDB."""
    return {finding["id"] for finding in findings} - OF_THE_TESTS


def finding(findings: Any, name: str) -> Any:
    """The one finding of this name."""
    (found,) = [each for each in findings if each["id"] == name]
    return found


def start(database: AsyncDatabase[Any]) -> Any:
    """Have a worker start on the database, and stop."""
    m2m = OAuth2M2M(database, environment="development")
    return m2m.lifespan(guarded_app(m2m))


def test_an_empty_database_is_left_empty(
    command_line: CommandLine, database: Database[Any]
) -> None:
    """It says that nothing is there, and makes nothing."""
    assert ids(command_line.json("doctor")) == {"config-missing"}
    assert database.list_collection_names() == []


async def test_a_sound_service_has_no_findings(
    command_line: CommandLine, async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """Whatever a start makes is what the doctor expects, every index of every room included."""
    database["config"].insert_one(GOOD)
    async with start(async_database):
        pass
    production = command_line.using(ENVIRONMENT="production")
    findings = production.json("doctor", "--fail-on", "error", code=1)
    assert ids(findings) == set()
    assert {each["severity"] for each in findings if each["id"] == "no-access-control"} == {"error"}


async def test_indexes_are_compared_with_what_the_rooms_rely_on(
    command_line: CommandLine, async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """One that is gone, one that is another, one that somebody made and that destroys."""
    database["config"].insert_one(GOOD)
    async with start(async_database):
        pass
    database["clients"].drop_index("client_id_1")
    database["tokens"].drop_index("expires_at_1")
    database["tokens"].create_index("expires_at", expireAfterSeconds=60)
    database["revoked_tokens"].create_index("revoked_at", expireAfterSeconds=60)
    database["clients"].create_index("name")  # harms nobody
    database["config"].update_one({}, {"$set": {"AUDIT_RETENTION_DAYS": 91}})
    before = {name: database[name].index_information() for name in database.list_collection_names()}
    findings = command_line.json("doctor", code=1)
    assert finding(findings, "index-missing")["about"] == ["clients by client_id"]
    drifted = {tuple(each["about"]) for each in findings if each["id"] == "index-drifted"}
    assert drifted >= {("tokens by expires_at",), ("audit_logs by timestamp",)}
    assert {names for (names,) in drifted} <= {
        "tokens by expires_at",
        "audit_logs by timestamp",
        "audit_checkpoints by time",  # which are kept as long as what they speak of
    }
    assert finding(findings, "index-foreign")["about"] == ["revoked_tokens by revoked_at"]
    after = {name: database[name].index_information() for name in database.list_collection_names()}
    assert after == before


async def test_what_should_have_been_removed_is_found(
    command_line: CommandLine, async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """A TTL that does not work shows in what is still there."""
    database["config"].insert_one(GOOD)
    database["rate_limits"].insert_one({"_id": "old", "timestamp": datetime.now(UTC)})
    async with start(async_database):
        pass
    old = datetime.now(UTC) - timedelta(days=3)
    database["tokens"].insert_one({"refresh_token": "x", "expires_at": old})
    findings = command_line.json("doctor")
    assert finding(findings, "expired-stay")["about"] == ["tokens"]


def test_before_the_first_start_no_index_is_missed(
    command_line: CommandLine, database: Database[Any]
) -> None:
    """Whoever types config and clients first, as one should, is not told of errors."""
    database["config"].insert_one(GOOD)
    database["clients"].insert_one({"client_id": "billing", "scopes": ["read"]})
    assert ids(command_line.json("doctor")) == {"not-started"}


def test_clients_keys_and_config_are_looked_at(
    command_line: CommandLine, database: Database[Any]
) -> None:
    """What lies in the database in an unsafe way is found, each with why and how to mend it."""
    config = {**GOOD, "ALGORITHM": "ES256", "MAX_REQUESTS_PER_MINUTE": 0, "ISSUR": "x"}
    database["config"].insert_one(config)
    command_line("keys", "list")  # makes a key, in the clear
    database["clients"].insert_many([
        {"client_id": "typed", "client_secret": "in the clear", "scopes": ["read"]},
        {"client_id": "broken", "scopes": "read"},
    ])  # fmt: skip
    findings = command_line.json("doctor", code=1)
    expected = {"limits-off", "config-unknown-field", "key-unsealed", "plain-secret"}
    assert expected | {"client-unusable"} == ids(findings)
    assert finding(findings, "plain-secret")["about"] == ["typed"]
    for each in findings:
        assert each["why"]
        assert each["mend"]
    text = command_line("doctor", code=1)
    assert "key-unsealed" in text.stdout
    assert "in the clear" not in text.stdout.replace("lie in the clear", "").replace(
        "lies in the clear", ""
    )
    assert "why:" in text.stdout
    assert "mend:" in text.stdout


def test_sealed_keys_are_opened_where_that_is_possible(
    command_line: CommandLine, database: Database[Any]
) -> None:
    """Without the variable it says that it cannot know; with another key, that none opens."""
    database["config"].insert_one({**GOOD, "ALGORITHM": "ES256"})
    old, new = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    command_line.using(**{VARIABLE: old})("keys", "list")
    cases = [
        ("", "keys-not-checked"),
        (new, "key-not-opening"),
        (f"{new},{old}", "key-sealed-otherwise"),
    ]
    for value, name in cases:
        here = command_line.using(**{VARIABLE: value})
        assert ids(here.json("doctor", code=int(name == "key-not-opening"))) == {name}
    command_line.using(**{VARIABLE: f"{new},{old}"})("keys", "rewrap")
    assert ids(command_line.using(**{VARIABLE: new}).json("doctor")) == set()


async def test_what_clients_really_use_is_looked_at(
    command_line: CommandLine, async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """A scope that nobody wanted since long is found, of the client that has it."""
    database["config"].insert_one(GOOD)
    long_ago, now = datetime.now(UTC) - timedelta(days=400), datetime.now(UTC)
    m2m = OAuth2M2M(async_database)
    await m2m.clients.register("billing", scopes=["read", "write"], issue_refresh_tokens=False)
    async with start(async_database):
        m2m.clients.used.note_call("billing", now, "192.0.2.1", ["read"])
        await m2m.clients.used.drain()
    database["client_usage"].update_one({"_id": "since"}, {"$set": {"since": long_ago}})
    database["clients"].update_one({}, {"$set": {"created_at": long_ago}})
    findings = command_line.json("doctor")
    assert finding(findings, "scope-unused")["about"] == ["billing write"]


def test_many_clients_are_one_finding(command_line: CommandLine, database: Database[Any]) -> None:
    """The first twenty are named, and all are counted."""
    database["config"].insert_one(GOOD)
    clients = [{"client_id": f"c{n:03}", "scopes": "read"} for n in range(25)]
    database["clients"].insert_many(clients)
    found = finding(command_line.json("doctor", code=1), "client-unusable")
    assert (len(found["about"]), found["count"]) == (20, 25)
    assert found["about"][0].startswith("c000")
    assert "and 5 more" in command_line("doctor", code=1).stdout


def test_a_client_whose_id_is_no_text_is_found(
    command_line: CommandLine, database: Database[Any]
) -> None:
    """What somebody mistyped stops no run: it is a finding like others."""
    database["config"].insert_one(GOOD)
    database["clients"].insert_one({"client_id": ["a", "b"], "scopes": ["read"]})
    about = finding(command_line.json("doctor", code=1), "client-unusable")["about"]
    assert about[0].startswith("['a', 'b']: client_id")


def test_a_run_ends_however_many_clients_there_are(
    command_line: CommandLine, database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond its bound it says that it has not seen all; up to it, page by page, it has."""
    database["config"].insert_one(GOOD)
    database["clients"].insert_many([{"client_id": f"c{n}", "scopes": 1} for n in range(7)])
    monkeypatch.setattr(examination, "_PAGE", 2)
    assert finding(command_line.json("doctor", code=1), "client-unusable")["count"] == 7
    monkeypatch.setattr(examination, "MOST_EXAMINED", 4)
    findings = command_line.json("doctor", code=1)
    assert finding(findings, "client-unusable")["count"] == 4
    assert "clients-not-all" in ids(findings)


@pytest.mark.parametrize(
    ("issuer", "fail_on", "code"),
    [
        ("http://localhost:8000", "error", 0),
        ("http://localhost:8000", "warning", 1),
        ("nonsense", "error", 1),
    ],
)
def test_the_exit_code_is_for_ci(
    command_line: CommandLine, database: Database[Any], issuer: str, fail_on: str, code: int
) -> None:
    """It fails from the severity on that was asked for, with JSON and without."""
    database["config"].insert_one({**GOOD, "ISSUER": issuer})
    command_line("doctor", "--fail-on", fail_on, code=code)
    command_line.json("doctor", "--fail-on", fail_on, code=code)


def test_wrong_usage_and_a_database_that_is_away_have_codes_of_their_own(
    command_line: CommandLine,
) -> None:
    """A script can tell them from findings."""
    command_line("doctor", "--fail-on", "nothing", code=2)
    away = command_line.using(MONGODB_URL="mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=200")
    assert "MongoDB does not answer" in away("doctor", code=3).stderr


APPS = """
from fastapi import FastAPI
from starlette.routing import Mount
careful = FastAPI(redirect_slashes=False)
careful.mount("/files", lambda scope, receive, send: None)
careless = FastAPI(debug=True, redirect_slashes=False)
careless.mount("/inner", FastAPI())
"""


def test_the_guarded_app_is_looked_at(
    command_line: CommandLine,
    database: Database[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Redirects and stack traces are found, in apps that are mounted in it, too."""
    database["config"].insert_one(GOOD)
    module = f"apps_{database.name[-8:]}"
    (tmp_path / f"{module}.py").write_text(APPS)
    monkeypatch.syspath_prepend(tmp_path)
    findings = command_line.json("doctor", "--app", f"{module}:careless")
    assert finding(findings, "slash-redirects")["about"] == ["/inner"]
    assert finding(findings, "app-debug")["about"] == ["/"]
    quiet = command_line.json("doctor", "--app", f"{module}:careful")
    assert not {"slash-redirects", "app-debug"} & ids(quiet)
    for nonsense in ("app", f"{module}:missing", "no_such_module:app", ":app"):
        command_line("doctor", "--app", nonsense, code=2)
    sys.modules.pop(module)


def test_a_user_with_more_rights_than_needed_is_found(
    command_line: CommandLine,
    mongo_url: str,
    database: Database[Any],
    mongo_client: MongoClient[Any],
) -> None:
    """The roles of whoever the URL names are asked for; readWrite on one database is enough."""
    database["config"].insert_one(GOOD)
    modest = [("readWrite", database.name), ("dbAdmin", database.name)]
    mighty = [*modest, ("readAnyDatabase", "admin")]
    for name, roles, expected in [("modest", modest, 0), ("mighty", mighty, 1)]:
        user = f"{name}_{database.name}"
        mongo_client["admin"].command(
            "createUser",
            user,
            pwd="secret",
            roles=[{"role": role, "db": place} for role, place in roles],
        )
        try:
            url = re.sub("//", f"//{user}:secret@", mongo_url, count=1)
            authenticated = command_line.using(MONGODB_URL=url)
            found = {each["id"] for each in authenticated.json("doctor")}
        finally:
            mongo_client["admin"].command("dropUser", user)
        assert "no-access-control" not in found
        assert ("too-many-rights" in found) == bool(expected)


async def test_the_door_has_a_doctor_too(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """`m2m.doctor(app)` finds what the command does, with its own app."""
    database["config"].insert_one(GOOD)
    m2m = OAuth2M2M(async_database)
    app = guarded_app(m2m)
    names = {each.id for each in await m2m.doctor(app)}
    assert "slash-redirects" in names  # the app of the tests was made without a word on it
    assert "slash-redirects" not in {each.id for each in await m2m.doctor()}


def test_the_page_explains_every_finding() -> None:
    """The table names each finding that there can be, and no other."""
    rows = table(section(paper("docs/operations.md"), "The doctor"), "finding")
    assert sorted(codes(row[0])[0] for row in rows) == sorted(ADVICE)
