"""Deadlines: `asyncio.timeout` for thousands of blocks, with one timer for all of them.

Most tests run in an event loop whose clock leaps to the next timer, so their moments are exact and
cost nothing; a few run in real time.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import math
import selectors
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from _oauth2_m2m.deadlines import TICK_SECONDS, Deadline

T = TypeVar("T")

#: What a busy machine may add to a moment of real time.
SLACK = 1.5


class LeapingSelector(selectors.SelectSelector):
    """Never waits for a timer: it leaps."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """What is ready, and the clock where the next timer is due."""
        if timeout is not None and timeout > 0:
            self.now += timeout
            timeout = 0
        return super().select(timeout)


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock leaps to the next timer when nothing else is left to do."""

    def __init__(self) -> None:
        self._leaping = LeapingSelector()
        super().__init__(self._leaping)
        self.timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        """Seconds since the loop was made, without those that were leapt over in no time."""
        return self._leaping.now

    def call_at(  # type: ignore[override]  # its *args have no types of their own
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """As ever, and remember the timer."""
        timer = super().call_at(when, callback, *args, context=context)
        self.timers.append(timer)
        return timer

    def pending(self) -> int:
        """How many timers are still to come."""
        self.timers = [
            timer for timer in self.timers if not timer.cancelled() and timer.when() > self.time()
        ]
        return len(self.timers)


def leap(scenario: Callable[[LeapingLoop], Coroutine[Any, Any, T]]) -> T:
    """Run in a fresh loop that leaps; whatever a callback of it raises fails the test too."""
    problems: list[dict[str, Any]] = []
    loop = LeapingLoop()
    loop.set_exception_handler(lambda _, what: problems.append(what))
    try:
        result = loop.run_until_complete(scenario(loop))
    finally:
        loop.close()
    assert not problems
    return result


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


# What one block does


def test_a_block_within_its_time_passes() -> None:
    """It hands on its result, never stops the task, and leaves nothing behind on it."""

    async def scenario(loop: LeapingLoop) -> None:
        deadline = Deadline(1)
        for seconds in (0.0, 0.2, 0.5, 0.74):
            with deadline():
                await asyncio.sleep(seconds)
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
        await asyncio.sleep(5)  # long after the deadlines of all of them

    leap(scenario)


@pytest.mark.parametrize("seconds", [0.3, 0.5, 1, 4.5, 10])
def test_a_block_over_its_time_ends_within_a_tick_before_its_deadline(seconds: float) -> None:
    """Never later than its seconds and never earlier than a tick before, whenever it began."""

    async def one(loop: LeapingLoop, deadline: Deadline, start: float) -> float:
        await asyncio.sleep(start)
        begun = loop.time()
        with pytest.raises(TimeoutError) as timeout, deadline():
            await forever()
        assert isinstance(timeout.value.__cause__, asyncio.CancelledError)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        return loop.time() - begun

    async def scenario(loop: LeapingLoop) -> list[float]:
        deadline = Deadline(seconds)
        return await asyncio.gather(*(one(loop, deadline, n * 0.0373) for n in range(200)))

    took = leap(scenario)
    assert max(took) <= seconds + 1e-6
    assert min(took) >= seconds - TICK_SECONDS - 1e-6


def test_a_task_goes_on_after_a_timeout() -> None:
    """A timeout that was caught stops nothing that follows, the next deadline included."""

    async def scenario(loop: LeapingLoop) -> None:
        deadline = Deadline(1)
        for _ in range(3):
            with pytest.raises(TimeoutError), deadline():
                await forever()
            await asyncio.sleep(2)
            with deadline():
                await asyncio.sleep(0.5)

    leap(scenario)


def test_what_the_body_raises_goes_through() -> None:
    """The very exception, in time or late, and a timeout of the body's own as well."""

    async def raising_when_cancelled(error: BaseException) -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            raise error from None

    async def scenario(loop: LeapingLoop) -> None:
        deadline = Deadline(1)
        for error in (ValueError("x"), TimeoutError("mine"), KeyboardInterrupt(), SystemExit()):
            with pytest.raises(type(error)) as raised, deadline():
                raise error
            assert raised.value is error
            with pytest.raises(type(error)) as raised, deadline():
                await raising_when_cancelled(error)
            assert raised.value is error
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0

    leap(scenario)


def test_a_cancellation_from_outside_stays_one() -> None:
    """Whether it comes before, with or after the expiry, who cancels a task ends it as cancelled.

    With it means in one turn of the loop, before the task can notice either of the two.
    """

    async def body(deadline: Deadline, cleanup: float) -> None:
        with deadline():
            try:
                await forever()
            finally:
                if cleanup:
                    await asyncio.sleep(cleanup)

    async def scenario(loop: LeapingLoop) -> None:
        deadline = Deadline(1)
        for cancel_at, cleanup in [(0.1, 0), (0.1, 3), (0.75, 0), (0.75, 3), (2, 3), (0.7, 0.04)]:
            task = asyncio.create_task(body(deadline, cleanup))
            loop.call_later(cancel_at, task.cancel)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled(), (cancel_at, cleanup)
            assert task.cancelling() == 1

    leap(scenario)


def test_an_inner_deadline_ends_its_own_block_only() -> None:
    """And an outer one ends both; the same in and around `asyncio.timeout`."""

    async def both(outside: Any, inside: Any) -> None:
        async with outside:
            # To the inner block the outer one's end is no timeout.
            with pytest.raises(asyncio.CancelledError) as cancelled:
                async with inside:
                    await forever()
            raise cancelled.value

    async def scenario(loop: LeapingLoop) -> None:
        blocks: dict[str, Callable[[float], Any]] = {"ours": ours, "asyncio": asyncio.timeout}
        for inside in blocks:
            for outside in blocks:
                begun = loop.time()
                async with blocks[outside](9):
                    with pytest.raises(TimeoutError):
                        async with blocks[inside](2):
                            await forever()
                    assert loop.time() - begun <= 2.001
                    await asyncio.sleep(3)
                with pytest.raises(TimeoutError):
                    await both(blocks[outside](2), blocks[inside](9))

    leap(scenario)


@contextlib.asynccontextmanager
async def ours(seconds: float) -> AsyncIterator[None]:
    """`asyncio.timeout` by a deadline."""
    with _DEADLINES.setdefault(seconds, Deadline(seconds))():
        yield


_DEADLINES: dict[float, Deadline] = {}


async def test_real_time_is_kept_too() -> None:
    """Against the clock on the wall: in time, over time, cancelled, nested, all side by side."""
    deadline, longer = Deadline(0.4), Deadline(0.6)

    async def over_time(start: float, bound: Deadline) -> None:
        await asyncio.sleep(start)
        begun = time.monotonic()
        with pytest.raises(TimeoutError), bound():
            await asyncio.sleep(30)
        took = time.monotonic() - begun
        assert bound.seconds - TICK_SECONDS - 0.02 <= took < bound.seconds + SLACK

    async def in_time() -> None:
        with deadline():
            await asyncio.sleep(0.01)

    async def nested() -> None:
        with longer(), pytest.raises(TimeoutError), deadline():
            await asyncio.sleep(30)

    async def cancelled() -> None:
        with deadline():
            await asyncio.sleep(30)

    task = asyncio.create_task(cancelled())
    asyncio.get_running_loop().call_later(0.01, task.cancel)
    work: list[Awaitable[None]] = [in_time(), nested(), over_time(0, Deadline(0.3))]
    for number in range(10):
        work += [over_time(number * 0.03, deadline), over_time(number * 0.03, longer)]
    await asyncio.gather(*work)
    assert task.cancelled()


def test_without_a_task_there_is_nothing_to_bound() -> None:
    """Neither outside an event loop nor in a callback of one."""
    with pytest.raises(RuntimeError):
        Deadline(1)()

    async def scenario(loop: LeapingLoop) -> None:
        found: asyncio.Future[BaseException | None] = loop.create_future()

        def callback() -> None:
            try:
                Deadline(1)()
            except RuntimeError as error:
                found.set_result(error)
            else:
                found.set_result(None)

        loop.call_soon(callback)
        assert isinstance(await found, RuntimeError)

    leap(scenario)


# What it costs and keeps


def test_thousands_of_blocks_share_one_timer() -> None:
    """Never more than one is pending, however the blocks come and go; idle, there is none."""

    async def block(deadline: Deadline, number: int, gate: asyncio.Event) -> bool:
        try:
            with deadline():
                await (forever() if number % 3 else gate.wait())
        except TimeoutError:
            return True
        return False

    async def scenario(loop: LeapingLoop) -> None:
        deadline, gate = Deadline(2), asyncio.Event()
        begun = loop.time()
        tasks = []
        while loop.time() < begun + 1.5:
            tasks += [loop.create_task(block(deadline, n, gate)) for n in range(500)]
            await asyncio.sleep(0)
            assert loop.pending() == 1
            await asyncio.sleep(0.11)
            assert loop.pending() == 1
        gate.set()
        timed_out = await asyncio.gather(*tasks)
        assert len(tasks) >= 5_000
        assert timed_out == [bool(n % 3) for n in range(500)] * (len(tasks) // 500)
        await asyncio.sleep(2 * TICK_SECONDS)
        assert loop.pending() == 0
        with pytest.raises(TimeoutError), deadline():  # and it starts again
            await forever()

    leap(scenario)


def test_a_finished_block_is_let_go_of() -> None:
    """Neither its task lives on, in time or timed out, nor what the queue had noted of it."""

    class Held:
        """What the task holds."""

    async def block(deadline: Deadline, seconds: float, held: Held) -> None:
        with contextlib.suppress(TimeoutError), deadline():
            await asyncio.sleep(seconds)

    async def scenario(loop: LeapingLoop) -> None:
        deadline = Deadline(1)
        waiting = loop.create_task(block(deadline, 0.7, Held()))  # at the head of the queue
        await asyncio.sleep(0)
        tasks: list[weakref.ref[Any]] = []
        for seconds in (0.0, 0.1, 5):
            held = Held()
            task = loop.create_task(block(deadline, seconds, held))
            tasks += [weakref.ref(task), weakref.ref(held)]
            await asyncio.wait([task])
            del task, held
            await asyncio.sleep(0)
            gc.collect()
            assert [reference() for reference in tasks] == [None] * len(tasks)
        await waiting
        await asyncio.sleep(2)
        assert not deadline._queues[loop]._blocks

    leap(scenario)


def test_a_finished_block_ends_no_other() -> None:
    """Those that began later and are long over neither shorten nor lengthen the first one's time.

    And when the last of them is over, so is the timer, long before the deadline.
    """

    async def block(deadline: Deadline, seconds: float) -> None:
        with deadline():
            await asyncio.sleep(seconds)

    async def scenario(loop: LeapingLoop) -> None:
        deadline = Deadline(100)
        tasks = [loop.create_task(block(deadline, seconds)) for seconds in (90, 1, 2, 120, 3, 95)]
        (timed_out,) = (n for n, e in enumerate(await _outcomes(tasks)) if e is not None)
        assert timed_out == 3
        assert loop.time() <= 100 + 1e-6
        await asyncio.gather(*(block(deadline, seconds) for seconds in (3, 2, 1)))
        await asyncio.sleep(2 * TICK_SECONDS)
        assert loop.pending() == 0

    leap(scenario)


async def _outcomes(tasks: list[asyncio.Task[None]]) -> list[BaseException | None]:
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_a_deadline_works_in_one_event_loop_after_another() -> None:
    """In time and over time in each, a timer that died with its loop notwithstanding."""
    deadline = Deadline(1)

    async def scenario(loop: LeapingLoop) -> None:
        with deadline():
            await asyncio.sleep(0.1)
        begun = loop.time()
        with pytest.raises(TimeoutError), deadline():
            await forever()
        assert 0.75 - 1e-6 <= loop.time() - begun <= 1 + 1e-6
        with deadline():  # the timer is pending when the loop ends
            pass

    for _ in range(3):
        leap(scenario)


def test_no_finished_loop_is_kept_alive() -> None:
    """A deadline that lives as long as the process does not collect event loops."""
    deadline = Deadline(1)
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def block() -> None:
        with deadline():
            await forever()

    async def scenario() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        with deadline():
            await asyncio.sleep(0)
        others = [asyncio.create_task(block()) for _ in range(3)]  # cancelled with the loop
        await asyncio.sleep(0)
        assert not others[0].done()

    for _ in range(3):
        asyncio.run(scenario())
    gc.collect()
    assert [loop() for loop in loops] == [None] * 3


# Against asyncio.timeout

# Steps take whole seconds and begin at whole seconds. The blocks of each depth end at a fraction of
# their own, more than a tick apart from every other moment: so both kinds end in the same order.
_FRACTIONS = (0.3, 0.6, 0.9)
_OUTSIDE = 0.95


@dataclass(frozen=True)
class Sleep:
    """Wait; when stubborn, whoever cancels it is not heeded."""

    seconds: int
    stubborn: bool = False


@dataclass(frozen=True)
class Fail:
    """Raise an error."""


@dataclass(frozen=True)
class Bounded:
    """A block with a bound of so many seconds, and whether its timeout is caught around it."""

    seconds: int
    by_deadline: bool
    steps: tuple[Step, ...]
    catches: bool = True


Step = Sleep | Fail | Bounded


def programs(depth: int) -> st.SearchStrategy[tuple[Step, ...]]:
    """What a task does, with blocks as deep as that."""
    step: st.SearchStrategy[Step] = st.one_of(
        st.builds(Sleep, st.integers(0, 4), st.booleans()), st.builds(Fail)
    )
    if depth:
        block = st.builds(
            Bounded, st.integers(0, 3), st.booleans(), programs(depth - 1), st.booleans()
        )
        step = st.one_of(st.builds(Sleep, st.integers(0, 4), st.booleans()), block, step)
    return st.lists(step, max_size=3).map(tuple)


class Player:
    """One task that takes its steps, and a trace of what happened to it."""

    def __init__(self, loop: LeapingLoop, deadlines: dict[float, Deadline] | None) -> None:
        self.loop = loop
        self.deadlines = deadlines
        self.trace: list[tuple[str, int]] = []

    async def play(self, steps: tuple[Step, ...], depth: int = 0) -> None:
        """Take the steps."""
        for step in steps:
            if isinstance(step, Fail):
                raise ValueError
            if isinstance(step, Sleep):
                await self._sleep(step)
            else:
                await self._block(step, depth)

    def note(self, what: str) -> None:
        """What happened, in which second."""
        task = asyncio.current_task()
        assert task is not None
        self.trace.append((f"{what} {task.cancelling()}", math.floor(self.loop.time() + 0.01)))

    async def _sleep(self, step: Sleep) -> None:
        try:
            await asyncio.sleep(step.seconds)
            self.note("slept")
        except asyncio.CancelledError:
            self.note("cancelled")
            if not step.stubborn:
                raise
            await self._to_the_second()

    async def _block(self, step: Bounded, depth: int) -> None:
        seconds = step.seconds + _FRACTIONS[depth]
        try:
            if self.deadlines is not None and step.by_deadline:
                with self.deadlines.setdefault(seconds, Deadline(seconds))():
                    await self.play(step.steps, depth + 1)
            else:
                async with asyncio.timeout(seconds):
                    await self.play(step.steps, depth + 1)
            self.note("passed")
        except (TimeoutError, ValueError) as error:
            self.note(type(error).__name__)
            if not step.catches:
                raise
            await self._to_the_second()

    async def _to_the_second(self) -> None:
        now = self.loop.time()
        if abs(now - round(now)) > 0.01:
            await asyncio.sleep(math.ceil(now) - now)


#: What a task does, and the second after which somebody cancels it, if at all.
Part = tuple[tuple[Step, ...], int | None]


def traces(parts: list[Part], deadlines: dict[float, Deadline] | None) -> list[Any]:
    """What happens to tasks that run side by side."""

    async def one(loop: LeapingLoop, steps: tuple[Step, ...], cancel_after: int | None) -> Any:
        player = Player(loop, deadlines)
        task = loop.create_task(player.play(steps))
        if cancel_after is not None:
            loop.call_later(cancel_after + _OUTSIDE, task.cancel)
        (result,) = await asyncio.gather(task, return_exceptions=True)
        return [*player.trace, type(result).__name__, task.cancelling()]

    async def scenario(loop: LeapingLoop) -> list[Any]:
        return await asyncio.gather(*(one(loop, *part) for part in parts))

    return leap(scenario)


_SHARED: dict[float, Deadline] = {}
_INNER_FIRST = Bounded(3, True, (Bounded(1, True, (Sleep(2),), catches=False),))
_OUTER_FIRST = Bounded(1, True, (Bounded(3, True, (Sleep(4, stubborn=True), Sleep(1))),))
_MIXED = Bounded(1, False, (Bounded(1, True, (Sleep(4, stubborn=True), Sleep(4))),))


_UNHEEDED: Part = ((Sleep(4, stubborn=True), Bounded(1, True, (Sleep(3),))), 0)


def _takes_an_older_cancellation_for_its_own() -> bool:
    """Whether `asyncio.timeout` does, as it did until early releases of Python 3.11."""
    return "CancelledError" in traces([_UNHEEDED], None)[0]


@pytest.mark.skipif(
    _takes_an_older_cancellation_for_its_own(),
    reason="asyncio.timeout of this Python lets a timeout pass for a cancellation: gh-102780",
)
@settings(max_examples=400)
@given(st.lists(st.tuples(programs(3), st.none() | st.integers(0, 6)), min_size=1, max_size=4))
@example([((_INNER_FIRST,), None), ((_OUTER_FIRST,), 2), ((_MIXED,), None), ((_MIXED,), 1)])
@example([((Bounded(1, True, (Sleep(4, stubborn=True), Sleep(1))),), 0)])
@example([_UNHEEDED])
def test_it_does_what_asyncio_timeout_does(parts: list[Part]) -> None:
    """Whatever tasks do in blocks in blocks, all goes as it does with `asyncio.timeout`."""
    assert traces(parts, _SHARED) == traces(parts, None)
