"""docs/building-apps.md: its code runs, its commands answer, its tables are those of the code."""

from __future__ import annotations

import inspect
import shlex
import sys
import warnings
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
from pymongo.database import Database
from typer.testing import CliRunner

from _oauth2_m2m.cli import app as commands
from _oauth2_m2m.hooks import RESERVED_CLAIMS
from oauth2_m2m import Clients, RouteAccess
from tests.machine import claims_of
from tests.papers import blocks, codes, mongosh, paper, section, table
from tests.server import configure

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would rather have another HTTP library beneath it
    from starlette.testclient import TestClient

PAPER = paper("docs/building-apps.md")
URL = "mongodb://localhost:27017"


def app_of(title: str, mongo_url: str, database_name: str) -> tuple[str, list[str]]:
    """The app as it is shown, on the database of a test; and the blocks of a section."""
    app, _ = blocks(section(PAPER, "Scopes that are typed"), "python")
    assert URL in app
    app = app.replace(URL, mongo_url).replace("mongo.oauth2_m2m", f"mongo.{database_name}")
    more = blocks(section(PAPER, title), "python")
    return app, [each.replace("mongo.oauth2_m2m", f"mongo.{database_name}") for each in more]


def with_hook(title: str, mongo_url: str, database_name: str) -> str:
    """The app, with the hook that a section shows."""
    app, (block,) = app_of(title, mongo_url, database_name)
    head, _, rest = app.partition("m2m = OAuth2M2M")
    return f"{head}{block}{rest.partition(chr(10))[2]}"


def token_of(http: TestClient, names: dict[str, Any]) -> dict[str, str]:
    """Register the client that is shown, and get a token for it."""
    (_, block) = blocks(section(PAPER, "Scopes that are typed"), "python")
    exec(f"async def register():\n{indent(block, '    ')}\n    return billing", names)  # noqa: S102
    assert http.portal is not None
    billing = http.portal.call(names["register"])
    form = {"username": "billing", "password": billing.client_secret}
    body = http.post("/token", data=form).json()
    return {"Authorization": f"Bearer {body['access_token']}"}


def test_the_app_is_guarded_as_it_reads(
    mongo_url: str, database_name: str, database: Database[Any]
) -> None:
    """The client that is shown reads reports, deletes none, and the status is for everybody."""
    configure(database)
    names: dict[str, Any] = {"__name__": "yourapp"}
    app, _ = app_of("Scopes that are typed", mongo_url, database_name)
    exec(app, names)  # noqa: S102
    with TestClient(names["app"]) as http:
        bearer = token_of(http, names)
        answer = http.get("/reports", headers=bearer)
        assert answer.json() == {"reports_of": "billing", "may_delete": False}
        assert http.delete("/reports", headers=bearer).status_code == 403
        assert http.get("/status").json() == {"status": "fine"}
        assert http.portal is not None
        http.portal.call(names["mongo"].close)
    exec(app_of("No route left open", mongo_url, database_name)[1][0], names)  # noqa: S102


def test_the_commands_are_answered_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check passes on the app that is shown, without a database, from the current folder."""
    (app, _) = blocks(section(PAPER, "Scopes that are typed"), "python")
    (tmp_path / "yourapp.py").write_text(app, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("MONGODB_URL", "mongodb://127.0.0.1:1")
    lines = blocks(section(PAPER, "No route left open"), "sh")
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "oauth2-m2m"
        checked = CliRunner().invoke(commands, arguments)
        assert checked.exit_code == 0, checked.output
        assert "/reports" in checked.stdout
    sys.modules.pop("yourapp")
    assert len(lines) == 2


def test_the_accesses_are_those_of_the_code() -> None:
    """Each that a route may have is a row of the table, and no other."""
    rows = table(section(PAPER, "No route left open"), "access")
    assert [codes(row[0])[0] for row in rows] == [each.value for each in RouteAccess]


def test_an_order_is_set_as_shown(database: Database[Any]) -> None:
    """The line for mongosh makes a config that is taken."""
    configure(database)
    (line,) = blocks(section(PAPER, "An order of roles"), "js")
    mongosh(line, database)
    document = database["config"].find_one({})
    assert document is not None
    assert document["ROLE_ORDER"] == ["admin", "user"]


def test_claims_are_added_as_shown(
    mongo_url: str, database_name: str, database: Database[Any]
) -> None:
    """The hook that is shown is called for a token, and guards see its claim."""
    configure(database)
    names: dict[str, Any] = {"__name__": "yourapp"}
    exec(with_hook("Claims of your own", mongo_url, database_name), names)  # noqa: S102
    with TestClient(names["app"]) as http:
        bearer = token_of(http, names)
        assert claims_of(bearer["Authorization"])["tenant"] == "billing"
        assert http.get("/reports", headers=bearer).status_code == 200
        assert http.portal is not None
        http.portal.call(names["mongo"].close)


def test_the_claims_that_are_refused_are_those_of_the_code() -> None:
    """Whatever the page says may not be replaced is refused."""
    (line,) = [
        item for item in section(PAPER, "Claims of your own").split("\n- ") if "replace" in item
    ]
    assert set(codes(line)) <= RESERVED_CLAIMS


def test_events_are_heard_as_shown(
    mongo_url: str, database_name: str, database: Database[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The hook that is shown says when a refresh token comes back, once the app has ended."""
    configure(database)
    names: dict[str, Any] = {"__name__": "yourapp"}
    exec(with_hook("Hearing of events", mongo_url, database_name), names)  # noqa: S102
    with TestClient(names["app"]) as http:
        assert http.portal is not None
        register = names["m2m"].clients.register
        billing = http.portal.call(lambda: register("billing", scopes=["read"]))
        form = {"username": "billing", "password": billing.client_secret}
        spent = {"refresh_token": http.post("/token", data=form).json()["refresh_token"]}
        assert http.post("/refresh", json=spent).status_code == 200
        assert http.post("/refresh", json=spent).status_code == 401
        http.portal.call(names["mongo"].close)
    assert capsys.readouterr().out == "somebody may have stolen a token of billing\n"


def test_what_clients_can_have_are_arguments() -> None:
    """Each row names an argument of `register`."""
    rows = table(section(PAPER, "What single clients can have"), "argument")
    taken = inspect.signature(Clients.register).parameters
    assert [codes(row[0])[0] for row in rows if codes(row[0])[0] not in taken] == []
    assert len(rows) >= 7
