"""A replica set of real mongods on the loopback interface, whose members can be harmed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import pymongo
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from example.mongodb import HOST, find_mongod
from tests.faults.history import Dump
from tests.faults.links import ALL, HARNESS, PASS, Links, Rule
from tests.faults.processes import fake_clock, forget_clock, free_port
from tests.memory import fast_directory

Document = dict[str, Any]
T = TypeVar("T")

REPLICA_SET = "faults"
PORTS = range(20_000, 32_000)

READY_SECONDS = 60
STOP_SECONDS = 20
#: A member that does not answer the harness in this time is none that could be the primary.
ANSWER_SECONDS = 2
#: A write that a majority has in this time.
MAJORITY_SECONDS = 2
#: For how long a primary that stepped down leaves the election to others.
STEP_DOWN_SECONDS = 5
POLL_SECONDS = 0.05

#: What becomes of packets where a switch is broken.
LOST = Rule(stalled=True)
NO_CLOCKS: Mapping[int, int] = MappingProxyType({})

#: The files of a new member, and its journal while 100 MB of it are written.
SMALLEST_DISK_MB = 128
FILLING = "filling"
NO_ROOM = "No space left on device"


class ClusterError(Exception):
    """The cluster did not do what a scenario needs. The message says what, and what to do."""


class Member:
    """A mongod of the set.

    Attributes:
        name: "db0" and so on.
        port: the mongod's own port, for the harness alone.
        address: "host:port" of its proxy, by which it is known to everybody.
    """

    def __init__(self, name: str, folder: Path, command: list[str], links: Links) -> None:
        self.name = name
        self.port = free_port(PORTS)
        self.address = f"{HOST}:{links.add_target(name, self.port)}"
        self.data = folder / name
        self.output = folder / f"{name}.log"
        self.is_paused = False
        self.clock_offset = 0
        self.log_before_filling = 0
        self._command = command
        self._links = links
        self._process: subprocess.Popen[bytes] | None = None
        self.client = MongoClient[Document](
            HOST,
            self.port,
            directConnection=True,
            connect=False,
            serverSelectionTimeoutMS=500,
            connectTimeoutMS=1000,
            socketTimeoutMS=ANSWER_SECONDS * 1000,
            retryReads=False,
            retryWrites=False,
        )

    @property
    def pid(self) -> int:
        """The process of the mongod that was started last."""
        if self._process is None:
            raise ClusterError(f"{self.name} was never started")
        return self._process.pid

    def is_running(self) -> bool:
        """Whether the process exists; a paused one does."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the mongod, on the data that it has. Does not wait until it serves."""
        if self.is_running():
            return
        self.data.mkdir(parents=True, exist_ok=True)
        with self.output.open("ab") as stream:
            self._process = subprocess.Popen(
                [*self._command, "--port", str(self.port), "--dbpath", str(self.data)],
                env={**os.environ, **fake_clock(self.clock_offset)},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._links.register(self.name, self._process.pid)
        self.is_paused = False

    def kill(self) -> None:
        """End it in the middle of what it does (SIGKILL). What it gave to Linux is not lost."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order."""
        self.wake()
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Freeze the process: its connections stay open, and nothing moves."""
        self._signal(signal.SIGSTOP)
        self.is_paused = True

    def wake(self) -> None:
        """Let a paused process go on, as if no time had passed."""
        self._signal(signal.SIGCONT)
        self.is_paused = False

    def status(self) -> Document:
        """What it says about itself (the command `hello`); empty when it does not answer."""
        if not self.is_running() or self.is_paused:
            return {}
        try:
            return self.client.admin.command("hello")
        except PyMongoError:
            return {}

    def is_primary(self) -> bool:
        """Whether it accepts writes, and a majority takes them from it."""
        if not self.status().get("isWritablePrimary"):
            return False
        return self.note("majority")

    def note(self, w: int | str) -> bool:
        """Write a note that changes nothing, and tell whether so many members have it soon."""
        concern = WriteConcern(w, wtimeout=MAJORITY_SECONDS * 1000 - 200)
        note = {"appendOplogNote": 1, "data": {"from": HARNESS}, "writeConcern": concern.document}
        try:
            self.client.admin.command(note)
        except PyMongoError:
            return False
        return True

    def log(self) -> str:
        """All that it wrote into its log, in all its lives."""
        return self.output.read_text(errors="replace")

    def said(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log().splitlines()[-20:])

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        self._signal(number)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._links.forget(self.name)
        forget_clock(self.pid)
        self.is_paused = False


class Cluster:
    """The members, the links between everybody and them, and what can be done to both."""

    def __init__(self, members: list[Member], links: Links) -> None:
        self.members = members
        self.links = links
        addresses = ",".join(member.address for member in members)
        self.url = f"mongodb://{addresses}/?replicaSet={REPLICA_SET}"

    def primary(self, seconds: float = 30) -> Member:
        """The member that accepts writes which a majority takes, once there is one.

        Asks each member by its own port, whatever the links do.

        Raises:
            ClusterError: there was none in this time.
        """
        return self._wait("no primary", seconds, self._primary)

    def successor(self, former: Member, seconds: float = 30) -> Member:
        """The primary that the set has elected in the place of `former`."""

        def found() -> Member | None:
            return self._primary(besides=former)

        return self._wait(f"no primary after {former.name}", seconds, found)

    def secondaries(self) -> list[Member]:
        """The members that are no primary and follow one."""
        return [member for member in self.members if member.status().get("secondary")]

    def step_down(self) -> None:
        """Have the primary hand over to another member. Does not wait for the election."""
        command = {"replSetStepDown": STEP_DOWN_SECONDS, "secondaryCatchUpPeriodSecs": 4}
        with pymongo.timeout(STOP_SECONDS):
            self.primary().client.admin.command(command)

    def isolate(
        self,
        member: Member,
        *,
        from_members: bool = True,
        from_workers: bool = False,
        rule: Rule = LOST,
    ) -> None:
        """Cut a member off. The harness still reaches it.

        Args:
            member: which one.
            from_members: in both directions.
            from_workers: from everybody who is neither a member nor the harness.
            rule: how; by default as a broken switch does: packets vanish, connections stay open.
        """
        if from_workers:
            self.links.set(ALL, member.name, rule)
            self.links.set(HARNESS, member.name, PASS)
        for other in self.members:
            self.links.set(other.name, member.name, rule if from_members else PASS)
            self.links.set(member.name, other.name, rule if from_members else PASS)

    def fill_disk(self, member: Member) -> None:
        """Leave no byte free on its disk. Only in a cluster with small disks.

        MongoDB ends itself with the next write that does not fit.
        """
        if not member.data.is_mount():
            raise ClusterError("only small disks can be filled: ask for them by `disk_mb`")
        member.log_before_filling = len(member.log())
        with (member.data / FILLING).open("ab", buffering=0) as file, suppress(OSError):
            while file.write(bytes(64 * 1024)):
                pass

    def has_felt_its_disk(self, member: Member) -> bool:
        """Whether it wrote into its log since `fill_disk` that there was no room."""
        return NO_ROOM in member.log()[member.log_before_filling :]

    def free_disk(self, member: Member) -> None:
        """Give back what `fill_disk` took. A member that has ended is to be started again."""
        (member.data / FILLING).unlink(missing_ok=True)

    def heal(self) -> None:
        """Undo every fault, and wait until the set is whole again."""
        self.links.heal()
        for member in self.members:
            self.free_disk(member)
            member.wake()
            member.start()
        self.wait_until_healthy()

    def wait_until_healthy(self, seconds: float = READY_SECONDS) -> None:
        """Wait until there is a primary, and every other member has all that it has."""

        def healthy() -> bool | None:
            primary = self._primary()
            others = len(self.secondaries())
            is_whole = others == len(self.members) - 1
            return True if primary and is_whole and primary.note(len(self.members)) else None

        self._wait("not healthy", seconds, healthy)

    def client(self) -> MongoClient[Document]:
        """A client of the harness's own, by the proxies. To be closed by the caller."""
        return MongoClient[Document](self.url, tz_aware=True)

    def dump(self, database: str) -> Dump:
        """All documents of a database, once the set is healthy: what a majority has."""
        self.wait_until_healthy()
        concern = ReadConcern("majority")
        with self.client() as client, pymongo.timeout(READY_SECONDS):
            read = client.get_database(database, read_concern=concern)
            return Dump({name: list(read[name].find()) for name in read.list_collection_names()})

    def clean(self, database: str) -> None:
        """Drop a database, on a majority."""
        drop = {"dropDatabase": 1, "writeConcern": {"w": "majority"}}
        with pymongo.timeout(STOP_SECONDS):
            self.primary().client[database].command(drop)

    def _primary(self, besides: Member | None = None) -> Member | None:
        for member in self.members:
            if member is not besides and member.is_primary():
                return member
        return None

    def _wait(self, complaint: str, seconds: float, found: Callable[[], T | None]) -> T:
        deadline = time.monotonic() + seconds
        while True:
            result = found()
            if result is not None:
                return result
            if time.monotonic() > deadline:
                states = ", ".join(_state(member) for member in self.members)
                raise ClusterError(f"{complaint} after {seconds:.0f} s: {states}")
            time.sleep(POLL_SECONDS)


@contextmanager
def running_cluster(
    folder: Path | None = None,
    *,
    members: int = 3,
    election_ms: int = 2000,
    disk_mb: int | None = None,
    clock_offsets: Mapping[int, int] = NO_CLOCKS,
) -> Iterator[Cluster]:
    """Start a replica set, and stop it at the end.

    Args:
        folder: where data and logs are kept; by default in memory where there is room, and
            removed at the end.
        members: how many mongods.
        election_ms: after how long without a primary the others elect one; 10 000 in production.
        disk_mb: gives each member a disk of this size. Needs root.
        clock_offsets: by how many seconds the clock of the n-th member is ahead.
    """
    with ExitStack() as stack:
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="oauth2-m2m-faults-", dir=fast_directory()))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        links = stack.enter_context(Links())
        command = _command(find_mongod(folder), has_small_disk=disk_mb is not None)
        all_members = []
        for number in range(members):
            member = Member(f"db{number}", folder, command, links)
            member.clock_offset = clock_offsets.get(number, 0)
            if disk_mb is not None:
                stack.enter_context(_small_disk(member.data, disk_mb))
            stack.callback(member.client.close)
            stack.callback(member.kill)
            all_members.append(member)
            member.start()
        cluster = Cluster(all_members, links)
        _initiate(cluster, election_ms)
        yield cluster


def _command(mongod: Path, has_small_disk: bool) -> list[str]:
    """Small, and as durable as in production."""
    command = [str(mongod), "--replSet", REPLICA_SET, "--bind_ip", HOST, "--nounixsocket"]
    # Journal files are made when they are needed, not 200 MB of them in advance.
    command += ["--wiredTigerEngineConfigString", "log=(prealloc=false)"]
    command += ["--oplogSize", "64", "--wiredTigerCacheSizeGB", "0.25"]
    command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
    if has_small_disk:
        # A full disk is noticed when something is written to it: by checkpoints, each minute.
        command += ["--syncdelay", "1"]
    return command


@contextmanager
def _small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Mount a file system in memory at the folder, made when missing; and take it away."""
    if megabytes < SMALLEST_DISK_MB:
        raise ClusterError(f"mongod needs a disk of {SMALLEST_DISK_MB} MB at least")
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip()
        raise ClusterError(f"small disks are mounts, which root may make alone: {reason}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _initiate(cluster: Cluster, election_ms: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    for member in cluster.members:
        while not member.status():
            if not member.is_running() or time.monotonic() > deadline:
                raise ClusterError(f"{member.name} does not start:\n{member.said()}")
            time.sleep(POLL_SECONDS)
    config = {
        "_id": REPLICA_SET,
        "members": [
            {"_id": number, "host": member.address} for number, member in enumerate(cluster.members)
        ],
        "settings": {
            "electionTimeoutMillis": election_ms,
            "heartbeatIntervalMillis": election_ms // 4,
            "heartbeatTimeoutSecs": max(1, election_ms // 1000),
        },
    }
    cluster.members[0].client.admin.command("replSetInitiate", config)
    cluster.wait_until_healthy()


def _state(member: Member) -> str:
    if not member.is_running():
        return f"{member.name} dead"
    if member.is_paused:
        return f"{member.name} paused"
    status = member.status()
    for key in ("isWritablePrimary", "secondary"):
        if status.get(key):
            return f"{member.name} {key}"
    return f"{member.name} {'neither' if status else 'silent'}"
