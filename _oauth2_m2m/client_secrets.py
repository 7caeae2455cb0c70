"""The secrets of a client: several at a time, and how one takes over from another.

Plain functions of values. The room `clients` writes what comes of them.

In a document the newest secret is `client_secret`, with `client_secret_details` beside it; the
others are entries of `secrets`. Here all of them are entries, the newest first.

**Idle secrets end by themselves**, without anybody who looks: an entry with
`retire_when_idle_seconds` has an `idle_until`, and whoever authenticates with it moves that moment
on, before a token is handed out. A use is written down only when the last one that was is a
while ago (`slack`), and that while is added to the time that it may stay unused. So it never ends
earlier than it was said, at most a slack later, and ended is ended on every worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from _oauth2_m2m.client_documents import LONGEST_IDLE, Client, StoredSecret
from _oauth2_m2m.client_usage import Use
from _oauth2_m2m.credentials import is_digest
from _oauth2_m2m.errors import LastSecret, SecretNotFound
from _oauth2_m2m.storage import Document

SHORTEST_IDLE = timedelta(minutes=1)
LONGEST_LABEL = 100
_LARGEST_SLACK = timedelta(hours=1)
_SLACKS_IN_AN_IDLE_TIME = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretInfo:
    """A client's secret as operators see it; the secret itself is shown to nobody.

    Attributes:
        id: which one it is, for `retire_secret` and in the audit log.
        label: what people call it.
        live: whether it is still taken.
        created_at: when it was made, if that is known.
        expires_at: when it ends whatever happens, if it does.
        retire_when_idle: it ends once it was not used for so long, if that was said.
        idle_until: when it ends unless it is used before.
        last_used_at: when it was used last, as far as it is known: a minute late at the most.
        last_used_from: the addresses that used it, the latest first, each with the moment.
        stored: how it is stored: `made` here, `typed` by somebody, `imported` from elsewhere, or
            in `plain` text until its first use.
    """

    id: str
    label: str | None
    live: bool
    created_at: datetime | None
    expires_at: datetime | None
    retire_when_idle: timedelta | None
    idle_until: datetime | None
    last_used_at: datetime | None
    last_used_from: Mapping[str, datetime]
    stored: str


def entries_of(document: Mapping[str, Any], client: Client, now: datetime) -> list[Document]:
    """The live secrets of a client as entries of `secrets`, the newest first, each with an id."""
    first = {"secret": document.get("client_secret")}
    if is_digest(first["secret"] or ""):
        first = {**(document.get("client_secret_details") or {}), **first}
    typed = [entry for entry in (first, *(document.get("secrets") or [])) if entry.get("secret")]
    return [
        _entry({**entry, "id": secret.id}, expires_at=secret.expires_at, idle=secret.idle_until)
        for entry, secret in zip(typed, client.secrets, strict=True)
        if secret.is_live(now)
    ]


def fields_of(entries: Sequence[Document]) -> Document:
    """The fields of a document that holds these secrets; `None` where there is none."""
    if not entries:
        return {"client_secret": None, "client_secret_details": None, "secrets": []}
    first, *others = entries
    details = {name: value for name, value in first.items() if name != "secret"}
    return {
        "client_secret": first["secret"],
        "client_secret_details": details,
        "secrets": others,
    }


def new_entry(
    secret_id: str,
    stored: str,
    now: datetime,
    *,
    label: str | None = None,
    expires_in: timedelta | None = None,
) -> Document:
    """The entry of a new secret.

    Raises:
        ValueError: the label is no short line, or it would have expired already.
    """
    if label is not None and not (label.isprintable() and 0 < len(label) <= LONGEST_LABEL):
        raise ValueError(f"label must be 1 to {LONGEST_LABEL} printable characters")
    if expires_in is not None and expires_in <= timedelta(0):
        raise ValueError("expires_in must be positive")
    entry = {"id": secret_id, "secret": stored, "label": label, "created_at": now}
    return _entry(entry, expires_at=None if expires_in is None else now + expires_in)


def outgoing(
    entries: Sequence[Document],
    now: datetime,
    *,
    until: datetime | None = None,
    idle: timedelta | None = None,
) -> list[Document]:
    """Secrets that another one takes over from.

    Args:
        entries: the live secrets.
        now: the moment of the change.
        until: when they end, whatever happens; `None` for never. What ends before ends before.
        idle: how long they may stay unused from now on; `None` for without end.

    Raises:
        ValueError: the idle time is out of range.
    """
    if idle is not None and not SHORTEST_IDLE <= idle <= LONGEST_IDLE:
        raise ValueError("retire_when_idle must be from a minute to 366 days")
    ended = []
    for entry in map(dict, entries):
        if until is not None:
            entry["expires_at"] = min(entry.get("expires_at") or until, until)
        if idle is not None:
            seconds, limit = int(idle.total_seconds()), now + idle + slack(idle)
            entry["retire_when_idle_seconds"] = min(
                entry.get("retire_when_idle_seconds") or seconds, seconds
            )
            entry["idle_until"] = min(entry.get("idle_until") or limit, limit)
        ended.append(entry)
    return ended


def without(entries: Sequence[Document], secret_id: str, client: Client) -> list[Document]:
    """The secrets that are left when one ends.

    Raises:
        SecretNotFound: there is no such secret among the live ones.
        LastSecret: it is the only way for the client to prove who it is.
    """
    left = [entry for entry in entries if entry["id"] != secret_id]
    if len(left) == len(entries):
        raise SecretNotFound(f"client {client.client_id!r} has no live secret {secret_id!r}")
    if not left and not (client.jwks or client.jwks_uri):
        raise LastSecret(
            f"{secret_id!r} is the last secret of {client.client_id!r}: "
            "add another one first, or disable the client"
        )
    return left


def slack(idle: timedelta) -> timedelta:
    """How long after a use another one of the same secret need not be written down."""
    return min(idle / _SLACKS_IN_AN_IDLE_TIME, _LARGEST_SLACK)


def renewal(secret: StoredSecret, now: datetime) -> datetime | None:
    """Until when a secret that is being used now may stay unused, if that is to be written down."""
    idle = secret.retire_when_idle
    if idle is None:
        return None
    if secret.idle_until is not None and secret.idle_until - now >= idle:
        return None  # a use was written down less than a slack ago
    return now + idle + slack(idle)


def _entry(
    members: Mapping[str, Any], *, expires_at: datetime | None, idle: datetime | None = None
) -> Document:
    entry = {**members, "expires_at": expires_at, "idle_until": idle}
    return {name: value for name, value in entry.items() if value is not None}


def secret_info(secret: StoredSecret, use: Use | None, now: datetime) -> SecretInfo:
    """A secret as operators see it.

    Args:
        secret: the secret.
        use: what is known of its use.
        now: the moment to judge at.
    """
    return SecretInfo(
        id=secret.id,
        label=secret.label,
        live=secret.is_live(now),
        created_at=secret.created_at,
        expires_at=secret.expires_at,
        retire_when_idle=secret.retire_when_idle,
        idle_until=secret.idle_until,
        last_used_at=use.last_used_at if use else None,
        last_used_from=use.addresses if use else {},
        stored=stored_kind(secret.stored),
    )


def stored_kind(stored: str) -> str:
    """How a secret is stored: `made`, `typed`, `imported`, or in `plain` text."""
    if not is_digest(stored):
        return "plain"
    return {"sha256": "made", "scrypt": "typed"}.get(stored.partition("$")[0], "imported")
