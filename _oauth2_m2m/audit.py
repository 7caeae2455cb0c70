"""The audit log: what happened, to whom, from where. The collection `audit_logs`.

A record is acknowledged before the answer that it speaks of leaves; a request whose record cannot
be written fails.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from _oauth2_m2m.callers import Caller
from _oauth2_m2m.credentials import without_secrets
from _oauth2_m2m.errors import OAuth2Error
from _oauth2_m2m.hooks import EventHook
from _oauth2_m2m.metrics import Queue
from _oauth2_m2m.rules import Facts, Flow
from _oauth2_m2m.storage import Document, Storage

_LONGEST_CLIENT_ID = 128
_LONGEST_REASON = 300
#: Only refusals have an id to be found by.
_REFUSED = {"error_id": {"$type": "string"}}


class Event(StrEnum):
    """What can be recorded, in the words of the collection."""

    LOGIN_SUCCESS = "login_success"
    LOGIN_FAILURE = "login_failure"
    TOKEN_REFRESHED = "token_refreshed"
    TOKEN_REVOKED = "token_revoked"
    REFRESH_TOKEN_REUSE = "refresh_token_reuse"
    REFRESH_TOKEN_INVALID = "refresh_token_invalid"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    TOKEN_INVALID = "token_invalid"
    ACCESS_DENIED = "access_denied"
    CLIENT_CREATED = "client_created"
    CLIENT_UPDATED = "client_updated"
    CLIENT_DISABLED = "client_disabled"
    SECRET_ROTATED = "secret_rotated"
    KEY_ROTATED = "key_rotated"
    CONFIG_CHANGED = "config_changed"


class AuditLog:
    """Writes `audit_logs`; nobody reads it here.

    Args:
        storage: where to.
        on_event: hears of each record once it is durable.
    """

    def __init__(self, storage: Storage, on_event: EventHook | None = None) -> None:
        self._records = storage.collection("audit_logs")
        self._on_event = on_event
        self._insert = storage.queue(Queue.AUDIT, self._write)
        self._count = storage.queue(Queue.AUDIT_REFUSALS, self._count_refusals)

    async def prepare(self, retention: timedelta) -> None:
        """Make the indexes; a changed retention is set on the one there is."""
        await asyncio.gather(
            self._records.ensure_index([("timestamp", 1)], lifetime=retention),
            self._records.ensure_index([("client_id", 1), ("timestamp", 1)]),
            self._records.ensure_index([("event_type", 1), ("timestamp", 1)]),
            self._records.ensure_index([("error_id", 1)], partialFilterExpression=_REFUSED),
        )

    def record(
        self,
        event: Event,
        now: datetime,
        *,
        caller: Caller | None = None,
        client_id: str | None = None,
        reason: str | None = None,
        jti: str | None = None,
        refusal: Document | None = None,
    ) -> Awaitable[bool]:
        """Write one record; durable once awaited.

        Args:
            event: what happened.
            now: when.
            caller: who asked over HTTP; `None` for the operator's own calls.
            client_id: the client as it was presented, known or not.
            reason: why, in words for the operator; never a secret.
            jti: the access token that it is about.
            refusal: what else is to be kept of a refusal, beside the other fields.
        """
        document = _document(event, now, caller, client_id, reason, jti)
        return self._insert.ask({**document, **refusal} if refusal else document)

    async def refused(self, key: str, first: Document) -> None:
        """Count one refusal over a limit: one record for a key and minute, however many.

        Args:
            key: the rate limit's key, minute included.
            first: the record to write when this refusal is the first of its minute.
        """
        await self._count.ask((f"{Event.RATE_LIMIT_EXCEEDED}:{key}", first))

    async def drain(self) -> None:
        """Wait until everything recorded so far is written."""
        await self._insert.drain()
        await self._count.drain()
        if self._on_event is not None:
            await self._on_event.drain()

    async def _write(self, records: Sequence[Document]) -> Sequence[bool]:
        written = await self._records.insert(records)
        self._tell(records)
        return written

    def _tell(self, records: Sequence[Document]) -> None:
        if self._on_event is not None:
            self._on_event.offer(records)

    async def _count_refusals(self, refusals: Sequence[tuple[str, Document]]) -> Sequence[None]:
        counts = Counter(key for key, _ in refusals)
        firsts = dict(reversed(refusals))
        await self._records.upsert([
            ({"_id": key}, {"$inc": {"count": count}, "$setOnInsert": firsts[key]})
            for key, count in counts.items()
        ])  # fmt: skip
        self._tell([{"_id": key, **firsts[key], "count": count} for key, count in counts.items()])
        return [None] * len(refusals)


def refusal_document(
    now: datetime,
    caller: Caller,
    client_id: str | None,
    limit: int,
    refusal: Document | None = None,
) -> Document:
    """The record of a minute's refusals, as its first refusal writes it."""
    reason = f"more than {limit} requests in a minute"
    document = _document(Event.RATE_LIMIT_EXCEEDED, now, caller, client_id, reason, None)
    return {**document, **(refusal or {})}


def refusal_fields(error: OAuth2Error, flow: Flow, facts: Facts) -> Document:
    """What the record of a refusal holds beside what all records do, so that it can be explained.

    Args:
        error: the refusal.
        flow: the way through the server that the request took.
        facts: what was had and wanted, as far as it is small and no secret.
    """
    masked = {name: _masked(v) if isinstance(v, str) else v for name, v in facts.items()}
    rule = {"flow": flow.value, "rule": error.rule.value, "facts": masked}
    return {"error_id": error.error_id, **rule}


def reason_for(error: OAuth2Error) -> str:
    """Why a request is refused, in words for the operator."""
    return _masked(f"{error.error}: {error.detail}")[:_LONGEST_REASON]


def _document(
    event: Event,
    now: datetime,
    caller: Caller | None,
    client_id: str | None,
    reason: str | None,
    jti: str | None,
) -> Document:
    return {
        "event_type": event.value,
        "client_id": client_id and _masked(client_id)[:_LONGEST_CLIENT_ID],
        "ip": caller and caller.ip,
        "reason": reason and _masked(reason)[:_LONGEST_REASON],
        "timestamp": now,
        "jti": jti,
        "request_id": caller and _masked(caller.request_id),
        "user_agent": caller and caller.user_agent and _masked(caller.user_agent),
    }


def _masked(text: str) -> str:
    """The text without secrets: people do paste theirs into the wrong field.

    Nor does it break the line of a log that it is exported to. What is replaced is not left out, or
    it could become somebody's id.
    """
    text = without_secrets(text)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
