"""Log lines as JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from _oauth2_m2m.callers import CALLER, Caller
from _oauth2_m2m.credentials import make_client_secret
from _oauth2_m2m.logs import JsonFormatter

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJiaWxsaW5nIn0.c2lnbmF0dXJlLW9mLWl0"


def line(message: str, *arguments: object, **fields: Any) -> dict[str, Any]:
    """What a record looks like."""
    record = logging.LogRecord("yourapp", logging.WARNING, "x.py", 1, message, arguments, None)
    record.__dict__.update(fields)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    members: dict[str, Any] = json.loads(text)
    return members


def test_a_line_has_its_time_level_logger_and_message() -> None:
    """Nothing more, outside of a request; the time is UTC."""
    members = line("%s of %d", "two", 3)
    moment = datetime.fromisoformat(members.pop("time"))
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 60
    assert moment.utcoffset() is not None
    assert members == {"level": "WARNING", "logger": "yourapp", "message": "two of 3"}


def test_a_line_within_a_request_names_it() -> None:
    """The id is the one of its audit records, and the same in each line."""
    caller = Caller("192.0.2.1", {})
    token = CALLER.set(caller)
    try:
        assert line("a")["request_id"] == line("b")["request_id"] == caller.request_id
    finally:
        CALLER.reset(token)


def test_what_was_given_with_it_is_told_too() -> None:
    """Numbers stay numbers, other things become text, and none takes another's name."""
    members = line("x", error_id="abc", count=3, share=0.5, odd=float("nan"), thing={1}, level="y")
    assert (members["error_id"], members["count"], members["share"]) == ("abc", 3, 0.5)
    assert (members["odd"], members["thing"], members["level"]) == ("nan", "{1}", "WARNING")


@pytest.mark.parametrize(
    "secret", [make_client_secret(), JWT, f"{JWT}.{JWT}"], ids=["made", "token", "two tokens"]
)
def test_a_secret_is_cut_short_wherever_it_stands(secret: str) -> None:
    """In the message, its arguments, what was given with it, the request id and the exception."""
    token = CALLER.set(Caller("192.0.2.1", {"x-request-id": secret}))
    try:
        raise ValueError(secret)
    except ValueError:
        members = line(f"a {secret} b %s", secret, given=secret, exc_info=sys.exc_info())
    finally:
        CALLER.reset(token)
    assert secret[:20] not in json.dumps(members)
    assert members["message"].startswith("a ")
    assert "ValueError" in members["exception"]
