"""The settings as they stand in the collection `config`: made once, remembered for a moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from _oauth2_m2m.audit import AuditLog, Event
from _oauth2_m2m.config import (
    CONFIG_ID,
    Environment,
    Settings,
    new_config,
    new_secret_key,
    settings_from,
    weaknesses,
)
from _oauth2_m2m.errors import ConfigurationError
from _oauth2_m2m.group_commit import GroupCommit
from _oauth2_m2m.keys import key_ring
from _oauth2_m2m.storage import Document, Storage

#: A change is seen within 30 s; the rest is left for the reading itself.
REMEMBERED_SECONDS = 25.0

_log = logging.getLogger("oauth2_m2m")


class SettingsSource:
    """Reads `config`, and keeps the last good settings when somebody writes nonsense into it."""

    def __init__(self, storage: Storage, audit: AuditLog, environment: Environment) -> None:
        #: What was read last and found good; `None` before the first reading.
        self.last_good: Settings | None = None
        self._config = storage.collection("config")
        self._audit = audit
        self._environment = environment
        self._read_at = 0.0
        self._last_document: Document | None = None
        self._reread = GroupCommit(self._refresh)

    async def load(self) -> Settings:
        """Read the settings for the first time; make them where there are none.

        Safe from many workers at once: the insert of one wins, and all read the same document.

        Raises:
            ConfigurationError: the document cannot be used; the message names the field.
            TemporarilyUnavailable: MongoDB does not answer.
        """
        document = await self._config.change(
            {"_id": CONFIG_ID}, {"$setOnInsert": new_config()}, upsert=True
        )
        if document is not None and "SECRET_KEY" not in document:
            # An operator who typed only the fields that matter to them gets a key made.
            await self._config.change(
                {"_id": CONFIG_ID, "SECRET_KEY": {"$exists": False}},
                {"$set": {"SECRET_KEY": new_secret_key()}},
            )
            document = await self._config.find_one({"_id": CONFIG_ID})
        settings = self._checked(document or {})
        if self._environment is Environment.DEVELOPMENT:
            for weakness in weaknesses(settings):
                _log.warning("not for production: %s", weakness)
        self._remember(settings, document)
        return settings

    async def current(self, seconds: float = REMEMBERED_SECONDS) -> Settings:
        """The settings, read at most that many seconds ago."""
        if self.last_good is not None and time.monotonic() - self._read_at < seconds:
            return self.last_good
        return await self._reread.ask(None)

    async def _refresh(self, questions: Sequence[None]) -> Sequence[Settings]:
        if self.last_good is None:
            return [await self.load()] * len(questions)
        document = await self._config.find_one({"_id": CONFIG_ID})
        if document == self._last_document:
            settings = self.last_good
        else:
            settings = await self._change_to(document, self.last_good)
        self._remember(settings, document)
        return [settings] * len(questions)

    async def _change_to(self, document: Document | None, last_good: Settings) -> Settings:
        now = datetime.now(UTC)
        try:
            if document is None:
                raise ConfigurationError("the config document is missing")
            settings = self._checked(document)
        except ConfigurationError as mistake:
            _log.error("the changed config is refused, the last good one stays: %s", mistake)
            reason = f"refused, the last good one stays: {mistake}"
            await self._audit.record(Event.CONFIG_CHANGED, now, reason=reason)
            return last_good
        before = self._last_document or {}
        changed = sorted(
            name for name in {*before, *document} if before.get(name) != document.get(name)
        )
        reason = f"changed: {', '.join(changed)}"
        await self._audit.record(Event.CONFIG_CHANGED, now, reason=reason)
        try:
            await self._audit.prepare(settings.audit_retention)
        except ConfigurationError as mistake:
            _log.error("the audit log keeps its retention: %s", mistake)
        return settings

    def _checked(self, document: Document) -> Settings:
        settings = settings_from(document)
        key_ring(settings)  # a key that cannot be used is a mistake like any other
        if self._environment is Environment.PRODUCTION:
            for weakness in weaknesses(settings):
                raise ConfigurationError(weakness)
        return settings

    def _remember(self, settings: Settings, document: Document | None) -> None:
        self.last_good = settings
        self._last_document = document
        self._read_at = time.monotonic()
