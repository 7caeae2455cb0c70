"""The settings as they stand in the collection `config`: made once, remembered for a moment."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from _oauth2_m2m.audit import AuditLog, Event
from _oauth2_m2m.config import (
    CONFIG_ID,
    MOST_PREVIOUS_KEYS,
    Environment,
    Secret,
    Settings,
    new_config,
    new_secret_key,
    reading_of,
    settings_from,
    weaknesses,
)
from _oauth2_m2m.errors import ConfigurationError, TemporarilyUnavailable
from _oauth2_m2m.keys import Keys
from _oauth2_m2m.metrics import Queue
from _oauth2_m2m.storage import Document, Storage

#: A change is seen within 30 s; the rest is left for the reading itself.
REMEMBERED_SECONDS = 25.0
#: For an unknown key the database is asked again at most this often.
REREAD_SECONDS = 1.0
#: So many requests may wait for that; more are refused at once.
MOST_WAITING_FOR_A_KEY = 1000

_log = logging.getLogger("oauth2_m2m")


class SettingsSource:
    """Reads `config`, and keeps the last good settings when somebody writes nonsense into it.

    The key ring is read along with it: settings that were handed out have their keys in `keys`.
    """

    def __init__(
        self, storage: Storage, audit: AuditLog, keys: Keys, environment: Environment
    ) -> None:
        #: What was read last and found good; `None` before the first reading.
        self.last_good: Settings | None = None
        self._config = storage.collection("config")
        self._audit = audit
        self._keys = keys
        self.environment = environment
        self._read_at = self._began_at = 0.0  # of the last good reading, and of the last
        self._waiting = 0
        self._good_document: Document | None = None
        self._last_document: Document | None = None
        self._reread = storage.queue(Queue.CONFIG, self._refresh)

    async def load(self) -> Settings:
        """Read the settings for the first time; make them where there are none.

        Safe from many workers at once: the insert of one wins, and all read the same document.

        Raises:
            ConfigurationError: the document cannot be used; the message names the field.
            TemporarilyUnavailable: MongoDB does not answer.
        """
        began = self._began_at = time.monotonic()
        document = await self.document()
        settings = self._checked(document)
        await self._keys.refresh(settings, datetime.now(UTC))
        if self.environment is Environment.DEVELOPMENT:
            for weakness in weaknesses(settings):
                _log.warning("not for production: %s", weakness)
        self._good_document = document
        self._remember(settings, document, began)
        return settings

    async def look(self) -> Document | None:
        """The config document as it lies there, usable or not; `None` where there is none."""
        return await self._config.find_one({"_id": CONFIG_ID})

    async def document(self) -> Document:
        """The same, made where there is none."""
        document = await self._config.change(
            {"_id": CONFIG_ID}, {"$setOnInsert": new_config()}, upsert=True
        )
        if document is not None and "SECRET_KEY" not in document:
            # An operator who typed only the fields that matter to them gets a key made.
            await self._config.change(
                {"_id": CONFIG_ID, "SECRET_KEY": {"$exists": False}},
                {"$set": {"SECRET_KEY": new_secret_key()}},
            )
            document = await self.look()
        return document or {}

    async def current(self) -> Settings:
        """The settings, with their keys, read a moment ago."""
        is_young = time.monotonic() - self._read_at < REMEMBERED_SECONDS
        if self.last_good is not None and is_young and not self._keys.outdated:
            return self.last_good
        return await self._reread.ask(time.monotonic())

    async def fresh(self) -> Settings:
        """The settings, with their keys, of a reading that began after this call.

        There is one such reading a second at the most, which all who came in between wait for.

        Raises:
            TemporarilyUnavailable: too many wait already, or the database does not answer.
        """
        if self._waiting >= MOST_WAITING_FOR_A_KEY:
            raise TemporarilyUnavailable(detail="too many requests wait for a key")
        asked = time.monotonic()
        self._waiting += 1
        try:
            await asyncio.sleep(max(0.0, self._began_at + REREAD_SECONDS - asked))
            return await self._reread.ask(asked)
        finally:
            self._waiting -= 1

    async def change(self, read: Document, changes: Mapping[str, Any]) -> bool:
        """Change fields of the document, unless somebody changed it since it was read.

        Args:
            read: the document as it was read, and as the changes were checked against it.
            changes: the new values; `None` takes a field out.

        Returns:
            Whether it was changed.
        """
        known = {*reading_of(read).known, *read, *changes} - {"_id"}
        unchanged = {name: {"$eq": read.get(name)} for name in known}  # null is missing, too
        put = {name: value for name, value in changes.items() if value is not None}
        taken = {name: "" for name, value in changes.items() if value is None}
        update = {"$set": put, "$unset": taken}
        update = {operator: fields for operator, fields in update.items() if fields}
        mine = {"_id": CONFIG_ID, **unchanged}
        return await self._config.change(mine, update, fields=["_id"]) is not None

    async def take_imported_secrets(self) -> None:
        """Have secrets from other servers be taken, from the next reading of each worker on."""
        update = {"$set": {"IMPORTED_SECRETS": True}}
        await self._config.change({"_id": CONFIG_ID}, update, fields=["_id"])

    async def replace_secret_key(self, old: Secret, *, keep: bool) -> None:
        """Put a new random key in the place of `SECRET_KEY`, unless somebody else did so.

        Args:
            old: the key as it was read.
            keep: whether it goes on verifying, as one of `PREVIOUS_SECRET_KEYS`.
        """
        mine = {"_id": CONFIG_ID, "SECRET_KEY": old.value}
        update: dict[str, Any] = {"$set": {"SECRET_KEY": new_secret_key()}}
        if keep:
            kept = {"$each": [old.value], "$position": 0, "$slice": MOST_PREVIOUS_KEYS}
            update["$push"] = {"PREVIOUS_SECRET_KEYS": kept}
        await self._config.change(mine, update, fields=["_id"])

    async def forget_secret_key(self, old: Secret) -> None:
        """Take a key out of `PREVIOUS_SECRET_KEYS`."""
        update = {"$pull": {"PREVIOUS_SECRET_KEYS": old.value}}
        await self._config.change({"_id": CONFIG_ID}, update, fields=["_id"])

    async def _refresh(self, asked: Sequence[float]) -> Sequence[Settings]:
        if self.last_good is None:
            return [await self.load()] * len(asked)
        if self._read_at > max(asked):  # those before have read it meanwhile
            return [self.last_good] * len(asked)
        began = self._began_at = time.monotonic()
        document = await self._config.find_one({"_id": CONFIG_ID})
        if document == self._good_document:
            settings = await self._with_keys(self.last_good)
        else:
            settings = await self._change_to(document, self.last_good)
        self._remember(settings, document, began)
        return [settings] * len(asked)

    async def _with_keys(self, settings: Settings) -> Settings:
        """The same settings, once their keys were read; keys that cannot be used stay unused."""
        try:
            await self._keys.refresh(settings, datetime.now(UTC))
        except ConfigurationError as mistake:
            _log.error("the keys are refused, the last good ones stay: %s", mistake)
        return settings

    async def _change_to(self, document: Document | None, last_good: Settings) -> Settings:
        now = datetime.now(UTC)
        try:
            if document is None:
                raise ConfigurationError("the config document is missing")
            settings = self._checked(document)
            await self._keys.refresh(settings, now)
        except ConfigurationError as mistake:
            if document != self._last_document:  # said once, and tried again: keys can be mended
                _log.error("the changed config is refused, the last good one stays: %s", mistake)
                reason = f"refused, the last good one stays: {mistake}"
                await self._notice(reason, now)
            return await self._with_keys(last_good)
        before = self._good_document or {}
        changed = sorted(
            name for name in {*before, *document} if before.get(name) != document.get(name)
        )
        reason = f"changed: {', '.join(changed)}"
        await self._notice(reason, now)
        try:
            await self._audit.prepare(settings.audit_retention)
        except ConfigurationError as mistake:
            _log.error("the audit log keeps its retention: %s", mistake)
        self._good_document = document
        return settings

    async def _notice(self, reason: str, now: datetime) -> None:
        """Record what was found in the config, whoever wrote it."""
        await self._audit.record(Event.CONFIG_CHANGED, now, reason=reason, names_operator=False)

    def _checked(self, document: Document) -> Settings:
        settings = settings_from(document)
        if self.environment is Environment.PRODUCTION:
            for weakness in weaknesses(settings):
                raise ConfigurationError(weakness)
        return settings

    def _remember(self, settings: Settings, document: Document | None, began: float) -> None:
        self._audit.configure(settings)
        self.last_good = settings
        self._last_document = document
        self._read_at = began
