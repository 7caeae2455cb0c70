"""What users install: a typed wheel with the door as a package, and what it depends on."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]

# One worker builds the wheel, for all tests here.
pytestmark = pytest.mark.xdist_group("wheel")

PROGRAM = """\
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from fastapi import Depends, FastAPI, Security
from pymongo import AsyncMongoClient

from oauth2_m2m import AccessToken, Client, OAuth2M2M, ResourceServer, RouteAccess


class Scope(StrEnum):
    READ = "read"


class Role(StrEnum):
    ADMIN = "admin"


def tenant_of(client: Client, scope: frozenset[str]) -> dict[str, str]:
    return {"tenant": client.client_id}


async def hear(event: Mapping[str, Any]) -> None:
    print(event["event_type"])


m2m = OAuth2M2M(
    AsyncMongoClient("mongodb://localhost:27017").oauth2_m2m,
    scopes=Scope,
    extra_claims=tenant_of,
    on_event=hear,
)
app = FastAPI(lifespan=m2m.lifespan)
app.include_router(m2m.router)


@app.get("/hello")
async def hello(token: AccessToken = Security(m2m.access_token, scopes=[Scope.READ])) -> str:
    return token.client_id if Scope.READ in token.scopes else ""


@app.get("/admin", dependencies=[Depends(m2m.requires(Scope.READ, role=Role.ADMIN))])
async def admin() -> None: ...


async def register() -> None:
    await m2m.clients.register("billing", scopes=[Scope.READ], role=Role.ADMIN)


descriptions: dict[Scope, str] = {Scope.READ: "Read"}
api = ResourceServer(
    "https://a.example", audience="urn:api", scopes=descriptions, role_order=[Role.ADMIN]
)
assert all(route.access is not RouteAccess.OPEN for route in m2m.routes(app))
"""


def run(
    *command: str | Path, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built the way releases are: an sdist, and the wheel from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    build = run(sys.executable, "-m", "build", "--no-isolation", "-o", folder, ROOT, cwd=folder)
    assert build.returncode == 0, build.stdout + build.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def empty_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and its dependencies, but without this repository.

    The dependencies are this environment's own, so that no index has to be asked: a path file lends
    them, and does not lend the editable installation of the project, which is a path file itself.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = folder / "bin" / "python"
    install = run(
        *(sys.executable, "-m", "pip", "--python", python, "install"),
        *("--no-deps", "--no-index", "--disable-pip-version-check", wheel),
        cwd=folder,
    )
    assert install.returncode == 0, install.stdout + install.stderr
    (site_packages,) = folder.glob("lib/python3*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python


def check_types(program: str, python: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(program)
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", python)
    return run(*mypy, "program.py", cwd=folder)


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path) -> None:
    """The door is a package beside the private rooms, and both say that they are typed."""
    names = set(ZipFile(wheel).namelist())
    packages = {name for name in names if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in packages} == {"oauth2_m2m", "_oauth2_m2m"}
    assert {name for name in packages if name.startswith("oauth2_m2m/")} == {
        "oauth2_m2m/__init__.py",
        "oauth2_m2m/__main__.py",
        "oauth2_m2m/py.typed",
    }
    assert "_oauth2_m2m/py.typed" in packages
    rooms = {str(path.relative_to(ROOT)) for path in (ROOT / "_oauth2_m2m").rglob("*.py")}
    assert rooms - packages == {"_oauth2_m2m/cli/__main__.py"}  # which is the door's by now
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_a_users_program_runs(empty_environment: Path, tmp_path: Path) -> None:
    """The installed library is imported from the wheel, and no database is needed for that."""
    (tmp_path / "program.py").write_text(PROGRAM)
    look = "import program, oauth2_m2m; print(oauth2_m2m.__file__)"
    result = run(empty_environment, "-W", "error", "-c", look, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_relative_to(empty_environment.parents[1])


@pytest.mark.parametrize("how", ["script", "module"])
def test_the_command_line_is_installed(empty_environment: Path, tmp_path: Path, how: str) -> None:
    """`oauth2-m2m` and `python -m oauth2_m2m` are one command, with the exit codes of the page."""
    script = [empty_environment.with_name("oauth2-m2m")]
    command = script if how == "script" else [empty_environment, "-W", "error", "-m", "oauth2_m2m"]
    helped = run(*command, "--help", cwd=tmp_path)
    assert helped.returncode == 0, helped.stderr
    for group in ("clients", "config", "doctor", "keys", "secrets", "tokens"):
        assert group in helped.stdout
    assert "Usage: oauth2-m2m" in helped.stdout
    assert run(*command, "no-such-command", cwd=tmp_path).returncode == 2


def test_a_shell_completes_the_command_line(empty_environment: Path, tmp_path: Path) -> None:
    """The script that is installed names commands, and the options of each."""
    script = empty_environment.with_name("oauth2-m2m")
    for words, expected in [("ke", "keys"), ("tokens in", "inspect"), ("doctor --fa", "--fail-on")]:
        line = f"oauth2-m2m {words}"
        environment = {
            **os.environ,
            "_OAUTH2_M2M_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words.split())),
        }
        completed = run(script, cwd=tmp_path, env=environment)
        assert completed.stdout.split() == [expected], completed.stderr


def test_a_users_program_passes_the_strict_type_check(
    empty_environment: Path, tmp_path: Path
) -> None:
    """A user's first lines need no cast, no annotation and no ignore."""
    result = check_types(PROGRAM, empty_environment, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_users_mistake_is_seen_by_the_type_check(empty_environment: Path, tmp_path: Path) -> None:
    """The types are real: with everything `Any`, this would pass."""
    result = check_types(PROGRAM.replace("client_id", "clientid"), empty_environment, tmp_path)
    assert '"AccessToken" has no attribute "clientid"' in result.stdout


def test_every_import_is_a_declared_dependency(wheel: Path) -> None:
    """What works here because something else happens to install it would fail for a user."""
    with ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        headers = Parser().parsestr(archive.read(metadata).decode())
        sources = [archive.read(name) for name in archive.namelist() if name.endswith(".py")]
    declared = {
        one_spelling(re.split(r"[^\w.-]", requirement)[0])
        for requirement in headers.get_all("Requires-Dist", [])
    }
    known = packages_distributions()
    imported = {name for source in sources for name in imported_packages(source)}
    foreign = imported - set(sys.stdlib_module_names) - {"oauth2_m2m", "_oauth2_m2m"}
    # FastAPI and Starlette are one decision: FastAPI's own classes are Starlette's. Traces are made
    # where OpenTelemetry happens to be installed, and nowhere else.
    missing = {
        name
        for name in foreign - {"starlette", "opentelemetry"}
        if not declared & set(map(one_spelling, known.get(name, [])))
    }
    assert foreign, "the library imports nothing at all?"
    assert not missing


def one_spelling(distribution: str) -> str:
    """The name as the packaging specifications normalise it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def imported_packages(source: bytes) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names
