"""Gathers the facts: everything that is read, from the database and from the app."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from _oauth2_m2m.config import Settings, reading_of, settings_from
from _oauth2_m2m.doctor.apps import app_facts, app_findings
from _oauth2_m2m.doctor.configs import config_findings
from _oauth2_m2m.doctor.databases import DatabaseFacts, database_findings
from _oauth2_m2m.doctor.findings import Finding, Severity, found, sorted_findings
from _oauth2_m2m.doctor.indexes import index_findings
from _oauth2_m2m.doctor.registrations import (
    Remarks,
    client_remarks,
    import_findings,
    unused_remarks,
)
from _oauth2_m2m.doctor.signing_keys import key_findings, revocation_findings
from _oauth2_m2m.errors import ConfigurationError
from _oauth2_m2m.key_ring import StoredKey
from _oauth2_m2m.key_sealing import KeySealer
from _oauth2_m2m.services import Services
from _oauth2_m2m.storage import DeclaredIndex, Document, SurveyedStorage, size_of

#: So many clients are looked at: a page takes a second, and a run is to end.
MOST_EXAMINED = 100_000
_PAGE = 1000
#: MongoDB removes what has expired once a minute, and takes its time after a large deletion.
TTL_PATIENCE = timedelta(days=1)


class Examination:
    """Looks at everything once, and writes nothing."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._storage = services.storage
        self._environment = services.settings.environment
        self._now = datetime.now(UTC)

    async def findings(self, app: Any = None) -> list[Finding]:
        """All that is not as it should be, the worst first.

        Args:
            app: the app that is guarded, if it is to be looked at too.

        Raises:
            TemporarilyUnavailable: the database does not answer.
        """
        document = await self._services.settings.look()
        found = [
            *database_findings(await self._database(), self._environment),
            *await self._config_and_keys(document),
            *await self._indexes(document),
            *await self._clients(document),
            *revocation_findings(await self._storage.collection("revoked_tokens").count()),
        ]
        if app is not None:
            found += self._app(app)
        return sorted_findings(found)

    async def _database(self) -> DatabaseFacts:
        ask = self._storage.command
        before = datetime.now(UTC)
        hello = await ask({"hello": 1}) or {}
        after = datetime.now(UTC)
        middle = before + (after - before) / 2
        in_set = "setName" in hello
        config = await ask({"replSetGetConfig": 1}, admin=True) if in_set else None
        return DatabaseFacts(
            name=self._storage.name,
            hello=hello,
            skew=hello.get("localTime", middle) - middle,
            uncertainty=(after - before) / 2,
            status=await ask({"serverStatus": 1}, admin=True),
            replica_set=config and config.get("config"),
            connection=await ask({"connectionStatus": 1}),
            statistics=await ask({"dbStats": 1}),
        )

    async def _config_and_keys(self, document: Document | None) -> list[Finding]:
        stored: list[StoredKey] = []
        faults: list[Finding] = []
        try:
            stored = list(await self._services.keys.list())
        except ConfigurationError as mistake:
            faults.append(found("key-unusable", Severity.ERROR, str(mistake)))
        of_audit = await self._storage.collection("audit_keys").find({})
        keys = [*stored, *map(_audit_key, of_audit)]
        return [
            *faults,
            *config_findings(document, self._environment, stored, self._now),
            *key_findings(keys, self._services.keys.sealer, self._environment),
        ]

    async def _indexes(self, document: Document | None) -> list[Finding]:
        """Nothing where the config says too little, or nothing was ever started."""
        if document is None or reading_of(document).mistakes:
            return []
        declared = await self._declared(settings_from(document))
        names = sorted({index.collection for index in declared})
        there = [await self._storage.collection(name).indexes() for name in names]
        late = [await self._late(index) for index in declared]
        actual = dict(zip(names, there, strict=True))
        return [
            *index_findings(declared, actual),
            *(finding for finding in late if finding is not None),
        ]

    async def _declared(self, settings: Settings) -> list[DeclaredIndex]:
        """What the rooms rely on, as they say themselves."""
        survey = SurveyedStorage(self._storage.database)
        rooms = Services(survey, self._environment, KeySealer())
        await rooms.prepare_rooms(settings)
        return survey.declared

    async def _late(self, index: DeclaredIndex) -> Finding | None:
        """Whether something is there that should have been removed long ago."""
        seconds = index.options.get("expireAfterSeconds")
        if seconds is None:
            return None
        (field, _), *_ = index.keys
        long_ago = self._now - timedelta(seconds=seconds) - TTL_PATIENCE
        collection = self._storage.collection(index.collection)
        if await collection.find_one({field: {"$lt": long_ago}}, ["_id"]) is None:
            return None
        what = f"{index.collection} holds documents that expired more than a day ago"
        return found("expired-stay", Severity.WARNING, what, [index.collection])

    async def _clients(self, config: Document | None) -> list[Finding]:
        remarks, examined, after = Remarks(), 0, ""
        usable = config is not None and not reading_of(config).mistakes
        settings = settings_from(config) if config is not None and usable else None
        since = await self._services.clients.used.since()
        collection = self._storage.collection("clients")
        while examined < MOST_EXAMINED:
            page = await collection.page({"client_id": {"$gt": after}}, "client_id", _PAGE)
            for document in page:
                size = size_of(document)
                remarks.add(client_remarks(document, size, self._environment, self._now))
            if settings is not None:
                await self._add_unused(remarks, page, settings, since)
            examined += len(page)
            if len(page) < _PAGE:
                return [*remarks.findings(), *import_findings(settings, remarks)]
            after = str(page[-1]["client_id"])
            await asyncio.sleep(0)
        what = f"only the first {examined} clients were looked at"
        return [*remarks.findings(), found("clients-not-all", Severity.INFO, what)]

    async def _add_unused(
        self, remarks: Remarks, page: Sequence[Document], settings: Settings, since: datetime
    ) -> None:
        named = [each for each in page if isinstance(each["client_id"], str)]
        used = await self._services.clients.used.of_all([each["client_id"] for each in named])
        for document in named:
            uses = used[document["client_id"]]
            remarks.add(unused_remarks(document, uses, settings, since, self._now))

    def _app(self, app: Any) -> Iterator[Finding]:
        facts = list(app_facts(app))
        redirecting = [path for path, redirects, _ in facts if redirects]
        debugging = [path for path, _, debugs in facts if debugs]
        yield from app_findings(redirecting, debugging, self._environment)


def _audit_key(document: Document) -> StoredKey:
    """A key that signs checkpoints of the audit log: sealed as others are, and never published."""
    return StoredKey(kid=str(document.get("kid")), algorithm="ES256", document=document)
