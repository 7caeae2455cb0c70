"""The edge to MongoDB: one `Collection`, always awaited, whichever PyMongo API lies beneath.

Rooms say what they want of their collection; here stands how it is asked: majority and journaled
writes, majority reads from the primary, a bound on every command, and one error for whatever the
network or the server may do.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any, TypeAlias, TypeVar

import bson
import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.timestamp import Timestamp
from pymongo import IndexModel, ReadPreference, ReturnDocument, WriteConcern, monitoring
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import (
    BulkWriteError,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)
from pymongo.read_concern import ReadConcern
from pymongo.synchronous.database import Database

from _oauth2_m2m.deadlines import Deadline
from _oauth2_m2m.errors import ConfigurationError, TemporarilyUnavailable
from _oauth2_m2m.group_commit import GroupCommit
from _oauth2_m2m.metrics import Metrics, Queue

Q = TypeVar("Q")
A = TypeVar("A")
Document: TypeAlias = dict[str, Any]
#: Update operators, or a pipeline that computes the new document from the old one.
Update: TypeAlias = Mapping[str, Any] | list[Document]
AnyDatabase: TypeAlias = Database[Any] | AsyncDatabase[Any]

#: One command, its retry and the choice of a server included. Requests are bounded on top of it.
COMMAND_SECONDS = 4.0
#: Making an index reads the whole collection, which may be large by now.
INDEX_SECONDS = 600.0
#: A document is tidied this long after it has expired, so that a database clock that runs ahead
#: undoes nothing: validity is judged by our own code.
TTL_LAG = timedelta(hours=6)

# A date that Python cannot hold is clamped: one odd document shall not fail a whole batch.
_CODEC: CodecOptions[Document] = CodecOptions(
    tz_aware=True, tzinfo=UTC, datetime_conversion=DatetimeConversion.DATETIME_CLAMP
)
_DURABLE = WriteConcern(w="majority", j=True)
_OF_THE_MAJORITY = ReadConcern("majority")
#: By itself MongoDB sends the first 101 documents, and the others when asked again.
_IN_ONE_ANSWER = 10_000
#: What is streamed comes in pieces of so many documents.
_IN_A_BATCH = 1000
_DUPLICATE_KEY = 11000
#: Unauthorized, CommandNotFound, CommandNotSupported.
_NOT_FOR_US = frozenset({13, 59, 115})
_INDEX_EXISTS_DIFFERENTLY = frozenset({85, 86})

COMMAND_DEADLINE = Deadline(COMMAND_SECONDS)
INDEX_DEADLINE = Deadline(INDEX_SECONDS)

_log = logging.getLogger("oauth2_m2m")


class Storage:
    """A database, as the rooms see it.

    Args:
        database: a PyMongo `Database` or `AsyncDatabase`. Nothing is sent before the first use.
        metrics: where the rooms count, if anywhere.

    Raises:
        ConfigurationError: it is neither.
    """

    def __init__(self, database: AnyDatabase, metrics: Metrics | None = None) -> None:
        if not isinstance(database, Database | AsyncDatabase):
            raise ConfigurationError(
                "OAuth2M2M needs a PyMongo database, such as "
                f"MongoClient(url).oauth2_m2m or AsyncMongoClient(url).oauth2_m2m; it got a "
                f"{type(database).__name__}"
            )
        self._database = database
        self.metrics = metrics
        if metrics is not None:
            for listener in database.client.options.event_listeners:
                if isinstance(listener, PoolListener):
                    listener.count_in(metrics)

    def collection(self, name: str) -> Collection:
        """A collection by name."""
        collection = self._database.get_collection(
            name,
            codec_options=_CODEC,
            read_preference=ReadPreference.PRIMARY,
            write_concern=_DURABLE,
            read_concern=_OF_THE_MAJORITY,
        )
        return Collection(collection, isinstance(self._database, AsyncDatabase))

    def queue(
        self, name: Queue, command: Callable[[Sequence[Q]], Awaitable[Sequence[A]]]
    ) -> GroupCommit[Q, A]:
        """A queue of group commit, counted under a name."""
        metrics = None if self.metrics is None else self.metrics.queue(name)
        return GroupCommit(command, metrics=metrics)

    async def command(self, command: Document, *, admin: bool = False) -> Document | None:
        """What the server says of itself; `None` where the database user may not ask.

        Args:
            command: the command, such as `{"hello": 1}`; it changes nothing.
            admin: whether it is one for the database `admin`.

        Raises:
            TemporarilyUnavailable: the database does not answer.
        """
        database = self._database.client["admin"] if admin else self._database
        send: Callable[[], Any] = lambda: database.command(command, codec_options=_CODEC)  # noqa: E731
        try:
            answer: Document = await _run(
                send, isinstance(self._database, AsyncDatabase), COMMAND_DEADLINE
            )
        except OperationFailure as error:
            if error.code in _NOT_FOR_US:
                return None
            raise _unavailable(error) from error
        return answer

    @property
    def name(self) -> str:
        """The database's name."""
        return self._database.name

    @property
    def database(self) -> AnyDatabase:
        """The database that was handed in."""
        return self._database

    async def ping(self, seconds: float) -> None:
        """Ask the database for a sign of life.

        Raises:
            TemporarilyUnavailable: it gave none within that many seconds.
        """
        ping: Callable[[], Any] = lambda: self._database.command("ping")  # noqa: E731
        try:
            async with asyncio.timeout(seconds):  # PyMongo rounds the choice of a server up
                await _run(ping, isinstance(self._database, AsyncDatabase), Deadline(seconds))
        except TimeoutError:
            raise TemporarilyUnavailable(detail=f"no answer within {seconds:g} s") from None


class PoolListener(monitoring.ConnectionPoolListener):
    """Counts the connections of a MongoDB client, for the metrics of an `OAuth2M2M`.

        mongo = AsyncMongoClient(url, event_listeners=[PoolListener()])
        m2m = OAuth2M2M(mongo.oauth2_m2m)

    PyMongo takes listeners only when a client is made, so it is handed in there, and found here.
    """

    def __init__(self) -> None:
        self._lock = Lock()  # a synchronous client is used from many threads
        self._metrics: list[Metrics] = []
        self._states: Counter[str] = Counter()

    def count_in(self, metrics: Metrics) -> None:
        """Have the connections counted there, too; what was opened before included."""
        with self._lock:
            if metrics not in self._metrics:
                self._metrics.append(metrics)
                for state, number in self._states.items():
                    metrics.connections[state].inc(number)

    def connection_created(self, event: monitoring.ConnectionCreatedEvent) -> None:
        """PyMongo's hook."""
        self._change(open=1)

    def connection_closed(self, event: monitoring.ConnectionClosedEvent) -> None:
        """PyMongo's hook."""
        self._change(open=-1)
        for metrics in self._metrics:
            metrics.connections_closed[event.reason].inc()

    def connection_check_out_started(
        self, event: monitoring.ConnectionCheckOutStartedEvent
    ) -> None:
        """PyMongo's hook."""
        self._change(awaited=1)

    def connection_checked_out(self, event: monitoring.ConnectionCheckedOutEvent) -> None:
        """PyMongo's hook."""
        self._change(awaited=-1, in_use=1)
        self._time("success", event.duration)

    def connection_check_out_failed(self, event: monitoring.ConnectionCheckOutFailedEvent) -> None:
        """PyMongo's hook."""
        self._change(awaited=-1)
        self._time(event.reason, event.duration)

    def connection_checked_in(self, event: monitoring.ConnectionCheckedInEvent) -> None:
        """PyMongo's hook."""
        self._change(in_use=-1)

    def connection_ready(self, event: monitoring.ConnectionReadyEvent) -> None:
        """Nothing to count, as with all of the following."""

    def pool_created(self, event: monitoring.PoolCreatedEvent) -> None:
        """Nothing to count."""

    def pool_ready(self, event: monitoring.PoolReadyEvent) -> None:
        """Nothing to count."""

    def pool_cleared(self, event: monitoring.PoolClearedEvent) -> None:
        """Nothing to count."""

    def pool_closed(self, event: monitoring.PoolClosedEvent) -> None:
        """Nothing to count."""

    def _change(self, **states: int) -> None:
        with self._lock:
            for state, number in states.items():
                self._states[state] += number
                for metrics in self._metrics:
                    metrics.connections[state].inc(number)

    def _time(self, outcome: str, seconds: float | None) -> None:
        for metrics in self._metrics:
            metrics.checkout_seconds[outcome].observe(seconds or 0.0)


@dataclass(frozen=True, slots=True)
class Collection:
    """One collection, whose methods let no PyMongo error through.

    Every one of them raises `TemporarilyUnavailable` when the database does not answer within
    four seconds.
    """

    _collection: Any  # a PyMongo Collection or AsyncCollection: same names, one of them awaited
    _is_async: bool

    def with_read_concern(self, level: str) -> Collection:
        """The same collection, read with another read concern."""
        collection = self._collection.with_options(read_concern=ReadConcern(level))
        return Collection(collection, self._is_async)

    async def find(
        self, query: Mapping[str, Any], fields: Sequence[str] | None = None
    ) -> list[Document]:
        """The documents that match, all of them: the query must bound itself."""
        documents: list[Document] = await self._do(
            lambda c: c.find(query, fields, batch_size=_IN_ONE_ANSWER).to_list()
        )
        return documents

    async def page(
        self,
        query: Mapping[str, Any],
        order: str,
        limit: int,
        *,
        newest_first: bool = False,
        fields: Sequence[str] | None = None,
    ) -> list[Document]:
        """The first documents that match, in the order of one indexed field."""
        sort = [(order, pymongo.DESCENDING if newest_first else pymongo.ASCENDING)]
        documents: list[Document] = await self._do(
            lambda c: c.find(query, fields, sort=sort, limit=limit, batch_size=limit).to_list()
        )
        return documents

    async def stream(
        self, query: Mapping[str, Any], order: Mapping[str, int], *, limit: int = 0
    ) -> AsyncIterator[Document]:
        """The documents that match, however many, in the order of an index, a batch at a time.

        Args:
            query: what they match.
            order: the fields of the index, each with 1 or -1.
            limit: how many at the most; 0 for all.
        """
        cursor = self._collection.find(
            query, sort=list(order.items()), limit=limit, batch_size=_IN_A_BATCH
        )
        try:
            while batch := await self._do(lambda _: cursor.to_list(_IN_A_BATCH)):
                for document in batch:
                    yield document
        finally:
            closed = cursor.close()
            if self._is_async:
                await closed

    async def find_one(
        self, query: Mapping[str, Any], fields: Sequence[str] | None = None
    ) -> Document | None:
        """The first document that matches."""
        document: Document | None = await self._do(lambda c: c.find_one(query, fields))
        return document

    async def insert(self, documents: Sequence[Document]) -> list[bool]:
        """Insert all that are new; for each, whether it was. Durable when this returns."""
        try:
            await self._do(lambda c: c.insert_many(documents, ordered=False))
        except BulkWriteError as error:
            refused = _duplicates(error)
            return [place not in refused for place in range(len(documents))]
        return [True] * len(documents)

    async def insert_one(self, document: Document) -> bool:
        """Insert a document; whether it was new."""
        try:
            await self._do(lambda c: c.insert_one(document))
        except DuplicateKeyError:
            return False
        return True

    async def upsert(
        self, changes: Sequence[tuple[Mapping[str, Any], Update]], *, make: bool = True
    ) -> None:
        """Apply updates, each a (query, update) that makes the document where there is none.

        With `make=False` none is made.
        """
        writes = [pymongo.UpdateOne(query, update, upsert=make) for query, update in changes]
        try:
            await self._do(lambda c: c.bulk_write(writes, ordered=False))
        except BulkWriteError as error:
            # Two that make the same document at once: by now it is there, and is updated.
            again = [writes[place] for place in sorted(_duplicates(error))]
            try:
                await self._do(lambda c: c.bulk_write(again, ordered=False))
            except BulkWriteError as still:
                raise _unavailable(still) from still

    async def update_all(self, query: Mapping[str, Any], update: Mapping[str, Any]) -> None:
        """Apply an update to every document that matches, however long it takes."""
        try:
            await self._explained(lambda c: c.update_many(query, update))
        except OperationFailure as error:
            raise _unavailable(error) from error

    async def change(
        self,
        query: Mapping[str, Any],
        update: Mapping[str, Any],
        *,
        upsert: bool = False,
        fields: Sequence[str] | None = None,
    ) -> Document | None:
        """Update one document and return it as it is afterwards, or nothing."""
        try:
            document: Document | None = await self._do(
                lambda c: c.find_one_and_update(
                    query, update, fields, upsert=upsert, return_document=ReturnDocument.AFTER
                )
            )
        except DuplicateKeyError as error:
            raise _unavailable(error) from error
        return document

    async def remove(self, query: Mapping[str, Any]) -> Document | None:
        """Delete one document and return it as it was, or nothing."""
        document: Document | None = await self._do(lambda c: c.find_one_and_delete(query))
        return document

    async def ensure_index(
        self, keys: Sequence[tuple[str, int]], *, lifetime: timedelta | None = None, **options: Any
    ) -> None:
        """Make an index where there is none; with a lifetime, set it on the one there is.

        Raises:
            ConfigurationError: the collection's contents or an older index stand in the way.
        """
        if lifetime is not None:
            options["expireAfterSeconds"] = int(lifetime.total_seconds())
        index = IndexModel(list(keys), **options)
        try:
            await self._explained(lambda c: c.create_indexes([index]))
        except OperationFailure as error:
            if error.code in _INDEX_EXISTS_DIFFERENTLY and lifetime is not None:
                await self._set_lifetime(dict(keys), options["expireAfterSeconds"])
            else:
                raise self._cannot_index(keys, error) from None

    async def indexes(self) -> dict[str, Document]:
        """The indexes that are there, by name: `key`, and the options that each was made with."""
        found: dict[str, Document] = await self._do(lambda c: c.index_information())
        return found

    async def count(self) -> int:
        """About how many documents there are."""
        number: int = await self._do(lambda c: c.estimated_document_count())
        return number

    async def _set_lifetime(self, keys: Mapping[str, int], seconds: int) -> None:
        index = {"keyPattern": dict(keys), "expireAfterSeconds": seconds}
        try:
            await self._explained(lambda c: c.database.command("collMod", c.name, index=index))
        except OperationFailure as error:
            raise self._cannot_index(list(keys.items()), error) from None

    def _cannot_index(
        self, keys: Sequence[tuple[str, int]], error: OperationFailure
    ) -> ConfigurationError:
        names = ", ".join(name for name, _ in keys)
        what_to_do = (
            "two documents hold the same value: remove one"
            if error.code == _DUPLICATE_KEY
            else "drop the index of that name, it is made anew at the next start"
        )
        return ConfigurationError(
            f"cannot index {self._collection.name} by {names} "
            f"({error.details and error.details.get('codeName')}): {what_to_do}"
        )

    async def _do(self, operation: Callable[[Any], Any]) -> Any:
        """Run an operation; of the server's refusals only duplicates are an answer."""
        try:
            return await _run(lambda: operation(self._collection), self._is_async, COMMAND_DEADLINE)
        except (DuplicateKeyError, BulkWriteError):
            raise
        except OperationFailure as error:
            raise _unavailable(error) from error

    async def _explained(self, operation: Callable[[Any], Any]) -> Any:
        """Run a change of the collection itself, whose refusal the caller will explain."""
        # Only a database that answers is given that long.
        await self._do(lambda c: c.database.command("ping"))
        return await _run(lambda: operation(self._collection), self._is_async, INDEX_DEADLINE)


@dataclass(frozen=True, slots=True)
class DeclaredIndex:
    """An index that a room relies on.

    Attributes:
        collection: where.
        keys: its fields, each with its direction.
        options: what it was to be made with, `expireAfterSeconds` among them.
    """

    collection: str
    keys: tuple[tuple[str, int], ...]
    options: Mapping[str, Any]


class SurveyedStorage(Storage):
    """The same database, in which rooms find out what they rely on: nothing is made or written.

    Attributes:
        declared: the indexes that were to be made so far.
    """

    def __init__(self, database: AnyDatabase) -> None:
        super().__init__(database)
        self.declared: list[DeclaredIndex] = []

    def collection(self, name: str) -> Collection:
        """A collection that is only read."""
        there = super().collection(name)
        return _SurveyedCollection(there._collection, there._is_async, name, self.declared)


@dataclass(frozen=True, slots=True)
class _SurveyedCollection(Collection):
    _name: str
    _declared: list[DeclaredIndex]

    async def ensure_index(
        self, keys: Sequence[tuple[str, int]], *, lifetime: timedelta | None = None, **options: Any
    ) -> None:
        """Note the index."""
        if lifetime is not None:
            options["expireAfterSeconds"] = int(lifetime.total_seconds())
        self._declared.append(DeclaredIndex(self._name, tuple(keys), options))

    async def update_all(self, query: Mapping[str, Any], update: Mapping[str, Any]) -> None:
        """Leave everything as it is."""

    async def upsert(self, *arguments: Any, **options: Any) -> None:
        """Leave everything as it is."""

    async def insert(self, documents: Sequence[Document]) -> list[bool]:
        """Leave everything as it is, as if all were there already."""
        return [False] * len(documents)

    async def insert_one(self, document: Document) -> bool:
        """Leave everything as it is, as if it were there already."""
        return False

    async def change(self, *arguments: Any, **options: Any) -> Document | None:
        """Leave everything as it is, as if there were nothing to change."""
        return None

    async def remove(self, query: Mapping[str, Any]) -> Document | None:
        """Leave everything as it is, as if there were nothing to remove."""
        return None


def size_of(document: Mapping[str, Any]) -> int:
    """How many bytes a document takes in the database and on the way."""
    return len(bson.encode(document))


def encoded(document: Mapping[str, Any]) -> bytes:
    """A document as the database sends it."""
    return bson.encode(document, codec_options=_CODEC)


def decoded(data: bytes) -> Document:
    """Read a document as it was sent, as all that is found is read."""
    return bson.decode(data, _CODEC)


def as_utc(value: object) -> datetime | None:
    """Read a moment as documents hold it: a BSON date, or the ISO text of the older shape.

    A text without a zone is UTC. What is no moment at all is `None`.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        return None


def as_sequence(value: object) -> int:
    """Read a place in the order of writes, as `$currentDate` gives it with `$type: "timestamp"`.

    It is the cluster's time, seconds since 1970 in the upper 32 bits; what is none is 0.
    """
    return value.time << 32 | value.inc if isinstance(value, Timestamp) else 0


def sequence_value(number: int) -> object:
    """The same place as queries name it."""
    return Timestamp(number >> 32, number & 0xFFFFFFFF)


async def _run(operation: Callable[[], Any], is_async: bool, deadline: Deadline) -> Any:
    """Run one PyMongo operation within its time."""
    try:
        if is_async:
            # PyMongo's own deadline would cost an eighth of the command.
            with deadline():
                return await operation()
        with pymongo.timeout(deadline.seconds):
            return await asyncio.to_thread(operation)
    except TimeoutError:
        raise TemporarilyUnavailable(detail="MongoDB is too slow") from None
    except WriteConcernError as error:  # a failover: nothing is wrong with what was asked
        raise _unavailable(error) from error
    except OperationFailure as error:
        if error.timeout:
            raise _unavailable(error) from error
        raise
    except PyMongoError as error:
        raise _unavailable(error) from error
    except RuntimeError as error:
        # PyMongo's words about its client: AsyncMongoClient serves the event loop it began in.
        _log.error("MongoDB: %s", error)
        raise TemporarilyUnavailable(detail=f"MongoDB: {error}") from error


def _unavailable(error: PyMongoError) -> TemporarilyUnavailable:
    # The class and code say what happened; a message could quote a document.
    _log.warning("MongoDB: %s (code %s)", type(error).__name__, getattr(error, "code", None))
    return TemporarilyUnavailable(detail=f"MongoDB: {type(error).__name__}")


def _duplicates(error: BulkWriteError) -> set[int]:
    """The places of the documents that were there already.

    Raises:
        TemporarilyUnavailable: something else went wrong too, so nothing is known to be durable.
    """
    details = error.details or {}
    failures = details.get("writeErrors", [])
    others = [f for f in failures if f.get("code") != _DUPLICATE_KEY]
    if others or details.get("writeConcernErrors") or not failures:
        raise _unavailable(error) from error
    return {failure["index"] for failure in failures}
