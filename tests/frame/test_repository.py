"""The repository itself: where packages come from, what no file names, where imports point."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from _oauth2_m2m import ORDER

ROOT = Path(__file__).parents[2]
ROOMS = ROOT / "_oauth2_m2m"

# Written so that this file does not match them itself.
FORBIDDEN = {
    "a package registry's host": re.compile(
        r"(?:py[p]i\.(?:org|io)|python[h]osted\.org|npm[j]s\.(?:org|com)|yarn[p]kg\.com"
        r"|deb[.]debian\.org|debian\.org[/]debian|crates[.]io|proxy[.]golang\.org)"
    ),
    "a path of somebody's machine": re.compile(
        r"(?<![\w.~$})>/*-])/(?:home|root|Users|work|farm|mnt|private)/[\w.]"
    ),
}


def tracked_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if (ROOT / name).is_file()]


def test_the_pipfile_names_no_source() -> None:
    """Packages come from the index that the reader's pip is configured for."""
    assert "source" not in tomllib.loads((ROOT / "Pipfile").read_text())


def test_the_lock_names_no_source_and_hashes_every_package() -> None:
    """`pipenv lock` alone would write one; `make lock` takes it out again."""
    lock = json.loads((ROOT / "Pipfile.lock").read_text())
    packages = lock["default"] | lock["develop"]
    assert lock["_meta"]["sources"] == []
    assert not [name for name, package in packages.items() if "index" in package]
    unhashed = [name for name, package in packages.items() if not package.get("hashes")]
    assert unhashed == ["oauth2-m2m"]


def test_the_lock_holds_what_the_pipfile_asks_for() -> None:
    """A package added to the Pipfile is locked in the same commit."""
    pipfile = tomllib.loads((ROOT / "Pipfile").read_text())
    lock = json.loads((ROOT / "Pipfile.lock").read_text())
    assert pipfile["packages"].keys() <= lock["default"].keys()
    assert pipfile["dev-packages"].keys() <= lock["develop"].keys() | lock["default"].keys()


def test_the_npm_lock_names_no_source_and_hashes_every_package() -> None:
    """Node's packages come from the registry that the reader's npm is configured for."""
    lock = json.loads((ROOT / "tests/interop/node/package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    for package in packages.values():
        package.pop("funding", None)  # whom to thank, not where to look
    assert [name for name, package in packages.items() if not package.get("integrity")] == []
    assert not re.findall(r'"resolved"|\w+://[^"]*', json.dumps(packages))


def test_the_npm_lock_holds_what_the_package_asks_for() -> None:
    """Versions are exact, so that an upgrade is a change that somebody made."""
    folder = ROOT / "tests/interop/node"
    asked = json.loads((folder / "package.json").read_text())["dependencies"]
    lock = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert asked == {name: lock[f"node_modules/{name}"]["version"] for name in asked}


@pytest.mark.parametrize("pattern", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_no_tracked_file_names(pattern: re.Pattern[str]) -> None:
    """The repository works on any machine, with any index."""
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked_files()
        for match in pattern.finditer(path.read_text(errors="replace"))
    ]
    assert not found


def test_the_patterns_find_what_they_are_for() -> None:
    """A pattern that matches nothing would prove nothing."""
    host, path = FORBIDDEN.values()
    assert host.search("url = https://{}/simple".format("pypi" + ".org"))
    assert host.search("https://files.{}/packages".format("python" + "hosted.org"))
    for prefix in ("/home", "/root", "/Users"):
        assert path.search(f"cd {prefix}/somebody/oauth2")
        assert path.search(f'"{prefix}/somebody"')
        assert not path.search(f"https://example.com{prefix}/somebody")


def test_every_room_stands_in_the_order() -> None:
    """A room that is not listed would escape the next test."""
    rooms = {path.stem for path in ROOMS.iterdir() if path.suffix == ".py" or is_package(path)}
    assert rooms - {"__init__"} == set(ORDER)
    assert len(ORDER) == len(set(ORDER))


def test_rooms_import_only_rooms_below_them() -> None:
    """Whoever reads from the bottom up never meets a thing that is not explained yet."""
    upward = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for path in sorted(ROOMS.rglob("*.py"))
        for line, target in imported_rooms(path)
        if not points_down(room_of(path), target)
    ]
    assert not upward


def is_package(path: Path) -> bool:
    return (path / "__init__.py").is_file()


def room_of(path: Path) -> str:
    """The room that a file belongs to: `grants` for `grants/refresh_token.py`."""
    return path.relative_to(ROOMS).parts[0].removesuffix(".py")


def points_down(room: str, target: str) -> bool:
    if room == "__init__" or target not in ORDER:
        return False
    return room == target or ORDER.index(target) < ORDER.index(room)


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """The rooms that a file imports, with the line. The door counts: it is above all of them."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            modules = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for module in modules:
            first, _, rest = module.partition(".")
            if first == "oauth2_m2m":
                yield node.lineno, "the door"
            elif first == "_oauth2_m2m":
                yield node.lineno, rest.split(".")[0]
