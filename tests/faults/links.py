"""What goes wrong on a network: a TCP proxy before each server, with a rule for each pair.

Everybody reaches a target by its proxy's port on the loopback interface. A proxy knows who has
connected by the process that holds the other end of the connection, so that a link can be slow,
dead or half dead for one source while others use the same target undisturbed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar, cast

import uvloop

from example.mongodb import HOST

T = TypeVar("T")

#: The source of whoever is not registered.
HARNESS = "harness"
#: In a rule's place for a source or a target: all of them.
ALL = "*"
#: How much may wait for its time, in each direction of a connection, before no more is read.
WAITING_BYTES = 1024 * 1024
ANSWER_SECONDS = 10
#: Closing with an RST: linger, but for no time.
AT_ONCE = struct.pack("ii", 1, 0)

# Of <linux/netlink.h> and <linux/sock_diag.h>.
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
ANY_STATE = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Rule:
    """What a link does with traffic.

    Attributes:
        delay_ms: how long everything takes on its way, in each direction.
        stalled: nothing is forwarded in either direction; connections stay open, new ones are
            accepted and left hanging. What was sent arrives late when a rule that lets it pass
            is set, and never when the links are healed.
        cut: connections are reset, new ones too.
        swallow_replies: requests are forwarded, replies never are: half-open.
    """

    delay_ms: float = 0
    stalled: bool = False
    cut: bool = False
    swallow_replies: bool = False


PASS = Rule()


class Links:
    """Proxies before named targets. A context manager: they stop at its end.

    Rules are looked up by source and target; of two that fit, the later one holds. What a target
    sends to itself always passes, as it does on a machine that lost its network.
    """

    def __init__(self) -> None:
        self._rules: dict[tuple[str, str], Rule] = {}
        self._pids: dict[str, int] = {}
        self._connections: set[_Connection] = set()
        self._loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._recogniser = ThreadPoolExecutor(1, "recogniser")
        self._servers: list[asyncio.Server] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._recogniser.shutdown()
        self._loop.close()

    def add_target(self, name: str, port: int, host: str = HOST) -> int:
        """Put a proxy before a port, and give the port of this machine that it listens on."""

        async def listen() -> int:
            def connected() -> asyncio.Protocol:
                return _Connection(self, name, host, port).near

            server = await self._loop.create_server(connected, HOST, 0, backlog=1024)
            self._servers.append(server)
            listening: int = server.sockets[0].getsockname()[1]
            return listening

        return self._run(listen)

    def register(self, name: str, pid: int) -> None:
        """Connections of this process and its descendants come from the source `name`.

        To be called before the process connects: a connection keeps the source that it has.
        """
        self._pids = {**self._pids, name: pid}

    def forget(self, name: str) -> None:
        """The process has ended, and its number may be given to another."""
        self._pids = {other: pid for other, pid in self._pids.items() if other != name}

    def set(self, source: str, target: str, rule: Rule) -> None:
        """Have a rule hold between these two from now on, for connections that exist too.

        Args:
            source: a registered name, `HARNESS`, or `ALL`, which includes the harness.
            target: the name of a target, or `ALL`.
            rule: what happens to the traffic.
        """

        async def apply() -> None:
            self._rules.pop((source, target), None)  # the later one goes to the end
            self._rules[source, target] = rule
            for connection in list(self._connections):
                connection.apply(self.rule(connection.source, connection.target))

        self._run(apply)

    def heal(self) -> None:
        """Let everything pass again. Connections that are stalled or lost bytes are reset."""

        async def heal() -> None:
            self._rules.clear()
            for connection in list(self._connections):
                if connection.rule.stalled:
                    connection.reset()
                else:
                    connection.apply(PASS)

        self._run(heal)

    def rule(self, source: str | None, target: str) -> Rule:
        """What holds between these two."""
        if source == target:
            return PASS
        for (from_whom, to_whom), rule in reversed(self._rules.items()):
            if from_whom in (source, ALL) and to_whom in (target, ALL):
                return rule
        return PASS

    async def recognise(self, port: int, proxy: int) -> str:
        """The source of the connection from `port` to the port of a proxy."""
        pids = self._pids
        return await self._loop.run_in_executor(self._recogniser, _source, port, proxy, pids)

    def opened(self, connection: _Connection) -> None:
        """Remember a connection: rules will change while it lasts."""
        self._connections.add(connection)

    def closed(self, connection: _Connection) -> None:
        """Forget a connection of which nothing is left."""
        self._connections.discard(connection)

    def _run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something in the thread of the proxies, and wait until it is done."""

        async def doing() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(doing(), self._loop).result(ANSWER_SECONDS)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.reset()
        await asyncio.gather(*(each.opening for each in connections if each.opening))


class _End(asyncio.Protocol):
    """One end of a connection through a proxy. What comes in here goes out at the other end."""

    def __init__(self, connection: _Connection) -> None:
        self.connection = connection
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.waiting_bytes = 0
        self.timer: asyncio.TimerHandle | None = None
        self.is_full = False  # towards whoever is at this end
        self.is_reading = True
        self.has_ended = False

    @property
    def is_open(self) -> bool:
        """Whether something can be written here."""
        return self.transport is not None and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.connection.made(self)

    def data_received(self, data: bytes) -> None:
        connection = self.connection
        if connection.swallows(self):
            connection.lost_bytes = True
            return
        due = connection.loop.time() + connection.rule.delay_ms / 1000
        self.waiting.append((due, data))
        self.waiting_bytes += len(data)
        self.flow()

    def connection_lost(self, error: Exception | None) -> None:
        self.has_ended = True
        if self.connection.swallows(self):
            self.connection.lost_bytes = True  # that it has ended is a reply, too
        self.flow()
        self.connection.ended()

    def pause_writing(self) -> None:
        self.is_full = True
        if self.other:
            self.other.throttle()

    def resume_writing(self) -> None:
        self.is_full = False
        if self.other:
            self.other.throttle()

    def sets_out(self) -> None:
        """The way is open only now for what has come in so far."""
        due = self.connection.loop.time() + self.connection.rule.delay_ms / 1000
        self.waiting = deque((due, data) for _, data in self.waiting)
        self.flow()

    def flow(self) -> None:
        """Hand on what is due, and come back when more is."""
        if self.timer:
            self.timer.cancel()
            self.timer = None
        rule, other = self.connection.rule, self.other
        if other is not None and not rule.stalled:
            now = self.connection.loop.time()
            while self.waiting and self.waiting[0][0] <= now:
                _, data = self.waiting.popleft()
                self.waiting_bytes -= len(data)
                if other.transport is not None and other.is_open:
                    other.transport.write(data)
            if self.waiting:
                self.timer = self.connection.loop.call_at(self.waiting[0][0], self.flow)
            elif self.has_ended and other.transport and not self.connection.swallows(self):
                other.transport.close()
        self.throttle()

    def throttle(self) -> None:
        """Read no more than can be handed on."""
        is_blocked = self.other is None or self.other.is_full or self.connection.rule.stalled
        wanted = not is_blocked and self.waiting_bytes < WAITING_BYTES
        if self.transport is None or not self.is_open or wanted == self.is_reading:
            return
        self.is_reading = wanted
        if wanted:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def reset(self) -> None:
        """Close with an RST, at once."""
        self.waiting.clear()
        if self.timer:
            self.timer.cancel()
        if self.transport is not None and not self.has_ended:
            with suppress(OSError):
                there: socket.socket = self.transport.get_extra_info("socket")
                there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            self.transport.abort()


class _Connection:
    """A connection through a proxy: `near` is whoever connected, `far` the target."""

    def __init__(self, links: Links, target: str, host: str, port: int) -> None:
        self.links, self.target, self.host, self.port = links, target, host, port
        self.loop = asyncio.get_running_loop()
        self.source: str | None = None
        self.rule = PASS
        self.lost_bytes = False
        self.was_reset = False
        self.passable = asyncio.Event()
        self.near = _End(self)
        self.far = _End(self)
        self.far.other = self.near
        self.opening: asyncio.Task[None] | None = None

    def made(self, end: _End) -> None:
        """Called by each end once it is there."""
        if end is self.near:
            self.links.opened(self)
            self.near.throttle()
            self.opening = self.loop.create_task(self._open())

    async def _open(self) -> None:
        """Find out who has connected, and connect to the target as soon as the rule allows it."""
        transport = self.near.transport
        if transport is None:
            return
        peer, here = (transport.get_extra_info(name) for name in ("peername", "sockname"))
        self.source = await self.links.recognise(peer[1], here[1])
        self.apply(self.links.rule(self.source, self.target))
        await self.passable.wait()
        if self.rule.delay_ms and not self.was_reset:
            await asyncio.sleep(2 * self.rule.delay_ms / 1000)  # SYN, SYN-ACK
            await self.passable.wait()
        if self.was_reset:
            return
        try:
            await self.loop.create_connection(lambda: self.far, self.host, self.port)
        except OSError:  # nobody listens
            self.reset()
            return
        if self.was_reset:
            self.far.reset()
            return
        self.near.other = self.far
        self.near.sets_out()

    def apply(self, rule: Rule) -> None:
        """Go on by this rule."""
        self.rule = rule
        if rule.cut or (self.lost_bytes and not rule.swallow_replies):
            self.reset()
            return
        if rule.stalled:
            self.passable.clear()
        else:
            self.passable.set()
        self.near.flow()
        self.far.flow()

    def swallows(self, end: _End) -> bool:
        """Whether what comes from this end is lost."""
        return end is self.far and self.rule.swallow_replies

    def reset(self) -> None:
        """Close both ends with an RST."""
        self.was_reset = True
        self.passable.set()  # whoever waits there looks up
        self.near.reset()
        self.far.reset()
        self.ended()

    def ended(self) -> None:
        """Called by each end when it has ended."""
        if not self.near.has_ended:
            return
        has_begun = self.far.transport is not None
        if not has_begun and not self.near.waiting:
            self.was_reset = True  # nothing is left to be delivered
            self.passable.set()
        if self.far.has_ended or (not has_begun and self.was_reset):
            self.links.closed(self)


def _source(port: int, proxy: int, pids: Mapping[str, int]) -> str:
    """Whose connection it is: whoever has its socket open, see proc(5) on `/proc/<pid>/fd`."""
    inode = _inode(port, proxy) if pids else 0
    if not inode:
        return HARNESS  # nobody is registered, or it is gone already
    for name, pid in pids.items():
        if _holds(pid, inode):
            return name
    parents = _parents()
    for name, pid in pids.items():
        if any(_holds(child, inode) for child in _descendants(pid, parents)):
            return name
    return HARNESS


def _inode(port: int, proxy: int) -> int:
    """The inode of the socket that is bound to `port` and connected to `proxy`, both on HOST; or 0.

    Asked by sock_diag(7): `/proc/net/tcp` is slow where a load test has left thousands of rows.
    """
    host = socket.inet_aton(HOST) + bytes(12)
    no_cookie = bytes([255] * 8)
    ends = struct.pack("!HH", port, proxy) + host + host + bytes(4) + no_cookie
    request = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, ANY_STATE) + ends
    header = struct.pack("=IHHII", 16 + len(request), SOCK_DIAG_BY_FAMILY, 1, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        kernel.send(header + request)
        answer = kernel.recv(4096)
    (kind,) = struct.unpack_from("=H", answer, 4)
    if kind != SOCK_DIAG_BY_FAMILY:
        return 0
    inode: int = struct.unpack_from("=I", answer, 84)[0]
    return inode


def _holds(pid: int, inode: int) -> bool:
    """Whether a process has this socket open."""
    folder, wanted = f"/proc/{pid}/fd", f"socket:[{inode}]"
    try:
        descriptors = os.listdir(folder)  # noqa: PTH208  a path object for each is too slow here
    except OSError:  # it has ended
        return False
    # The newest descriptor is the likeliest.
    for descriptor in sorted(descriptors, key=int, reverse=True):
        with suppress(OSError):
            if os.readlink(f"{folder}/{descriptor}") == wanted:  # noqa: PTH115
                return True
    return False


def _parents() -> dict[int, int]:
    """The parent of each process of this machine."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                after_name = (folder / "stat").read_text().rpartition(")")[2].split()
                parents[int(folder.name)] = int(after_name[1])
    return parents


def _descendants(pid: int, parents: Mapping[int, int]) -> Iterator[int]:
    for child, parent in parents.items():
        if parent == pid:
            yield child
            yield from _descendants(child, parents)
