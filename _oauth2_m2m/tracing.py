"""Spans, where OpenTelemetry's API is installed and a tracer provider was set; else nothing at all.

Spans name what was done and how it ended. They hold no secret, no address and no id but that of a
client which has proved who it is, for whatever is merely presented may be a secret that was pasted
into the wrong field. Exceptions are not recorded: their words and traces could quote a document.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext, Tracer

try:
    from opentelemetry import trace
except ImportError:
    trace = None  # type: ignore[assignment]

PREFIX = "oauth2_m2m"
#: In seconds, until there is one.
_LOOKED_FOR_EVERY = 1.0

Value: TypeAlias = str | int

_NOTHING: AbstractContextManager[object] = nullcontext()


def span(
    name: str, *, cause: SpanContext | None = None, **attributes: Value
) -> AbstractContextManager[object]:
    """A span for as long as the body runs; spans that begin in it are its children.

    Args:
        name: what is done, of a few words that are known beforehand.
        cause: another span that led to this one, to be linked.
        attributes: what is known of it.
    """
    tracer = _tracer()
    if tracer is None:
        return _NOTHING
    return tracer.start_as_current_span(
        f"{PREFIX}.{name}",
        attributes=_named(attributes),
        links=[] if cause is None else [trace.Link(cause)],
        record_exception=False,
        set_status_on_exception=False,
    )


def note(*, failed: bool = False, **attributes: Value) -> None:
    """Say more of the current span.

    Args:
        failed: whether it ended badly, by no fault of the caller.
        attributes: what is known of it by now.
    """
    if _tracer() is not None:
        current = trace.get_current_span()
        current.set_attributes(_named(attributes))
        if failed:
            current.set_status(trace.StatusCode.ERROR)


def current() -> SpanContext | None:
    """What names the current span, if there is one."""
    if _tracer() is None:
        return None
    context = trace.get_current_span().get_span_context()
    return context if context.is_valid else None


def ids() -> dict[str, str]:
    """The ids of the current span, as a log line holds them; none where there is no span."""
    context = current()
    if context is None:
        return {}
    return {
        "trace_id": trace.format_trace_id(context.trace_id),
        "span_id": trace.format_span_id(context.span_id),
    }


class _Finder:
    """Finds the tracer, once somebody has set a provider: without one spans would be for nothing.

    To ask for the provider costs more than all else here, so that is done once a second.
    """

    def __init__(self) -> None:
        self._found: Tracer | None = None
        self._next_look = 0.0

    def __call__(self) -> Tracer | None:
        if self._found is None and trace is not None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOKED_FOR_EVERY
            provider = trace.get_tracer_provider()
            if not isinstance(provider, trace.ProxyTracerProvider):
                self._found = provider.get_tracer(PREFIX)
        return self._found


_tracer = _Finder()


def _named(attributes: dict[str, Value]) -> dict[str, Value]:
    return {f"{PREFIX}.{name}": value for name, value in attributes.items()}
