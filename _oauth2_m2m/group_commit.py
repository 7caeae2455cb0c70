"""Group commit: many requests, one database command.

While one command is in flight, questions queue; when it returns, one command answers all that
queued. An answer therefore always comes from a command *sent after its question was asked*, so
nothing is weaker than one command each: not freshness, not durability. Under no load a batch is
one question and costs one round trip.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import traceback
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from _oauth2_m2m import tracing
from _oauth2_m2m.errors import OAuth2Error, TemporarilyUnavailable
from _oauth2_m2m.metrics import QueueMetrics

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

Q = TypeVar("Q")
A = TypeVar("A")

LARGEST_BATCH = 500
MOST_WAITING = 10_000

_log = logging.getLogger("oauth2_m2m")


class GroupCommit(Generic[Q, A]):
    """Answers the questions that wait with one command.

    Args:
        command: answers a batch: as many answers as questions, in their order. What it raises
            reaches every question of the batch.
        largest_batch: how many questions one command may answer.
        most_waiting: how many questions may wait; one more is refused at once.
        metrics: where its batches are counted, if anywhere.
    """

    def __init__(
        self,
        command: Callable[[Sequence[Q]], Awaitable[Sequence[A]]],
        *,
        largest_batch: int = LARGEST_BATCH,
        most_waiting: int = MOST_WAITING,
        metrics: QueueMetrics | None = None,
    ) -> None:
        self._command = command
        self._metrics = metrics
        self._largest_batch = largest_batch
        self._most_waiting = most_waiting
        # A queue lives and dies with its event loop: test clients start one loop after another.
        self._lanes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Lane[Q, A]] = (
            weakref.WeakKeyDictionary()
        )
        self._lane: _Lane[Q, A] | None = None  # the one that was used last

    def ask(self, question: Q) -> Awaitable[A]:
        """Queue a question now; await the answer when it is needed.

        Cancelling the one who waits cancels neither the batch nor anybody else.

        Raises:
            TemporarilyUnavailable: too many questions wait already, or the command failed.
        """
        loop = asyncio.get_running_loop()
        lane = self._lane
        if lane is None or lane.loop() is not loop:
            lane = self._lane = self._lanes.setdefault(loop, _Lane(loop))
        if lane.waiting >= self._most_waiting:
            if self._metrics is not None:
                self._metrics.full()
            raise TemporarilyUnavailable(detail="too many requests are waiting for the database")
        if not lane.batches or len(lane.batches[-1].questions) >= self._largest_batch:
            lane.batches.append(_Batch(None if self._metrics is None else tracing.current()))
        batch = lane.batches[-1]
        batch.questions.append(question)
        lane.waiting += 1
        if lane.worker is None:
            # An empty context: the first asker's deadlines and traces are not everybody's.
            lane.worker = loop.create_task(self._work(lane), context=contextvars.Context())
            lane.worker.add_done_callback(lane.end)
        return _Answer(batch, len(batch.questions) - 1)

    async def drain(self) -> None:
        """Wait until every question asked so far in this event loop has its answer."""
        lane = self._lanes.get(asyncio.get_running_loop())
        if lane is not None and lane.worker is not None:
            await asyncio.wait([lane.worker])

    async def _work(self, lane: _Lane[Q, A]) -> None:
        while lane.batches:
            batch = lane.batches.popleft()
            lane.waiting -= len(batch.questions)
            if self._metrics is None:
                await self._answer(batch)
            else:
                await self._answer_and_count(batch, lane, self._metrics)
        lane.worker = None  # at once, so that the next question starts another

    async def _answer_and_count(
        self, batch: _Batch[Q, A], lane: _Lane[Q, A], metrics: QueueMetrics
    ) -> None:
        size, began = len(batch.questions), perf_counter()
        with tracing.span("batch", cause=batch.cause, queue=metrics.name, size=size):
            await self._answer(batch)
        metrics.answered(
            size,
            waited=began - batch.opened_at,
            took=perf_counter() - began,
            waiting=lane.waiting,
            failed=batch.failure is not None,
        )

    async def _answer(self, batch: _Batch[Q, A]) -> None:
        try:
            answers = await self._command(batch.questions)
            if len(answers) != len(batch.questions):
                raise AssertionError("a batch command must answer every question")
            batch.answers = answers
            batch.end()
        except Exception as error:
            if not isinstance(error, TemporarilyUnavailable):
                _log.error("a batch of database work failed: %s", _place(error))
            batch.fail(error)
        except BaseException:
            batch.fail(_shutting_down())
            raise


def together(
    *commands: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]],
) -> Callable[[Sequence[tuple[Any, ...]]], Awaitable[Sequence[tuple[Any, ...]]]]:
    """Several batch commands as one, sent side by side: one round to the database.

    A question is a tuple with a question for each command, `None` for one that it does not ask; so
    is the answer. When one command fails, the batch fails, after all of them have ended.
    """

    async def command(questions: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
        columns = [
            _answer_column(each, column)
            for each, column in zip(commands, zip(*questions, strict=True), strict=True)
        ]
        return list(zip(*await _all_of(columns), strict=True))

    return command


async def _answer_column(
    command: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]], column: Sequence[Any]
) -> Sequence[Any]:
    asked = [question for question in column if question is not None]
    if not asked:
        return column
    answers = await command(asked)
    if len(answers) != len(asked):
        raise AssertionError("a batch command must answer every question")
    in_turn = iter(answers)
    return [None if question is None else next(in_turn) for question in column]


async def _all_of(work: Sequence[Coroutine[Any, Any, Sequence[Any]]]) -> list[Sequence[Any]]:
    """The results of all; when one fails, its error, once nothing is under way any more."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


class _Batch(Generic[Q, A]):
    """Questions that one command answers, and those who wait for it.

    Args:
        cause: the span of the first question, if it has one.
    """

    __slots__ = ("answers", "cause", "ended", "failure", "opened_at", "questions", "waiters")

    def __init__(self, cause: SpanContext | None) -> None:
        self.cause = cause
        self.opened_at = perf_counter()
        self.questions: list[Q] = []
        self.answers: Sequence[A] = ()
        self.failure: Exception | None = None
        self.ended = False
        self.waiters: list[asyncio.Future[None]] = []

    def fail(self, error: Exception) -> None:
        self.failure = error
        self.end()

    def end(self) -> None:
        self.ended = True
        for waiter in self.waiters:
            if not waiter.done():  # else it was cancelled
                waiter.set_result(None)


class _Lane(Generic[Q, A]):
    """The queue of one event loop."""

    __slots__ = ("__weakref__", "batches", "loop", "waiting", "worker")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self.batches: deque[_Batch[Q, A]] = deque()
        self.waiting = 0
        self.worker: asyncio.Task[None] | None = None

    def end(self, worker: asyncio.Task[None]) -> None:
        """After a worker that was cancelled, perhaps before it began, nobody waits for ever."""
        if self.worker is worker:
            self.worker, self.waiting = None, 0
            while self.batches:
                self.batches.popleft().fail(_shutting_down())


class _Answer(Generic[Q, A]):
    """One question's place in its batch."""

    __slots__ = ("_batch", "_place")

    def __init__(self, batch: _Batch[Q, A], place: int) -> None:
        self._batch = batch
        self._place = place

    def __await__(self) -> Generator[Any, None, A]:
        batch = self._batch
        if not batch.ended:
            waiter = asyncio.get_running_loop().create_future()
            batch.waiters.append(waiter)
            yield from waiter
        if batch.failure is not None:
            # A fresh exception each: one shared by many tasks would collect all their tracebacks.
            raise TemporarilyUnavailable(detail=_detail(batch.failure)) from None
        return batch.answers[self._place]


def _place(error: Exception) -> str:
    """What went wrong where. Neither the message nor a trace: they may quote a document."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {frame.name}, line {frame.lineno} of {frame.filename}"


def _detail(failure: Exception) -> str:
    return failure.detail if isinstance(failure, OAuth2Error) else str(failure)


def _shutting_down() -> TemporarilyUnavailable:
    return TemporarilyUnavailable(detail="the server is shutting down")
