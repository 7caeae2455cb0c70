"""Web servers of other people, on 127.0.0.1: they answer as they are told, and count."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

#: Writes an answer to a request's head.
Reply = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Site:
    """One web server.

    Attributes:
        requests: the heads of the requests so far.
        reply: what it answers.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.reply: Reply = self.body(b"", "404 Not Found")
        self.port = 0
        self._connections: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """A URL of it."""
        return f"http://127.0.0.1:{self.port}/keys.json"

    def raw(self, *parts: bytes, pause: float = 0.0) -> Reply:
        """Answer with these bytes, with pauses between them."""

        async def reply(request: bytes, writer: asyncio.StreamWriter) -> None:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause)

        return reply

    def body(self, body: bytes, status: str = "200 OK", headers: str = "") -> Reply:
        """Answer with a body."""
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        return self.raw(head.encode() + body)

    def document(self, value: Any) -> Reply:
        """Answer with a JSON document."""
        return self.body(json.dumps(value).encode(), headers="Content-Type: application/json\r\n")

    async def asked(self, times: int) -> None:
        """Wait until it was asked so many times."""
        async with asyncio.timeout(30):
            while len(self.requests) < times:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, for one request."""
        self._connections.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            request = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(request.decode())
            await self.reply(request, writer)
        await self._close(writer)

    async def close(self) -> None:
        """End what is under way."""
        for writer in list(self._connections):
            writer.transport.abort()
            await self._close(writer)

    async def _close(self, writer: asyncio.StreamWriter) -> None:
        self._connections.discard(writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    """Start a web server, and stop it afterwards."""
    site = Site()
    server = await asyncio.start_server(site.handle, "127.0.0.1", 0, ssl=tls)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()
        await site.close()
