"""What a process counts: its labels, its prices, and several workers who count together."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from pymongo import AsyncMongoClient, MongoClient
from pymongo.database import Database

from _oauth2_m2m.errors import (
    InvalidToken,
    OAuth2Error,
    TemporarilyUnavailable,
    UnsupportedGrantType,
)
from _oauth2_m2m.group_commit import GroupCommit
from _oauth2_m2m.metrics import Metrics, Queue
from _oauth2_m2m.storage import PoolListener, Storage
from tests.papers import ROOT


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every sample that is shown, by its name without the prefix and the values of its labels."""
    return {
        (each.name.removeprefix("oauth2_m2m_"), *each.labels.values()): each.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for each in family.samples
    }


@pytest.mark.parametrize(
    ("error", "outcome", "result"),
    [
        (None, "success", "success"),
        (InvalidToken(), "invalid_token", "refused"),
        (UnsupportedGrantType(), "unsupported_grant_type", "refused"),
        (TemporarilyUnavailable(), "temporarily_unavailable", "unavailable"),
        (KeyError("a bug"), "failed", "unavailable"),
        (asyncio.CancelledError(), "disconnected", "refused"),
    ],
)
def test_a_request_is_counted_under_what_came_of_it(
    error: BaseException | None, outcome: str, result: str
) -> None:
    """The outcome is the code on the wire, or one of three other words."""
    metrics = Metrics()
    try:
        with metrics.endpoint("token") as seen:
            seen.grant = "client_credentials"
            if isinstance(error, OAuth2Error):
                seen.refused(error)
            elif error is not None:
                raise error
    except (KeyError, asyncio.CancelledError):
        pass
    shown = samples(metrics)
    assert shown["requests_total", "token", "client_credentials", outcome] == 1
    assert shown["request_seconds_count", "token", result] == 1


def test_nothing_is_shown_before_it_was_counted() -> None:
    """Without a sample nobody takes a moment that is not known for the year 1970."""
    assert samples(Metrics()) == {}


def test_what_is_rare_begins_at_nought() -> None:
    """Prometheus sees an increase only from a sample that was there before."""
    metrics = Metrics()
    metrics.queue(Queue.AUDIT)
    metrics.queue(Queue.AUDIT)
    assert samples(metrics) == {
        ("batch_failures_total", "audit"): 0,
        ("queue_full_total", "audit"): 0,
    }


def test_the_moments_when_series_began_are_left_out() -> None:
    """They would be a third of all lines, and nobody asks for them."""
    metrics = Metrics()
    with metrics.guard():
        pass
    assert "_created" not in metrics.text().decode()


def test_it_can_be_shown_in_a_registry_of_the_app() -> None:
    """An app that shows metrics already shows ours with them."""
    metrics, registry = Metrics(), CollectorRegistry(auto_describe=True)
    registry.register(metrics)
    with metrics.guard():
        pass
    labels = {"outcome": "success"}
    assert registry.get_sample_value("oauth2_m2m_guard_checks_total", labels) == 1


async def test_a_queue_counts_batches_and_not_questions() -> None:
    """However many questions share a batch, it is one observation, with its size."""
    metrics = Metrics()
    go = asyncio.Event()

    async def command(questions: Sequence[int]) -> Sequence[int]:
        await go.wait()
        return questions

    queue = GroupCommit(command, metrics=metrics.queue(Queue.CHECK))
    first = queue.ask(1)
    await asyncio.sleep(0)
    others = [queue.ask(number) for number in range(40)]
    go.set()
    assert await first == 1
    assert [await other for other in others] == list(range(40))
    shown = samples(metrics)
    assert shown["batch_size_count", "check"] == 2
    assert shown["batch_size_sum", "check"] == 41
    assert shown["batch_seconds_count", "check"] == 2
    assert shown["batch_wait_seconds_count", "check"] == 2
    assert shown["queue_waiting", "check"] == 0
    assert shown["batch_failures_total", "check"] == 0


async def test_a_queue_counts_what_failed_and_what_it_turned_away() -> None:
    """A batch that failed is counted once; so is each question for which there was no room."""
    metrics = Metrics()

    async def command(questions: Sequence[int]) -> Sequence[int]:
        raise TemporarilyUnavailable

    queue = GroupCommit(command, most_waiting=2, metrics=metrics.queue(Queue.AUDIT))
    answers = [queue.ask(1), queue.ask(2)]
    for _ in range(3):
        with pytest.raises(TemporarilyUnavailable):
            queue.ask(3)
    for answer in answers:
        with pytest.raises(TemporarilyUnavailable):
            await answer
    shown = samples(metrics)
    assert shown["batch_failures_total", "audit"] == 1
    assert shown["queue_full_total", "audit"] == 3


async def test_connections_of_a_client_are_counted_as_they_come_and_go(
    mongo_url: str, database_name: str
) -> None:
    """The listener that was handed to the client is found by the storage, on either API."""
    listener = PoolListener()
    async with AsyncMongoClient[dict[str, Any]](mongo_url, event_listeners=[listener]) as client:
        await client[database_name].command("ping")
        metrics = Metrics()  # it comes later, and knows all the same
        storage = Storage(client[database_name], metrics)
        opened = samples(metrics)["mongodb_connections", "open"]
        assert opened >= 1
        await asyncio.gather(*(storage.ping(10) for _ in range(5)))
        shown = samples(metrics)
        assert shown["mongodb_connections", "open"] >= opened
        assert shown["mongodb_connections", "in_use"] == 0
        assert shown["mongodb_connections", "awaited"] == 0
        assert shown["mongodb_checkout_seconds_count", "success"] >= 5
    shown = samples(metrics)
    assert shown["mongodb_connections", "open"] == 0
    assert shown["mongodb_connections_closed_total", "poolClosed"] >= 1


def test_a_synchronous_client_is_counted_from_its_threads(
    mongo_url: str, database_name: str
) -> None:
    """What many threads count at once comes out even."""
    metrics = Metrics()
    with MongoClient[dict[str, Any]](mongo_url, event_listeners=[PoolListener()]) as client:
        storage = Storage(client[database_name], metrics)

        async def work() -> None:
            await asyncio.gather(*(storage.ping(10) for _ in range(50)))

        asyncio.run(work())
        shown = samples(metrics)
        assert shown["mongodb_connections", "in_use"] == 0
        assert shown["mongodb_connections", "awaited"] == 0
        assert shown["mongodb_checkout_seconds_count", "success"] >= 50


def test_two_servers_of_one_client_are_both_told(mongo_url: str, database_name: str) -> None:
    """A listener that is found a second time counts no connection twice."""
    first, second = Metrics(), Metrics()
    with MongoClient[dict[str, Any]](mongo_url, event_listeners=[PoolListener()]) as client:
        for metrics in (first, first, second):
            Storage(client[database_name], metrics)
        client[database_name].command("ping")
        for metrics in (first, second):
            shown = samples(metrics)
            assert shown["mongodb_connections", "open"] == shown[
                "mongodb_checkout_seconds_count", "success"
            ] == 1  # fmt: skip


def test_storage_without_metrics_counts_nothing(database: Database[Any]) -> None:
    """The command line is no worker: its batches are nobody's statistics."""
    queue: Any = Storage(database).queue(Queue.AUDIT, Storage(database).collection("x").insert)
    assert queue._metrics is None


def test_the_command_line_leaves_nothing_where_workers_count(
    mongo_url: str, database_name: str, tmp_path: Path
) -> None:
    """It may run beside them, with their environment, as often as it likes."""
    environment = {
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
        "MONGODB_URL": mongo_url,
        "MONGODB_DB": database_name,
    }
    command = [sys.executable, "-m", "oauth2_m2m", "keys", "list", "--json"]
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert list(tmp_path.iterdir()) == []


WORKER = """
import sys
from _oauth2_m2m.metrics import Queue, new_metrics
metrics = new_metrics()
assert new_metrics() is metrics
with metrics.guard():
    pass
metrics.queue(Queue.AUDIT).answered(3, waited=0.1, took=0.2, waiting=int(sys.argv[1]), failed=False)
metrics.keys["ES256"].set(int(sys.argv[1]))
print(metrics.text().decode() if sys.argv[2:] else "", end="")
print("counted", flush=True)
sys.stdin.read()
"""


@contextmanager
def worker(folder: Path, number: int, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A process that counts in a folder, until it is told to end."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(number), *options],
        cwd=ROOT,
        env={"PROMETHEUS_MULTIPROC_DIR": str(folder), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def counted(process: subprocess.Popen[str]) -> str:
    """What a worker shows once it has counted."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        if line == "counted\n":
            break
        lines.append(line)
    else:
        pytest.fail("the worker ended")
    return "".join(lines)


def test_workers_that_count_in_one_folder_are_shown_as_one(tmp_path: Path) -> None:
    """Counts are added up, those of the dead too; what the dead were doing is forgotten."""
    folder = tmp_path / "made" / "when needed"
    with worker(folder, 5) as dead:
        counted(dead)
    with worker(folder, 7) as other:
        counted(other)
        with worker(folder, 11, "show") as shown_by:
            shown = counted(shown_by)
    assert 'oauth2_m2m_guard_checks_total{outcome="success"} 3.0' in shown
    assert 'oauth2_m2m_batch_size_sum{queue="audit"} 9.0' in shown
    assert 'oauth2_m2m_queue_waiting{queue="audit"} 18.0' in shown  # 5 died with its worker
    assert 'oauth2_m2m_keys{algorithm="ES256"} 11.0' in shown  # the last who looked


def test_a_folder_that_cannot_be_used_stops_the_start_with_one_line(tmp_path: Path) -> None:
    """The line names the variable, and not the folder's contents."""
    taken = tmp_path / "a file"
    taken.write_text("")
    ended = subprocess.run(
        [sys.executable, "-c", WORKER, "1"],
        cwd=ROOT,
        env={"PROMETHEUS_MULTIPROC_DIR": str(taken), "PYTHONPATH": str(ROOT)},
        input="",
        capture_output=True,
        text=True,
        check=False,
    )
    last = ended.stderr.strip().splitlines()[-1]
    assert "ConfigurationError: PROMETHEUS_MULTIPROC_DIR is no folder to write to" in last
