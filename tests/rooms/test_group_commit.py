"""Group commit: its rule under schedules that hypothesis makes up.

The command is a fake one, whose calls the test starts to watch and ends when it likes.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from _oauth2_m2m.errors import TemporarilyUnavailable
from _oauth2_m2m.group_commit import GroupCommit, together

LARGEST_BATCH = 4
MOST_WAITING = 9


@dataclass
class Call:
    """One command on its way."""

    started: int
    questions: list[int]
    end: asyncio.Future[str]


@dataclass(frozen=True)
class Answer:
    """What a command says to one question."""

    question: int
    started: int


@dataclass
class Command:
    """A command that ends when the test says so, and in the way that it says."""

    clock: Iterator[int] = field(default_factory=count)
    calls: list[Call] = field(default_factory=list)

    async def __call__(self, questions: Sequence[int]) -> Sequence[Answer]:
        """Note the call, and wait until the test ends it."""
        assert not self.running, "two commands at once"
        end = asyncio.get_running_loop().create_future()
        call = Call(next(self.clock), list(questions), end)
        self.calls.append(call)
        how = await end
        if how == "error":
            raise RuntimeError("the command failed")
        if how == "short":
            return []
        return [Answer(question, call.started) for question in questions]

    @property
    def running(self) -> list[Call]:
        """The calls that were not ended; never more than one."""
        return [call for call in self.calls if not call.end.done()]

    def finish(self, how: str = "good") -> None:
        """End the running call."""
        for call in self.running:
            call.end.set_result(how)

    def call_of(self, question: int) -> Call | None:
        """The call that the question was put in."""
        found = [call for call in self.calls if question in call.questions]
        assert len(found) <= 1, "a question was put twice"
        return found[0] if found else None


@dataclass
class Waiter:
    """One question and the task that waits for its answer."""

    question: int
    asked: int
    task: asyncio.Future[Answer]
    cancelled: bool = False


async def settle() -> None:
    """Let everything happen that can happen without the outside."""
    for _ in range(12):
        await asyncio.sleep(0)


async def wait_for(answer: Awaitable[Answer]) -> Answer:
    return await answer


Step = tuple[str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(1, 2 * LARGEST_BATCH + 3)),
        st.tuples(st.just("turn"), st.integers(1, 4)),
        st.tuples(st.sampled_from(["good", "error", "short"]), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 40)),
        st.tuples(st.just("drain"), st.just(0)),
    ),
    max_size=40,
)


class Schedule:
    """Plays steps on one instance in one event loop, and compares with what is promised."""

    def __init__(self, group: GroupCommit[int, Answer], command: Command) -> None:
        self.group = group
        self.command = command
        self.waiters: list[Waiter] = []
        self.drains: list[asyncio.Future[None]] = []
        self.endings: dict[int, str] = {}

    def ask(self) -> None:
        """Ask one question more, and wait for its answer in a task of its own."""
        question = asked = next(self.command.clock)
        queued = [w for w in self.waiters if self.command.call_of(w.question) is None]
        if len(queued) >= MOST_WAITING:
            with pytest.raises(TemporarilyUnavailable):
                self.group.ask(question)
            return
        answer = self.group.ask(question)
        self.waiters.append(Waiter(question, asked, asyncio.ensure_future(wait_for(answer))))

    def finish(self, how: str) -> None:
        """End the running call, and note how."""
        for call in self.command.running:
            self.endings[call.started] = how
        self.command.finish(how)

    def cancel(self, number: int) -> None:
        """Cancel somebody who waits."""
        waiting = [w for w in self.waiters if not w.task.done()]
        if waiting:
            waiter = waiting[number % len(waiting)]
            waiter.cancelled = waiter.task.cancel()

    async def play(self, steps: list[Step]) -> None:
        """Take the steps, come to an end, and compare."""
        for name, number in steps:
            if name == "ask":
                for _ in range(number):
                    self.ask()
            elif name == "turn":
                for _ in range(number):
                    await asyncio.sleep(0)
            elif name == "cancel":
                self.cancel(number)
            elif name == "drain":
                drain = asyncio.ensure_future(self.group.drain())
                self.drains.append(drain)
                drain.add_done_callback(self.check_drained(list(self.waiters)))
            else:
                self.finish(name)
            await asyncio.sleep(0)
        await self.come_to_an_end()
        self.check()

    def check_drained(self, before: list[Waiter]) -> Callable[[asyncio.Future[None]], None]:
        """What must hold in the moment in which a drain returns."""

        def check(_: asyncio.Future[None]) -> None:
            calls = [self.command.call_of(waiter.question) for waiter in before]
            assert all(call is not None and call.end.done() for call in calls), "drained too early"

        return check

    async def come_to_an_end(self) -> None:
        """End every command that is still to come; then nobody may wait."""
        await settle()
        for _ in range(len(self.waiters) + 1):
            if not self.command.running:
                break
            self.finish("good")
            await settle()
        assert all(waiter.task.done() for waiter in self.waiters), "somebody was left hanging"
        for drain in self.drains:
            assert drain.done()
            drain.result()

    def check(self) -> None:
        """Compare what everybody got with what is promised."""
        for waiter in self.waiters:
            call = self.command.call_of(waiter.question)
            assert call is not None, "a question was never put, though its asker may be gone"
            assert call.started > waiter.asked, "the command was sent before the question"
            if waiter.cancelled:
                assert waiter.task.cancelled()
            elif self.endings[call.started] == "good":
                assert waiter.task.result() == Answer(waiter.question, call.started)
            else:
                assert isinstance(waiter.task.exception(), TemporarilyUnavailable)
        put = [question for call in self.command.calls for question in call.questions]
        assert put == sorted(put), "questions overtook each other"
        assert all(1 <= len(call.questions) <= LARGEST_BATCH for call in self.command.calls)


def new_group(command: Command) -> GroupCommit[int, Answer]:
    return GroupCommit(command, largest_batch=LARGEST_BATCH, most_waiting=MOST_WAITING)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run in a fresh event loop, in which whatever a callback raises fails the test too."""
    problems: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: problems.append(what))
        await scenario

    asyncio.run(watched())
    assert not problems


@settings(max_examples=300)
@given(STEPS)
@example([("ask", 1), ("turn", 2), ("ask", 3), ("cancel", 0), ("error", 0), ("ask", 1)])
@example([("ask", 11), ("turn", 2), ("ask", 9), ("drain", 0), ("cancel", 5), ("short", 0)])
def test_the_rule(steps: list[Step]) -> None:
    """Whatever the order of events, each question has its own command's answer, sent after it."""
    command = Command()
    run(Schedule(new_group(command), command).play(steps))


@settings(max_examples=60)
@given(st.lists(STEPS, min_size=2, max_size=4))
def test_the_rule_in_one_event_loop_after_another(runs: list[list[Step]]) -> None:
    """One instance keeps the rule in every event loop that comes, as test clients start them."""
    shared: list[Command] = []

    async def command(questions: Sequence[int]) -> Sequence[Answer]:
        return await shared[-1](questions)

    group = GroupCommit(command, largest_batch=LARGEST_BATCH, most_waiting=MOST_WAITING)
    for steps in runs:
        shared.append(Command())
        run(Schedule(group, shared[-1]).play(steps))


def test_under_no_load_a_batch_is_one_question() -> None:
    """A lone question is put at once and alone: it costs one round trip."""

    async def scenario() -> None:
        command = Command()
        group = new_group(command)
        for question in range(3):
            waiter = asyncio.ensure_future(wait_for(group.ask(question)))
            await settle()
            assert [call.questions for call in command.running] == [[question]]
            command.finish()
            assert (await waiter).question == question

    run(scenario())


def test_questions_that_wait_share_a_command() -> None:
    """While one command is in flight, questions queue; the next command answers all of them."""

    async def scenario() -> None:
        command = Command()
        group = new_group(command)
        answers = [group.ask(0)]
        await settle()
        answers += [group.ask(question) for question in range(1, 1 + LARGEST_BATCH)]
        await settle()
        assert [call.questions for call in command.calls] == [[0]]
        command.finish()
        await settle()
        assert [call.questions for call in command.running] == [[1, 2, 3, 4]]
        command.finish()
        assert [(await answer).question for answer in answers] == [0, 1, 2, 3, 4]

    run(scenario())


def test_one_more_than_may_wait_is_refused_at_once() -> None:
    """The queue is bounded: the question beyond it fails in the call itself, and costs nothing."""

    async def scenario() -> None:
        command = Command()
        group = new_group(command)
        answers = [group.ask(question) for question in range(MOST_WAITING)]
        for _ in range(3):
            with pytest.raises(TemporarilyUnavailable):
                group.ask(99)
        await settle()  # the first batch left the queue
        answers += [group.ask(MOST_WAITING + n) for n in range(LARGEST_BATCH)]
        with pytest.raises(TemporarilyUnavailable):
            group.ask(99)
        while command.running:
            command.finish()
            await settle()
        questions = [(await answer).question for answer in answers]
        assert questions == list(range(MOST_WAITING + LARGEST_BATCH))

    run(scenario())


def test_a_cancelled_waiter_cancels_nothing() -> None:
    """Neither the command in flight nor the others of the batch notice that one gave up."""

    async def scenario() -> None:
        command = Command()
        group = new_group(command)
        waiters = [asyncio.ensure_future(wait_for(group.ask(question))) for question in range(3)]
        await settle()
        waiters[1].cancel()
        await settle()
        assert waiters[1].cancelled()
        assert len(command.running) == 1
        command.finish()
        assert [(await waiters[n]).question for n in (0, 2)] == [0, 2]

    run(scenario())


def test_all_waiters_cancelled_still_completes_the_command() -> None:
    """A write whose askers are all gone is carried through."""

    async def scenario() -> None:
        command = Command()
        group = new_group(command)
        waiters = [asyncio.ensure_future(wait_for(group.ask(question))) for question in range(2)]
        await settle()
        for waiter in waiters:
            waiter.cancel()
        await settle()
        drain = asyncio.ensure_future(group.drain())
        await settle()
        assert not drain.done()
        command.finish()
        await asyncio.wait_for(drain, 5)

    run(scenario())


def test_a_failure_reaches_its_batch_and_no_other() -> None:
    """Every question of the batch gets an error of its own; the next batch gets answers."""

    async def scenario() -> None:
        command = Command()
        group = new_group(command)
        failing = [asyncio.ensure_future(wait_for(group.ask(question))) for question in range(2)]
        await settle()
        next_one = asyncio.ensure_future(wait_for(group.ask(2)))
        command.finish("error")
        await settle()
        command.finish()
        first, second = await asyncio.gather(*failing, return_exceptions=True)
        assert isinstance(first, TemporarilyUnavailable)
        assert isinstance(second, TemporarilyUnavailable)
        assert first is not second
        assert (await next_one).question == 2

    run(scenario())


def test_an_answer_can_be_awaited_late_and_again() -> None:
    """Asking and waiting are apart: the answer is there whenever it is wanted."""

    async def scenario() -> None:
        command = Command()
        group = new_group(command)
        answer = group.ask(7)
        await settle()
        command.finish()
        await settle()
        assert await answer == await answer == Answer(7, 0)

    run(scenario())


def test_an_answer_that_nobody_awaits_is_no_loss() -> None:
    """A question that was dropped is put all the same, and nothing complains about it."""

    async def scenario() -> None:
        command = Command()
        group = new_group(command)
        group.ask(1)
        await settle()
        command.finish("error")
        await settle()
        gc.collect()
        assert [call.questions for call in command.calls] == [[1]]

    run(scenario())


@pytest.mark.parametrize("queued", [0, 1, LARGEST_BATCH + 1])
def test_a_command_that_dies_by_cancellation_leaves_nobody_hanging(queued: int) -> None:
    """Its batch gets an error; what queued behind it gets an answer or an error, unasked."""

    async def scenario() -> None:
        command = Command()
        group = new_group(command)
        dying = asyncio.ensure_future(wait_for(group.ask(0)))
        await settle()
        behind = [asyncio.ensure_future(wait_for(group.ask(1 + n))) for n in range(queued)]
        await settle()
        command.calls[0].end.cancel()
        await settle()
        while command.running:
            command.finish()
            await settle()
        assert dying.done()
        assert isinstance(dying.exception(), TemporarilyUnavailable)
        assert [waiter.done() for waiter in behind] == [True] * queued
        for waiter in behind:
            assert isinstance(
                waiter.exception() or waiter.result(), TemporarilyUnavailable | Answer
            )

    run(scenario())


def test_drain_ends_well_when_the_command_was_cancelled() -> None:
    """Who drains is not cancelled itself by the cancellation of a command."""

    async def scenario() -> None:
        command = Command()
        group = new_group(command)
        group.ask(0)
        await settle()
        drain = asyncio.ensure_future(group.drain())
        await settle()
        command.calls[0].end.cancel()
        await settle()
        assert drain.done()
        assert not drain.cancelled()
        drain.result()

    run(scenario())


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_it_goes_on_after_its_task_was_cancelled(turns: int) -> None:
    """Somebody who cancels every task of the loop does not stop the questions that follow."""

    async def scenario() -> None:
        command = Command()
        group = new_group(command)
        first = group.ask(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await settle()
        with pytest.raises(TemporarilyUnavailable):
            await asyncio.wait_for(wait_for(first), 0.3)
        second = asyncio.ensure_future(wait_for(group.ask(1)))
        await settle()
        command.finish()
        assert (await asyncio.wait_for(second, 1)).question == 1

    run(scenario())


def test_drain_waits_for_everything() -> None:
    """What is in flight and what queues behind it is answered when drain returns."""

    async def scenario() -> None:
        command = Command()
        group = new_group(command)
        await group.drain()  # nothing was ever asked
        for question in range(LARGEST_BATCH + 2):
            group.ask(question)
        drain = asyncio.ensure_future(group.drain())
        await settle()
        command.finish()
        await settle()
        assert not drain.done()
        command.finish()
        await asyncio.wait_for(drain, 5)
        assert sum(len(call.questions) for call in command.calls) == LARGEST_BATCH + 2
        await group.drain()  # nothing is left

    run(scenario())


def test_a_cancelled_drain_cancels_nothing() -> None:
    """Whoever loses patience while draining leaves the work to be done."""

    async def scenario() -> None:
        command = Command()
        group = new_group(command)
        answer = asyncio.ensure_future(wait_for(group.ask(1)))
        await settle()
        drain = asyncio.ensure_future(group.drain())
        await settle()
        drain.cancel()
        await settle()
        assert drain.cancelled()
        command.finish()
        assert (await answer).question == 1

    run(scenario())


def test_a_loop_that_ended_in_the_midst_does_not_harm_the_next() -> None:
    """Questions that died with their event loop neither block nor answer those of the next."""
    command = Command()
    group = new_group(command)

    async def abandoned() -> None:
        for question in range(MOST_WAITING):
            group.ask(question)
        await settle()

    async def next_loop() -> None:
        answers = [group.ask(100 + n) for n in range(MOST_WAITING)]
        await settle()
        while command.running:
            command.finish()
            await settle()
        assert [(await a).question for a in answers] == [100 + n for n in range(MOST_WAITING)]

    asyncio.run(abandoned())
    command.calls.clear()
    run(next_loop())


def test_no_finished_loop_is_kept_alive() -> None:
    """An instance that lives as long as the process does not collect event loops."""
    command = Command()
    group = new_group(command)
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def scenario() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        answer = group.ask(1)
        await settle()
        command.finish()
        await answer

    for _ in range(3):
        asyncio.run(scenario())
        command.calls.clear()
    gc.collect()
    assert [loop() for loop in loops] == [None] * 3


def test_the_command_runs_in_nobodys_context() -> None:
    """The first asker's deadline or trace is not everybody's."""
    deadline: contextvars.ContextVar[str] = contextvars.ContextVar("deadline", default="none")
    seen: list[str] = []

    async def command(questions: Sequence[int]) -> Sequence[int]:
        seen.append(deadline.get())
        return questions

    async def scenario() -> None:
        deadline.set("the first asker's")
        await GroupCommit(command).ask(1)

    run(scenario())
    assert seen == ["none"]


def test_the_failure_says_nothing_of_its_cause_to_the_caller() -> None:
    """Whatever a command raises, the caller reads one constant description."""

    async def command(questions: Sequence[int]) -> Sequence[int]:
        raise ValueError("a document with a secret in it")

    async def scenario() -> None:
        with pytest.raises(TemporarilyUnavailable) as refusal:
            await GroupCommit(command).ask(1)
        assert refusal.value.description == TemporarilyUnavailable.default
        assert refusal.value.__suppress_context__

    run(scenario())


# Several commands as one

NAMES = "abc"
QUESTIONS = st.lists(st.tuples(*(st.none() | st.integers(0, 9) for _ in NAMES)), max_size=12)


@dataclass
class Part:
    """A command that `together` sends beside others; it ends when the test says so."""

    name: str
    calls: list[list[int]] = field(default_factory=list)
    end: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False
    failure: Exception | None = None
    too_many: int = 0  # how many answers more than questions; less than none for missing ones

    async def __call__(self, questions: Sequence[int]) -> Sequence[str | None]:
        """Answer `name` and the question; 0 is answered by nothing, as good as any answer."""
        self.calls.append(list(questions))
        await self.end.wait()
        self.ended = True
        if self.failure is not None:
            raise self.failure
        answers = [self.answer_to(question) for question in questions]
        return answers[: self.too_many] if self.too_many < 0 else answers + ["?"] * self.too_many

    def answer_to(self, question: int) -> str | None:
        """The answer that belongs to a question."""
        return f"{self.name}{question}" if question else None


async def answer_of(answer: Awaitable[Any]) -> Any:
    return await answer


def ended_parts() -> list[Part]:
    """Commands that wait for nothing."""
    parts = [Part(name) for name in NAMES]
    for part in parts:
        part.end.set()
    return parts


@given(QUESTIONS)
@example([(None, None, None)])
@example([(1, None, 0), (None, None, 0), (0, None, 3)])
def test_each_part_of_a_question_reaches_its_own_command(
    questions: list[tuple[int | None, ...]],
) -> None:
    """In order and in place, whoever asks what; and a command that nobody asks is not called."""

    async def scenario() -> None:
        parts = ended_parts()
        group: GroupCommit[Any, Any] = GroupCommit(together(*parts))
        answers = [group.ask(question) for question in questions]
        for question, answer in zip(questions, answers, strict=True):
            assert await answer == tuple(
                None if asked is None else part.answer_to(asked)
                for part, asked in zip(parts, question, strict=True)
            )
        for place, part in enumerate(parts):
            asked = [question[place] for question in questions if question[place] is not None]
            assert part.calls == ([asked] if asked else [])

    run(scenario())


def test_commands_are_sent_side_by_side() -> None:
    """All of them are on their way before the first one ends, and the slowest one decides."""

    async def scenario() -> None:
        parts = [Part(name) for name in NAMES]
        group: GroupCommit[Any, Any] = GroupCommit(together(*parts))
        answer = asyncio.ensure_future(answer_of(group.ask((1, 2, 3))))
        await settle()
        assert [part.calls for part in parts] == [[[1]], [[2]], [[3]]]
        for part in reversed(parts):
            assert not answer.done()
            part.end.set()
            await settle()
        assert answer.result() == ("a1", "b2", "c3")

    run(scenario())


@pytest.mark.parametrize("failing", range(len(NAMES)))
def test_one_failing_command_fails_the_batch_when_all_have_ended(failing: int) -> None:
    """Nothing is under way any more when the error arrives, and the next batch is none the worse.

    Those of the batch that did not ask the failing command get the error too.
    """

    async def scenario() -> None:
        parts = [Part(name) for name in NAMES]
        parts[failing].failure = ValueError("a document with a secret in it")
        group: GroupCommit[Any, Any] = GroupCommit(together(*parts))
        without = tuple(None if place == failing else 9 for place in range(len(NAMES)))
        waiters = [asyncio.ensure_future(answer_of(group.ask(q))) for q in [(1, 2, 3), without]]
        await settle()
        parts[failing].end.set()
        await settle()
        assert parts[failing].ended
        assert [waiter.done() for waiter in waiters] == [False, False]
        behind = asyncio.ensure_future(answer_of(group.ask((4, 5, 6))))
        parts[failing].failure = None
        for part in parts:
            part.end.set()
        await settle()
        for waiter in waiters:
            assert isinstance(waiter.exception(), TemporarilyUnavailable)
        assert all(part.ended for part in parts)
        assert await behind == ("a4", "b5", "c6")

    run(scenario())


@pytest.mark.parametrize("too_many", [-2, -1, 1])
@pytest.mark.parametrize("wrong", range(len(NAMES)))
def test_a_wrong_number_of_answers_is_an_error_for_the_whole_batch(
    wrong: int, too_many: int
) -> None:
    """Whose answers they are nobody knows then: all get an error, and nobody waits for ever."""

    async def scenario() -> None:
        parts = ended_parts()
        parts[wrong].too_many = too_many
        group: GroupCommit[Any, Any] = GroupCommit(together(*parts))
        waiters = [group.ask((n, n, n)) for n in (1, 2)]
        for waiter in waiters:
            with pytest.raises(TemporarilyUnavailable):
                await asyncio.wait_for(answer_of(waiter), 5)

    run(scenario())


def test_cancelling_the_batch_ends_every_command() -> None:
    """At shutdown no command of a batch goes on alone, and who waits learns of it."""

    async def scenario() -> None:
        parts = [Part(name) for name in NAMES]
        group: GroupCommit[Any, Any] = GroupCommit(together(*parts))
        before = asyncio.all_tasks()
        waiter = asyncio.ensure_future(answer_of(group.ask((1, 2, 3))))
        await settle()
        for task in asyncio.all_tasks() - before - {waiter}:
            task.cancel()
        await settle()
        assert asyncio.all_tasks() == before
        assert isinstance(waiter.exception(), TemporarilyUnavailable)

    run(scenario())
