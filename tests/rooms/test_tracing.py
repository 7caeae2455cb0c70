"""OpenTelemetry spans: what is in them, and nothing where nobody wants them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from _oauth2_m2m import tracing
from _oauth2_m2m.errors import InvalidToken, TemporarilyUnavailable
from _oauth2_m2m.group_commit import GroupCommit
from _oauth2_m2m.metrics import Metrics, Queue
from tests.papers import ROOT


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The spans that have ended."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", lambda: provider.get_tracer("test"))
    return exporter


def test_a_span_says_what_was_done_and_how_it_ended(spans: InMemorySpanExporter) -> None:
    """A refusal is no failure of ours; that of the database is."""
    metrics = Metrics()
    with metrics.endpoint("token") as seen:
        seen.grant = "client_credentials"
        tracing.note(client_id="billing")
    with metrics.guard() as seen:
        seen.refused(InvalidToken())
    with metrics.guard() as seen:
        seen.refused(TemporarilyUnavailable())
    token, refused, unavailable = spans.get_finished_spans()
    assert token.name == "oauth2_m2m.token"
    assert dict(token.attributes or {}) == {
        "oauth2_m2m.client_id": "billing",
        "oauth2_m2m.grant": "client_credentials",
        "oauth2_m2m.outcome": "success",
    }
    assert refused.name == "oauth2_m2m.guard"
    assert (refused.attributes or {})["oauth2_m2m.outcome"] == "invalid_token"
    assert refused.status.is_unset
    assert not unavailable.status.is_ok
    assert not unavailable.status.is_unset


def test_an_exception_is_not_recorded(spans: InMemorySpanExporter) -> None:
    """Its words could quote a document."""
    with pytest.raises(ValueError, match="a secret"), Metrics().guard():
        raise ValueError("a secret")
    with pytest.raises(ValueError, match="a secret"), tracing.span("batch"):
        raise ValueError("a secret")
    guard, batch = spans.get_finished_spans()
    for span in (guard, batch):
        assert "a secret" not in span.to_json()
        assert not span.events
    assert (guard.attributes or {})["oauth2_m2m.outcome"] == "failed"


async def test_a_batch_is_linked_to_the_request_that_opened_it(
    spans: InMemorySpanExporter,
) -> None:
    """It answers many, so it is the child of none."""

    async def command(questions: Sequence[int]) -> Sequence[int]:
        return questions

    queue = GroupCommit(command, metrics=Metrics().queue(Queue.CHECK))
    with Metrics().guard():
        await asyncio.gather(*(queue.ask(number) for number in range(3)))
    batch, guard = spans.get_finished_spans()
    assert batch.name == "oauth2_m2m.batch"
    assert dict(batch.attributes or {}) == {"oauth2_m2m.queue": "check", "oauth2_m2m.size": 3}
    assert batch.parent is None
    assert [link.context for link in batch.links] == [guard.context]


PROGRAM = """
import sys
if sys.argv[1] == "missing":
    sys.modules["opentelemetry"] = None
from _oauth2_m2m import tracing
from _oauth2_m2m.metrics import Metrics
if sys.argv[1] == "set":
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    trace.set_tracer_provider(TracerProvider())
with Metrics().guard():
    tracing.note(client_id="billing")
    print(len(tracing.ids()), tracing.current() is not None)
"""


@pytest.mark.parametrize(
    ("state", "shown"), [("missing", "0 False"), ("not set", "0 False"), ("set", "2 True")]
)
def test_there_are_spans_when_somebody_wants_them(state: str, shown: str) -> None:
    """Without the API, or without a provider, nothing is done and nothing fails."""
    program = [sys.executable, "-c", PROGRAM, state]
    printed = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == shown
