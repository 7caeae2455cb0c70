"""The machines that may ask for tokens. The collection `clients`."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Collection, Mapping, MutableSequence, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from _oauth2_m2m.audit import AuditLog, Event
from _oauth2_m2m.client_documents import (
    LONGEST_TYPED_ID,
    MOST_SECRETS,
    SECRET_METHODS,
    Client,
    RegisteredClient,
    client_from,
)
from _oauth2_m2m.config import LONGEST_REFRESH_TOKEN_LIFETIME
from _oauth2_m2m.credentials import (
    LONGEST_SECRET,
    SecretChecker,
    fingerprint,
    is_digest,
    make_client_secret,
    make_id,
)
from _oauth2_m2m.errors import ClientChanged, ClientExists, ClientNotFound
from _oauth2_m2m.group_commit import GroupCommit
from _oauth2_m2m.newest import Newest
from _oauth2_m2m.revocation import Question, Revocation, epoch_mark
from _oauth2_m2m.scopes import plain
from _oauth2_m2m.storage import Document, Storage, as_utc

LARGEST_PAGE = 1000

#: A client that was disabled by hand is refused within 30 s; the rest is for the reading itself.
_REMEMBERED_SECONDS = 25.0
_MOST_REMEMBERED = 10_000
_CLIENT_ID = re.compile(r"[A-Za-z0-9._-][A-Za-z0-9._~-]*", re.ASCII)
_LONGEST_ID = 128


class Clients:
    """Reads and writes `clients`; what an operator does here is audited."""

    def __init__(
        self, storage: Storage, audit: AuditLog, revocation: Revocation, checker: SecretChecker
    ) -> None:
        self._clients = storage.collection("clients")
        self._audit = audit
        self._revocation = revocation
        self._checker = checker
        self._find = GroupCommit(self.find_all)
        self._remembered: Newest[str, tuple[float, Client]] = Newest(_MOST_REMEMBERED)

    async def prepare(self) -> None:
        """Make the index."""
        await self._clients.ensure_index([("client_id", 1)], unique=True)

    async def register(
        self,
        client_id: str | None = None,
        *,
        scopes: Collection[str],
        role: str = "user",
        client_secret: str | None = None,
        name: str | None = None,
        access_token_expire_minutes: int | None = None,
        max_requests_per_minute: int | None = None,
        allowed_networks: Sequence[str] = (),
        grant_types: Collection[str] | None = None,
        issue_refresh_tokens: bool | None = None,
        jwks: Mapping[str, Any] | None = None,
        jwks_uri: str | None = None,
        token_endpoint_auth_methods: Collection[str] | None = None,
        audience: Sequence[str] = (),
        dpop_bound_access_tokens: bool | None = None,
    ) -> RegisteredClient:
        """Register a client.

        Args:
            client_id: 1 to 128 of `A-Z a-z 0-9 . _ ~ -`; made when there is none.
            scopes: the scope names that it may ask for, such as the members of a `StrEnum`.
            role: the role that its tokens carry.
            client_secret: its secret; best left out, so that one with 256 random bits is made, or
                none for a client that uses keys alone.
            name: what people call it.
            access_token_expire_minutes: the lifetime of its access tokens; else the setting's.
            max_requests_per_minute: its own limit, 0 for none; else the setting's.
            allowed_networks: where it may authenticate from, such as `10.0.0.0/8`; else anywhere.
            grant_types: the grants that it may use, such as `client_credentials`; else all.
            issue_refresh_tokens: whether it gets refresh tokens; else as the setting says.
            jwks: its public keys, a JWK Set; or
            jwks_uri: where it publishes them, an https URL.
            token_endpoint_auth_methods: how it may prove who it is: `client_secret_basic`,
                `client_secret_post`, `private_key_jwt`; else by its keys if it has any, and by its
                secret if not.
            audience: the resources that it may ask for, absolute URIs.
            dpop_bound_access_tokens: whether it gets tokens only that DPoP binds to a key.

        Returns:
            The client and its secret, `None` if it has none. The secret cannot be shown again.

        Raises:
            ClientExists: the id is taken.
            ValueError: an argument cannot be stored; the message says which.
        """
        methods = token_endpoint_auth_methods
        if methods is None and jwks is None and jwks_uri is None:
            methods = SECRET_METHODS
        secret = client_secret
        if secret is None and not set(SECRET_METHODS).isdisjoint(methods or ()):
            secret = make_client_secret()
        if secret is not None:
            _check_secret(secret)
        document: Document = {
            "client_id": _check_id(make_id() if client_id is None else client_id),
            "client_secret": await self._checker.digest(secret) if secret is not None else None,
            "scopes": sorted(plain(scopes)),
            "role": str.__str__(role),
            "name": name,
            "access_token_expire_minutes": access_token_expire_minutes,
            "max_requests_per_minute": max_requests_per_minute,
            "allowed_networks": list(allowed_networks) or None,
            "grant_types": _sorted(grant_types),
            "issue_refresh_tokens": issue_refresh_tokens,
            "jwks": None if jwks is None else dict(jwks),
            "jwks_uri": jwks_uri,
            "token_endpoint_auth_methods": _sorted(token_endpoint_auth_methods),
            "audience": list(audience) or None,
            "dpop_bound_access_tokens": dpop_bound_access_tokens,
            "created_at": _now(),
            "epoch": make_id(8),
        }
        document = {name: value for name, value in document.items() if value is not None}
        client = client_from(document)
        await self.prepare()  # in a fresh database nothing else makes ids unique yet
        if not await self._clients.insert_one(document):
            raise ClientExists(f"a client {client.client_id!r} is registered already")
        await self._record(Event.CLIENT_CREATED, client.client_id)
        return RegisteredClient(client, secret)

    async def rotate_secret(
        self, client_id: str, *, overlap: timedelta = timedelta(0)
    ) -> RegisteredClient:
        """Give a client a new secret.

        Args:
            client_id: whose.
            overlap: how long the old secret goes on working beside the new one. Without an
                overlap it stops at once, and the tokens that were had with it with it.

        Returns:
            The client and its new secret. The secret cannot be shown again.

        Raises:
            ClientNotFound: there is no such client.
            ClientChanged: somebody else changed it meanwhile.
            ValueError: the overlap is negative, or the client has too many secrets already, or uses
                none at all.
        """
        if overlap < timedelta(0):
            raise ValueError("overlap must not be negative")
        secret, now = make_client_secret(), _now()
        document = await self._document(client_id)
        client = client_from(document)
        if not client.allows_method(*SECRET_METHODS):
            raise ValueError("the client uses keys, no secret: change its jwks or jwks_uri instead")
        update: dict[str, Any] = {"client_secret": fingerprint(secret), "secrets": []}
        if overlap:
            update["secrets"] = await self._kept_secrets(document, now, now + overlap)
        else:
            update["epoch"] = await self._end_epoch(client, now)
        read = {name: document.get(name) for name in ("client_secret", "secrets")}
        await self._update(client, update, **read)
        await self._record(Event.SECRET_ROTATED, client_id)
        return RegisteredClient(await self._existing(client_id), secret)

    async def disable(self, client_id: str) -> Client:
        """Stop a client at once: no new tokens, and its live ones are refused everywhere.

        Raises:
            ClientNotFound: there is no such client.
        """
        client = await self._existing(client_id)
        epoch = await self._end_epoch(client, _now())
        await self._update(client, {"disabled": True, "epoch": epoch})
        await self._record(Event.CLIENT_DISABLED, client_id)
        return await self._existing(client_id)

    async def enable(self, client_id: str) -> Client:
        """Let a disabled client work again, with new tokens.

        Raises:
            ClientNotFound: there is no such client.
        """
        await self._update(await self._existing(client_id), {"disabled": False})
        await self._record(Event.CLIENT_UPDATED, client_id, "enabled")
        return await self._existing(client_id)

    async def remove(self, client_id: str) -> None:
        """Forget a client; its live tokens are refused everywhere at once.

        Raises:
            ClientNotFound: there is no such client.
        """
        client = await self._existing(client_id)
        await self._end_epoch(client, _now())
        if await self._clients.remove(_unchanged(client)) is None:
            raise ClientChanged(_changed(client_id))
        self._remembered.pop(client_id, None)
        await self._record(Event.CLIENT_DISABLED, client_id, "removed")

    async def revoke_tokens(self, client_id: str) -> None:
        """Revoke every live token of a client, refresh tokens included; it goes on working.

        Raises:
            ClientNotFound: there is no such client.
        """
        client = await self._existing(client_id)
        await self._update(client, {"epoch": await self._end_epoch(client, _now())})
        await self._record(Event.TOKEN_REVOKED, client_id, "all tokens of the client")

    async def get(self, client_id: str) -> Client:
        """One client.

        Raises:
            ClientNotFound: there is no such client.
        """
        return await self._existing(client_id)

    async def list(self, *, after: str = "", limit: int = 100) -> list[Client]:
        """Clients in the order of their ids, a page at a time.

        Args:
            after: the last id of the page before.
            limit: how many at the most, from 1 to 1,000.

        Raises:
            ValueError: the limit is out of range, or a document typed by hand is malformed.
        """
        if not 1 <= limit <= LARGEST_PAGE:
            raise ValueError(f"limit must be from 1 to {LARGEST_PAGE}")
        query = {"client_id": {"$gt": after}}
        return [client_from(d) for d in await self._clients.page(query, "client_id", limit)]

    async def scopes_held(self, scopes: Collection[str]) -> frozenset[str]:
        """Those of the scopes that some client may ask for."""
        found = [each for each in plain(scopes) if await self._clients.find_one({"scopes": each})]
        return frozenset(found)

    def find(self, client_id: str) -> Awaitable[Document | None]:
        """A client's document as it stands in the database after this call."""
        return self._find.ask(client_id)

    async def holder(self, client_id: str, epoch: str) -> Client | None:
        """The client that may use a live token of this epoch, as it stood at most 30 s ago.

        Only good news is remembered: a client that was enabled again works at once.
        """
        read_at, known = self._remembered.get(client_id, (0.0, None))
        if known and known.epoch == epoch and time.monotonic() - read_at < _REMEMBERED_SECONDS:
            return known
        document = await self.find(client_id)
        try:
            client = client_from(document) if document else None
        except ValueError:
            client = None
        if client is None or client.disabled or client.epoch != epoch:
            self._remembered.pop(client_id, None)
            return None
        self._remembered[client_id] = (time.monotonic(), client)
        return client

    async def adopt(self, client: Client, plain: str, digest: str) -> Client:
        """Take over a client whose secret an operator typed: replace it by its digest.

        A client that was removed and typed anew has the epoch of the one before it, which is dead,
        so it is given one of its own.

        Returns:
            The client as it is from now on.
        """
        mine = {"client_id": client.client_id}
        if await self._revocation.is_revoked(Question((_mark(client),))):
            await self._update(client, {"epoch": make_id(8)})
        await self._clients.change(
            {**mine, "client_secret": plain}, {"$set": {"client_secret": digest}}
        )
        await self._clients.change(
            {**mine, "secrets.secret": plain}, {"$set": {"secrets.$.secret": digest}}
        )
        return await self._existing(client.client_id)

    async def find_all(self, client_ids: Sequence[str]) -> Sequence[Document | None]:
        """The documents of a batch of clients, as they stand in the database.

        An id that no client can have is not asked for: a crowd of long ones would be more than a
        command may hold, and fail it for everybody.
        """
        possible = {each for each in client_ids if len(each) <= LONGEST_TYPED_ID}
        found = await self._clients.find({"client_id": {"$in": list(possible)}})
        # An operator's {"client_id": ["a", "b"]} matches too, and is nobody's.
        documents = {d["client_id"]: d for d in found if isinstance(d["client_id"], str)}
        return [documents.get(client_id) for client_id in client_ids]

    async def _existing(self, client_id: str) -> Client:
        return client_from(await self._document(client_id))

    async def _document(self, client_id: str) -> Document:
        document = await self._clients.find_one({"client_id": client_id})
        if document is None:
            raise ClientNotFound(f"no client {client_id!r} is registered")
        return document

    async def _end_epoch(self, client: Client, now: datetime) -> str:
        """Revoke a client's live tokens and name its next epoch.

        The mark comes first: if we die before the document is changed, the tokens are dead all
        the same, and doing it again mends the rest.
        """
        expires_at = now + LONGEST_REFRESH_TOKEN_LIFETIME
        await self._revocation.revoke(_mark(client), now, expires_at)
        return make_id(8)

    async def _update(self, client: Client, update: Mapping[str, Any], **read: Any) -> None:
        """Change a client, unless somebody else changed what this change rests on."""
        query = {**_unchanged(client), **read}
        if await self._clients.change(query, {"$set": dict(update)}, fields=["_id"]) is None:
            raise ClientChanged(_changed(client.client_id))
        self._remembered.pop(client.client_id, None)

    async def _kept_secrets(
        self, document: Document, now: datetime, until: datetime
    ) -> Sequence[Document]:
        """The live secrets as they shall stand beside a new one, none of them beyond `until`."""
        first = {"id": make_id(8), "secret": document.get("client_secret"), "expires_at": until}
        kept: MutableSequence[Document] = []
        for other in (first, *(document.get("secrets") or [])):
            secret, expires_at = other.get("secret"), as_utc(other.get("expires_at")) or until
            if secret and expires_at > now:
                if not is_digest(secret):
                    beside = [entry["secret"] for entry in kept]
                    secret = await self._checker.digest(secret, beside)
                kept.append({**other, "secret": secret, "expires_at": min(expires_at, until)})
        if len(kept) >= MOST_SECRETS:
            raise ValueError(f"the client has {MOST_SECRETS} live secrets already")
        return kept

    async def _record(self, event: Event, client_id: str, reason: str | None = None) -> None:
        await self._audit.record(event, _now(), client_id=client_id, reason=reason)


def _sorted(words: Collection[str] | None) -> Sequence[str] | None:
    return None if words is None else sorted(plain(words))


def _check_id(client_id: str) -> str:
    if len(client_id) > _LONGEST_ID or _CLIENT_ID.fullmatch(client_id) is None:
        raise ValueError(
            f"client_id must be 1 to {_LONGEST_ID} of A-Z a-z 0-9 . _ ~ - (not ~ first)"
        )
    return client_id


def _check_secret(secret: str) -> None:
    if not secret or len(secret) > LONGEST_SECRET or is_digest(secret):
        raise ValueError(
            f"client_secret must be 1 to {LONGEST_SECRET} characters, not a stored digest"
        )


def _mark(client: Client) -> str:
    return epoch_mark(client.client_id, client.epoch)


def _unchanged(client: Client) -> Document:
    """Finds the client only while it is in the epoch in which it was read."""
    epoch = client.epoch or {"$in": [None, ""]}  # None is no epoch at all
    return {"client_id": client.client_id, "epoch": epoch}


def _changed(client_id: str) -> str:
    return f"client {client_id!r} was changed meanwhile: try again"


def _now() -> datetime:
    return datetime.now(UTC)
