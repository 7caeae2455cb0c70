"""docs/testing-apps.md: its blocks are a test suite that passes, and can fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.papers import ROOT, blocks, paper, section

PAGE = paper("docs/testing-apps.md")
(UNIT,) = blocks(section(PAGE, "Without a database"), "python")
APP, CONFTEST, TESTS = blocks(section(PAGE, "With a MongoDB"), "python")
(README_APP,) = blocks(section(paper("README.md"), "In your own app"), "python")


def outcome(folder: Path, files: dict[str, str], mongo_url: str, environment: str = "") -> str:
    """The last line of pytest in a folder with these files."""
    for name, text in files.items():
        (folder / name).write_text(text)
    variables = {**os.environ, "MONGODB_URL": mongo_url, "PYTHONPATH": str(ROOT)}
    variables |= {"ENVIRONMENT": environment} if environment else {}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, "--rootdir", str(folder)],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip().splitlines()[-1]


def test_the_unit_tests_pass_without_a_database(tmp_path: Path) -> None:
    """As they stand, with the app of the README, where no MongoDB answers."""
    app = README_APP.replace("localhost:27017", "127.0.0.1:1")
    files = {"yourapp.py": app, "test_reports.py": UNIT}
    assert outcome(tmp_path, files, "mongodb://127.0.0.1:1").startswith("2 passed")


@pytest.mark.parametrize(
    ("asked", "instead"), [('scopes=["read"]', "scopes=[]"), ('"admin", role="admin"', '"admin"')]
)
def test_the_unit_tests_fail_when_a_guard_is_missing(
    tmp_path: Path, asked: str, instead: str
) -> None:
    """Fake tokens hide neither a scope nor a role that a route forgets to ask for."""
    assert asked in README_APP
    tests = UNIT.replace(
        'headers = tokens.headers("read", client_id="billing")',
        'assert http.get("/reports", headers=tokens.headers("x")).status_code == 403\n'
        '    headers = tokens.headers("read", client_id="billing")',
    )
    files = {"yourapp.py": README_APP.replace(asked, instead), "test_reports.py": tests}
    assert outcome(tmp_path, files, "").startswith("1 failed, 1 passed")


def test_the_tests_with_a_database_pass(tmp_path: Path, mongo_url: str) -> None:
    """As they stand, on a real MongoDB; and in production they are refused."""
    files = {"yourapp.py": APP, "conftest.py": CONFTEST, "test_reports.py": TESTS}
    assert outcome(tmp_path, files, mongo_url).startswith("2 passed")
    assert outcome(tmp_path, files, mongo_url, "production").startswith("2 errors")
