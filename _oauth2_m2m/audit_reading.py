"""What an operator asks of the audit log: `m2m.audit`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Unpack

from _oauth2_m2m.audit_addresses import addresses_from
from _oauth2_m2m.audit_checkpoints import MOST_KEYS, verifying_keys
from _oauth2_m2m.audit_events import ocsf_event
from _oauth2_m2m.audit_search import AuditQuery, search_query
from _oauth2_m2m.audit_verification import AuditReport, Verification, is_whole
from _oauth2_m2m.services import Services
from _oauth2_m2m.storage import Document

#: What one search returns at the most; `export` has no end.
MOST_FOUND = 10_000
#: How often `follow` looks for new records, and how far back it looks again: a record's time is
#: when its request began.
FOLLOW_SECONDS = 1.0
_LOOKED_AT_AGAIN = timedelta(seconds=30)
_COUNTED_AT_ONCE = 100
_BY_TIME = {"timestamp": 1}


class AuditReading:
    """Search, follow, export and verify the audit log."""

    def __init__(self, services: Services) -> None:
        self._services = services
        storage = services.storage
        self._records = storage.collection("audit_logs")
        self._checkpoints = storage.collection("audit_checkpoints")
        self._keys = storage.collection("audit_keys")

    async def search(self, *, limit: int = 100, **what: Unpack[AuditQuery]) -> list[dict[str, Any]]:
        """The records that match all that is given, the newest first.

        Args:
            limit: how many at the most, 1 to 10,000.
            what: what is asked for; see `AuditQuery`.

        Raises:
            ValueError: the limit is out of range.
            TemporarilyUnavailable: the database does not answer.
        """
        if not 1 <= limit <= MOST_FOUND:
            raise ValueError(f"limit must be from 1 to {MOST_FOUND}")
        query = await self._query(**what)
        found = self._records.stream(query, {"timestamp": -1}, limit=limit)
        return [record async for record in found]

    async def follow(self, **what: Unpack[AuditQuery]) -> AsyncIterator[dict[str, Any]]:
        """Records that are written from now on, about in the order of time, without end.

        Args:
            what: as in `search`.
        """
        query = await self._query(**what)
        since = datetime.now(UTC)
        seen = {
            each["_id"]: each["timestamp"]
            async for each in self._since(query, since - _LOOKED_AT_AGAIN)
        }
        while True:
            async for record in self._since(query, since - _LOOKED_AT_AGAIN):
                if record["_id"] not in seen:
                    yield record
                seen[record["_id"]] = record["timestamp"]
            since = datetime.now(UTC)
            oldest = since - 2 * _LOOKED_AT_AGAIN
            seen = {name: moment for name, moment in seen.items() if moment >= oldest}
            await asyncio.sleep(FOLLOW_SECONDS)

    async def export(self, *, ocsf: bool = True, **what: Unpack[AuditQuery]) -> AsyncIterator[str]:
        """The records that match, the oldest first, each as one line of JSON.

        Args:
            ocsf: as events of the OCSF class Authentication; else as they stand in the database.
            what: as in `search`.
        """
        async for record in self._records.stream(await self._query(**what), _BY_TIME):
            yield json_line(ocsf_event(record) if ocsf else record)

    async def verify(
        self,
        *,
        keys: Collection[str] = (),
        anchors: Mapping[int, str] | None = None,
        kept: timedelta | None = None,
    ) -> AuditReport:
        """Look for records that were removed, altered or added.

        Args:
            keys: the thumbprints of the keys that may have signed; any when none is given.
            anchors: hashes of checkpoints as they were noted elsewhere, by their number.
            kept: how long records must have been kept; else what the config and the checkpoints
                say, which who can write to the database can shorten.

        Raises:
            TemporarilyUnavailable: the database does not answer.
        """
        settings = await self._services.ready()
        public = verifying_keys(await self._keys.page({}, "_id", MOST_KEYS))
        check = Verification(public, _now, settings.audit_retention, keys, anchors, kept)
        async for checkpoint in self._checkpoints.stream({}, {"_id": 1}):
            check.checkpoint(checkpoint)
        check.end_of_checkpoints()
        # What is signed while this goes on is left for the next time.
        head = check.report.head
        known = {"_id": {"$lte": head.number if head else 0}}
        async for checkpoint in self._checkpoints.stream(
            {**known, "counted.0": {"$exists": True}}, {"_id": 1}
        ):
            if is_whole(checkpoint):
                check.seals(checkpoint, await self._named(checkpoint))
        await self._walk(check, known)
        return check.report

    async def _walk(self, check: Verification, known: Mapping[str, Any]) -> None:
        records = self._records.stream({}, {"_id": 1})
        checkpoints = self._checkpoints.stream(known, {"writer": 1, "seq": 1})
        counted: list[Document] = []
        async for record in check.walk(records, checkpoints):
            counted.append(record)
            if len(counted) == _COUNTED_AT_ONCE:
                check.counted(counted, await self._seals(counted))
                counted = []
        check.counted(counted, await self._seals(counted))

    async def _named(self, checkpoint: Document) -> dict[str, Document]:
        names = [each["id"] for each in checkpoint["counted"]]
        return {each["_id"]: each for each in await self._records.find({"_id": {"$in": names}})}

    async def _seals(self, records: list[Document]) -> dict[int, set[str]]:
        numbers = [each["sealed"] for each in records]
        found = await self._checkpoints.find({"_id": {"$in": numbers}}) if numbers else []
        return {
            checkpoint["_id"]: {each["id"] for each in checkpoint["counted"]}
            for checkpoint in found
            if is_whole(checkpoint)
        }

    async def _query(self, **what: Unpack[AuditQuery]) -> dict[str, Any]:
        settings = await self._services.ready()
        return search_query(addresses_from(settings), **what)

    def _since(self, query: Mapping[str, Any], moment: datetime) -> AsyncIterator[Document]:
        return self._records.stream({**query, "timestamp": {"$gte": moment}}, _BY_TIME)


def json_line(members: Mapping[str, Any]) -> str:
    """JSON on one line: times in ISO 8601, what JSON has no word for as text."""
    return json.dumps(members, default=_as_json, ensure_ascii=False, separators=(",", ":"))


def _as_json(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value.value if isinstance(value, Enum) else str(value)


def _now() -> datetime:
    return datetime.now(UTC)
