"""What may be wrong with the app that is guarded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from _oauth2_m2m.config import Environment
from _oauth2_m2m.doctor.findings import Finding, Severity, found, unsafe_in


def app_facts(app: Any, path: str = "") -> Iterator[tuple[str, bool, bool]]:
    """Of an app and all that are mounted in it: where, whether it redirects, whether it debugs.

    Args:
        app: a FastAPI or Starlette app; what is none says nothing of itself.
        path: where it is mounted.
    """
    router = getattr(app, "router", None)
    if router is None:
        return
    yield path or "/", bool(getattr(router, "redirect_slashes", False)), bool(app.debug)
    for route in router.routes:
        mounted = getattr(route, "app", None)
        if getattr(mounted, "router", None) is not None:
            yield from app_facts(mounted, path + route.path)


def app_findings(
    redirecting: Sequence[str], debugging: Sequence[str], environment: Environment
) -> Iterator[Finding]:
    """What is wrong with the app that is guarded.

    Args:
        redirecting: where it, or an app in it, redirects what has a slash too many.
        debugging: where it shows stack traces.
        environment: where it runs.
    """
    if redirecting:
        what = "the app redirects calls with a trailing slash"
        yield found("slash-redirects", Severity.WARNING, what, redirecting)
    if debugging:
        yield found("app-debug", unsafe_in(environment), "the app runs in debug mode", debugging)
