"""What every answer and every audit record must look like, said once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from pymongo.database import Database

from tests.server import HOME

Document = dict[str, Any]

#: RFC 6749 section 5.2: the characters of `error_description`.
_DESCRIPTION = re.compile(r"[\x20\x21\x23-\x5B\x5D-\x7E]+")
#: Opaque: 80 bits, in hexadecimal.
_ERROR_ID = re.compile(r"[0-9a-f]{20}")
#: A whole secret, refresh token or access token.
_WHOLE_SECRET = re.compile(r"m2m[a-z]_[0-9A-Za-z]{49}|eyJ[\w-]+\.eyJ[\w-]+\.[\w-]{20,}")
_RECORD_MEMBERS = {
    "_id", "event_type", "client_id", "ip", "reason", "timestamp", "jti", "request_id",
    "user_agent",
}  # fmt: skip
#: A counted record grows, so it is in no chain, but is sealed when its window is over.
_CHAINED_MEMBERS, _COUNTED_MEMBERS = {"previous", "hash"}, {"count", "sealed"}


def expect_no_store(response: httpx.Response) -> None:
    """Nobody on the way may keep the answer, and it sends nobody elsewhere."""
    assert response.headers.get_list("cache-control") == ["no-store"]
    assert "location" not in response.headers


def expect_error(response: httpx.Response, status: int, error: str) -> Document:
    """An error of our endpoints: its status, its body, its headers. Returns the body."""
    assert response.status_code == status, f"{response.status_code}: {response.text}"
    expect_no_store(response)
    assert response.headers["content-type"] == "application/json"
    body: Document = response.json()
    assert body.keys() == {"error", "error_description", "detail", "error_id"}
    assert body["error"] == error
    assert response.headers["x-error-id"] == body["error_id"]
    assert _ERROR_ID.fullmatch(body["error_id"])
    assert _DESCRIPTION.fullmatch(body["error_description"])
    if status == 422:
        assert body["detail"]
        for fault in body["detail"]:
            assert fault.keys() == {"type", "loc", "msg"}
    else:
        assert body["detail"] == body["error_description"]
    if status in {429, 503}:
        assert int(response.headers["retry-after"]) >= 1
    assert ("www-authenticate" in response.headers) <= (status == 401)
    return body


def wording(response: httpx.Response) -> bytes:
    """The body, where an error has `...` for its id, which is random and says nothing."""
    error_id = response.headers.get("x-error-id", "")
    return response.content.replace(error_id.encode(), b"...") if error_id else response.content


def expect_tokens(response: httpx.Response, *, refresh: bool = True) -> Document:
    """A token response: its members and headers. Returns the body."""
    assert response.status_code == 200, f"{response.status_code}: {response.text}"
    expect_no_store(response)
    assert response.headers["content-type"] == "application/json"
    body: Document = response.json()
    members = {"access_token", "token_type", "expires_in", "scope"}
    assert body.keys() == members | ({"refresh_token"} if refresh else set())
    assert body["token_type"] == "bearer"
    assert type(body["expires_in"]) is int
    return body


class Log:
    """The audit log as it grows: every look sees what is new since the last."""

    def __init__(self, database: Database[Any]) -> None:
        self._records = database["audit_logs"]
        self._seen: set[Any] = set()

    def new(self) -> list[Document]:
        """The records that were written since the last look, oldest first."""
        found = self._records.find(sort=[("timestamp", 1), ("_id", 1)])
        records = [record for record in found if record["_id"] not in self._seen]
        self._seen.update(record["_id"] for record in records)
        return records

    def expect_nothing(self) -> None:
        """Nothing was written since the last look."""
        assert self.new() == []

    def expect(
        self,
        event_type: str,
        *,
        client_id: str | None,
        reason: str | None = None,
        ip: str | None = HOME,
        hiding: Iterable[str] = (),
    ) -> Document:
        """One record was written since the last look, and it says this. Returns it.

        Args:
            event_type: what happened.
            client_id: to whom.
            reason: words that its reason holds.
            ip: from where.
            hiding: secrets that it must not hold; whole ones that we make are looked for anyway.
        """
        records = self.new()
        assert [record["event_type"] for record in records] == [event_type], records
        record = records[0]
        is_counted = event_type == "rate_limit_exceeded"
        placed = _COUNTED_MEMBERS if is_counted else _CHAINED_MEMBERS
        assert record.keys() >= _RECORD_MEMBERS | placed
        assert (record["client_id"], record["ip"]) == (client_id, ip)
        assert abs(record["timestamp"] - datetime.now(UTC)) < timedelta(minutes=1)
        if reason is not None:
            assert reason in (record["reason"] or "")
        texts = [value for value in record.values() if isinstance(value, str)]
        for text in texts:
            assert not _WHOLE_SECRET.search(text)
            assert not [secret for secret in hiding if secret in text]
        return record


async def early_in_the_minute(seconds_needed: int = 12) -> None:
    """Wait for the next minute when this one may end before the test: limits count by minutes."""
    now = datetime.now(UTC)
    left = 60 - now.second - now.microsecond / 1_000_000
    if left < seconds_needed:
        await asyncio.sleep(left + 0.05)
