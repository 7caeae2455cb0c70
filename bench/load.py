"""Load from wrk, in which every answer is checked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("load.lua")
#: How long wrk may take beyond its duration.
GRACE_SECONDS = 60


class WrongAnswers(Exception):
    """A contender answered wrongly, so its figures mean nothing."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked, again and again.

    Attributes:
        method, path: of every request.
        requests: headers and body of each; they are sent in turn.
        expect: the Lua pattern that the body of every answer matches; its status is 200.
    """

    method: str
    path: str
    requests: Sequence[tuple[Mapping[str, str], str]]
    expect: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What wrk saw: how many right answers in how many seconds, and the latency in ms."""

    requests: int
    seconds: float
    p50: float
    p99: float


def run(load: Load, port: int, *, connections: int, seconds: int) -> Outcome:
    """Put load on a port of this machine.

    Raises:
        WrongAnswers: an answer was wrong, or there was none.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as data:
        data.write(_as_lua(load))
        data.flush()
        command = ["wrk", "--threads", "1", "--connections", str(connections)]
        command += ["--duration", f"{seconds}s", "--timeout", "30s", "--script", str(SCRIPT)]
        finished = subprocess.run(  # noqa: S603
            [*command, f"http://127.0.0.1:{port}{load.path}"],
            env={**os.environ, "BENCH_LOAD": data.name},
            capture_output=True,
            text=True,
            timeout=seconds + GRACE_SECONDS,
            check=False,
        )
    found = re.search(r"^BENCH (.*)$", finished.stdout, re.MULTILINE)
    if finished.returncode or found is None:
        raise WrongAnswers(f"wrk failed: {finished.stderr or finished.stdout}")
    counts = json.loads(found[1])
    if counts["wrong"] or counts["failed"]:
        example = re.search(r"^EXAMPLE (.*)$", finished.stdout, re.MULTILINE)
        raise WrongAnswers(f"{counts}; the first: {example[1] if example else ''}")
    return Outcome(counts["requests"], counts["microseconds"] / 1e6, counts["p50"], counts["p99"])


def _as_lua(load: Load) -> str:
    requests = ",\n".join(_request(headers, body) for headers, body in load.requests)
    return (
        f"return {{method = {_quoted(load.method)}, path = {_quoted(load.path)}, "
        f"expect = {_quoted(load.expect)}, requests = {{\n{requests}\n}}}}"
    )


def _request(headers: Mapping[str, str], body: str) -> str:
    members = ", ".join(f"[{_quoted(name)}] = {_quoted(text)}" for name, text in headers.items())
    return f"{{headers = {{{members}}}, body = {_quoted(body) if body else 'nil'}}}"


def _quoted(text: str) -> str:
    """A Lua literal. Of what JSON escapes, only quotes and backslashes occur here."""
    return json.dumps(text)
