"""Bytes that a proxy in front and uvicorn behind it could read differently.

What a server answers twice, a proxy that saw one request gives to the next one's sender; what runs
as a second request has passed none of the proxy's checks.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient, MongoClient

from tests.attacks.wire import Uvicorn, registered, uvicorn
from tests.machine import Machine, audit, basic
from tests.server import configure

pytestmark = pytest.mark.xdist_group("smuggling")

FORM = b"Content-Type: application/x-www-form-urlencoded"
CHUNKED = b"Transfer-Encoding: chunked"
GRANT = b"grant_type=client_credentials"
#: Asks for what nobody in the tests asks for otherwise.
HIDDEN = b"GET /protected?hidden HTTP/1.1\r\nHost: hidden\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
ROUTE = b"/protected"
METADATA = b"/.well-known/oauth-authorization-server"


@contextmanager
def example(
    mongo_url: str, mongo_client: MongoClient[dict[str, Any]], folder: Path, *options: str
) -> Iterator[Uvicorn]:
    """The example on a database of its own, which must have got over all of it in the end."""
    name = f"oauth2_m2m_test_smuggling_{uuid.uuid4().hex}"
    configure(mongo_client[name])
    try:
        with uvicorn(mongo_url, name, folder, *options) as running:
            yield running
    finally:
        mongo_client.drop_database(name)
    log = running.output.read_text()
    assert "Traceback" not in log
    assert '" 500' not in log


@pytest.fixture(scope="module")
def server(
    mongo_url: str,
    mongo_client: MongoClient[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Uvicorn]:
    """The example as it runs with what we install, which is uvicorn's reader `httptools`."""
    folder = tmp_path_factory.mktemp("httptools")
    with example(mongo_url, mongo_client, folder) as running:
        yield running


@pytest.fixture(scope="module")
def lenient(
    mongo_url: str,
    mongo_client: MongoClient[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Uvicorn]:
    """The example under uvicorn's other reader, which takes more."""
    folder = tmp_path_factory.mktemp("h11")
    with example(mongo_url, mongo_client, folder, "--http", "h11") as running:
        yield running


@pytest.fixture
async def machine(mongo_url: str, server: Uvicorn) -> AsyncIterator[Machine]:
    """A client of the example."""
    async with AsyncMongoClient[dict[str, Any]](mongo_url) as client, server.http() as http:
        yield await registered(client[server.database], http)


def post(*headers: bytes, body: bytes = b"", path: bytes = b"/token") -> bytes:
    """A form to an endpoint."""
    lines = [b"POST %s HTTP/1.1" % path, b"Host: a", FORM, *headers]
    return b"\r\n".join([*lines, b"", body])


def get(*headers: bytes, target: bytes = b"/health/live", version: bytes = b"HTTP/1.1") -> bytes:
    """A request without a body."""
    return b"\r\n".join([b"GET %s %s" % (target, version), b"Host: a", *headers, b"", b""])


def length(body: bytes) -> bytes:
    return b"Content-Length: %d" % len(body)


#: What could be one request or two. A server may refuse it; it must not find a second one in it.
AMBIGUOUS = {
    "both lengths": post(
        length(LAST_CHUNK + HIDDEN), CHUNKED, body=LAST_CHUNK + HIDDEN
    ),
    "both lengths, the other way": post(CHUNKED, length(b"x"), body=LAST_CHUNK + HIDDEN),
    "two lengths": post(length(b""), length(HIDDEN), body=HIDDEN),
    "a list of lengths": post(b"Content-Length: 0, %d" % len(HIDDEN), body=HIDDEN),
    "a length with a plus": post(b"Content-Length: +%d" % len(HIDDEN), body=HIDDEN),
    "a negative length": post(b"Content-Length: -1", body=HIDDEN),
    "a length in hex": post(b"Content-Length: 0x0", body=HIDDEN),
    "an empty length": post(b"Content-Length:", body=HIDDEN),
    "a length of two words": post(b"Content-Length: 0 %d" % len(HIDDEN), body=HIDDEN),
    "a length with an underscore": post(b"Content-Length: 0_0", body=HIDDEN),
    "a length behind a bare LF": post(b"X: y\nContent-Length: %d" % len(HIDDEN), body=HIDDEN),
    "a space before the colon": post(b"Content-Length : %d" % len(HIDDEN), body=HIDDEN),
    "a folded length": post(b"X: y\r\n Content-Length: %d" % len(HIDDEN), body=HIDDEN),
    "another encoding": post(b"Transfer-Encoding: xchunked", body=LAST_CHUNK + HIDDEN),
    "an encoding after chunked": post(b"Transfer-Encoding: chunked, x", body=LAST_CHUNK + HIDDEN),
    "chunked twice": post(CHUNKED, CHUNKED, body=LAST_CHUNK + HIDDEN),
    "chunked, then a cow": post(CHUNKED, b"Transfer-Encoding: cow", body=LAST_CHUNK + HIDDEN),
    "a quoted encoding": post(b'Transfer-Encoding: "chunked"', body=LAST_CHUNK + HIDDEN),
    "a vertical tab": post(b"Transfer-Encoding: \x0bchunked", body=LAST_CHUNK + HIDDEN),
    "a NUL in the encoding": post(b"Transfer-Encoding: chunked\0", body=LAST_CHUNK + HIDDEN),
    "a space before the encoding's colon": post(
        b"Transfer-Encoding : chunked", body=LAST_CHUNK + HIDDEN
    ),
    "a folded encoding": post(b"Transfer-Encoding:\r\n chunked", body=LAST_CHUNK + HIDDEN),
    "an encoding behind a bare LF": post(
        b"X: y\nTransfer-Encoding: chunked", length(LAST_CHUNK + HIDDEN), body=LAST_CHUNK + HIDDEN
    ),
    "an encoding behind a bare CR": post(
        b"X: y\rTransfer-Encoding: chunked", length(LAST_CHUNK + HIDDEN), body=LAST_CHUNK + HIDDEN
    ),
    "chunks in HTTP/1.0": post(CHUNKED, body=LAST_CHUNK + HIDDEN).replace(b"/1.1", b"/1.0", 1),
    "a line break in an extension": post(CHUNKED, body=b"3;x\ny\r\na=b\r\n0\r\n\r\n" + HIDDEN),
    "a bare LF after a size": post(CHUNKED, body=b"3\na=b\r\n0\r\n\r\n" + HIDDEN),
    "a bare LF after a chunk": post(CHUNKED, body=b"3\r\na=b\n0\r\n\r\n" + HIDDEN),
    "no end of a chunk": post(CHUNKED, body=b"3\r\na=bXX0\r\n\r\n" + HIDDEN),
    "0x before a size": post(CHUNKED, body=b"0x3\r\na=b\r\n0\r\n\r\n" + HIDDEN),
    "a minus before a size": post(CHUNKED, body=b"-3\r\na=b\r\n0\r\n\r\n" + HIDDEN),
    "a plus before a size": post(CHUNKED, body=b"+3\r\na=b\r\n0\r\n\r\n" + HIDDEN),
    "an underscore in a size": post(CHUNKED, body=b"0_3\r\na=b\r\n0\r\n\r\n" + HIDDEN),
    "a space after the size of a chunk": post(CHUNKED, body=b"3 \r\na=b\r\n0\r\n\r\n" + HIDDEN),
    "a size beyond 64 bits": post(CHUNKED, body=b"1%016x\r\na=b\r\n0\r\n\r\n" % 3 + HIDDEN),
    "a length beyond 64 bits": post(b"Content-Length: %d" % (2**64 + 3), body=b"a=b" + HIDDEN),
    "a length among the trailers": post(
        CHUNKED, body=b"0\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN
    ),
    "a trailer behind a bare LF": post(CHUNKED, body=b"0\r\nX: y\n\r\n" + HIDDEN),
    "an old upgrade": get(b"Connection: Upgrade", b"Upgrade: h2c") + HIDDEN,
    "a tunnel": get(target=b"hidden:443").replace(b"GET", b"CONNECT", 1) + HIDDEN,
    "a body of GET": get(length(HIDDEN)) + HIDDEN,
    "a body that nobody reads": get(length(HIDDEN), target=b"/nowhere") + HIDDEN,
    "a body of HEAD": get(length(HIDDEN)).replace(b"GET", b"HEAD", 1) + HIDDEN,
    "a body beyond 64 KiB": post(b"Content-Length: 70000", body=HIDDEN.rjust(70_000, b"a")),
    "a second request in HTTP/1.0": get(version=b"HTTP/1.0") + HIDDEN,
    "a second request after Connection: close": get(b"Connection: close") + HIDDEN,
}  # fmt: skip


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_no_second_request_is_found_in_one(server: Uvicorn, name: str) -> None:
    """What one reader takes for one request has one answer, and hides no other request."""
    answers = await asyncio.to_thread(server.send, AMBIGUOUS[name])
    assert len(answers.statuses) == 1, answers
    assert answers.statuses[0] < 500
    assert "?hidden" not in server.output.read_text()


async def test_what_follows_a_request_has_none_of_its_credentials(
    server: Uvicorn, lenient: Uvicorn, machine: Machine
) -> None:
    """However a reader parts the bytes, a request that lacks its own token is let in nowhere."""
    tokens = await machine.get_token()
    bearer = b"Authorization: Bearer " + tokens.access.encode()
    served = await asyncio.to_thread(server.send, get(bearer, target=ROUTE))
    assert b"Hello" in served.text

    async def attack(reader: Uvicorn, name: str) -> None:
        text = AMBIGUOUS[name].replace(b"\r\n", b"\r\n%s\r\n" % bearer, 1)
        answers = await asyncio.to_thread(reader.send, text)
        assert b"Hello" not in answers.text, name
        assert all(status < 500 for status in answers.statuses), (name, answers)

    for reader in (server, lenient):
        await asyncio.gather(*(attack(reader, name) for name in AMBIGUOUS))


async def test_pipelined_requests_are_judged_one_by_one(server: Uvicorn, machine: Machine) -> None:
    """Each has its own answer, in turn, by its own credentials and no others."""
    good = (await machine.get_token()).access.encode()
    bearers = [good, b"bad", None, good, None]
    requests = [get(*([b"Authorization: Bearer " + b] if b else []), target=ROUTE) for b in bearers]
    answers = await asyncio.to_thread(server.send, b"".join(requests))
    assert answers.statuses == [200, 401, 401, 200, 401]


async def test_a_folded_header_brings_no_credentials(server: Uvicorn, machine: Machine) -> None:
    """A line that goes on another one (RFC 9112 section 5.2) is no header of its own."""
    good = (await machine.get_token()).access.encode()
    for fold in (b"X: y\r\n Authorization: Bearer ", b"X: y\r\n\tAuthorization: Bearer "):
        answers = await asyncio.to_thread(server.send, get(fold + good, target=ROUTE))
        assert answers.statuses[0] in {400, 401}


async def test_a_request_that_is_cut_off_is_none(
    server: Uvicorn, machine: Machine, mongo_client: MongoClient[dict[str, Any]]
) -> None:
    """Who hangs up before the promised end of a good body has asked for nothing."""
    credentials = basic(machine.client_id, machine.client_secret).encode()
    lines = [FORM, b"Authorization: " + credentials]
    for cut in (
        post(*lines, b"Content-Length: %d" % (len(GRANT) + 1), body=GRANT),
        post(*lines, CHUNKED, body=b"%x\r\n%s\r\n" % (len(GRANT), GRANT)),
        post(*lines, CHUNKED, body=b"%x\r\n%s\r\n0\r\n" % (len(GRANT), GRANT)),
    ):
        await asyncio.to_thread(server.send, cut, hang_up=True)
    await asyncio.sleep(0.5)
    records = audit(mongo_client[server.database], client_id=machine.client_id)
    assert [record["event_type"] for record in records] == []


ODD = {
    "an absolute target": get(target=b"http://evil.example/.well-known/oauth-authorization-server"),
    "two hosts": get(b"Host: evil.example", target=METADATA),
    "no host": get(target=METADATA).replace(b"Host: a\r\n", b""),
    "a host and more": get(target=METADATA).replace(b"Host: a", b"Host: evil.example/x?@#:1"),
    "another host": get(target=METADATA).replace(b"Host: a", b"Host: evil.example"),
    "an asterisk": get(target=b"*").replace(b"GET", b"OPTIONS", 1),
    "HTTP/0.9": b"GET /health/live\r\n\r\n",
    "HTTP/2 in the clear": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown version": get(version=b"HTTP/3.7"),
    "no version": get(version=b""),
    "a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "zeros": bytes(100) + b"\r\n\r\n",
    "a small method": get().replace(b"GET", b"get", 1),
    "an unknown method": get().replace(b"GET", b"STEAL", 1),
    "line breaks first": b"\r\n\r\n" + get(),
    "a NUL in a value": get(b"X: a\0b"),
    "a NUL in a name": get(b"X\0: ab"),
    "a NUL in the target": get(target=b"/health/live\0"),
    "a line break in the target, encoded": get(target=b"/%0d%0aX:%20y"),
    "bytes in the target": get(target=b"/\xff\xfe"),
    "a space in the target": get(target=b"/health/live x"),
    "tabs for spaces": get().replace(b" ", b"\t", 2),
    "a line without a colon": get(b"Colonless"),
    "a header without a name": get(b": x"),
    "a thousand headers": get(*(b"X-%d: y" % number for number in range(1_000))),
    "a header of 1 MB": get(b"X: " + b"y" * 1_000_000),
    "a target of 1 MB": get(target=b"/" + b"y" * 1_000_000),
    "a websocket": get(
        b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", target=ROUTE,
    ),
    "a chunk size with 3,000 zeros": post(CHUNKED, body=b"0" * 3000 + b"3\r\na=b\r\n0\r\n\r\n"),
    "an extension of 100 kB": post(CHUNKED, body=b"3;" + b"x" * 10**5 + b"\r\na=b\r\n0\r\n\r\n"),
    "an unknown expectation": post(b"Expect: miracles", length(GRANT), body=GRANT),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_request_is_refused_or_answered_like_any_other(
    server: Uvicorn, lenient: Uvicorn, name: str
) -> None:
    """No answer of 5xx, no address that the request has made up, and the next one is served."""
    for reader in (server, lenient):
        answers = await asyncio.to_thread(reader.send, ODD[name])
        first = [status for status in answers.statuses if status != 100][:1]
        assert first, answers
        assert first[0] < 500
        assert b"evil.example" not in answers.text
        assert (await _lives(reader)) == 200


async def _lives(reader: Uvicorn) -> int:
    async with reader.http() as http:
        return (await http.get("/health/live")).status_code
