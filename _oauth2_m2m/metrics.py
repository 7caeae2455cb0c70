"""What a process counts and times, for Prometheus.

Values of labels are words that are known beforehand, and never what a caller sent: so there is a
bounded number of series, and no secret in them. Each metric has labels, since Prometheus' library
begins a series without labels at once, also in a process that will never count there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from enum import StrEnum
from functools import cache
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from _oauth2_m2m import tracing
from _oauth2_m2m.errors import ConfigurationError, OAuth2Error, TemporarilyUnavailable

#: Where the workers of `--workers N` count together. Prometheus' library reads it when imported.
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SUCCESS, FAILED, DISCONNECTED = "success", "failed", "disconnected"
#: What has no grant, such as a revocation.
NO_GRANT = "none"

T = TypeVar("T", bound=MetricWrapperBase)

_PREFIX = "oauth2_m2m_"
_TIMES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500)


class Queue(StrEnum):
    """The queues of group commit, by what is asked in them."""

    AUDIT = "audit"
    AUDIT_REFUSALS = "audit_refusals"
    AUTHENTICATION = "authentication"
    BUDGETS = "budgets"
    CHECK = "check"
    CLIENTS = "clients"
    CONFIG = "config"
    FAILURES = "failures"
    FEED_CATCHING_UP = "feed_catching_up"
    FEED_NEAR = "feed_near"
    KEYS = "keys"
    PLACES = "places"
    PLACES_GIVEN_BACK = "places_given_back"
    REFRESH_TOKENS = "refresh_tokens"
    REFRESH_TOKENS_CLAIMED = "refresh_tokens_claimed"
    REFRESH_TOKENS_FOUND = "refresh_tokens_found"
    REFRESH_TOKENS_USED = "refresh_tokens_used"
    REVOCATION = "revocation"
    REVOCATION_WRITES = "revocation_writes"
    USED_ASSERTIONS = "used_assertions"
    USED_PROOFS = "used_dpop_proofs"


class Metrics(Collector):
    """All that a server, or a guard of a service elsewhere, has counted; a Prometheus collector.

    `GET /metrics` shows it. An app that has a registry of its own may add it there:
    `prometheus_client.REGISTRY.register(m2m.metrics)`.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.requests = counter(
            "requests", "Requests to the endpoints", ["endpoint", "grant", "outcome"]
        )
        self.request_seconds = histogram(
            "request_seconds",
            "How long endpoints took, reading the body included",
            ["endpoint", "result"],
            _TIMES,
        )
        self.guard_checks = counter("guard_checks", "Checks of guarded routes", ["outcome"])
        self.guard_seconds = histogram(
            "guard_seconds", "How long guards took, without the routes", ["result"], _TIMES
        )
        self.refusals = counter("refusals", "Refusals, as the audit log calls them", ["event"])
        self.batch_size = histogram("batch_size", "Questions in a batch", ["queue"], _SIZES)
        self.batch_seconds = histogram(
            "batch_seconds", "How long the database took for a batch", ["queue"], _TIMES
        )
        self.batch_wait_seconds = histogram(
            "batch_wait_seconds", "How long a batch's first question waited", ["queue"], _TIMES
        )
        self.batch_failures = counter("batch_failures", "Batches that failed", ["queue"])
        self.queue_waiting = gauge("queue_waiting", "Questions that wait", ["queue"], "livesum")
        self.queue_full = counter(
            "queue_full", "Questions that were refused since too many waited", ["queue"]
        )
        self.connections = gauge(
            "mongodb_connections", "MongoDB connections, and who waits", ["state"], "livesum"
        )
        self.connections_closed = counter(
            "mongodb_connections_closed", "MongoDB connections that were closed", ["reason"]
        )
        self.checkout_seconds = histogram(
            "mongodb_checkout_seconds", "How long it took to get one", ["outcome"], _TIMES
        )
        self.signing_key_from = gauge(
            "signing_key_from_timestamp_seconds",
            "When the key that signs began to",
            ["algorithm"],
            "livemostrecent",
        )
        self.keys = gauge("keys", "Keys that verify access tokens", ["algorithm"], "livemostrecent")
        self.revocations_known = gauge(
            "revocations_known_timestamp_seconds",
            "All that was revoked before is known here",
            ["issuer"],
            "livemin",
        )
        self.revocations = gauge("revocations", "Live revocations known", ["issuer"], "livemax")
        self.feed_polls = counter(
            "feed_polls", "Attempts to read the revocation feed", ["issuer", "outcome"]
        )
        self.issuer_keys_seen = gauge(
            "issuer_keys_seen_timestamp_seconds",
            "When the issuer's keys were last seen",
            ["issuer"],
            "livemin",
        )

    def collect(self) -> Iterator[Metric]:
        """All metrics, those of the other workers included; Prometheus' library calls it."""
        if not counts_together():
            yield from map(_without_created, self._registry.collect())
            return
        folder = os.environ[VARIABLE]
        _forget_dead_workers(Path(folder))
        collected: Iterable[Metric] = MultiProcessCollector(None, folder).collect()  # type: ignore[no-untyped-call]
        for metric in collected:
            if metric.name.startswith(_PREFIX):  # others may count in the same folder
                yield metric

    def describe(self) -> Iterable[Metric]:
        """The names that are taken; Prometheus' library calls it."""
        return self._registry.collect()

    def text(self) -> bytes:
        """All metrics, as Prometheus reads them."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def endpoint(self, name: str) -> Observation:
        """Observe a request to an endpoint, as a context manager."""
        return Observation(name, self._ended_request)

    def guard(self) -> Observation:
        """Observe the check of a guarded route, as a context manager."""
        return Observation("guard", self._ended_check)

    def queue(self, name: Queue) -> QueueMetrics:
        """What one queue counts."""
        return QueueMetrics(self, name)

    def _ended_request(self, seen: Observation, seconds: float) -> None:
        self.requests[seen.name, seen.grant, seen.outcome].inc()
        self.request_seconds[seen.name, seen.result].observe(seconds)

    def _ended_check(self, seen: Observation, seconds: float) -> None:
        self.guard_checks[seen.outcome].inc()
        self.guard_seconds[seen.result].observe(seconds)

    def _counter(self, name: str, words: str, labels: Sequence[str]) -> Children[Counter]:
        return Children(Counter(_PREFIX + name, words, labels, registry=self._registry))

    def _gauge(self, name: str, words: str, labels: Sequence[str], mode: Any) -> Children[Gauge]:
        """A gauge; the mode says what becomes of it when several workers have one."""
        return Children(
            Gauge(_PREFIX + name, words, labels, registry=self._registry, multiprocess_mode=mode)
        )

    def _histogram(
        self, name: str, words: str, labels: Sequence[str], buckets: Sequence[float]
    ) -> Children[Histogram]:
        return Children(
            Histogram(_PREFIX + name, words, labels, registry=self._registry, buckets=buckets)
        )


class Children(dict[str | tuple[str, ...], T], Generic[T]):
    """The series of one metric by the values of its labels, each made when it is first needed.

    Prometheus' own way to them takes longer than counting does.
    """

    def __init__(self, family: T) -> None:
        super().__init__()
        self._family: T = family

    def begin(self, *values_of_labels: str) -> None:
        """Begin series at 0, so that Prometheus sees the first increase of what is rare."""
        for each in values_of_labels:
            if each not in self:
                self.__missing__(each)

    def __missing__(self, values_of_labels: str | tuple[str, ...]) -> T:
        words = values_of_labels if isinstance(values_of_labels, tuple) else (values_of_labels,)
        child = self[values_of_labels] = self._family.labels(*words)
        return child


class Observation:
    """One request: how long it takes, what comes of it, and a span for as long.

    Attributes:
        name: what is asked for.
        grant: by which grant, once that is known.
        outcome: `success`, the code of the error, or what else it came to.
    """

    __slots__ = ("_began", "_ended", "_span", "grant", "name", "outcome")

    def __init__(self, name: str, ended: Callable[[Observation, float], None]) -> None:
        self.name, self.grant, self.outcome = name, NO_GRANT, SUCCESS
        self._ended = ended

    @property
    def result(self) -> str:
        """The outcome in one of three words."""
        if self.outcome == SUCCESS:
            return SUCCESS
        return "unavailable" if self.outcome in _NOT_THEIR_FAULT else "refused"

    def refused(self, error: OAuth2Error) -> None:
        """Note what came of it."""
        self.outcome = error.error

    def __enter__(self) -> Self:
        self._span = tracing.span(self.name)
        self._span.__enter__()
        self._began = perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        seconds = perf_counter() - self._began
        if kind is not None:
            self.outcome = FAILED if issubclass(kind, Exception) else DISCONNECTED
        self._ended(self, seconds)
        tracing.note(failed=self.result == "unavailable", outcome=self.outcome, grant=self.grant)
        self._span.__exit__(None, None, None)


_NOT_THEIR_FAULT = frozenset({TemporarilyUnavailable.error, FAILED})


class QueueMetrics:
    """What one queue counts: once a batch, not once a question.

    Attributes:
        name: which queue it is.
    """

    def __init__(self, metrics: Metrics, name: Queue) -> None:
        self.name = name
        self._metrics = metrics
        self._waiting = -1
        metrics.batch_failures.begin(name)
        metrics.queue_full.begin(name)

    def answered(
        self, questions: int, *, waited: float, took: float, waiting: int, failed: bool
    ) -> None:
        """Count a batch.

        Args:
            questions: how many it had.
            waited: how long the first of them had waited, in seconds.
            took: how long the database took, in seconds.
            waiting: how many wait by now for the next one.
            failed: whether it failed.
        """
        metrics, name = self._metrics, self.name
        metrics.batch_size[name].observe(questions)
        metrics.batch_wait_seconds[name].observe(waited)
        metrics.batch_seconds[name].observe(took)
        if waiting != self._waiting:
            metrics.queue_waiting[name].set(waiting)
            self._waiting = waiting
        if failed:
            metrics.batch_failures[name].inc()

    def full(self) -> None:
        """Count a question that was refused, since too many wait."""
        self._metrics.queue_full[self.name].inc()


def new_metrics() -> Metrics:
    """Metrics that count from now on.

    Where workers count together, those of one process are one: they share its file.

    Raises:
        ConfigurationError: the folder for that cannot be used.
    """
    if not counts_together():
        return Metrics()
    try:
        Path(os.environ[VARIABLE]).mkdir(parents=True, exist_ok=True)
    except (KeyError, OSError) as error:
        raise ConfigurationError(
            f"{VARIABLE} is no folder to write to ({type(error).__name__}): set another"
        ) from None
    return _of_this_process()


def counts_together() -> bool:
    """Whether the workers of one machine count together, in the folder of `VARIABLE`."""
    return values.ValueClass is not values.MutexValue


@cache
def _of_this_process() -> Metrics:
    return Metrics()


def _without_created(metric: Metric) -> Metric:
    """A metric without the moments when its series began, which would be half of all lines."""
    metric.samples = [each for each in metric.samples if not each.name.endswith("_created")]
    return metric


def _forget_dead_workers(folder: Path) -> None:
    """Workers that were killed told nobody: what they were doing then shall not be shown for ever.

    What they counted stays.
    """
    if os.name != "posix":  # elsewhere the question is a signal that kills
        return
    for pid in {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*_*.db")}:
        if pid.isdigit() and not _is_alive(int(pid)):
            with suppress(OSError):  # another worker may have seen it, too
                mark_process_dead(int(pid), str(folder))  # type: ignore[no-untyped-call]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's, but it is there
        pass
    return True
