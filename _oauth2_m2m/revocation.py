"""Revocation: marks that every check of a token consults. The collection `revoked_tokens`.

A mark names a token (`jti`), a family of tokens, or an epoch of a client. One write, and every
request that starts after its acknowledgement sees it, on every worker and host. A mark lives until
the last token that it can hit has expired.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from _oauth2_m2m.metrics import Queue
from _oauth2_m2m.signatures import b64url_decode, b64url_encode
from _oauth2_m2m.storage import TTL_LAG, Document, Storage

#: A mark's place in the order in which marks are set: the database's own time, which never goes
#: back, not even when another host becomes the primary. The clocks of our hosts are nothing to it.
_ITS_PLACE = {"$currentDate": {"seq": {"$type": "timestamp"}}}
#: Half a SHA-256: enough that no two marks ever meet, and short enough to send by the thousand.
_DIGEST_BYTES = 16


def family_mark(family_id: str) -> str:
    """The mark that hits every token of a chain of refreshes."""
    return f"family:{family_id}"


def epoch_mark(client_id: str, epoch: str) -> str:
    """The mark that hits every token that a client got in one of its epochs.

    A client's epoch changes when it is disabled or its last secret is rotated. Epochs, not times:
    a comparison of clocks between hosts would let tokens slip through.
    """
    return f"client:{client_id}:{epoch}"


def digest_of(mark: str) -> bytes:
    """What of a mark leaves this server: it tells nobody the ids of tokens or clients."""
    return hashlib.sha256(mark.encode("utf-8", "surrogatepass")).digest()[:_DIGEST_BYTES]


def published(mark: str) -> str:
    """A mark as the feed names it."""
    return b64url_encode(digest_of(mark)).decode("ascii")


def digest_from(text: str) -> bytes:
    """Read a mark as the feed names it.

    Raises:
        ValueError: it is none.
    """
    digest = b64url_decode(text.encode("ascii"))
    if len(digest) != _DIGEST_BYTES:
        raise ValueError("not half a digest")
    return digest


def key_mark(kid: str) -> str:
    """The mark that hits every token that a key has signed."""
    return f"key:{kid}"


def kind_of_mark(mark: str) -> str:
    """`family`, `client` or `key` for marks that hit many tokens; empty for a `jti`."""
    kind, colon, _ = mark.partition(":")
    return kind if colon and kind in {"family", "client", "key"} else ""


class Question(NamedTuple):
    """What a check asks: is any of these marks set?

    Attributes:
        marks: the marks that would hit the token.
        token: the token's text, for documents of the older shape, which hold it whole. What
            cannot be in one is left out, so that it stays out of the database's own logs.
        linearizable: ask even a primary that was cut off to prove itself first.
    """

    marks: tuple[str, ...]
    token: str | None = None
    linearizable: bool = False


class Revocation:
    """Reads and writes `revoked_tokens`."""

    def __init__(self, storage: Storage) -> None:
        self._marks = storage.collection("revoked_tokens")
        self._proven_marks = self._marks.with_read_concern("linearizable")
        self._check = storage.queue(Queue.REVOCATION, self.find_all)
        self._write = storage.queue(Queue.REVOCATION_WRITES, self._set)

    async def prepare(self) -> None:
        """Make the indexes, and give marks of before the feed their place in it."""
        ours = {"_id": {"$type": "string"}}  # documents of the older shape have an ObjectId
        await asyncio.gather(
            self._marks.ensure_index([("seq", 1)], partialFilterExpression=ours),
            self._marks.ensure_index([("expires_at", 1)], lifetime=TTL_LAG),
            # Documents of the older shape are found by the whole token; ours, which have no
            # ObjectId, take no room in this index.
            self._marks.ensure_index(
                [("token", 1)], partialFilterExpression={"_id": {"$type": "objectId"}}
            ),
        )
        await self._marks.update_all({**ours, "seq": None}, _ITS_PLACE)

    def is_revoked(self, question: Question) -> Awaitable[bool]:
        """Whether any of the marks is set, as the database stands after this call."""
        return self._check.ask(question)

    def revoke(
        self, mark: str, now: datetime, expires_at: datetime, token: str | None = None
    ) -> Awaitable[None]:
        """Set a mark; durable once awaited. Setting it again only ever prolongs it.

        Args:
            mark: what to hit.
            now: when.
            expires_at: when the last token that it can hit has expired.
            token: the digest of the token that was revoked, if it was one.
        """
        update = {
            "$setOnInsert": {"revoked_at": now, "token": token},
            "$max": {"expires_at": expires_at},
            **_ITS_PLACE,
        }
        return self._write.ask((mark, update))

    async def drain(self) -> None:
        """Wait until every mark set so far is written."""
        await self._write.drain()

    async def find_all(self, questions: Sequence[Question]) -> Sequence[bool]:
        """Whether any of the marks is set, for each question of a batch."""
        marks = _distinct(mark for question in questions for mark in question.marks)
        tokens = _distinct(question.token for question in questions if question.token)
        collection = self._proven_marks if any(q.linearizable for q in questions) else self._marks
        found = await collection.find(_query(marks, tokens), ["_id", "token"])
        hit = {document["_id"] for document in found}
        whole = {d["token"] for d in found if d["_id"] not in marks and isinstance(d["token"], str)}
        return [
            not hit.isdisjoint(question.marks) or question.token in whole for question in questions
        ]

    async def _set(self, writes: Sequence[tuple[str, Document]]) -> Sequence[None]:
        await self._marks.upsert([({"_id": mark}, update) for mark, update in writes])
        return [None] * len(writes)


def _query(marks: list[str], tokens: list[str]) -> Document:
    by_mark = {"_id": {"$in": marks}}
    if not tokens:
        return by_mark
    older = {"_id": {"$type": "objectId"}, "token": {"$in": tokens}}
    return {"$or": [by_mark, older]}


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
