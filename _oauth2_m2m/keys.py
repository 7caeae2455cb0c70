"""The keys that sign access tokens, and those that may still verify one. The collection `keys`.

Keys are made when they are due by whichever worker comes first: a unique insert decides. The rules
of their lives stand in `key_ring`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from _oauth2_m2m.audit import AuditLog, Event
from _oauth2_m2m.config import Settings
from _oauth2_m2m.errors import ConfigurationError, TemporarilyUnavailable
from _oauth2_m2m.key_ring import (
    SIGNS_FOR,
    KeyRing,
    StoredKey,
    build_ring,
    dead_keys,
    next_number,
    signing_at,
    stored_key,
    successor_begins,
)
from _oauth2_m2m.key_sealing import KeySealer, Rewrapped, rewrap
from _oauth2_m2m.metrics import Metrics, Queue
from _oauth2_m2m.signatures import (
    ASYMMETRIC_ALGORITHMS,
    SigningKey,
    new_private_key,
    private_signing_key,
)
from _oauth2_m2m.storage import Storage

#: The last expiry is written down ahead, so that it is one write an hour and not one a token.
WRITTEN_AHEAD = timedelta(hours=1)
#: More than rotating and burning ever leave. Past it the keys are refused: to read only some of
#: them would be to forget the others.
MOST_KEYS = 1000


class Keys:
    """Reads and writes `keys`."""

    def __init__(self, storage: Storage, audit: AuditLog, sealer: KeySealer) -> None:
        self._keys = storage.collection("keys")
        self._audit = audit
        self._metrics = storage.metrics
        self.sealer = sealer
        #: Whether the ring was seen to be older than the collection: it is to be read again.
        self.outdated = False
        self._ring: KeyRing | None = None
        self._written: dict[str, datetime] = {}
        self._write = storage.queue(Queue.KEYS, self._write_expiries)

    @property
    def ring(self) -> KeyRing:
        """The keys as they were last read.

        Raises:
            TemporarilyUnavailable: they never were.
        """
        if self._ring is None:
            raise TemporarilyUnavailable(detail="the keys were not read yet")
        return self._ring

    async def prepare(self) -> None:
        """Make the index that lets one of many workers make the next key."""
        await self._keys.ensure_index(
            [("algorithm", 1), ("number", 1)],
            unique=True,
            partialFilterExpression={"number": {"$exists": True}},
        )

    async def refresh(self, settings: Settings, now: datetime) -> KeyRing:
        """Read the keys, and do what is due: make the first, announce the next, forget the dead.

        Returns:
            The ring; the same object as before when nothing has changed.

        Raises:
            ConfigurationError: a key that is to sign cannot be used or opened. Then nothing is
                made in its place, and the last ring stays.
            TemporarilyUnavailable: the database does not answer.
        """
        self.outdated = False
        stored = await self.list()
        begins = successor_begins(stored, settings.algorithm, now)
        if begins is not None:
            if signing_at(stored, settings.algorithm, now) is not None:
                # No successor takes over in silence from a key that cannot be opened.
                build_ring(settings, stored, self.sealer, now, self._ring)
            number = next_number(stored, settings.algorithm)
            await self.make(settings.algorithm, number, begins, now)
            stored = await self.list()
        ring = build_ring(settings, stored, self.sealer, now, self._ring)
        signing = next((key for key in stored if key.kid == ring.signing.kid), None)
        for key in dead_keys(stored, signing, now):
            await self._keys.remove({"_id": key.kid, "last_expiry": key.last_expiry})
        self._written = {key.kid: key.last_expiry for key in stored if key.last_expiry}
        if not ring.same_as(self._ring):
            self._ring = ring
        if self._metrics is not None:
            _show(self._metrics, ring, signing)
        return self.ring

    async def check(self, settings: Settings, now: datetime) -> None:
        """Whether these settings would have a key to sign with, were they those of the service.

        Raises:
            ConfigurationError: they would not; the message says why.
        """
        stored = await self.list()
        if successor_begins(stored, settings.algorithm, now) != now:  # else one would be made
            build_ring(settings, stored, self.sealer, now, self._ring)

    async def make(self, algorithm: str, number: int, signs_from: datetime, now: datetime) -> bool:
        """Make a key, unless another worker has made the one of this number.

        Args:
            algorithm: `ES256` or `RS256`.
            number: which one of its algorithm.
            signs_from: when it is to sign.
            now: when it is made.

        Returns:
            Whether it was made here.
        """
        private = await asyncio.to_thread(new_private_key, algorithm)
        key = private_signing_key(private, algorithm)
        sealed, sealed_with = self.sealer.seal(private, key.kid)
        await self.prepare()  # in a fresh database nothing else makes numbers unique yet
        made = await self._keys.insert_one({
            "_id": key.kid,
            "algorithm": algorithm,
            "number": number,
            "public": dict(key.public_jwk),
            "private": sealed,
            "sealed_with": sealed_with,
            "created_at": now,
            "signs_from": signs_from,
            "signs_until": signs_from + SIGNS_FOR,
        })  # fmt: skip
        if made:
            reason = f"{algorithm} key {key.kid} made, signs from {signs_from:%Y-%m-%d %H:%M:%S}"
            await self._audit.record(Event.KEY_ROTATED, now, reason=reason)
        return made

    async def bring_forward(self, key: StoredKey, signs_from: datetime) -> bool:
        """Let a key that is announced sign earlier than was planned.

        Returns:
            Whether it was to sign later, and lies at rest as a key that is made now would.
        """
        if key.document.get("sealed_with") != self.sealer.seals_with:
            return False
        moments = {"signs_from": signs_from, "signs_until": signs_from + SIGNS_FOR}
        later = {"_id": key.kid, "signs_from": {"$gt": signs_from}}
        return await self._keys.change(later, {"$set": moments}, fields=["_id"]) is not None

    async def burn(self, kid: str, algorithm: str, now: datetime, until: datetime) -> None:
        """Give a key up: it neither signs nor verifies again, and its private part is gone.

        Args:
            kid: which.
            algorithm: its algorithm, for a shared secret that has no document yet.
            now: when.
            until: when no token of it can be alive.
        """
        update = {
            "$set": {"burned_at": now},
            "$unset": {"private": ""},
            "$max": {"last_expiry": until},
            "$setOnInsert": {"algorithm": algorithm},
        }
        await self._keys.change({"_id": kid}, update, upsert=True, fields=["_id"])

    async def rewrap(self, now: datetime) -> Rewrapped:
        """Seal every private key anew that is not sealed with the first encryption key.

        Those that sign the audit log's checkpoints included.

        Raises:
            ConfigurationError: there is no encryption key.
        """
        stored = await self.list()
        ours = await rewrap(self.sealer, self._keys, [key.document for key in stored])
        audits = await self._audit.rewrap_keys()
        done = (*ours.done, *audits.done)
        for kid in done:
            reason = f"key {kid} sealed anew, with {self.sealer.seals_with}"
            await self._audit.record(Event.KEY_ROTATED, now, reason=reason)
        return Rewrapped(done, (*ours.failed, *audits.failed))

    async def list(self) -> Sequence[StoredKey]:
        """All keys, the oldest of each algorithm first.

        Raises:
            ConfigurationError: a document makes no sense, or there are too many.
        """
        documents = await self._keys.page({}, "_id", MOST_KEYS + 1)
        if len(documents) > MOST_KEYS:
            raise ConfigurationError(
                f"there are more than {MOST_KEYS} keys: remove documents of old ones from the "
                "collection keys, but none of a secret that may come back into config"
            )
        stored = [stored_key(document) for document in documents]
        return sorted(stored, key=lambda key: (key.algorithm, key.number))

    async def ring_until(self, moment: datetime) -> KeyRing:
        """The ring, once it is written down that its signing key is needed until that moment.

        So no key is forgotten while a token lives that it signed. Mostly it is written already.

        Raises:
            TemporarilyUnavailable: the key was given up meanwhile, or the database is silent.
        """
        ring = self.ring
        written = self._written.get(ring.signing.kid)
        if written is None or moment > written:
            moment += WRITTEN_AHEAD
            if not await self._write.ask((ring.signing, moment)):
                self.outdated = True
                raise TemporarilyUnavailable(detail="the signing key was given up meanwhile")
            self._written[ring.signing.kid] = moment
        return ring

    async def drain(self) -> None:
        """Wait until every expiry is written."""
        await self._write.drain()

    async def _write_expiries(
        self, questions: Sequence[tuple[SigningKey, datetime]]
    ) -> Sequence[bool]:
        latest: dict[str, tuple[datetime, SigningKey]] = {}
        for key, moment in questions:
            latest[key.kid] = max((moment, key), latest.get(key.kid, (moment, key)), key=_moment)
        written = {
            kid: await self._write_expiry(key, moment) for kid, (moment, key) in latest.items()
        }
        return [written[key.kid] for key, _ in questions]

    async def _write_expiry(self, key: SigningKey, moment: datetime) -> bool:
        """Write it; whether the key is still there. A shared secret itself lies in `config`."""
        if await self._prolong(key.kid, moment):
            return True
        if key.public_jwk:
            return False
        note = {"_id": key.kid, "algorithm": key.algorithm, "last_expiry": moment}
        return await self._keys.insert_one(note) or await self._prolong(key.kid, moment)

    async def _prolong(self, kid: str, moment: datetime) -> bool:
        alive = {"_id": kid, "burned_at": None}
        update = {"$max": {"last_expiry": moment}}
        return await self._keys.change(alive, update, fields=["_id"]) is not None


def _show(metrics: Metrics, ring: KeyRing, signing: StoredKey | None) -> None:
    """Show how many keys there are, and since when the one signs, which no shared secret tells."""
    algorithms = Counter(key.algorithm for key in ring.verifying.values())
    for algorithm in ("HS256", *ASYMMETRIC_ALGORITHMS):
        metrics.keys[algorithm].set(algorithms[algorithm])
    if signing is not None and signing.number:
        metrics.signing_key_from[signing.algorithm].set(signing.signs_from.timestamp())


def _moment(latest: tuple[datetime, SigningKey]) -> datetime:
    return latest[0]
