"""The bounds of docs/bounds.md at their edges: at the bound it works, one more is refused."""

from __future__ import annotations

import asyncio
import base64
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from pymongo import AsyncMongoClient, MongoClient, monitoring
from pymongo.database import Database

from _oauth2_m2m.compact_tokens import LONGEST_TOKEN
from _oauth2_m2m.deadlines import Deadline
from _oauth2_m2m.endpoints import route
from tests.assertions import es256_key, fields, jwks
from tests.attacks.wire import uvicorn
from tests.expectations import Log, expect_error
from tests.machine import Machine, basic, claims_of, new_machine, type_client
from tests.proofs import key
from tests.server import Server, configure, running

AnyClient = type[MongoClient[Any]] | type[AsyncMongoClient[Any]]

ISSUER = "http://localhost:8000"
LONGEST_BASIC = 20_480
CROWD = 300
#: What a worker uses of its pool, as the page says.
MOST_CONNECTIONS = 20


class Pool(monitoring.ConnectionPoolListener):
    """How many connections to MongoDB are in use.

    Attributes:
        most: how many were, at the most.
    """

    def __init__(self) -> None:
        self.most = self._in_use = 0

    def connection_checked_out(self, event: monitoring.ConnectionCheckedOutEvent) -> None:
        """One more."""
        self._in_use += 1
        self.most = max(self.most, self._in_use)

    def connection_checked_in(self, event: monitoring.ConnectionCheckedInEvent) -> None:
        """One less."""
        self._in_use -= 1

    def _nothing(self, event: object) -> None:
        """What else happens to a pool does not matter here."""

    pool_created = pool_ready = pool_cleared = pool_closed = _nothing
    connection_created = connection_ready = connection_closed = _nothing
    connection_check_out_started = connection_check_out_failed = _nothing


@pytest.mark.parametrize(
    ("length", "reason"),
    [
        (LONGEST_BASIC, "wrong secret"),
        (LONGEST_BASIC + 4, "malformed Basic header: too long"),
        (30_000_000, "malformed Basic header: too long"),
    ],
)
async def test_a_basic_header_has_a_bound(
    machine: Machine, log: Log, length: int, reason: str
) -> None:
    """Credentials of 20,480 characters are read and refused, longer ones are refused unread."""
    log.new()
    pair = f"{machine.client_id}:".encode().ljust(length // 4 * 3, b"x")
    headers = {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
    form = {"grant_type": "client_credentials"}
    response = await machine.http.post("/token", data=form, headers=headers)
    expect_error(response, 401, "invalid_client")
    known = machine.client_id if length == LONGEST_BASIC else None
    log.expect("login_failure", client_id=known, reason=reason)


@asynccontextmanager
async def pooled(
    kind: AnyClient, url: str, name: str, pool: Pool, **options: Any
) -> AsyncIterator[Server]:
    """A running server whose use of its connections is watched, once it has started."""
    mongo: Any = kind(url, event_listeners=[pool], **options)
    try:
        async with running(mongo[name]) as server:
            pool.most = 0
            yield server
    finally:
        closed = mongo.close()
        if inspect.isawaitable(closed):
            await closed


async def test_a_crowd_that_asks_for_health_shares_its_pings(
    mongo_url: str, database_name: str
) -> None:
    """However many ask at once, one ping at a time answers them all."""
    pool = Pool()
    async with (
        pooled(AsyncMongoClient, mongo_url, database_name, pool) as server,
        server.http() as http,
    ):
        answers = await asyncio.gather(*(http.get("/health") for _ in range(CROWD)))
    assert 200 in {answer.status_code for answer in answers}
    assert pool.most == 1


@pytest.mark.parametrize("connections", [1, 100])
@pytest.mark.parametrize("kind", [AsyncMongoClient, MongoClient])
async def test_a_crowd_uses_few_connections(
    mongo_url: str, database: Database[Any], kind: AnyClient, connections: int
) -> None:
    """Requests share commands and wait in our own queues: a pool of one is enough.

    A busy machine may take longer than a request has, which is 503 and never a hang.
    """
    configure(database)
    pool = Pool()
    async with pooled(kind, mongo_url, database.name, pool, maxPoolSize=connections) as server:
        machine = await new_machine(server)
        token = (await machine.get_token()).access
        answers = await asyncio.gather(
            *(machine.ask_token() for _ in range(CROWD // 2)),
            *(machine.call(token) for _ in range(CROWD // 2)),
        )
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {200, 503}
    assert 200 in statuses
    assert pool.most <= min(connections, MOST_CONNECTIONS)


@pytest.mark.parametrize("method", ["basic", "post", "plain"])
@pytest.mark.parametrize(("length", "status"), [(1024, 200), (1025, 401)])
async def test_a_secret_has_a_bound(
    server: Server, database: Database[Any], method: str, length: int, status: int
) -> None:
    """A typed secret of 1,024 characters works, and one of more is good for nothing."""
    secret = "x" * length
    machine = type_client(server, database, "typed", secret).using(method=method)
    assert (await machine.ask_token()).status_code == status


@pytest.mark.parametrize(("beyond", "status"), [(0, 200), (1, 401)])
async def test_an_assertion_has_a_bound(server: Server, beyond: int, status: int) -> None:
    """A client assertion of 16,384 characters is good, and one of more is not."""
    signer = es256_key("signer")
    await server.m2m.clients.register("signer", scopes=["read"], jwks=jwks(signer))
    assertion = padded(
        lambda pad: signer.assertion("signer", ISSUER, header={"x": pad[0]}, x=pad[1]), beyond
    )
    form = fields(assertion, grant_type="client_credentials")
    async with server.http() as http:
        assert (await http.post("/token", data=form)).status_code == status


@pytest.mark.parametrize(("beyond", "status"), [(0, 200), (1, 401)])
async def test_an_access_token_has_a_bound(
    machine: Machine, database: Database[Any], beyond: int, status: int
) -> None:
    """A guarded route reads a token of 16,384 characters, and none of more."""
    token = (await machine.get_token()).access
    config = database["config"].find_one() or {}
    header, claims = jwt.get_unverified_header(token), claims_of(token)
    long = padded(
        lambda pad: jwt.encode(
            {**claims, "x": pad[1]}, config["SECRET_KEY"], headers={**header, "x": pad[0]}
        ),
        beyond,
    )
    assert (await machine.call(long)).status_code == status


@pytest.mark.parametrize(("beyond", "status"), [(0, 200), (1, 400)])
async def test_a_proof_has_a_bound(machine: Machine, beyond: int, status: int) -> None:
    """A DPoP proof of 16,384 characters is good, and one of more is not."""
    proof = padded(
        lambda pad: key("proofs").proof("POST", f"{ISSUER}/token", header={"x": pad[0]}, x=pad[1]),
        beyond,
    )
    headers = {"DPoP": proof, "Authorization": basic(machine.client_id, machine.client_secret)}
    form = {"grant_type": "client_credentials"}
    response = await machine.http.post("/token", data=form, headers=headers)
    assert response.status_code == status


def padded(make: Callable[[tuple[str, str]], str], beyond: int) -> str:
    """A token of exactly the longest length, or beyond it by one, with so much in it."""
    longest = LONGEST_TOKEN + beyond
    lengths = {}
    for n in range(3):  # base64 has no text of every length, so both parts are made longer
        short = len(make(("x" * n, "")))
        for m in range((longest - short) * 3 // 4 - 3, (longest - short) * 3 // 4 + 4):
            token = make(("x" * n, "x" * m))
            lengths[len(token)] = token
    return lengths[longest]


async def test_a_body_has_its_time(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that takes longer is 408 and counted as a failure; the connection is closed."""
    monkeypatch.setattr(route, "BODY_DEADLINE", Deadline(1.0))
    headers = {"Content-Type": "application/x-www-form-urlencoded"}

    async def body(seconds: float) -> AsyncIterator[bytes]:
        yield b"grant_type=client_credentials&"
        await asyncio.sleep(seconds)
        yield f"client_id={machine.client_id}&client_secret={machine.client_secret}".encode()

    quick = await machine.http.post("/token", content=body(0.1), headers=headers)
    assert quick.status_code == 200
    slow = await machine.http.post("/token", content=body(30), headers=headers)
    expect_error(slow, 408, "invalid_request")
    assert slow.headers["connection"] == "close"


@pytest.mark.parametrize("protocol", ["httptools", "h11"])
async def test_headers_have_the_bounds_of_the_server(
    mongo_url: str, database_name: str, tmp_path: Path, protocol: str
) -> None:
    """The longest token passes uvicorn; where h11 reads, endless headers do not, as the page says.

    With httptools there is no bound, which is why the page asks for a proxy.
    """
    with uvicorn(mongo_url, database_name, tmp_path, "--http", protocol) as server:
        head = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: "
        assert server.send(head + b"x" * 16_384 + b"\r\n\r\n").statuses == [200]
        pieces = [head, *[b"x" * 8_192] * 4, b"\r\n\r\n"]
        answers = server.send(*pieces, pause=0.2)
        if protocol == "httptools":
            assert answers.statuses == [200]
        else:  # refused before the end; what is still sent may push its 400 off the line
            assert answers.closed
            assert answers.statuses in ([], [400])
