"""What an app's author hooks in, and what it may cost."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest

from _oauth2_m2m import hooks
from _oauth2_m2m.errors import TemporarilyUnavailable
from _oauth2_m2m.hooks import (
    LARGEST_CLAIMS_BYTES,
    MOST_EVENTS,
    RESERVED_CLAIMS,
    ClaimsRefused,
    EventHook,
    ExtraClaims,
    checked_claims,
)

CLAIMS = {"tenant": "acme", "regions": ["eu", "us"], "plan": {"seats": 5, "until": None}}


class Asynchronous:
    async def __call__(self, *arguments: object) -> Mapping[str, Any]:  # noqa: D102
        return CLAIMS


async def asynchronous(*arguments: object) -> Mapping[str, Any]:
    return CLAIMS


def synchronous(*arguments: object) -> Mapping[str, Any]:
    assert threading.current_thread() is not threading.main_thread()
    return CLAIMS


# --- Claims -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hook",
    [
        asynchronous,
        Asynchronous(),
        partial(asynchronous, "more"),
        synchronous,
        partial(synchronous, "more"),
        lambda *arguments: asynchronous(),
    ],
)
async def test_a_hook_is_any_callable(hook: Callable[..., Any]) -> None:
    """Coroutine functions run in the event loop, all others in a thread beside it."""
    assert await ExtraClaims(hook).of("client", frozenset({"read"})) == CLAIMS


@pytest.mark.parametrize("name", sorted(RESERVED_CLAIMS))
def test_no_claim_takes_the_place_of_another(name: str) -> None:
    """What others judge a token by is not for a hook to say, and the message names it."""
    with pytest.raises(ClaimsRefused, match=f"not its to set: {name}$"):
        checked_claims({"tenant": "acme", name: "admin"})


@pytest.mark.parametrize(
    "value",
    [
        None,
        ["tenant"],
        "tenant",
        {"a": b"bytes"},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": {1, 2}},
        {"a": object()},
        {"a": "\ud800"},
        {("a", "b"): 1},
        {1: "a", "1": "b"},
        {"a": 10**5000},
        {"a": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]},
    ],
)
def test_claims_are_values_of_json(value: Any) -> None:
    """Whatever a reader of tokens could not read back is refused."""
    with pytest.raises(ClaimsRefused):
        checked_claims(value)


def test_claims_have_a_size() -> None:
    """1024 bytes of JSON are taken, and one more is not."""
    room = LARGEST_CLAIMS_BYTES - len(json.dumps({"a": ""}, separators=(",", ":")))
    assert checked_claims({"a": "x" * room}) == {"a": "x" * room}
    with pytest.raises(ClaimsRefused, match="larger than 1024 bytes"):
        checked_claims({"a": "x" * (room + 1)})


async def test_a_hook_that_fails_costs_the_token(caplog: pytest.LogCaptureFixture) -> None:
    """The log says what and where, and repeats no word of the hook's, which may be a secret."""

    async def fails(*arguments: object) -> Mapping[str, Any]:
        raise RuntimeError("the password is hunter2")

    with pytest.raises(TemporarilyUnavailable) as refused:
        await ExtraClaims(fails).of()
    assert "RuntimeError in fails" in caplog.text
    assert "hunter2" not in caplog.text + str(refused.value.detail)
    assert caplog.records[-1].levelno == logging.ERROR


@pytest.mark.parametrize("is_async", [True, False])
async def test_claims_have_a_second(
    is_async: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A hook that takes longer, in the event loop or in a thread, costs the token, not the app."""
    over = threading.Event()

    async def waits(*arguments: object) -> Mapping[str, Any]:
        await asyncio.sleep(30)
        return {}

    def blocks(*arguments: object) -> Mapping[str, Any]:
        over.wait(30)
        return {}

    began = time.monotonic()
    try:
        with pytest.raises(TemporarilyUnavailable):
            await ExtraClaims(waits if is_async else blocks).of()
    finally:
        over.set()
    assert 0.7 <= time.monotonic() - began < 5
    assert "it took too long" in caplog.text


async def test_so_many_claims_are_asked_for_in_threads() -> None:
    """Eight at once; others wait for their turn, and get it."""
    begun, over, most = threading.Semaphore(0), threading.Event(), 0

    def hook(*arguments: object) -> Mapping[str, Any]:
        begun.release()
        over.wait(30)
        return CLAIMS

    claims = ExtraClaims(hook)
    asked = [asyncio.create_task(claims.of()) for _ in range(9)]
    try:
        while most < 8:
            most += await asyncio.to_thread(begun.acquire, timeout=10)
        assert not await asyncio.to_thread(begun.acquire, timeout=0.1)
    finally:
        over.set()
    assert await asyncio.gather(*asked) == [CLAIMS] * 9


# --- Events -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False])
async def test_events_are_heard_one_after_the_other(is_async: bool) -> None:
    """In their order, none at the same time as another, and `drain` waits for the last."""
    heard: list[int] = []
    at_once = 0

    async def hear(event: Mapping[str, Any]) -> None:
        nonlocal at_once
        at_once += 1
        assert at_once == 1
        await asyncio.sleep(0)
        heard.append(event["n"])
        at_once -= 1

    hook = EventHook(hear if is_async else lambda event: heard.append(event["n"]))
    for n in range(0, 50, 5):
        hook.offer({"n": m} for m in range(n, n + 5))
        await asyncio.sleep(0)
    await hook.drain()
    assert (heard, hook.lost) == (list(range(50)), 0)


async def test_an_event_cannot_be_changed() -> None:
    """What a hook is told is a copy that nobody writes to."""
    errors: list[str] = []

    async def hear(event: Any) -> None:
        try:
            event["n"] = 2
        except TypeError as error:
            errors.append(str(error))

    hook, event = EventHook(hear), {"n": 1}
    hook.offer([event])
    await hook.drain()
    assert len(errors) == 1
    assert event == {"n": 1}


async def test_whoever_offers_never_waits_and_never_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Past the room that there is events are lost, counted, and said to be."""
    over = asyncio.Event()

    async def hear(event: Mapping[str, Any]) -> None:
        await over.wait()

    hook = EventHook(hear)
    hook.offer({"n": n} for n in range(MOST_EVENTS))
    assert hook.lost == 0
    hook.offer({"n": n} for n in range(7))
    assert hook.lost == 7
    assert "1 events were lost (too many wait)" in caplog.text
    over.set()
    await hook.drain()
    assert hook.lost == 7
    assert "6 events were lost (in all)" in caplog.text


async def test_a_hook_that_fails_loses_its_event_alone(caplog: pytest.LogCaptureFixture) -> None:
    """The next one is heard; the log says what failed where, and quotes nothing."""
    heard: list[int] = []

    def hear(event: Mapping[str, Any]) -> None:
        if event["n"] == 1:
            raise RuntimeError("the password is hunter2")
        heard.append(event["n"])

    hook = EventHook(hear)
    hook.offer({"n": n} for n in range(3))
    await hook.drain()
    assert (heard, hook.lost) == ([0, 2], 1)
    assert "RuntimeError in hear" in caplog.text
    assert "hunter2" not in caplog.text


async def test_an_event_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not heard in it is lost, and the next one is heard."""
    monkeypatch.setattr(hooks._EVENT_DEADLINE, "seconds", 0.3)
    heard: list[int] = []

    async def hear(event: Mapping[str, Any]) -> None:
        if event["n"] == 0:
            await asyncio.sleep(30)
        heard.append(event["n"])

    hook = EventHook(hear)
    hook.offer([{"n": 0}, {"n": 1}])
    await hook.drain()
    assert (heard, hook.lost) == ([1], 1)


async def test_the_end_of_an_app_waits_a_while_and_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was not heard by then is lost, and counted."""
    monkeypatch.setattr(hooks, "LAST_EVENTS_SECONDS", 0.2)

    async def hear(event: Mapping[str, Any]) -> None:
        await asyncio.sleep(30)

    hook = EventHook(hear)
    hook.offer({"n": n} for n in range(5))
    began = time.monotonic()
    await hook.drain()
    assert 0.2 <= time.monotonic() - began < 5
    assert hook.lost == 5


def test_a_hook_hears_in_one_event_loop_after_another() -> None:
    """Test clients start many; what waits when one is stopped is lost and counted."""
    heard: list[int] = []

    async def hear(event: Mapping[str, Any]) -> None:
        await asyncio.sleep(0)
        heard.append(event["n"])

    hook = EventHook(hear)

    async def once(n: int, *, to_the_end: bool) -> None:
        hook.offer([{"n": n}])
        if to_the_end:
            await hook.drain()

    asyncio.run(once(1, to_the_end=True))
    asyncio.run(once(2, to_the_end=False))
    asyncio.run(once(3, to_the_end=True))
    assert heard == [1, 3]
