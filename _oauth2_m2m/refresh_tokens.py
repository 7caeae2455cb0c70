"""Refresh tokens: opaque, rotated at every use. The collections `tokens`, `used_refresh_tokens`.

The commit point of a refresh is one unique insert: the claim. Whoever's insert of the token's
digest into `used_refresh_tokens` succeeds owns the rotation, whatever the number of workers; a
duplicate is reuse (RFC 9700 section 4.14.2). The claim carries the successor, sealed under a key
that only the presented token gives, so all that follows can be done again from it.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from _oauth2_m2m.credentials import (
    fingerprint,
    is_digest,
    is_made_here,
    make_id,
    make_refresh_token,
)
from _oauth2_m2m.errors import InvalidScope
from _oauth2_m2m.metrics import Queue
from _oauth2_m2m.revocation import Question, epoch_mark, family_mark
from _oauth2_m2m.scopes import Scope, format_scope, parse_scope
from _oauth2_m2m.storage import TTL_LAG, Collection, Document, Storage, as_utc

_LONGEST_TOKEN = 4096
_NONCE_BYTES = 12
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A refresh token, as the database knows it.

    Attributes:
        digest: the fingerprint under which it is stored.
        client_id: whose it is.
        family_id: the chain that it belongs to.
        scope: what it may be exchanged for; `None` in documents of the older shape, which means
            all that its client may have.
        epoch: the client's epoch in which it was issued.
        created_at, expires_at: its life, in UTC.
        spent_at: when it was exchanged, or `None` while it was not.
        audience: the resources that were asked for with it; none means the settings' audience.
        jkt: the thumbprint of the key that it is bound to, or `None`. RFC 9449 section 5.
    """

    digest: str
    client_id: str
    family_id: str
    scope: Scope | None
    epoch: str
    expires_at: datetime
    created_at: datetime | None = None
    spent_at: datetime | None = None
    audience: tuple[str, ...] = ()
    jkt: str | None = None

    def marks(self) -> tuple[str, ...]:
        """What would revoke it."""
        return (family_mark(self.family_id), epoch_mark(self.client_id, self.epoch))

    def question(self, text: str, *, linearizable: bool) -> Question:
        """What to ask about its revocation, when this text was presented.

        What was made here is in no document of the older shape, so its text stays out of queries.
        """
        return Question(self.marks(), None if is_made_here(text) else text, linearizable)

    def is_reused(self, now: datetime, grace: timedelta) -> bool:
        """Whether presenting it now is reuse: it was spent, and is beyond the grace for that."""
        return self.spent_at is not None and not _within(self.spent_at, now, grace)


@dataclass(frozen=True, slots=True)
class Claim:
    """The outcome of claiming a refresh token.

    Attributes:
        successor: the text of the next refresh token, or `None`: the token was spent before.
        claimed_at: when the claim was made.
    """

    successor: str | None
    claimed_at: datetime


class RefreshTokens:
    """Reads and writes `tokens` and `used_refresh_tokens`."""

    def __init__(self, storage: Storage) -> None:
        self._tokens = storage.collection("tokens")
        self._used = storage.collection("used_refresh_tokens")
        queue, tokens, used = storage.queue, self._tokens, self._used
        self._insert = queue(Queue.REFRESH_TOKENS, tokens.insert)
        self._claim = queue(Queue.REFRESH_TOKENS_CLAIMED, used.insert)
        self._find_stored = queue(Queue.REFRESH_TOKENS_FOUND, partial(_find_all, tokens))
        self._find_used = queue(Queue.REFRESH_TOKENS_USED, partial(_find_all, used))

    async def prepare(self) -> None:
        """Make the indexes."""
        await asyncio.gather(
            self._tokens.ensure_index([("refresh_token", 1)], unique=True),
            self._tokens.ensure_index([("family_id", 1)]),
            self._tokens.ensure_index([("expires_at", 1)], lifetime=TTL_LAG),
            self._used.ensure_index([("refresh_token", 1)], unique=True),
            self._used.ensure_index([("expires_at", 1)], lifetime=TTL_LAG),
        )

    def store(self, token: RefreshToken) -> Awaitable[bool]:
        """Store a token that will be handed out; storing it again changes nothing."""
        return self._insert.ask({
            "client_id": token.client_id,
            "refresh_token": token.digest,
            "created_at": token.created_at,
            "expires_at": token.expires_at,
            "family_id": token.family_id,
            "scope": format_scope(token.scope or ()),
            "epoch": token.epoch,
            **_particulars(token),
        })  # fmt: skip

    async def find(self, text: str) -> RefreshToken | None:
        """Find a presented token, spent or not; whether it is still good is for the caller.

        A text that is shaped like a stored digest finds nothing, for the database must not be a
        list of working tokens. Other texts may stand in the clear in documents of the older shape.
        """
        if len(text) > _LONGEST_TOKEN or not text.isprintable() or is_digest(text):
            return None
        digest = fingerprint(text)
        # What was made here is stored as a digest only, so the text itself stays out of queries.
        spellings = (digest,) if is_made_here(text) else (digest, text)
        asked = self._find_stored.ask(spellings), self._find_used.ask(spellings)
        return _token_from(await asked[0], await asked[1], digest)

    async def claim(self, text: str, token: RefreshToken, now: datetime, grace: timedelta) -> Claim:
        """Spend a token, once and for all workers.

        Args:
            text: the presented token.
            token: what `find` said of it.
            now: when.
            grace: how long the same holder may ask again and get the same successor.

        Returns:
            The claim. Its successor is `None` when the token was spent before, outside the grace.
        """
        successor = make_refresh_token()
        document: Document = {
            "_id": token.digest,
            "refresh_token": token.digest,
            "client_id": token.client_id,
            "family_id": token.family_id,
            "scope": None if token.scope is None else format_scope(token.scope),
            "epoch": token.epoch,
            "used_at": now,
            "expires_at": max(token.expires_at, now + grace),
            "successor": _seal(successor, text, token.digest),
            **_particulars(token),
        }
        if token.spent_at is None and await self._claim.ask(document):
            return Claim(successor, now)
        earlier = await self._used.find_one({"_id": token.digest})
        return _repeated(earlier, text, token.digest, now, grace)

    async def last_expiry(self, family_id: str, at_least: datetime) -> datetime:
        """When the last token of a family has expired."""
        latest = await self._tokens.page(
            {"family_id": family_id}, "expires_at", 1, newest_first=True
        )
        moments = [as_utc(document.get("expires_at")) for document in latest]
        return max([at_least, *(moment for moment in moments if moment)])

    async def owner_of(self, family_id: str) -> str | None:
        """The client of a family of which a token is stored; `None` when there is none."""
        token = await self._tokens.find_one({"family_id": family_id}, ["client_id"])
        return None if token is None else str(token.get("client_id"))

    async def drain(self) -> None:
        """Wait until everything stored so far is written."""
        await asyncio.gather(self._insert.drain(), self._claim.drain())


def new_token(
    *,
    client_id: str,
    scope: Scope,
    epoch: str,
    now: datetime,
    lifetime: timedelta,
    text: str | None = None,
    family_id: str | None = None,
    audience: Sequence[str] = (),
    jkt: str | None = None,
) -> tuple[str, RefreshToken]:
    """A refresh token to hand out, and what is stored of it.

    Args:
        client_id: whose it is.
        scope: what it may be exchanged for.
        epoch: the client's epoch.
        now: when.
        lifetime: how long it is good for.
        text: its text when a claim has chosen it already.
        family_id: the family that it continues; else it begins one.
        audience: the resources that it is for, if they were asked for.
        jkt: the thumbprint of the key that it is bound to, if it is.
    """
    text = text or make_refresh_token()
    token = RefreshToken(
        digest=fingerprint(text),
        client_id=client_id,
        family_id=family_id or make_id(),
        scope=scope,
        epoch=epoch,
        expires_at=now + lifetime,
        created_at=now,
        audience=tuple(audience),
        jkt=jkt,
    )
    return text, token


def _particulars(token: RefreshToken) -> Document:
    """What only some tokens have."""
    document: Document = {"audience": list(token.audience)} if token.audience else {}
    return document if token.jkt is None else {**document, "jkt": token.jkt}


async def _find_all(
    collection: Collection, questions: Sequence[tuple[str, ...]]
) -> Sequence[Document | None]:
    """For each question the document that holds the token in one of these spellings."""
    wanted = list({spelling for spellings in questions for spelling in spellings})
    found = await collection.find({"refresh_token": {"$in": wanted}})
    documents = {
        document["refresh_token"]: document
        for document in found
        if isinstance(document["refresh_token"], str)
    }
    return [
        next((documents[spelling] for spelling in spellings if spelling in documents), None)
        for spellings in questions
    ]


def _token_from(stored: Document | None, used: Document | None, digest: str) -> RefreshToken | None:
    """Read documents of ours or of the older shape; what makes no sense is no token."""
    document = stored or used
    if document is None:
        return None
    client_id, expires_at = document.get("client_id"), as_utc(document.get("expires_at"))
    if not isinstance(client_id, str) or expires_at is None:
        if used is None:
            return None
        # A spent token of the older shape says little, and its reuse must be told all the same.
        client_id, expires_at = str(client_id or ""), expires_at or _LONG_AGO
    return RefreshToken(
        digest=digest,
        client_id=client_id,
        family_id=str(document.get("family_id") or f"older-{digest[-32:]}"),
        scope=_scope_from(document.get("scope")),
        epoch=str(document.get("epoch") or ""),
        expires_at=expires_at,
        created_at=as_utc(document.get("created_at")),
        spent_at=None if used is None else as_utc(used.get("used_at")) or _LONG_AGO,
        audience=tuple(map(str, document.get("audience") or ())),
        jkt=None if document.get("jkt") is None else str(document["jkt"]),
    )


def _within(spent_at: datetime, now: datetime, grace: timedelta) -> bool:
    # Without a grace there is none, also for a request that began before the token was spent.
    return bool(grace) and now < spent_at + grace


def _scope_from(value: object) -> Scope | None:
    try:
        return parse_scope(value) if isinstance(value, str) else None
    except InvalidScope:
        return frozenset()


def _repeated(
    earlier: Document | None, text: str, digest: str, now: datetime, grace: timedelta
) -> Claim:
    used_at = as_utc(earlier.get("used_at")) if earlier else None
    if earlier is None or used_at is None or not _within(used_at, now, grace):
        return Claim(None, now)
    return Claim(_open(earlier.get("successor"), text, digest), used_at)


def _sealing_key(text: str) -> AESGCM:
    return AESGCM(hmac.digest(text.encode(), b"oauth2-m2m successor", "sha256"))


def _seal(successor: str, text: str, digest: str) -> bytes:
    """Hide the successor from the database: the key is the presented token, which it never has."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + _sealing_key(text).encrypt(nonce, successor.encode(), digest.encode())


def _open(sealed: object, text: str, digest: str) -> str | None:
    if not isinstance(sealed, bytes):
        return None
    try:
        nonce, box = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        return _sealing_key(text).decrypt(nonce, box, digest.encode()).decode()
    except (InvalidTag, ValueError):
        return None
