"""The README, as a stranger takes it: paste the lines, run the blocks, trust the tables."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from pymongo.database import Database

from _oauth2_m2m.config import SAMPLE_KEYS, Secret, Settings, settings_from, weaknesses
from example.mongodb import free_port
from oauth2_m2m import ConfigurationError, OAuth2Error, OAuth2M2M
from tests.command_line import CommandLine
from tests.example_service import pasted, serving
from tests.papers import ROOT, blocks, codes, mongosh, paper, section, table

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would rather have another HTTP library beneath it
    from starlette.testclient import TestClient

README = paper("README.md")
URL = "mongodb://localhost:27017"


def of_this_test(block: str, mongo_url: str, database_name: str) -> str:
    """A block, working on the database of a test."""
    assert URL in block
    assert "mongo.oauth2_m2m" in block
    return block.replace(URL, mongo_url).replace("mongo.oauth2_m2m", f"mongo.{database_name}")


def python_block(title: str, mongo_url: str, database_name: str) -> str:
    (block,) = blocks(section(README, title), "python")
    return of_this_test(block, mongo_url, database_name)


def alike(actual: Any, shown: Any) -> bool:
    """Whether an answer is as shown, where `...` stands for anything."""
    if isinstance(shown, str) and "..." in shown:
        parts = map(re.escape, shown.split("..."))
        return isinstance(actual, str) and bool(re.fullmatch(".+".join(parts), actual))
    if isinstance(shown, dict):
        return list(actual) == list(shown) and all(alike(actual[k], shown[k]) for k in shown)
    return type(actual) is type(shown) and bool(actual == shown)


def test_the_curl_lines_are_answered_as_shown(mongo_url: str, database_name: str) -> None:
    """Whoever pastes the block into a shell sees the answers that stand below it."""
    (_, lines) = blocks(section(README, "Try it"), "sh")
    (answers,) = blocks(section(README, "Try it"), "json")
    port = str(free_port())
    assert "API=http://127.0.0.1:8000 " in lines
    environment = {**os.environ, "MONGODB_URL": mongo_url, "MONGODB_DB": database_name}
    with serving(environment | {"PORT": port, "ENVIRONMENT": "development"}) as service:
        service.instructions()
        seen = pasted(lines.replace(":8000", f":{port}"))
    shown = [json.loads(line) for line in answers.splitlines()]
    assert len(seen) == len(shown)
    assert [(a, s) for a, s in zip(seen, shown, strict=True) if not alike(a, s)] == []


def test_a_client_that_is_registered_as_shown_works_in_the_app_as_shown(
    mongo_url: str, database_name: str, database: Database[Any]
) -> None:
    """The app runs as it stands, with the clients that are made by commands and in mongosh."""
    (commands,) = blocks(section(README, "Register a client"), "sh")
    run = CommandLine(mongo_url, database_name)
    lines = [shlex.split(line, comments=True) for line in commands.splitlines()]
    printed = [run(*words).stdout for _, *words in lines]
    client_id, secret = re.findall(r"^client_(?:id|secret) +(\S+)", printed[0], re.MULTILINE)
    assert client_id in printed[1]
    (line,) = blocks(section(README, "Register a client"), "js")
    mongosh(line, database)

    names: dict[str, Any] = {"__name__": "main"}
    exec(python_block("In your own app", mongo_url, database_name), names)  # noqa: S102
    app: FastAPI = names["app"]
    with TestClient(app) as http:
        for username, password in {client_id: secret, "reports": "typed by hand"}.items():
            answer = http.post("/token", data={"username": username, "password": password})
            bearer = {"Authorization": f"Bearer {answer.json()['access_token']}"}
            assert http.get("/reports", headers=bearer).json() == {"reports_of": username}
            assert http.delete("/reports", headers=bearer).status_code == 403
        assert http.get("/reports").status_code == 401
        assert http.portal is not None
        http.portal.call(names["mongo"].close)
    stored = database["clients"].find_one({"client_id": "reports"})
    assert stored is not None
    assert stored["client_secret"].startswith("scrypt$")


async def test_production_refuses_the_config_that_is_shown(database: Database[Any]) -> None:
    """Who copies the sample key into production is told so instead of being served."""
    (line,) = blocks(section(README, "Configuration"), "js")
    mongosh(line, database)
    document = database["config"].find_one({"_id": "jwt_config"})
    assert document is not None
    assert document["SECRET_KEY"] in SAMPLE_KEYS
    settings = settings_from(document)
    assert settings.issuer == "https://auth.example.com"
    assert len(weaknesses(settings)) == 1
    m2m = OAuth2M2M(database, environment="production")
    with pytest.raises(ConfigurationError, match="sample"):
        async with m2m.lifespan(FastAPI()):
            pass


#: How a field of the config is called in `Settings`, where its unit is in the name.
RENAMED = {
    "ACCESS_TOKEN_EXPIRE_MINUTES": ("access_token_lifetime", "minutes"),
    "REFRESH_TOKEN_EXPIRE_DAYS": ("refresh_token_lifetime", "days"),
    "REFRESH_GRACE_SECONDS": ("refresh_grace", "seconds"),
    "AUDIT_RETENTION_DAYS": ("audit_retention", "days"),
    "LEEWAY_SECONDS": ("leeway", "seconds"),
}


def test_the_configuration_table_names_every_field_with_its_default() -> None:
    """What the table says is what a config has that only names its key."""
    rows = table(section(README, "Configuration"), "field")
    shown = {codes(row[0])[0]: row[1] for row in rows}
    assert shown.pop("SECRET_KEY") == "made at random"
    settings = settings_from({"SECRET_KEY": "k" * 32})
    expected: dict[str, Any] = {}
    for name, default in shown.items():
        field, unit = RENAMED.get(name, (name.lower(), ""))
        value = shown[default.strip("`")] if default == "`ISSUER`" else default
        plain = json.loads(value.strip("`"))
        plain = timedelta(**{unit: plain}) if unit else plain
        expected[field] = tuple(plain) if isinstance(plain, list) else plain
    actual = {f.name: getattr(settings, f.name) for f in fields(Settings)}
    assert actual.pop("secret_key") == Secret("k" * 32)
    assert actual == expected


@pytest.mark.parametrize("row", table(section(README, "Configuration"), "field"), ids=str)
def test_the_configuration_table_gives_the_ranges(row: list[str]) -> None:
    """The ends of a range that the table gives are taken, and what lies beyond them is not."""
    ends = re.search(r"(\d+) to (\d+)", row[2])
    if ends is None:
        assert not row[1].strip("`").isdigit() or "0 switches" in row[2]
        return
    name = codes(row[0])[0]
    for good in map(int, ends.groups()):
        settings_from({"SECRET_KEY": "k" * 32, name: good})
    for bad in (int(ends[1]) - 1, int(ends[2]) + 1):
        with pytest.raises(ConfigurationError, match=name):
            settings_from({"SECRET_KEY": "k" * 32, name: bad})


def test_the_endpoint_table_is_that_of_the_app() -> None:
    """The table names what the OpenAPI document of the example names, and nothing else."""
    program = "import json, example.main; print(json.dumps(example.main.app.openapi()))"
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    paths = json.loads(printed)["paths"]
    served = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert {codes(row[0])[0] for row in table(section(README, "Endpoints"), "request")} == served


def subclasses(kind: type[OAuth2Error]) -> set[type[OAuth2Error]]:
    return {kind}.union(*map(subclasses, kind.__subclasses__()))


def test_the_error_table_is_that_of_the_error_tree() -> None:
    """Every status and code that can be answered stands in the table, and no other."""
    shown = {
        (int(status), codes(row[1])[0])
        for row in table(section(README, "Errors"), "status")
        for status in row[0].split(",")
    }
    assert shown == {(kind.status_code, kind.error) for kind in subclasses(OAuth2Error)}
