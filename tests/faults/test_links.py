"""What the proxies do with traffic, and whose they take it for."""

from __future__ import annotations

import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import pytest

from example.mongodb import HOST
from tests.faults.links import ALL, HARNESS, Links, Rule

#: For an answer that comes, on a busy machine.
ANSWER_SECONDS = 20.0
#: For an answer that must not come.
SILENCE_SECONDS = 0.3
CONNECTION_RESET = "reset"
NOTHING = "nothing"

#: Connects to a port, once, and then says what it is told, or what came of it.
CLIENT = f"""
import socket, sys
for line in sys.stdin:
    try:
        if line.startswith("connect"):
            server = socket.create_connection(("{HOST}", int(line.split()[1])))
            print("connected", flush=True)
            continue
        server.settimeout(float(line.split()[1]))
        server.sendall(line.split()[0].encode())
        print(server.recv(1000).decode() or "{CONNECTION_RESET}", flush=True)
    except TimeoutError:
        print("{NOTHING}", flush=True)
    except OSError:
        print("{CONNECTION_RESET}", flush=True)
"""
#: A parent that lets its child do so.
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


class Echo(socketserver.ThreadingTCPServer):
    """Sends back what it gets, and remembers it."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self) -> None:
        self.heard = b""
        super().__init__((HOST, 0), EchoHandler)

    def hears(self, text: bytes) -> bool:
        """Whether it gets this soon."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while text not in self.heard and time.monotonic() < deadline:
            time.sleep(0.01)
        return text in self.heard


class EchoHandler(socketserver.BaseRequestHandler):
    server: Echo

    def handle(self) -> None:
        """Serve one connection."""
        try:
            while data := self.request.recv(65536):
                self.server.heard += data
                self.request.sendall(data)
        except ConnectionError:
            pass


class Here:
    """A client in the test's own process."""

    def __init__(self, port: int) -> None:
        self.port, self.socket = port, socket.socket()

    def connect(self) -> None:
        """Open a connection to the target, in the place of one there was."""
        self.socket.close()
        self.socket = socket.create_connection((HOST, self.port))

    def ask(self, text: str, seconds: float = ANSWER_SECONDS) -> str:
        """Send a word, and give what comes back: else NOTHING, CONNECTION_RESET."""
        try:
            self.socket.settimeout(seconds)
            self.socket.sendall(text.encode())
            return self.socket.recv(1000).decode() or CONNECTION_RESET
        except TimeoutError:
            return NOTHING
        except OSError:
            return CONNECTION_RESET


class Elsewhere:
    """A client in a process of its own."""

    def __init__(self, port: int, process: subprocess.Popen[str]) -> None:
        self.port, self.process = port, process

    def connect(self) -> None:
        """Open a connection to the target, in the place of one there was."""
        assert self._say(f"connect {self.port}") == "connected"

    def ask(self, text: str, seconds: float = ANSWER_SECONDS) -> str:
        """Send a word, and give what comes back: else NOTHING, CONNECTION_RESET."""
        return self._say(f"{text} {seconds}")

    def _say(self, line: str) -> str:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@dataclass(frozen=True, slots=True)
class Network:
    links: Links
    echo: Echo
    port: int

    @contextmanager
    def here(self) -> Iterator[Here]:
        """A client that is connected."""
        client = Here(self.port)
        client.connect()
        with closing(client.socket):
            yield client

    @contextmanager
    def elsewhere(self, name: str, *, has_parent: bool = False) -> Iterator[Elsewhere]:
        """A client in a process which, or whose parent, is registered by this name."""
        program = [PARENT, CLIENT] if has_parent else [CLIENT]
        with subprocess.Popen(
            [sys.executable, "-c", *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            self.links.register(name, process.pid)
            client = Elsewhere(self.port, process)
            client.connect()
            assert client.ask("known") == "known"
            yield client
            self.links.forget(name)


@pytest.fixture
def network() -> Iterator[Network]:
    """A server that echoes, by the name of "echo", behind a proxy."""
    with Echo() as echo, Links() as links:
        thread = threading.Thread(target=echo.serve_forever, args=(0.01,))
        thread.start()
        yield Network(links, echo, links.add_target("echo", echo.server_address[1]))
        echo.shutdown()
        thread.join()


def test_everything_passes_without_a_rule(network: Network) -> None:
    """Megabytes go there and back, unchanged and in order, whoever reads slowly."""
    sent = b"".join(b"%07d\n" % number for number in range(1_000_000))
    with network.here() as client:
        client.socket.settimeout(ANSWER_SECONDS)
        sender = threading.Thread(target=client.socket.sendall, args=(sent,))
        sender.start()
        time.sleep(0.2)
        received = bytearray()
        while len(received) < len(sent):
            received += client.socket.recv(65536)
        sender.join()
    assert received == sent


def test_a_delay_holds_each_way_and_keeps_the_order(network: Network) -> None:
    """An answer takes twice the delay, and what follows at once does not wait once more."""
    with network.here() as client:
        assert client.ask("first") == "first"
        network.links.set(HARNESS, "echo", Rule(delay_ms=100))
        began = time.monotonic()
        assert client.ask("second") == "second"
        assert time.monotonic() - began >= 0.2
        began, received = time.monotonic(), ""
        for number in range(10):
            client.socket.sendall(str(number).encode())
            time.sleep(0.02)
        network.links.set(HARNESS, "echo", Rule())  # overtakes nothing
        while len(received) < 10:
            received += client.socket.recv(1000).decode()
        assert received == "0123456789"
        assert time.monotonic() - began < 2


def test_a_new_connection_is_as_slow(network: Network) -> None:
    """Its handshake takes a way there and back, too."""
    network.links.set(ALL, "echo", Rule(delay_ms=100))
    began = time.monotonic()
    with network.here() as client:
        assert client.ask("hello") == "hello"
    assert time.monotonic() - began >= 0.4


def test_what_stalls_stays_open_and_arrives_late(network: Network) -> None:
    """Old connections and new ones hang; what was sent goes on when the stall is over."""
    with network.here() as old:
        assert old.ask("before") == "before"
        network.links.set(HARNESS, "echo", Rule(stalled=True))
        with network.here() as new:
            assert old.ask("late", SILENCE_SECONDS) == NOTHING
            assert new.ask("later", SILENCE_SECONDS) == NOTHING
            assert b"late" not in network.echo.heard
            network.links.set(HARNESS, "echo", Rule())
            assert old.ask("").startswith("late")
            assert new.ask("").startswith("later")


def test_the_late_arrive_though_nobody_waits(network: Network) -> None:
    """A request whose client has given up and gone is delivered all the same."""
    with network.here() as client:
        network.links.set(HARNESS, "echo", Rule(stalled=True))
        assert client.ask("posthumous", SILENCE_SECONDS) == NOTHING
    network.links.set(HARNESS, "echo", Rule())
    assert network.echo.hears(b"posthumous")


def test_a_cut_link_resets_all(network: Network) -> None:
    """Connections end at once, new ones too, until the link is healed."""
    with network.here() as client:
        assert client.ask("before") == "before"
        network.links.set(HARNESS, "echo", Rule(cut=True))
        assert client.ask("during") == CONNECTION_RESET
        client.connect()
        assert client.ask("again") == CONNECTION_RESET
        network.links.heal()
        client.connect()
        assert client.ask("after") == "after"
    assert network.echo.heard == b"beforeafter"


def test_swallowed_replies_have_been_sent(network: Network) -> None:
    """The server has got the request and answered, and the client hears nothing of it."""
    with network.here() as client:
        assert client.ask("before") == "before"
        network.links.set(HARNESS, "echo", Rule(swallow_replies=True))
        assert client.ask("lost", SILENCE_SECONDS) == NOTHING
        assert network.echo.hears(b"lost")
        client.connect()
        assert client.ask("too", SILENCE_SECONDS) == NOTHING
        assert network.echo.hears(b"too")


@pytest.mark.parametrize("rule", [Rule(stalled=True), Rule(swallow_replies=True)])
def test_healing_resets_what_is_stuck(network: Network, rule: Rule) -> None:
    """What had lost bytes or hung begins anew, and what had nothing to lose goes on."""
    with network.here() as stuck, network.elsewhere("other") as sound:
        assert stuck.ask("before") == "before"
        network.links.set(HARNESS, "echo", rule)
        assert stuck.ask("lost", SILENCE_SECONDS) == NOTHING
        network.links.heal()
        assert stuck.ask("after") == CONNECTION_RESET
        assert sound.ask("after") == "after"
        stuck.connect()
        assert stuck.ask("again") == "again"


@pytest.mark.parametrize("has_parent", [False, True])
@pytest.mark.parametrize(
    ("rule", "answer"),
    [
        (Rule(stalled=True), NOTHING),
        (Rule(cut=True), CONNECTION_RESET),
        (Rule(swallow_replies=True), NOTHING),
    ],
)
def test_a_rule_is_for_its_source_alone(
    network: Network, rule: Rule, answer: str, has_parent: bool
) -> None:
    """Whoever connects is known by the process that is registered, or by its parent's."""
    with (
        network.elsewhere("worker", has_parent=has_parent) as worker,
        network.elsewhere("bystander") as bystander,
        network.here() as harness,
    ):
        network.links.set("worker", "echo", rule)
        assert worker.ask("old", SILENCE_SECONDS) == answer
        worker.connect()
        assert worker.ask("new", SILENCE_SECONDS) == answer
        for undisturbed in (bystander, harness):
            assert undisturbed.ask("good") == "good"
            undisturbed.connect()
            assert undisturbed.ask("good") == "good"


def test_of_two_rules_the_later_one_holds(network: Network) -> None:
    """So one source can be spared from what is done to all, or be the only one it is done to."""
    with network.elsewhere("worker") as worker, network.here() as harness:
        network.links.set(ALL, "echo", Rule(stalled=True))
        network.links.set("worker", "echo", Rule())
        assert worker.ask("spared") == "spared"
        assert harness.ask("stalled", SILENCE_SECONDS) == NOTHING
        network.links.set(ALL, ALL, Rule())
        assert harness.ask("") == "stalled"
        network.links.set(ALL, "another target", Rule(cut=True))
        assert harness.ask("passes") == "passes"


def test_who_sends_to_itself_is_never_disturbed(network: Network) -> None:
    """A machine without its network still reaches itself."""
    with network.elsewhere("echo") as itself:
        network.links.set(ALL, ALL, Rule(cut=True))
        assert itself.ask("here") == "here"


def test_nobody_listening_is_a_reset() -> None:
    """A dead target refuses as the kernel would."""
    with socket.socket() as nobody, Links() as links:
        nobody.bind((HOST, 0))
        client = Here(links.add_target("dead", nobody.getsockname()[1]))
        client.connect()
        with closing(client.socket):
            assert client.ask("anyone") == CONNECTION_RESET


def test_a_target_that_ends_ends_its_connections(network: Network) -> None:
    """As without a proxy: a killed server is noticed at once, and a client that left, too."""
    listener = socket.create_server((HOST, 0))
    client = Here(network.links.add_target("short-lived", listener.getsockname()[1]))
    with listener:
        client.connect()
        server, _ = listener.accept()
        with closing(client.socket):
            server.close()
            assert client.ask("anyone") == CONNECTION_RESET
        client.connect()
        server, _ = listener.accept()
        with closing(server):
            client.socket.sendall(b"here")
            server.settimeout(ANSWER_SECONDS)
            assert server.recv(10) == b"here"
            client.socket.close()
            assert server.recv(10) == b""
