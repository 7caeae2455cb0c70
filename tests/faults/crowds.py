"""Those who come to a worker without anything good: crowds, dawdlers, and senders of too much.

Each is a coroutine that says how its requests were answered: by status, 0 for a connection that
ended without an answer.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
from collections import Counter
from collections.abc import Awaitable, Iterable, Sequence

from example.mongodb import HOST

ANSWER_SECONDS = 20.0
#: Files that a process may have open, for thousands of connections.
WANTED_FILES = 8192
STRANGER = b"GET /protected HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer stranger\r\n\r\n"
#: What a dawdler sends, a byte at a time: it ends in the middle of the header or of the body.
IN_THE_HEADER = b"POST /token HTTP/1.1\r\nHost: x\r\nX-Dawdling: " + b"x" * 1000
IN_THE_BODY = (
    b"POST /token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Content-Length: 1000\r\n\r\n"
)
TOO_MUCH = 4 * 1024 * 1024
OVERSIZED = (
    b"POST /token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Content-Length: %d\r\n\r\n" % TOO_MUCH
)


def allow_many_files() -> None:
    """Let this process, and those that it will start, have thousands of connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def come_together(ports: Sequence[int], number: int) -> Counter[int]:
    """So many connections, open at the same time; then each asks."""
    barrier = asyncio.Barrier(number)

    async def one(port: int) -> int:
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            await barrier.wait()
            writer.write(STRANGER)
            return await _status(reader)
        finally:
            writer.close()

    return await _counted(one(port) for port in _in_turn(ports, number))


async def dawdle(ports: Sequence[int], number: int, seconds: float) -> Counter[int]:
    """So many connections that send a byte now and then, half of them not even a whole header."""

    async def one(port: int, start: bytes) -> int:
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            writer.write(start)
            answer = asyncio.ensure_future(_status(reader))
            for _ in range(int(seconds * 2)):
                await asyncio.wait([answer], timeout=0.5)
                if answer.done():
                    break
                writer.write(b"x")
            else:
                answer.cancel()
                return 0
            return await answer
        finally:
            writer.close()

    starts = itertools.cycle([IN_THE_HEADER, IN_THE_BODY])
    return await _counted(
        one(port, start) for port, start in zip(_in_turn(ports, number), starts, strict=False)
    )


async def send_too_much(ports: Sequence[int], number: int) -> Counter[int]:
    """So many requests at once with bodies of megabytes."""

    async def one(port: int) -> int:
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            answer = asyncio.ensure_future(_status(reader))
            writer.write(OVERSIZED)
            for _ in range(TOO_MUCH // 65536):
                writer.write(b"x" * 65536)
                await writer.drain()
                if answer.done():
                    break
            return await answer
        finally:
            writer.close()

    return await _counted(one(port) for port in _in_turn(ports, number))


def _in_turn(ports: Sequence[int], number: int) -> Iterable[int]:
    return itertools.islice(itertools.cycle(ports), number)


async def _status(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(ANSWER_SECONDS):
        line = await reader.readline()
    return int(line.split()[1]) if line else 0


async def _counted(requests: Iterable[Awaitable[int]]) -> Counter[int]:
    answers = await asyncio.gather(*requests, return_exceptions=True)
    return Counter(answer if isinstance(answer, int) else 0 for answer in answers)
