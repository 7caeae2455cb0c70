"""Checkpoints: what the audit log held at a moment, numbered and signed.

The collection `audit_checkpoints` is one chain over all writers: a unique insert decides who makes
the next number, and each holds the hash of the one before. The collection `audit_keys` holds the
key that signs them, which is used for nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from _oauth2_m2m.audit_chain import NOTHING, Span, canonical, digest
from _oauth2_m2m.errors import TemporarilyUnavailable
from _oauth2_m2m.key_sealing import KeySealer, Rewrapped, rewrap
from _oauth2_m2m.signatures import (
    SigningKey,
    b64url_decode,
    b64url_encode,
    new_private_key,
    private_signing_key,
    public_key_from_jwk,
    thumbprint,
)
from _oauth2_m2m.storage import Document, Storage

#: Checkpoints stay longer than the records that they speak of, so that what is gone is explained.
KEPT_LONGER = timedelta(days=2)
#: Writers that want the same number try again; who never wins signs at the next occasion.
MOST_ATTEMPTS = 20
#: More keys than ever signed checkpoints.
MOST_KEYS = 1000
_ALGORITHM = "ES256"
_PURPOSE = b"oauth2-m2m audit checkpoint\0"

_log = logging.getLogger("oauth2_m2m")


@dataclass(frozen=True, slots=True)
class Mark:
    """A checkpoint, as others refer to it: its number and its hash."""

    number: int
    hash: str

    def as_member(self) -> Document:
        """How it stands in a document."""
        return {"number": self.number, "hash": self.hash}


class Checkpoints:
    """Writes `audit_checkpoints` and `audit_keys`."""

    def __init__(self, storage: Storage, sealer: KeySealer) -> None:
        self._checkpoints = storage.collection("audit_checkpoints")
        self._keys = storage.collection("audit_keys")
        self._sealer = sealer
        self._key: SigningKey | None = None
        self._public: dict[str, Any] = {}

    async def prepare(self, retention: timedelta) -> None:
        """Make the indexes; a changed retention is set on the one there is."""
        await asyncio.gather(
            self._checkpoints.ensure_index([("time", 1)], lifetime=retention + KEPT_LONGER),
            self._checkpoints.ensure_index([("writer", 1), ("seq", 1)]),
            self._keys.ensure_index([("kid", 1)], unique=True),
        )

    async def add(
        self,
        span: Span,
        counted: Sequence[Document],
        own: Mark | None,
        retention: timedelta | None,
        now: datetime,
    ) -> Mark:
        """Sign what a writer has written, and the counted records whose minutes are over.

        Args:
            span: what is new in the writer's chain.
            counted: records that nobody counts in any more.
            own: the checkpoint that this writer made before.
            retention: how long records are kept at this moment.
            now: when.

        Raises:
            TemporarilyUnavailable: the database does not answer, or others were quicker each time.
            ConfigurationError: the key cannot be opened.
        """
        key = await self._signing_key()
        for _ in range(MOST_ATTEMPTS):
            before = await self._checkpoints.page({}, "_id", 1, newest_first=True)
            newest = before[0] if before else None
            known = await self._known_keys(newest)
            document = checkpoint_document(newest, span, counted, own, retention, now, key, known)
            if await self._checkpoints.insert_one(document):
                return Mark(document["_id"], hash_of(document))
        raise TemporarilyUnavailable(detail="other writers made every next checkpoint")

    async def rewrap(self) -> Rewrapped:
        """Seal the private keys anew that are not sealed with the first encryption key.

        Raises:
            ConfigurationError: there is no encryption key.
        """
        return await rewrap(self._sealer, self._keys, await self._keys.find({}))

    async def _signing_key(self) -> SigningKey:
        if self._key is None:
            self._key = await self._load_key()
        return self._key

    async def _known_keys(self, checkpoint: Document | None) -> Mapping[str, Any]:
        """The public keys, read again for a checkpoint that another one signed."""
        if checkpoint is not None and checkpoint.get("kid") not in self._public:
            self._public = verifying_keys(await self._keys.page({}, "_id", MOST_KEYS))
        return self._public

    async def _load_key(self) -> SigningKey:
        """The newest key, made where there is none; a unique insert decides whose it is.

        A newest one without its private part was given up, and another takes its place.
        """
        newest = await self._newest_key()
        if newest is None or not await self._may_sign(newest):
            await self._make_key(newest["_id"] + 1 if newest else 1)
            newest = await self._newest_key()
        if newest is None or not await self._may_sign(newest):
            raise TemporarilyUnavailable(detail="the audit log's key was given up meanwhile")
        private = self._sealer.open(newest["private"], newest["kid"], newest["sealed_with"])
        if newest["sealed_with"] != self._sealer.seals_with:
            await self._seal_again(newest, private)
        return private_signing_key(private, _ALGORITHM)

    async def _may_sign(self, key: Document) -> bool:
        """Whether a key is one to sign with.

        One in the clear is not where keys are sealed and another one was sealed before: whoever can
        write to the database could have put it there.
        """
        if key.get("sealed_with") is None and self._sealer.seals_with is not None:
            sealed = await self._keys.find_one({"sealed_with": {"$ne": None}}, ["kid"])
            if sealed is not None:
                _log.error("the audit log's key %s is not sealed, so it does not sign", key["kid"])
                return False
        return bool(key.get("private"))

    async def _newest_key(self) -> Document | None:
        found = await self._keys.page({}, "_id", 1, newest_first=True)
        return found[0] if found else None

    async def _make_key(self, number: int) -> None:
        private = await asyncio.to_thread(new_private_key, _ALGORITHM)
        key = private_signing_key(private, _ALGORITHM)
        sealed, sealed_with = self._sealer.seal(private, key.kid)
        await self._keys.insert_one({
            "_id": number,
            "kid": key.kid,
            "public": dict(key.public_jwk),
            "private": sealed,
            "sealed_with": sealed_with,
        })  # fmt: skip

    async def _seal_again(self, document: Document, private: bytes) -> None:
        """Have the key at rest as one that is made now would be."""
        sealed, sealed_with = self._sealer.seal(private, document["kid"])
        where = {"_id": document["_id"], "private": document["private"]}
        update = {"$set": {"private": sealed, "sealed_with": sealed_with}}
        await self._keys.change(where, update, fields=["_id"])


def checkpoint_document(
    before: Mapping[str, Any] | None,
    span: Span,
    counted: Sequence[Mapping[str, Any]],
    own: Mark | None,
    retention: timedelta | None,
    now: datetime,
    key: SigningKey,
    keys: Mapping[str, Any],
) -> Document:
    """The checkpoint that follows the newest one, or the first; as for `Checkpoints.add`.

    What anybody put in the place of the one before is followed too, but not believed: else it could
    say of all that was before it that its time is over.
    """
    known = before if before and is_signed(before, keys) else None
    document = {
        "_id": before["_id"] + 1 if before else 1,
        "time": max(now, known["time"]) if known else now,  # it does not go back
        "previous": hash_of(before) if before else NOTHING,
        "previous_time": known and known["time"],
        "previous_kid": known and known["kid"],
        "writer": span.writer,
        "since": span.since,
        "seq": span.seq,
        "head": span.head,
        "oldest": span.oldest,
        "newest": span.newest,
        "counted": [
            {"id": each["_id"], "hash": digest(each, "sealed"), "timestamp": each["timestamp"]}
            for each in counted
        ],
        "own": own and own.as_member(),
        "retention_days": retention and retention / timedelta(days=1),
        "kid": key.kid,
    }
    signature = b64url_encode(key.sign(_message(document))).decode()
    return {**document, "signature": signature}


def hash_of(checkpoint: Mapping[str, Any]) -> str:
    """The hash that the next checkpoint holds."""
    return digest(checkpoint)


def verifying_keys(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The public keys of `audit_keys`, each under its thumbprint, whatever it says that it is."""
    found = {}
    for document in documents:
        try:
            members = {name: document["public"][name] for name in ("kty", "crv", "x", "y")}
            found[thumbprint(members)] = public_key_from_jwk(members, (_ALGORITHM,))
        except (KeyError, TypeError, ValueError):
            continue  # what it signed is reported
    return found


def is_signed(checkpoint: Mapping[str, Any], keys: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's signature is that of the key that it names."""
    key = keys.get(str(checkpoint.get("kid")))
    try:
        signature = b64url_decode(checkpoint["signature"].encode("ascii"))
        return key is not None and bool(key.verify(_message(checkpoint), signature))
    except (AttributeError, KeyError, ValueError):
        return False


def _message(checkpoint: Mapping[str, Any]) -> bytes:
    return _PURPOSE + canonical(checkpoint, "signature")
