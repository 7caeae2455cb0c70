"""Deadlines: what `asyncio.timeout` does, for thousands of requests a second.

A timer of the event loop for each request costs more than reading its token. So all requests share
one, which looks at those that are under way a few times a second.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from types import TracebackType

#: How often the timer looks, and so how much earlier than its deadline a block may be ended.
TICK_SECONDS = 0.25


class Deadline:
    """Bounds blocks of code that wait: `with deadline():`.

    A block that would take longer than `seconds`, less a tick at the most, is cancelled and ends
    with `TimeoutError`. Blocks nest, also in those of `asyncio.timeout`.

    Args:
        seconds: how long a block may take.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        # One queue for each event loop: test clients start one loop after another.
        self._queues: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue] = (
            weakref.WeakKeyDictionary()
        )

    def __call__(self) -> _Block:
        """A block of the running task, from now on."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline bounds a task, and there is none")
        loop = asyncio.get_running_loop()
        queue = self._queues.get(loop)
        if queue is None:
            queue = self._queues[loop] = _Queue()
        block = _Block(task, loop.time() + max(self.seconds - TICK_SECONDS, 0.0))
        queue.add(block, loop)
        return block


class _Block:
    """One block, as long as it has a task."""

    __slots__ = ("_cancelling", "_expired", "task", "when")

    def __init__(self, task: asyncio.Task[object], when: float) -> None:
        self.task: asyncio.Task[object] | None = task
        self.when = when
        self._cancelling = task.cancelling()
        self._expired = False

    def expire(self) -> None:
        if self.task is not None:
            self._expired = True
            self.task.cancel()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        task, self.task = self.task, None
        # Somebody else may have cancelled the task as well: then it is to stop, not to time out.
        if self._expired and task is not None:
            others = task.uncancel() > self._cancelling
            if kind is asyncio.CancelledError and not others:
                raise TimeoutError from error


class _Queue:
    """The blocks of one event loop, in the order of their deadlines, for they all take as long."""

    __slots__ = ("__weakref__", "_blocks", "_ticking")

    def __init__(self) -> None:
        self._blocks: deque[_Block] = deque()
        self._ticking = False

    def add(self, block: _Block, loop: asyncio.AbstractEventLoop) -> None:
        self._blocks.append(block)
        if not self._ticking:
            self._ticking = True
            loop.call_later(TICK_SECONDS, self._tick, weakref.ref(loop))

    def _tick(self, loop_reference: weakref.ref[asyncio.AbstractEventLoop]) -> None:
        loop = loop_reference()
        if loop is None:
            return
        now = loop.time()
        while self._blocks and (self._blocks[0].task is None or self._blocks[0].when <= now):
            self._blocks.popleft().expire()
        self._ticking = bool(self._blocks)
        if self._ticking:
            loop.call_later(TICK_SECONDS, self._tick, loop_reference)
