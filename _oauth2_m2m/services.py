"""All rooms of one server, built around one database, and what starts them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime

from _oauth2_m2m.access_tokens import AccessToken, TokenReader, read_access_token
from _oauth2_m2m.admission import Admission
from _oauth2_m2m.audit import AuditLog
from _oauth2_m2m.client_authentication import ClientAuthentication
from _oauth2_m2m.client_keys import ClientKeys
from _oauth2_m2m.clients import Clients
from _oauth2_m2m.config import Environment, Settings
from _oauth2_m2m.credentials import SecretChecker
from _oauth2_m2m.deadlines import Deadline
from _oauth2_m2m.errors import (
    ConfigurationError,
    DatabaseUnreachable,
    TemporarilyUnavailable,
    UnknownKey,
)
from _oauth2_m2m.group_commit import GroupCommit
from _oauth2_m2m.hooks import EventHook, ExtraClaims
from _oauth2_m2m.issuing import Issuer
from _oauth2_m2m.key_sealing import KeySealer
from _oauth2_m2m.keys import Keys
from _oauth2_m2m.metrics import Metrics
from _oauth2_m2m.proofs import Proofs
from _oauth2_m2m.rate_limits import RateLimits
from _oauth2_m2m.refresh_tokens import RefreshTokens
from _oauth2_m2m.revocation import Question, Revocation
from _oauth2_m2m.settings import SettingsSource
from _oauth2_m2m.storage import AnyDatabase, Storage

_log = logging.getLogger("oauth2_m2m")

#: One request, the database's part of it in all. Past it the answer is 503.
REQUEST_SECONDS = 4.5
REQUEST_DEADLINE = Deadline(REQUEST_SECONDS)


class Services:
    """The rooms that endpoints and guards work with. Building them sends nothing.

    Args:
        database: a PyMongo `Database` or `AsyncDatabase`.
        environment: development or production.
        sealer: what seals private keys.
        metrics: where they count; nowhere unless given.
        extra_claims: what the app adds to access tokens.
        on_event: what the app does about audit records.
        operator: who works with the rooms, for the audit log, when nobody asks over HTTP.
    """

    def __init__(
        self,
        database: AnyDatabase | Storage,
        environment: Environment,
        sealer: KeySealer,
        *,
        metrics: Metrics | None = None,
        extra_claims: ExtraClaims | None = None,
        on_event: EventHook | None = None,
        operator: str | None = None,
    ) -> None:
        self.storage = database if isinstance(database, Storage) else Storage(database, metrics)
        self.audit = AuditLog(self.storage, on_event, sealer, operator)
        self.keys = Keys(self.storage, self.audit, sealer)
        self.limits = RateLimits(self.storage)
        self.revocation = Revocation(self.storage)
        self.refresh_tokens = RefreshTokens(self.storage)
        self.proofs = Proofs(self.storage)
        checker = SecretChecker()
        self.clients = Clients(self.storage, self.audit, self.revocation, checker)
        self.authentication = ClientAuthentication(
            self.storage, self.clients, checker, ClientKeys(environment)
        )
        self.issuer = Issuer(self.keys, self.refresh_tokens, self.audit, extra_claims)
        self.admission = Admission(
            self.storage, self.limits, self.audit, self.revocation, self.clients
        )
        self.settings = SettingsSource(self.storage, self.audit, self.keys, environment)
        self.reader = TokenReader()
        self._prepared = False
        self._prepare_once = GroupCommit(self._prepare_for_all)

    async def ready(self) -> Settings:
        """The current settings, once the database is prepared; prepares it at the first call.

        Raises:
            TemporarilyUnavailable: the database does not answer, or its config cannot be used.
        """
        if not self._prepared:
            await self._prepare_once.ask(None)
        return await self.settings.current()

    async def read_access_token(
        self, text: str, settings: Settings, now: datetime, *, anew: bool = False
    ) -> AccessToken:
        """Read an access token; a key that is not known yet is looked for in the database.

        That is at most one look a second, whatever is presented; who comes in between waits for
        the next, for the key may be younger than the last.

        Args:
            text: the token as it was presented.
            settings: the settings of this moment.
            now: the moment to judge it at.
            anew: leave aside what is remembered of it, such as that it was seen revoked.

        Returns:
            The token, whomever it is meant for: see `access_tokens.check_audience`.

        Raises:
            InvalidToken: it is malformed, not ours, or expired.
            TemporarilyUnavailable: the database does not answer.
        """
        try:
            return self._read(text, settings, now, anew)
        except UnknownKey:
            return self._read(text, await self.settings.fresh(), now, anew)

    def _read(self, text: str, settings: Settings, now: datetime, anew: bool) -> AccessToken:
        read = read_access_token if anew else self.reader.read
        return read(
            text,
            issuer=settings.issuer,
            keys=self.keys.ring.verifying,
            now=now,
            leeway=settings.leeway,
        )

    async def prepare(self) -> Settings:
        """Make the config and the indexes where there are none; safe from many workers at once.

        Raises:
            DatabaseUnreachable: the database does not answer.
            ConfigurationError: something else stands in the way; the message says what to do.
        """
        try:
            settings = await self.settings.load()
            await self.prepare_rooms(settings)
            await self._probe_read_concern(settings)
        except TemporarilyUnavailable as error:
            raise DatabaseUnreachable(
                f"MongoDB is unreachable ({error.detail}): start it, or set MONGODB_URL"
            ) from None
        self._prepared = True
        return settings

    async def prepare_rooms(self, settings: Settings) -> None:
        """Have every room make the indexes that it relies on."""
        await asyncio.gather(
            self.audit.prepare(settings.audit_retention),
            self.keys.prepare(),
            self.limits.prepare(),
            self.proofs.prepare(),
            self.revocation.prepare(),
            self.refresh_tokens.prepare(),
            self.clients.prepare(),
            self.authentication.prepare(),
        )

    async def _probe_read_concern(self, settings: Settings) -> None:
        """A standalone would refuse every linearizable read: better to say so at the start."""
        if not settings.linearizable:
            return
        try:
            await self.revocation.is_revoked(Question(("probe",), linearizable=True))
        except TemporarilyUnavailable:
            raise ConfigurationError(
                "REVOCATION_READ_CONCERN is linearizable, which this MongoDB does not serve: "
                "it must be a replica set; else set majority"
            ) from None

    async def drain(self) -> None:
        """Wait until everything that was begun is written."""
        await asyncio.gather(
            self.audit.drain(),
            self.keys.drain(),
            self.limits.drain(),
            self.admission.drain(),
            self.authentication.drain(),
            self.proofs.drain(),
            self.revocation.drain(),
            self.refresh_tokens.drain(),
            self.clients.drain(),
        )

    async def _prepare_for_all(self, questions: Sequence[None]) -> Sequence[None]:
        try:
            await self.prepare()
        except ConfigurationError as mistake:
            _log.error("cannot serve: %s", mistake)
            raise TemporarilyUnavailable(detail=str(mistake)) from None
        return [None] * len(questions)
