"""A client as a value, and how its document is read. Plain functions of values.

Operators write these documents by hand too, so they are read with care: what is malformed fails
closed, and the message names the field that is at fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from _oauth2_m2m.config import LONGEST_ACCESS_TOKEN_LIFETIME, Settings
from _oauth2_m2m.scopes import LONGEST_SCOPE, Scope, format_scope, is_scope_token
from _oauth2_m2m.storage import as_utc

MOST_SECRETS = 20
MOST_SCOPES = 200
_LONGEST_TYPED_ID = 255
_LONGEST_LIFETIME_MINUTES = LONGEST_ACCESS_TOKEN_LIFETIME // timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A registered client, as its document describes it.

    Attributes:
        client_id: its id; the `sub` and `client_id` of its tokens.
        scopes: the scopes that it may ask for.
        role: the role that its tokens carry.
        name: what people call it.
        disabled: whether it is refused everywhere.
        access_token_lifetime: its own lifetime of access tokens, or `None` for the setting's.
        max_requests_per_minute: its own limit, or `None` for the setting's; 0 switches it off.
        allowed_networks: where it may authenticate from; empty means anywhere.
        grant_types: the grants that it may use, or `None` for all.
        issue_refresh_tokens: its own choice, or `None` for the setting's.
        created_at, last_used_at: when, in UTC, if the document says so.
        epoch: which generation of its tokens is alive; see `revocation.epoch_mark`.
    """

    client_id: str
    scopes: Scope
    role: str = "user"
    name: str | None = None
    disabled: bool = False
    access_token_lifetime: timedelta | None = None
    max_requests_per_minute: int | None = None
    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    grant_types: frozenset[str] | None = None
    issue_refresh_tokens: bool | None = None
    created_at: datetime | None = None
    last_used_at: datetime | None = None
    epoch: str = ""
    audience: tuple[str, ...] = ()
    dpop_bound_access_tokens: bool = False
    secrets: tuple[StoredSecret, ...] = field(default=(), repr=False)

    def limit(self, settings: Settings) -> int:
        """How many requests a minute it may make from one address; 0 for any number."""
        own = self.max_requests_per_minute
        return settings.max_requests_per_minute if own is None else own

    def live_secrets(self, now: datetime) -> list[str]:
        """The stored secrets that have not expired."""
        return [s.stored for s in self.secrets if s.expires_at is None or s.expires_at > now]

    def allows_address(self, ip: str) -> bool:
        """Whether it may authenticate from this address."""
        if not self.allowed_networks:
            return True
        try:
            address = ip_address(ip)
        except ValueError:
            return False
        return any(address in network for network in self.allowed_networks)

    def allows_grant(self, *grant_types: str) -> bool:
        """Whether it may use one of these grants."""
        return self.grant_types is None or not self.grant_types.isdisjoint(grant_types)


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """One of a client's secrets as the database holds it: a digest, or an operator's plain text."""

    stored: str = field(repr=False)
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RegisteredClient:
    """A client and its secret, which is shown this once and stored nowhere.

    Attributes:
        client: the client.
        client_secret: the secret to hand to whoever runs it.
    """

    client: Client
    client_secret: str = field(repr=False)


def client_from(document: Mapping[str, Any]) -> Client:
    """Read a client's document, whoever wrote it.

    Raises:
        ValueError: a field is malformed; the message names it and quotes nothing.
    """
    minutes = _whole_number(document, "access_token_expire_minutes", 1)
    lifetime = minutes and timedelta(minutes=min(minutes, _LONGEST_LIFETIME_MINUTES))
    grant_types = _texts(document, "grant_types")
    return Client(
        client_id=_typed_id(document),
        scopes=_scopes(document),
        role=_token_text(document, "role") or "user",
        name=_text(document, "name"),
        disabled=_boolean(document, "disabled") or False,
        access_token_lifetime=lifetime or None,
        max_requests_per_minute=_whole_number(document, "max_requests_per_minute", 0),
        allowed_networks=_networks(document),
        grant_types=None if grant_types is None else frozenset(grant_types),
        issue_refresh_tokens=_boolean(document, "issue_refresh_tokens"),
        created_at=as_utc(document.get("created_at")),
        last_used_at=as_utc(document.get("last_used_at")),
        epoch=_text(document, "epoch") or "",
        secrets=tuple(_stored_secrets(document)),
    )


def _stored_secrets(document: Mapping[str, Any]) -> Iterable[StoredSecret]:
    first = _text(document, "client_secret")
    if first:
        yield StoredSecret(first)
    others = document.get("secrets") or []
    if not isinstance(others, list) or len(others) > MOST_SECRETS:
        raise ValueError(f"secrets must be a list of at most {MOST_SECRETS}")
    for other in others:
        if not isinstance(other, Mapping):
            raise ValueError("secrets must be a list of documents")
        secret, expires_at = _text(other, "secret"), as_utc(other.get("expires_at"))
        if expires_at is None and other.get("expires_at") is not None:
            raise ValueError("secrets.expires_at must be a date")
        if secret:
            yield StoredSecret(secret, expires_at)


def _typed_id(document: Mapping[str, Any]) -> str:
    client_id = _text(document, "client_id") or ""
    if not client_id.isprintable() or not 1 <= len(client_id) <= _LONGEST_TYPED_ID:
        raise ValueError("client_id must be 1 to 255 printable characters")
    if client_id.startswith("~"):
        raise ValueError("client_id must not begin with ~")
    return client_id


def _scopes(document: Mapping[str, Any]) -> Scope:
    scopes = _texts(document, "scopes") or []
    if len(scopes) > MOST_SCOPES or not all(map(is_scope_token, scopes)):
        raise ValueError(
            f"scopes must be a list of at most {MOST_SCOPES} scope names (RFC 6749 section 3.3)"
        )
    if len(format_scope(scopes)) > LONGEST_SCOPE:
        raise ValueError(f"scopes must not be longer than {LONGEST_SCOPE} characters together")
    return frozenset(scopes)


def _networks(document: Mapping[str, Any]) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(map(ip_network, _texts(document, "allowed_networks") or ()))
    except ValueError:
        raise ValueError("allowed_networks must be networks such as 10.0.0.0/8") from None


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} must be a text")
    return value


def _token_text(document: Mapping[str, Any], name: str) -> str | None:
    value = _text(document, name)
    if value and (len(value) > _LONGEST_TYPED_ID or not is_scope_token(value)):
        raise ValueError(f"{name} must be one word without spaces and quotes")
    return value


def _texts(document: Mapping[str, Any], name: str) -> list[str] | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name} must be a list of texts")
    return value


def _boolean(document: Mapping[str, Any], name: str) -> bool | None:
    value = document.get(name)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false")
    return value


def _whole_number(document: Mapping[str, Any], name: str, smallest: int) -> int | None:
    value = document.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
        raise ValueError(f"{name} must be a whole number from {smallest}")
    return int(value)
