"""The machines that may ask for tokens. The collection `clients`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Collection, Mapping, MutableSequence, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Unpack

from _oauth2_m2m.audit import AuditLog, Event
from _oauth2_m2m.client_changes import (
    ClientChange,
    ClientFields,
    changed_fields,
    check_wanted,
    diff,
    in_words,
    stored_fields,
)
from _oauth2_m2m.client_documents import (
    LONGEST_TYPED_ID,
    MOST_SECRETS,
    NOBODY,
    SECRET_METHODS,
    Client,
    RegisteredClient,
    check_new_id,
    client_from,
)
from _oauth2_m2m.client_secrets import (
    SecretInfo,
    entries_of,
    fields_of,
    new_entry,
    outgoing,
    secret_info,
    without,
)
from _oauth2_m2m.client_usage import ClientUsage, Used
from _oauth2_m2m.config import LONGEST_REFRESH_TOKEN_LIFETIME
from _oauth2_m2m.credentials import (
    LONGEST_SECRET,
    SecretChecker,
    fingerprint,
    is_digest,
    make_client_secret,
    make_id,
)
from _oauth2_m2m.errors import ClientChanged, ClientExists, ClientNotFound, InvalidToken
from _oauth2_m2m.metrics import Queue
from _oauth2_m2m.newest import Newest
from _oauth2_m2m.revocation import Question, Revocation, epoch_mark
from _oauth2_m2m.rules import Rule
from _oauth2_m2m.scopes import plain
from _oauth2_m2m.storage import Document, Storage, decoded, encoded

LARGEST_PAGE = 1000

#: A client that was disabled by hand is refused within 30 s; the rest is for the reading itself.
_REMEMBERED_SECONDS = 25.0
_MOST_REMEMBERED = 10_000
_SECRET_ID_CHARACTERS = 8
#: As long to read as most clients.
_NOBODY = encoded(NOBODY)


class Clients:
    """Reads and writes `clients`; what an operator does here is audited."""

    def __init__(
        self, storage: Storage, audit: AuditLog, revocation: Revocation, checker: SecretChecker
    ) -> None:
        self._clients = storage.collection("clients")
        self._audit = audit
        self._revocation = revocation
        self._checker = checker
        #: What clients really use.
        self.used = ClientUsage(storage, self._note_last_uses, audit.kept_address)
        self._find = storage.queue(Queue.CLIENTS, self.find_all)
        self._remembered: Newest[str, tuple[float, Client]] = Newest(_MOST_REMEMBERED)

    async def prepare(self) -> None:
        """Make the indexes."""
        await asyncio.gather(
            self._clients.ensure_index([("client_id", 1)], unique=True), self.used.prepare()
        )

    async def drain(self) -> None:
        """Write what was noted of clients' use."""
        await self.used.drain()

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
        max_requests_per_hour: int | None = None,
        max_requests_per_day: int | None = None,
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
            max_requests_per_hour: its own quota, over all addresses, 0 for none; else the
                setting's.
            max_requests_per_day: so with this one.
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
        now, secret_id, entries = _now(), None, []
        if secret is not None:
            _check_secret(secret)
            secret_id, digest = make_id(_SECRET_ID_CHARACTERS), await self._checker.digest(secret)
            entries = [new_entry(secret_id, digest, now)]
        document: Document = {
            "client_id": check_new_id(make_id() if client_id is None else client_id),
            **stored_fields(
                {
                    "scopes": scopes,
                    "name": name,
                    "access_token_expire_minutes": access_token_expire_minutes,
                    "max_requests_per_minute": max_requests_per_minute,
                    "max_requests_per_hour": max_requests_per_hour,
                    "max_requests_per_day": max_requests_per_day,
                    "allowed_networks": allowed_networks,
                    "grant_types": grant_types,
                    "issue_refresh_tokens": issue_refresh_tokens,
                    "jwks": jwks,
                    "jwks_uri": jwks_uri,
                    "token_endpoint_auth_methods": token_endpoint_auth_methods,
                    "audience": audience,
                    "dpop_bound_access_tokens": dpop_bound_access_tokens,
                }
            ),
            "role": str.__str__(role),
            "created_at": now,
            "epoch": make_id(8),
            **fields_of(entries),
            "secrets": None,
        }
        return RegisteredClient(await self._insert(document), secret, secret_id)

    async def take_over(
        self,
        client_id: str,
        fields: Mapping[str, Any],
        *,
        secret: str | None = None,
        stored: str | None = None,
        origin: str,
    ) -> Client:
        """Register a client of another server, with the secret that it has there.

        Args:
            client_id: its id there, and here.
            fields: its document, but for its secret.
            secret: its secret, if that is known; it is stored as a digest.
            stored: else its hash, as `foreign_hashes.imported` has it.
            origin: where it comes from, for people.

        Raises:
            ClientExists: the id is taken.
            ValueError: a field cannot be stored; the message says which.
        """
        now, entries = _now(), []
        if secret is not None:
            stored = await self._checker.digest(secret)
        if stored is not None:
            label = f"imported from {origin}"
            entries = [new_entry(make_id(_SECRET_ID_CHARACTERS), stored, now, label=label)]
        document = {
            "role": "user",
            "created_at": now,
            **fields,
            **fields_of(entries),
            "secrets": None,
            "client_id": client_id,
            "epoch": make_id(8),
        }
        return await self._insert(document, f"imported from {origin}")

    async def add_secret(
        self, client_id: str, *, label: str | None = None, expires_in: timedelta | None = None
    ) -> RegisteredClient:
        """Give a client one more secret; those that it has go on working.

        Args:
            client_id: whose.
            label: what people call the secret, such as the host that it is for.
            expires_in: when it ends; else it does not.

        Returns:
            The client and its new secret. The secret cannot be shown again.

        Raises:
            ClientNotFound: there is no such client.
            ClientChanged: somebody else changed it meanwhile.
            ValueError: an argument is out of range, or the client has too many secrets already, or
                uses none at all.
        """
        document, client, now = await self._with_secret(client_id)
        secret, entry = _new_secret(now, label, expires_in)
        others = await self._hashed(entries_of(document, client, now))
        await self._update(client, fields_of([entry, *others]), **_secrets_in(document))
        await self._record(Event.SECRET_ROTATED, client_id, f"secret {entry['id']} added")
        return RegisteredClient(await self._existing(client_id), secret, entry["id"])

    async def rotate_secret(
        self,
        client_id: str,
        *,
        overlap: timedelta | None = None,
        retire_when_idle: timedelta | None = None,
        label: str | None = None,
        expires_in: timedelta | None = None,
    ) -> RegisteredClient:
        """Give a client a new secret that takes over from those that it has.

        Args:
            client_id: whose.
            overlap: how long the old secrets go on working beside the new one. Without an
                overlap, and without `retire_when_idle`, they stop at once, and the tokens that were
                had with them with them.
            retire_when_idle: the old secrets end once they were not used for so long, each for
                itself, counted from now on. With an overlap, whatever comes first.
            label: what people call the new secret.
            expires_in: when the new secret ends; else it does not.

        Returns:
            The client and its new secret. The secret cannot be shown again.

        Raises:
            ClientNotFound: there is no such client.
            ClientChanged: somebody else changed it meanwhile.
            ValueError: an argument is out of range, or the client has too many secrets already, or
                uses none at all.
        """
        if overlap is not None and overlap < timedelta(0):
            raise ValueError("overlap must not be negative")
        document, client, now = await self._with_secret(client_id)
        secret, entry = _new_secret(now, label, expires_in)
        update: dict[str, Any] = {}
        others: Sequence[Document] = []
        if overlap or (retire_when_idle and overlap is None):
            others = outgoing(
                await self._hashed(entries_of(document, client, now)),
                now,
                until=None if overlap is None else now + overlap,
                idle=retire_when_idle,
            )
        else:
            update["epoch"] = await self._end_epoch(client, now)
        update |= fields_of([entry, *others])
        await self._update(client, update, **_secrets_in(document))
        old = " ".join(other["id"] for other in others)
        reason = f"secret {entry['id']} takes over; " + (f"still live: {old}" if old else "alone")
        await self._record(Event.SECRET_ROTATED, client_id, reason)
        return RegisteredClient(await self._existing(client_id), secret, entry["id"])

    async def retire_secret(
        self, client_id: str, secret_id: str, *, end_tokens: bool = False
    ) -> Client:
        """End one secret of a client at once; the others go on working.

        Args:
            client_id: whose.
            secret_id: which one, by the id that `secrets` shows.
            end_tokens: end every live token of the client too, as for a secret that leaked. Which
                tokens were had with it is not known, so it is all of them.

        Raises:
            ClientNotFound: there is no such client.
            SecretNotFound: it has no such live secret.
            LastSecret: it has no other way to prove who it is.
            ClientChanged: somebody else changed it meanwhile.
        """
        now, document = _now(), await self._document(client_id)
        client = client_from(document)
        left = without(entries_of(document, client, now), secret_id, client)
        update = fields_of(await self._hashed(left))
        if end_tokens:
            update["epoch"] = await self._end_epoch(client, now)
        await self._update(client, update, **_secrets_in(document))
        ended = ", and all tokens" if end_tokens else ""
        await self._record(Event.SECRET_ROTATED, client_id, f"secret {secret_id} retired{ended}")
        return await self._existing(client_id)

    async def secrets(self, client_id: str) -> list[SecretInfo]:
        """The secrets of a client, the newest first, without the secrets themselves.

        Those that ended are there until the next change of its secrets.

        Raises:
            ClientNotFound: there is no such client.
        """
        client, now = await self._existing(client_id), _now()
        used = {use.name: use for use in await self.used.of(client_id) if use.kind is Used.SECRET}
        return [secret_info(secret, used.get(secret.id), now) for secret in client.secrets]

    async def prolong(self, client: Client, stored: str, until: datetime) -> None:
        """Write down that a secret, as it is stored, is in use: it does not end as an idle one."""
        mine, moved = {"client_id": client.client_id}, "idle_until"
        await asyncio.gather(
            self._clients.change(
                {**mine, "client_secret": stored},
                {"$max": {f"client_secret_details.{moved}": until}},
                fields=["_id"],
            ),
            self._clients.change(
                {**mine, "secrets.secret": stored},
                {"$max": {f"secrets.$.{moved}": until}},
                fields=["_id"],
            ),
        )

    async def update(
        self, client_id: str, *, end_tokens: bool = False, **fields: Unpack[ClientFields]
    ) -> Client:
        """Change what a client may do; see `register` for the fields.

        Args:
            client_id: which one.
            end_tokens: end its live tokens too, which else keep what they say until they expire.
            fields: what it is to be from now on; `None` for the usual. Others stay as they are.

        Raises:
            ClientNotFound: there is no such client.
            ClientChanged: somebody else changed the same at the same time.
            ValueError: a value cannot be stored; the message says which.
        """
        document = await self._document(client_id)
        client, changed = client_from(document), changed_fields(document, stored_fields(fields))
        if not changed and not end_tokens:
            return client
        update = {name: after for name, (_, after) in changed.items()}
        after = {**document, **update}
        client_from({name: value for name, value in after.items() if value is not None})
        if end_tokens:
            update["epoch"] = await self._end_epoch(client, _now())
        await self._update(client, update, **{name: document.get(name) for name in changed})
        what = ", ".join(filter(None, [in_words(changed), "all tokens ended" * end_tokens]))
        await self._record(Event.CLIENT_UPDATED, client_id, f"changed: {what}")
        return await self._existing(client_id)

    async def plan(self, wanted: Mapping[str, Any], *, prune: bool = False) -> list[ClientChange]:
        """What is to be done, so that the clients become what they are wanted to be.

        Args:
            wanted: for each id the fields of `register`, and `disabled`. What a client says nothing
                of becomes the usual.
            prune: remove the clients that are not wanted; else they are left alone.

        Raises:
            ValueError: one of them cannot be stored; the message names the client and the field.
        """
        checked = check_wanted(wanted)
        return diff(await self.documents(), checked, prune=prune)

    async def carry_out(self, change: ClientChange) -> RegisteredClient | None:
        """Do one thing of a plan.

        Returns:
            The client with its secret, which is shown this once, if one was made.

        Raises:
            ClientExists, ClientNotFound, ClientChanged: somebody else did something meanwhile: make
                another plan.
        """
        fields: Any = {name: after for name, (_, after) in change.fields.items()}
        match change.action:
            case "create":
                return await self.register(change.client_id, **fields)
            case "update":
                await self.update(change.client_id, **fields)
            case "disable":
                await self.disable(change.client_id)
            case "enable":
                await self.enable(change.client_id)
            case "remove":
                await self.remove(change.client_id)
        return None

    async def documents(self) -> list[Document]:
        """The documents of all clients, in the order of their ids; secrets as they are stored."""
        documents: list[Document] = []
        while page := await self.page(documents[-1]["client_id"] if documents else ""):
            documents += page
        return documents

    async def page(self, after: str = "", limit: int = LARGEST_PAGE) -> list[Document]:
        """The documents of some clients, in the order of their ids, malformed ones included.

        Args:
            after: the last id of the page before.
            limit: how many at the most, from 1 to 1,000.
        """
        # Text alone: an operator's {"client_id": ["a", "b"]} is nobody's.
        query = {"client_id": {"$gt": after, "$type": "string", "$not": {"$type": "array"}}}
        return await self._clients.page(query, "client_id", limit)

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

    async def holder(self, client_id: str, epoch: str) -> Client:
        """The client that may use a live token of this epoch, as it stood at most 30 s ago.

        Only good news is remembered: a client that was enabled again works at once.

        Raises:
            InvalidToken: nobody may; `detail` says why.
        """
        read_at, known = self._remembered.get(client_id, (0.0, None))
        if known and known.epoch == epoch and time.monotonic() - read_at < _REMEMBERED_SECONDS:
            return known
        client, fault = _holder_from(await self.find(client_id), epoch)
        if client is None:
            self._remembered.pop(client_id, None)
            raise InvalidToken(detail=fault).breaking(Rule.TOKEN_CLIENT)
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
        change: Document = {"$set": {"client_secret": digest}}
        if not is_digest(plain):  # the details are those of the secret that it was typed over
            change["$unset"] = {"client_secret_details": ""}
        await self._clients.change({**mine, "client_secret": plain}, change)
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
        for client_id in client_ids:
            if client_id not in documents:
                decoded(_NOBODY)  # in vain: who is not there takes as long as who is
        return [documents.get(client_id) for client_id in client_ids]

    async def _insert(self, document: Document, reason: str | None = None) -> Client:
        """Store a new client.

        Raises:
            ClientExists: the id is taken.
            ValueError: a field cannot be stored; the message says which.
        """
        document = {name: value for name, value in document.items() if value is not None}
        client = client_from(document)
        await self.prepare()  # in a fresh database nothing else makes ids unique yet
        if not await self._clients.insert_one(document):
            raise ClientExists(f"a client {client.client_id!r} is registered already")
        await self._record(Event.CLIENT_CREATED, client.client_id, reason)
        return client

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
        """Change a client, unless somebody else changed what this change rests on.

        A field that becomes `None` is taken out.
        """
        query = {**_unchanged(client), **read}
        gone = {name: "" for name, value in update.items() if value is None}
        changes = {"$set": {name: value for name, value in update.items() if value is not None}}
        if gone:
            changes["$unset"] = gone
        if await self._clients.change(query, changes, fields=["_id"]) is None:
            raise ClientChanged(_changed(client.client_id))
        self._remembered.pop(client.client_id, None)

    async def _with_secret(self, client_id: str) -> tuple[Document, Client, datetime]:
        """A client that may use secrets, as it stands now."""
        now, document = _now(), await self._document(client_id)
        client = client_from(document)
        if not client.allows_method(*SECRET_METHODS):
            raise ValueError("the client uses keys, no secret: change its jwks or jwks_uri instead")
        return document, client, now

    async def _hashed(self, entries: Sequence[Document]) -> Sequence[Document]:
        """The same secrets, none of them in plain text."""
        if len(entries) >= MOST_SECRETS:
            raise ValueError(f"the client has {MOST_SECRETS} live secrets already")
        hashed: MutableSequence[Document] = []
        for entry in entries:
            secret = entry["secret"]
            if not is_digest(secret):
                secret = await self._checker.digest(secret, [each["secret"] for each in hashed])
            hashed.append({**entry, "secret": secret})
        return hashed

    async def _note_last_uses(self, last_uses: Mapping[str, datetime]) -> None:
        await self._clients.upsert(
            [
                ({"client_id": client_id}, {"$max": {"last_used_at": when}})
                for client_id, when in last_uses.items()
            ],
            make=False,
        )

    async def _record(self, event: Event, client_id: str, reason: str | None = None) -> None:
        await self._audit.record(event, _now(), client_id=client_id, reason=reason)


def _new_secret(
    now: datetime, label: str | None, expires_in: timedelta | None
) -> tuple[str, Document]:
    """A secret that is made now, and its entry."""
    secret = make_client_secret()
    secret_id = make_id(_SECRET_ID_CHARACTERS)
    entry = new_entry(secret_id, fingerprint(secret), now, label=label, expires_in=expires_in)
    return secret, entry


def _holder_from(document: Document | None, epoch: str) -> tuple[Client | None, str]:
    """The client that may use tokens of this epoch, or why there is none."""
    if document is None:
        return None, "the client is removed"
    try:
        client = client_from(document)
    except ValueError as fault:
        return None, f"malformed client document: {fault}"
    if client.disabled:
        return None, "the client is disabled"
    if client.epoch != epoch:
        return None, "issued before the client's tokens were revoked"
    return client, ""


def _secrets_in(document: Document) -> Document:
    """What the secrets of a client were when they were read, so that no change of them is lost."""
    names = ("client_secret", "client_secret_details", "secrets")
    return {name: document.get(name) for name in names}


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
