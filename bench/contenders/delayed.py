"""Ours, made slower by as many microseconds as a request's header `x-delay` says.

So that a test of time can show that it would see a difference that is there.
"""

import time

from starlette.types import Receive, Scope, Send

from bench.contenders.ours import app as ours


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Do nothing for so long, and pass the request on."""
    begun = time.perf_counter_ns()
    delay = dict(scope.get("headers", ())).get(b"x-delay", b"0")
    while time.perf_counter_ns() - begun < int(delay) * 1000:
        pass
    await ours(scope, receive, send)
