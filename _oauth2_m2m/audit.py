"""The audit log: what happened, to whom, from where. The collection `audit_logs`.

A record is acknowledged before the answer that it speaks of leaves; a request whose record cannot
be written fails. Records are chained when they are written and signed in the background: what that
proves stands in `audit_chain`, `audit_checkpoints` and `audit_verification`.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from _oauth2_m2m.audit_addresses import Addresses, addresses_from
from _oauth2_m2m.audit_chain import Chain
from _oauth2_m2m.audit_checkpoints import Checkpoints, Mark
from _oauth2_m2m.callers import Caller
from _oauth2_m2m.config import Settings
from _oauth2_m2m.credentials import without_secrets
from _oauth2_m2m.errors import ConfigurationError, OAuth2Error, TemporarilyUnavailable
from _oauth2_m2m.hooks import EventHook
from _oauth2_m2m.key_sealing import KeySealer, Rewrapped
from _oauth2_m2m.metrics import Queue
from _oauth2_m2m.rules import Facts, Flow
from _oauth2_m2m.storage import Document, Storage
from _oauth2_m2m.windows import Period, seconds_left

_LONGEST_CLIENT_ID = 128
_LONGEST_REASON = 300
_LONGEST_OPERATOR = 100
#: A checkpoint is due after so many records, or that long after the first that none signs.
MOST_UNSIGNED = 1000
SIGNED_WITHIN_SECONDS = 60.0
#: At the end of a process nobody waits longer for the last one.
LAST_CHECKPOINT_SECONDS = 3.0
#: A minute's refusals are counted for so long after the first of them, and then sealed: two
#: minutes are for requests that took their time, and for clocks. Those of a quota, for so long
#: after the end of their hour or day.
COUNTED_FOR = timedelta(minutes=3)
#: One checkpoint seals so many of them.
MOST_COUNTED = 500
#: What `sealed` holds while refusals are counted, and while a checkpoint is being made; then it
#: holds the checkpoint's number.
COUNTING, CLOSED = 0, -1

#: Only refusals have an id to be found by.
_REFUSED = {"error_id": {"$gt": ""}}

_log = logging.getLogger("oauth2_m2m")


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
        storage: the database.
        on_event: hears of each record once it is durable.
        sealer: seals the key that signs checkpoints.
        operator: whose calls they are that no caller made, such as `user@host`.
    """

    def __init__(
        self,
        storage: Storage,
        on_event: EventHook | None = None,
        sealer: KeySealer | None = None,
        operator: str | None = None,
    ) -> None:
        self.operator = operator and _masked(operator)[:_LONGEST_OPERATOR]
        self._records = storage.collection("audit_logs")
        self._checkpoints = Checkpoints(storage, sealer or KeySealer())
        self._on_event = on_event
        self._insert = storage.queue(Queue.AUDIT, self._write)
        self._count = storage.queue(Queue.AUDIT_REFUSALS, self._count_refusals)
        self._addresses = Addresses()
        self._retention: timedelta | None = None
        # A chain lives and dies with its event loop, as the queue does that orders its records.
        self._writers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Writer] = (
            weakref.WeakKeyDictionary()
        )

    async def prepare(self, retention: timedelta) -> None:
        """Make the indexes; a changed retention is set on the one there is."""
        await asyncio.gather(
            self._records.ensure_index([("timestamp", 1)], lifetime=retention),
            self._records.ensure_index([("client_id", 1), ("timestamp", 1)]),
            self._records.ensure_index([("event_type", 1), ("timestamp", 1)]),
            self._records.ensure_index([("ip", 1), ("timestamp", 1)]),
            self._records.ensure_index([("request_id", 1)]),
            self._records.ensure_index([("error_id", 1)], partialFilterExpression=_REFUSED),
            self._records.ensure_index(
                [("sealed", 1)], partialFilterExpression={"sealed": {"$lte": COUNTING}}
            ),
            self._checkpoints.prepare(retention),
        )
        self._retention = retention

    def configure(self, settings: Settings) -> None:
        """Keep addresses as the settings say, from now on."""
        self._addresses = addresses_from(settings)

    def kept_address(self, ip: str) -> str:
        """A caller's address, in the form in which addresses are kept."""
        return self._addresses.kept(ip)

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
        names_operator: bool = True,
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
            names_operator: whether the reason ends with who the operator is, if it is the
                operator's call; not where it is only noticed, or says so itself.
        """
        if caller is None and names_operator and self.operator:
            reason = _by(self.operator, reason)
        document = _document(event, now, caller, client_id, reason, jti)
        document = self._with_kept_address({**document, **(refusal or {})})
        return self._insert.ask(document)

    def kept_key(self, key: str, network: str) -> str:
        """A rate limit's key, `<who>:<network>:<minute>`, with the network as it may be kept.

        The key of a quota names none.
        """
        before, _, window = key.rpartition(":")
        if not before.endswith(f":{network}"):
            return key
        return f"{before.removesuffix(network)}{self._addresses.kept(network)}:{window}"

    def refused(self, key: str, first: Document) -> Awaitable[None]:
        """Count one refusal over a limit: one record for a key and window, however many.

        Args:
            key: the rate limit's key, window included; see `kept_key`.
            first: the record to write when this refusal is the first of its window.
        """
        identity = f"{Event.RATE_LIMIT_EXCEEDED}:{key}"
        return self._count.ask((identity, self._with_kept_address(first)))

    async def rewrap_keys(self) -> Rewrapped:
        """Seal the keys of the checkpoints anew, with the first encryption key.

        Raises:
            ConfigurationError: there is no encryption key.
        """
        return await self._checkpoints.rewrap()

    async def drain(self) -> None:
        """Wait until everything recorded so far is written, and signed if the database answers."""
        await self._insert.drain()
        await self._count.drain()
        writer = self._writers.get(asyncio.get_running_loop())
        if writer is not None:
            await writer.end()
        if self._on_event is not None:
            await self._on_event.drain()

    async def sign(self, chain: Chain, own: Mark | None) -> Mark | None:
        """Make a checkpoint of what a chain holds by now, and seal counts that are over.

        Args:
            chain: whose records are signed.
            own: the chain's checkpoint before.

        Returns:
            The checkpoint; the one before when there is nothing new.

        Raises:
            TemporarilyUnavailable: the database does not answer.
            ConfigurationError: the key cannot be opened.
        """
        while True:
            span = chain.span()
            try:
                counted = await self._close_counts(datetime.now(UTC))
                if span.seq == span.since and not counted:
                    chain.not_signed(span)
                    return own
                now = datetime.now(UTC)
                own = await self._checkpoints.add(span, counted, own, self._retention, now)
            except BaseException:
                chain.not_signed(span)
                raise
            chain.signed(span)
            await self._change_counts(counted, CLOSED, own.number)
            if len(counted) < MOST_COUNTED:
                return own

    async def _close_counts(self, now: datetime) -> list[Document]:
        """Records of windows that are over, whoever counted in them; nobody does from now on."""
        past = now - COUNTED_FOR
        over = {
            "sealed": {"$lte": COUNTING},
            "timestamp": {"$lt": past},
            "counted_until": {"$not": {"$gte": past}},  # only quotas have it
        }
        found = await self._records.page(over, "sealed", MOST_COUNTED, fields=["_id"])
        await self._change_counts(found, COUNTING, CLOSED)
        names = [each["_id"] for each in found]
        return await self._records.find({"_id": {"$in": names}, "sealed": CLOSED}) if names else []

    async def _change_counts(self, records: Sequence[Document], before: int, after: int) -> None:
        if records:
            names = [each["_id"] for each in records]
            query = {"_id": {"$in": names}, "sealed": before}
            await self._records.update_all(query, {"$set": {"sealed": after}})

    def _writer(self) -> _Writer:
        loop = asyncio.get_running_loop()
        writer = self._writers.get(loop)
        if writer is None:
            writer = self._writers[loop] = _Writer(self, loop)
        return writer

    def _with_kept_address(self, document: Document) -> Document:
        """The record with its address as the setting says, also where it is a fact of a refusal."""
        ip = document["ip"]
        kept = ip and self._addresses.kept(ip)
        if kept == ip:
            return document
        facts = document.get("facts") or {}
        hidden = {name: kept if value == ip else value for name, value in facts.items()}
        return {**document, "ip": kept, **({"facts": hidden} if facts else {})}

    async def _write(self, documents: Sequence[Document]) -> Sequence[bool]:
        """Write records as the next ones of this event loop's chain.

        When this fails, or is cancelled, nobody knows whether they are written: the next batch says
        so, and all the requests of this one fail.
        """
        writer = self._writer()
        records = writer.chain.link(documents)
        inserted = await self._records.insert(records)
        if not all(inserted):
            raise TemporarilyUnavailable(detail="a place in the audit log was taken already")
        writer.chain.written()
        writer.arm()
        self._tell(records)
        return inserted

    def _tell(self, records: Sequence[Document]) -> None:
        if self._on_event is not None:
            self._on_event.offer(records)

    async def _count_refusals(self, refusals: Sequence[tuple[str, Document]]) -> Sequence[None]:
        counts = Counter(key for key, _ in refusals)
        firsts = dict(reversed(refusals))
        # A record that is closed is found no more: counting in it fails, and so does the request.
        await self._records.upsert([
            (
                {"_id": key, "sealed": COUNTING},
                {"$inc": {"count": count}, "$setOnInsert": firsts[key]},
            )
            for key, count in counts.items()
        ])  # fmt: skip
        self._tell([{"_id": key, **firsts[key], "count": count} for key, count in counts.items()])
        self._writer().arm(counted=True)
        return [None] * len(refusals)


class _Writer:
    """The chain of one event loop, and when its next checkpoint is due."""

    def __init__(self, log: AuditLog, loop: asyncio.AbstractEventLoop) -> None:
        self.chain = Chain()
        self._log = weakref.ref(log)
        self._loop = weakref.ref(loop)
        self._own: Mark | None = None
        # Weak, for a handle knows its event loop, which is to be forgotten when it has ended.
        self._timer: weakref.ref[asyncio.TimerHandle] | None = None
        self._signing: asyncio.Task[None] | None = None
        self._counts_until = 0.0  # until when there may be counts to seal
        self._is_quiet = False  # whether the last failure was said

    def arm(self, *, counted: bool = False) -> None:
        """See to it that what was written gets its checkpoint; never waits."""
        if counted:
            self._counts_until = time.monotonic() + 2 * COUNTED_FOR.total_seconds()
        loop = self._loop()
        if loop is None:
            return
        if self.chain.unsigned >= MOST_UNSIGNED and self._signing is None and not self._is_quiet:
            self._start(loop)
        elif self._timer is None:
            self._timer = weakref.ref(loop.call_later(SIGNED_WITHIN_SECONDS, self._tick))

    async def end(self) -> None:
        """Sign what is not signed yet, within a moment."""
        timer = self._timer() if self._timer is not None else None
        if timer is not None:
            timer.cancel()
        self._timer = None
        try:
            async with asyncio.timeout(LAST_CHECKPOINT_SECONDS):
                if self._signing is not None:
                    await asyncio.wait([self._signing])
                if self.chain.unsigned:
                    await self._sign()
        except TimeoutError:
            _log.warning("the end of the audit log is not signed: MongoDB is too slow")

    def _tick(self) -> None:
        self._timer = None
        loop = self._loop()
        if loop is not None and self._signing is None:
            self._start(loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._signing = loop.create_task(self._sign(), context=contextvars.Context())
        self._signing.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._signing = None
        if not task.cancelled() and (self.chain.unsigned or time.monotonic() < self._counts_until):
            self.arm()

    async def _sign(self) -> None:
        """Make a checkpoint; what goes wrong is said once, and tried again a minute later."""
        log = self._log()
        if log is None:
            return
        try:
            self._own = await log.sign(self.chain, self._own)
            self._is_quiet = False
        except Exception as failure:  # whatever somebody put there: no app's end fails for it
            if not self._is_quiet:
                _log.error("the audit log is not signed: %s", _words(failure))
            self._is_quiet = True


def refusal_document(
    now: datetime,
    caller: Caller,
    client_id: str | None,
    limit: int,
    refusal: Document | None = None,
    *,
    period: str = "minute",
    observed: bool = False,
) -> Document:
    """The record of a window's refusals, as its first refusal writes it.

    Args:
        now: when.
        caller: who asked.
        client_id: whose budget it is, when it is a client's.
        limit: what was exceeded.
        refusal: what else is to be kept of it, as `refusal_fields` gives it.
        period: how long the window is: `minute`, `hour` or `day`.
        observed: whether those requests were let through, since quotas are only observed.
    """
    reason = f"more than {limit} requests in {'an' if period == 'hour' else 'a'} {period}"
    more = dict(refusal or {})
    if observed:
        reason += ", let through since quotas are only observed"
        more["observed"] = True
    window = Period[period.upper()]
    if window is not Period.MINUTE:
        more["counted_until"] = now + timedelta(seconds=seconds_left(window, now))
    document = _document(Event.RATE_LIMIT_EXCEEDED, now, caller, client_id, reason, None)
    return {**document, **more}


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


def _by(operator: str, reason: str | None) -> str:
    """A reason that ends with who did it, however long it is itself."""
    end = f"by {operator}"
    return f"{_masked(reason)[: _LONGEST_REASON - len(end) - 2]}, {end}" if reason else end


def _masked(text: str) -> str:
    """The text without secrets: people do paste theirs into the wrong field.

    Nor does it break the line of a log that it is exported to. What is replaced is not left out, or
    it could become somebody's id.
    """
    text = without_secrets(text)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def _words(failure: Exception) -> str:
    if isinstance(failure, TemporarilyUnavailable):
        return failure.detail
    if isinstance(failure, ConfigurationError):
        return str(failure)
    return f"the newest checkpoint is none ({type(failure).__name__}): see audit verify"
