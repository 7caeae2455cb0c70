"""What each client really uses. The collection `client_usage`.

Which scopes routes asked for, which ones it asked for by name, which of its secrets it came with
and from where. It is there to see what could be taken away, so it may be a minute late and may lose
the last seconds of a process that dies; a request neither waits for it nor fails because of it.

What is noted is gathered in memory, each thing once in a while, and written by a task of its own.
Routes that other services guard (`ResourceServer`) are not seen from here.
"""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from _oauth2_m2m.errors import TemporarilyUnavailable
from _oauth2_m2m.newest import Newest
from _oauth2_m2m.storage import Document, Storage, Update, as_utc

#: Whoever retires a secret looks at its last use, so logins are noted more often than calls.
LOGINS_NOTED_EVERY = timedelta(minutes=1)
CALLS_NOTED_EVERY = timedelta(minutes=5)
#: What was noted is written after so long, in a background task.
FLUSH_SECONDS = 10.0
#: What was not used for so long is forgotten.
KEPT = timedelta(days=400)
MOST_ADDRESSES = 10
#: The `_id` of the one document that tells no use.
_SINCE = "since"
_LARGEST_WRITE = 1_000
_MOST_PENDING = 10_000
_MOST_REMEMBERED = 20_000


class Used(StrEnum):
    """What kind of thing a client used, in the words of the collection."""

    #: The client itself; the name is empty.
    CLIENT = "client"
    #: One of its secrets, by its id.
    SECRET = "secret"
    GRANT = "grant"
    #: A scope that it asked for by name at the token endpoint.
    ASKED_SCOPE = "asked_scope"
    #: A scope that a guarded route wanted.
    SCOPE = "scope"
    #: A role that a guarded route wanted.
    ROLE = "role"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """When, and from where, a client used something.

    Attributes:
        kind: what kind of thing.
        name: which one.
        first_used_at, last_used_at: when, as far as it was noted.
        addresses: the last addresses that it was used from, the latest first.
    """

    kind: Used
    name: str
    first_used_at: datetime
    last_used_at: datetime
    addresses: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(slots=True)
class _Pending:
    """What is known of one thing and not written yet."""

    first: datetime
    last: datetime
    addresses: Newest[str, datetime] = field(default_factory=lambda: Newest(MOST_ADDRESSES))

    def note(self, now: datetime, ip: str | None) -> None:
        self.first, self.last = min(self.first, now), max(self.last, now)
        if ip is not None:
            self.addresses[ip] = max(self.addresses.get(ip, now), now)

    def add(self, later: _Pending) -> None:
        self.note(later.first, None)
        self.note(later.last, None)
        for ip, when in later.addresses.items():
            self.note(when, ip)


_Key = tuple[str, Used, str]
#: Tells those who keep it too when clients were last here.
Tell = Callable[[Mapping[str, datetime]], Awaitable[None]]


class ClientUsage:
    """Gathers and writes `client_usage`.

    Args:
        storage: the database.
        tell: what else is to know when clients were last here; called with every write.
        kept: the form in which an address is kept; else as it is.
    """

    def __init__(
        self, storage: Storage, tell: Tell, kept: Callable[[str], str] | None = None
    ) -> None:
        self._usage = storage.collection("client_usage")
        self._tell = tell
        self._kept = kept or str
        self._pending: dict[_Key, _Pending] = {}
        self._noted: Newest[object, datetime] = Newest(_MOST_REMEMBERED)
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._writing: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        """Make the indexes, and note since when use is noted."""
        keys = [("client_id", 1), ("kind", 1), ("name", 1)]
        await asyncio.gather(
            self._usage.ensure_index(keys, unique=True),
            self._usage.ensure_index([("last_used_at", 1)], lifetime=KEPT),
        )
        await self._usage.insert_one({"_id": _SINCE, "since": _now()})  # unless it is there

    async def since(self) -> datetime:
        """Since when use is noted in this database."""
        document = await self._usage.find_one({"_id": _SINCE})
        return (document and as_utc(document["since"])) or _now()

    def note_login(
        self, client_id: str, now: datetime, ip: str | None, secret: str | None = None
    ) -> None:
        """Note that a client proved who it is, by the secret of this id if by a secret."""
        if self._is_new((client_id, ip, secret), now, LOGINS_NOTED_EVERY):
            secrets = [] if secret is None else [(Used.SECRET, secret)]
            self._note(client_id, secrets, now, ip)

    def note_grant(
        self, client_id: str, now: datetime, ip: str | None, grant: str, asked: Collection[str]
    ) -> None:
        """Note that a client got a token, by which grant, and the scopes it asked for by name."""
        if self._is_new((client_id, ip, grant, *asked), now, LOGINS_NOTED_EVERY):
            scopes = [(Used.ASKED_SCOPE, scope) for scope in asked]
            self._note(client_id, [(Used.GRANT, grant), *scopes], now, ip)

    def note_call(
        self,
        client_id: str,
        now: datetime,
        ip: str | None,
        scopes: Sequence[str],
        role: str | None = None,
    ) -> None:
        """Note which scopes, and which role if any, a guarded route wanted of a client, and got."""
        if self._is_new((client_id, ip, role, None, *scopes), now, CALLS_NOTED_EVERY):
            roles = [] if role is None else [(Used.ROLE, role)]
            self._note(client_id, [*((Used.SCOPE, scope) for scope in scopes), *roles], now, ip)

    async def of(self, client_id: str) -> list[Use]:
        """All that is known of what a client used."""
        return list(map(_use_from, await self._usage.find({"client_id": client_id})))

    async def of_all(self, client_ids: Sequence[str]) -> dict[str, list[Use]]:
        """The same for many clients, by one query."""
        used: dict[str, list[Use]] = {client_id: [] for client_id in client_ids}
        for document in await self._usage.find({"client_id": {"$in": list(client_ids)}}):
            used[document["client_id"]].append(_use_from(document))
        return used

    async def drain(self) -> None:
        """Write what was noted so far, as far as the database lets us."""
        task = self._writing
        if task and not task.done() and task.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([task])
        await self._write()

    def _is_new(self, seen: object, now: datetime, every: timedelta) -> bool:
        last = self._noted.get(seen)
        if last is not None and now - last < every:
            return False
        self._noted[seen] = now
        return True

    def _note(
        self, client_id: str, uses: Iterable[tuple[Used, str]], now: datetime, ip: str | None
    ) -> None:
        for kind, name in ((Used.CLIENT, ""), *uses):
            key = (client_id, kind, name)
            pending = self._pending.get(key)
            if pending is None:
                if len(self._pending) >= _MOST_PENDING:
                    return  # the database is away, and this will be noted again
                pending = self._pending[key] = _Pending(now, now)
            pending.note(now, ip and self._kept(ip))
        self._wake()

    def _wake(self) -> None:
        """See to it that what is pending is written in a while."""
        loop = asyncio.get_running_loop()
        if self._loop is None or self._loop() is not loop:
            self._loop = weakref.ref(loop)
            loop.call_later(FLUSH_SECONDS, self._begin, loop, context=contextvars.Context())

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = None
        self._writing = loop.create_task(self._write(), context=contextvars.Context())

    async def _write(self) -> None:
        """Write all that is pending; what cannot be written stays for the next time."""
        while self._pending:
            keys = list(self._pending)[:_LARGEST_WRITE]
            batch = {key: self._pending.pop(key) for key in keys}
            try:
                await self._usage.upsert([_change(key, each) for key, each in batch.items()])
                await self._tell(_last_uses(batch))
            except TemporarilyUnavailable:
                for key, each in self._pending.items():
                    if key in batch:
                        batch[key].add(each)
                self._pending |= batch
                self._wake()
                return


def _now() -> datetime:
    return datetime.now(UTC)


def _last_uses(batch: Mapping[_Key, _Pending]) -> dict[str, datetime]:
    return {key[0]: each.last for key, each in batch.items() if key[1] is Used.CLIENT}


def _change(key: _Key, pending: _Pending) -> tuple[Document, Update]:
    """The write of one thing: nothing that is newer is lost, whoever wrote it."""
    client_id, kind, name = key
    fresh = [{"ip": ip, "last_used_at": when} for ip, when in pending.addresses.items()]
    others = {
        "$filter": {
            "input": {"$ifNull": ["$addresses", []]},
            "cond": {"$not": [{"$in": ["$$this.ip", {"$literal": list(pending.addresses)}]}]},
        }
    }
    merged = {"$concatArrays": [others, {"$literal": fresh}]}
    update: Document = {
        "first_used_at": {"$min": [{"$ifNull": ["$first_used_at", pending.first]}, pending.first]},
        "last_used_at": {"$max": ["$last_used_at", pending.last]},
        "addresses": {"$slice": [merged, -MOST_ADDRESSES]},
    }
    return {"client_id": client_id, "kind": kind.value, "name": name}, [{"$set": update}]


def _use_from(document: Document) -> Use:
    addresses = {each["ip"]: each["last_used_at"] for each in document.get("addresses") or []}
    latest_first = sorted(addresses.items(), key=lambda item: item[1], reverse=True)
    return Use(
        kind=Used(document["kind"]),
        name=document["name"],
        first_used_at=as_utc(document["first_used_at"]) or datetime.min,
        last_used_at=as_utc(document["last_used_at"]) or datetime.min,
        addresses=dict(latest_first),
    )
