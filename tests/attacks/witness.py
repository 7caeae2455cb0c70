"""Stands between an attack and the app: counts the requests, and looks at every answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import httpx

from tests.server import HOME

#: What CI sends in all, at the least; each test asserts its share of it.
LEAST_REQUESTS = 10_000
OTHERS = "others"
BY_SCHEMATHESIS = {"/token": 850, "/refresh": 450, "/revoke": 650, "/introspect": 650, OTHERS: 300}
BY_STORIES = LEAST_REQUESTS - sum(BY_SCHEMATHESIS.values())

#: Where tokens are asked for, exchanged, ended or asked about.
TOKEN_ENDPOINTS = frozenset({"/token", "/refresh", "/revoke", "/introspect"})
#: Where tokens are handed out, so that an answer may hold one.
_HANDING_OUT = frozenset({"/token", "/refresh"})
_ENDPOINTS = TOKEN_ENDPOINTS | {
    "/revocations", "/metrics", "/health", "/health/live", "/health/ready",
}  # fmt: skip
#: What would tell an attacker how the server is built, or where it lies.
_INTERNALS = re.compile(
    rb"Traceback|Exception|pymongo|mongodb://|site-packages|_oauth2_m2m|\.py\b|line \d+|"
    rb"/(?:home|root|usr|work|tmp)/",
)
_ERROR_MEMBERS = {"error", "error_description", "detail", "error_id"}
#: Nothing is down and nobody is over a limit that is out of reach, so there is no other 5xx.
_UNAVAILABLE = 503


class Witness(httpx.AsyncBaseTransport):
    """The way to an app, on which nothing passes that must never be answered.

    An exception that escapes the app is raised: behind a real server it would be a 500.

    Args:
        app: the app.
        ip: where the requests come from.

    Attributes:
        answers: how many there were, by path and status.
        secrets: what no answer may hold, unless it hands it out.
    """

    def __init__(self, app: Any, ip: str = HOME) -> None:
        self._app = httpx.ASGITransport(app, client=(ip, 50_000))
        self.answers: Counter[tuple[str, int]] = Counter()
        self.secrets: set[str] = set()

    @property
    def requests(self) -> int:
        """How many requests were answered."""
        return self.answers.total()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Pass a request on, and look at the answer."""
        response = await self._app.handle_async_request(request)
        await response.aread()
        path = request.url.path.rstrip("/")
        self.answers[path, response.status_code] += 1
        look_at(path, response, self.secrets, has_body=request.method != "HEAD")
        stream = httpx.ByteStream(response.content)
        return httpx.Response(response.status_code, headers=response.headers, stream=stream)

    def statuses(self, path: str | None = None) -> Counter[int]:
        """How many answers there were of each status, of all paths or of one."""
        counted: Counter[int] = Counter()
        for (answered, status), times in self.answers.items():
            counted[status] += times if path in (None, answered) else 0
        return +counted

    def expect_enough(self, least: int) -> None:
        """There were so many requests, and not one 500."""
        print(f"{self.requests} requests: {dict(sorted(self.statuses().items()))}")
        assert self.requests >= least
        assert self.statuses()[500] == 0


def look_at(path: str, response: httpx.Response, secrets: Iterable[str], *, has_body: bool) -> None:
    """What holds of every answer, whatever was asked.

    Args:
        path: what was asked for, without trailing slashes.
        response: the answer.
        secrets: what it must not hold, unless it hands it out.
        has_body: whether an error has a body.
    """
    said = f"{response.status_code} {dict(response.headers)} {response.text[:1000]}"
    assert response.status_code < 500 or response.status_code == _UNAVAILABLE, said
    assert "location" not in response.headers, said
    assert "set-cookie" not in response.headers, said
    assert not _INTERNALS.search(response.content), said
    for name, value in response.headers.raw:
        assert value.isascii(), said
        assert not set(name + value) & {0, 10, 13}, said
    if path in TOKEN_ENDPOINTS:
        assert response.headers.get_list("cache-control") == ["no-store"], said
    if path in _ENDPOINTS and response.status_code >= 400:
        assert response.headers["content-type"] == "application/json", said
        assert not has_body or response.json().keys() >= _ERROR_MEMBERS, said
    hands_out = path in _HANDING_OUT and response.status_code == 200
    answered = str(response.headers) + ("" if hands_out else response.text)
    assert not [secret for secret in secrets if secret in answered], said
