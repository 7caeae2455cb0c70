"""`python -m example`, as a stranger meets it: start, paste the lines, Ctrl-C, start again."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import requests

from example.mongodb import HOST, free_port
from tests.example_service import READY_SECONDS, ROOT, pasted, serving

pytestmark = pytest.mark.xdist_group("starts_mongod")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A stranger's environment, with ports and a data directory of its own."""
    inherited = {name: value for name, value in os.environ.items() if name != "MONGODB_URL"}
    return inherited | {
        "PORT": str(free_port()),
        "MONGODB_PORT": str(free_port()),
        "DATA_DIRECTORY": str(tmp_path / "data"),
    }


def is_open(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, int(port))) == 0


def test_the_printed_lines_work_and_so_does_a_second_start(environment: dict[str, str]) -> None:
    """Every line does what it is there for, and Ctrl-C leaves nothing behind but the data."""
    for number in (signal.SIGINT, signal.SIGTERM):
        with serving(environment) as service:
            answers = pasted(service.instructions())
            assert service.stop(number) == 0
        token, protected, admin, refreshed, revoked, refused, user, user_not_admin = answers
        assert token["token_type"] == "bearer"
        assert set(str(token["scope"]).split()) == {"read", "write", "admin"}
        assert protected["message"] == "Hello test_client, you have accessed a protected route!"
        assert admin["message"] == "Welcome Admin test_client!"
        assert refreshed["refresh_token"] != token["refresh_token"]
        assert revoked["message"] == "Token revoked successfully"
        assert refused["error"] == "invalid_token"
        assert user["message"] == "Hello user_client, you have accessed a protected route!"
        assert user_not_admin["error"] == "insufficient_scope"
        assert "Traceback" not in "".join(service.output)
        assert not is_open(environment["PORT"])
        assert not is_open(environment["MONGODB_PORT"])


def test_the_command_line_finds_the_database_that_was_started(environment: dict[str, str]) -> None:
    """The lines for another terminal work as pasted, from any folder."""
    with serving(environment) as service:
        service.instructions()
        lines = service.other_terminal()
        shell = subprocess.run(
            ["bash", "-eu"],
            input=lines,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert shell.returncode == 0, shell.stderr
        assert "plain-http-issuer" in shell.stdout
        assert "Usage: oauth2-m2m" in shell.stdout


def test_standard_clients_find_what_is_served_on_any_port(environment: dict[str, str]) -> None:
    """The issuer is the address that is served now, unless somebody named one elsewhere."""
    for port in (environment["PORT"], str(free_port())):
        with serving(environment | {"PORT": port}) as service:
            service.instructions()
            address = f"http://{HOST}:{port}"
            metadata = requests.get(
                f"{address}/.well-known/oauth-authorization-server", timeout=10
            ).json()
        assert metadata["issuer"] == address
        assert metadata["token_endpoint"] == f"{address}/token"


def refusal(environment: Mapping[str, str]) -> str:
    """What a start that cannot succeed prints: one line, and exit code 1."""
    result = subprocess.run(
        [sys.executable, "-m", "example"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=READY_SECONDS,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert re.fullmatch(r"error: [^\n]+\n", result.stderr)
    return result.stderr


@pytest.mark.parametrize("name", ["PORT", "MONGODB_PORT"])
def test_a_taken_port_is_one_line(environment: dict[str, str], name: str) -> None:
    """The line names the variable that chooses another port, and nothing is left running."""
    with socket.create_server((HOST, 0)) as somebody:
        environment[name] = str(somebody.getsockname()[1])
        line = refusal(environment)
    assert environment[name] in line
    assert f"{name}" in line
    assert not is_open(environment["MONGODB_PORT"])


def test_a_port_that_is_no_number_is_one_line(environment: dict[str, str]) -> None:
    """A typing mistake is answered in words."""
    assert "PORT is '80a'" in refusal(environment | {"PORT": "80a"})


def test_an_unreachable_mongodb_is_one_line(environment: dict[str, str]) -> None:
    """The line names the address, but not the password in it."""
    url = f"mongodb://user:hunter2@{HOST}:{free_port()}"
    line = refusal(environment | {"MONGODB_URL": url})
    assert "MongoDB does not answer" in line
    assert "hunter2" not in line
