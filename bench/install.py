"""Install what the bench needs into .bench/, and wrk from Debian where it is missing.

Run by `make bench` with the system's Python, so it uses the standard library only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent
HOME = BENCH.parent / ".bench"
#: glewlwyd and those of its libraries that Debian 12 does not have anyway.
GLEWLWYD = (
    *("glewlwyd", "glewlwyd-common", "libconfig9", "libhoel1.4", "libiddawc1.1", "libmariadb3"),
    *("libmicrohttpd12", "liboath0", "liborcania2.3", "librhonabwy1.1", "libulfius2.7"),
    "libyder2.0",
)


def main() -> None:
    """Install what is missing or has changed."""
    HOME.mkdir(exist_ok=True)
    (HOME / ".gitignore").write_text("*\n")
    _install_wrk()
    _unpack_glewlwyd()
    python = HOME / "python"
    if _changed(BENCH / "requirements.txt", python):
        print("Installing the Python contenders into .bench/python", flush=True)
        _run(sys.executable, "-m", "venv", "--clear", str(python))
        pip = [str(python / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        _run(*pip, "--disable-pip-version-check", "-r", str(BENCH / "requirements.txt"))
        _remember(BENCH / "requirements.txt", python)
    node = HOME / "node"
    if _changed(BENCH / "package.json", node):
        print("Installing the Node.js contenders into .bench/node", flush=True)
        node.mkdir(exist_ok=True)
        shutil.copy(BENCH / "package.json", node / "package.json")
        _run(
            str(python / "bin" / "npm"),
            "install",
            "--no-package-lock",
            "--no-audit",
            "--no-fund",
            "--silent",
            at=node,
        )
        _remember(BENCH / "package.json", node)


def _unpack_glewlwyd() -> None:
    """Unpack it beside everything else: installed, it would start a service of the machine."""
    home = HOME / "glewlwyd"
    if home.exists() or not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return
    home.mkdir()
    try:
        _run("apt-get", "download", "--quiet", *GLEWLWYD, at=home)
        for package in home.glob("*.deb"):
            _run("dpkg-deb", "--extract", str(package), str(home))
            package.unlink()
    except subprocess.CalledProcessError:
        print("glewlwyd cannot be unpacked here, so it is left out", flush=True)


def _install_wrk() -> None:
    if shutil.which("wrk"):
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", "wrk"]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit(f"error: wrk is missing: install it first ({' '.join(command)})")
    _run("apt-get", "update", "--quiet")
    _run(*command)


def _changed(wanted: Path, home: Path) -> bool:
    installed = home / ".installed"
    return not installed.exists() or installed.read_text() != wanted.read_text()


def _remember(wanted: Path, home: Path) -> None:
    (home / ".installed").write_text(wanted.read_text())


def _run(*command: str, at: Path = BENCH.parent) -> None:
    subprocess.run(command, check=True, cwd=at)  # noqa: S603


if __name__ == "__main__":
    main()
