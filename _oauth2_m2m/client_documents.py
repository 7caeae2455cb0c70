"""A client as a value, and how its document is read. Plain functions of values.

Operators write these documents by hand too, so they are read with care: what is malformed fails
closed, and the message names the field that is at fault.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from _oauth2_m2m.config import LONGEST_ACCESS_TOKEN_LIFETIME, Settings
from _oauth2_m2m.credentials import is_digest
from _oauth2_m2m.key_sets import public_keys_from
from _oauth2_m2m.remote_documents import place_of
from _oauth2_m2m.resources import is_resource
from _oauth2_m2m.scopes import LONGEST_SCOPE, Scope, format_scope, is_scope_token
from _oauth2_m2m.signatures import VerifyingKey
from _oauth2_m2m.storage import as_utc
from _oauth2_m2m.windows import Limits

MOST_SECRETS = 20
MOST_SCOPES = 200
MOST_AUDIENCES = 50
MOST_NETWORKS = 100
#: So that a token for several of them is still one that can be read.
_LONGEST_AUDIENCE = 512
_MOST_REMEMBERED_KEY_SETS = 1000
LONGEST_ID = 128
LONGEST_TYPED_ID = 255
#: How long a secret may stay unused, when that ends it; what is longer counts as that.
LONGEST_IDLE = timedelta(days=366)
_LONGEST_LIFETIME_MINUTES = LONGEST_ACCESS_TOKEN_LIFETIME // timedelta(minutes=1)

_NEW_ID = re.compile(r"[A-Za-z0-9._-][A-Za-z0-9._~-]*", re.ASCII)

#: How a client may prove who it is. RFC 7591 section 2 names the methods.
SECRET_METHODS = BASIC, POST = ("client_secret_basic", "client_secret_post")
PRIVATE_KEY_JWT = "private_key_jwt"
_SECRET_METHODS, _KEY_METHODS = frozenset(SECRET_METHODS), frozenset({PRIVATE_KEY_JWT})
_METHODS = _SECRET_METHODS | _KEY_METHODS


#: Read and compared with in the place of a client that is not there, so that to refuse it takes as
#: long as to refuse one that is. Its secret is the digest of none.
NOBODY: Mapping[str, Any] = {
    "client_id": "nobody",
    "scopes": ["read", "write"],
    "role": "user",
    "created_at": datetime(2000, 1, 1, tzinfo=UTC),
    "epoch": "00000000",
    "client_secret": "sha256$" + "0" * 64,
    "client_secret_details": {"id": "00000000", "created_at": datetime(2000, 1, 1, tzinfo=UTC)},
}


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
        max_requests_per_hour, max_requests_per_day: so with its own quotas.
        allowed_networks: where it may authenticate from; empty means anywhere.
        grant_types: the grants that it may use, or `None` for all.
        issue_refresh_tokens: its own choice, or `None` for the setting's.
        created_at, last_used_at: when, in UTC, if the document says so.
        epoch: which generation of its tokens is alive; see `revocation.epoch_mark`.
        audience: the resources that it may ask for, besides the setting's. RFC 8707.
        dpop_bound_access_tokens: whether it gets bound tokens only. RFC 9449 section 5.2.
        token_endpoint_auth_methods: how it may prove who it is; `None`: see `allows_method`.
        jwks: its public keys, when they stand in its document.
        jwks_uri: where it publishes them, when they do not.
    """

    client_id: str
    scopes: Scope
    role: str = "user"
    name: str | None = None
    disabled: bool = False
    access_token_lifetime: timedelta | None = None
    max_requests_per_minute: int | None = None
    max_requests_per_hour: int | None = None
    max_requests_per_day: int | None = None
    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    grant_types: frozenset[str] | None = None
    issue_refresh_tokens: bool | None = None
    created_at: datetime | None = None
    last_used_at: datetime | None = None
    epoch: str = ""
    audience: tuple[str, ...] = ()
    dpop_bound_access_tokens: bool = False
    token_endpoint_auth_methods: frozenset[str] | None = None
    jwks: tuple[VerifyingKey, ...] = field(default=(), repr=False)
    jwks_uri: str | None = None
    secrets: tuple[StoredSecret, ...] = field(default=(), repr=False)

    def limits(self, settings: Settings) -> Limits:
        """How many requests it may make: its own numbers, else the settings'."""
        minute, hour = self.max_requests_per_minute, self.max_requests_per_hour
        day = self.max_requests_per_day
        return Limits(
            settings.max_requests_per_minute if minute is None else minute,
            settings.max_requests_per_hour if hour is None else hour,
            settings.max_requests_per_day if day is None else day,
            settings.observes_quotas,
        )

    def live_secrets(self, now: datetime) -> list[str]:
        """The stored secrets that have not ended."""
        return [secret.stored for secret in self.secrets if secret.is_live(now)]

    def secret_stored_as(self, stored: str) -> StoredSecret | None:
        """The secret that the database holds in these words, if it still does."""
        return next((secret for secret in self.secrets if secret.stored == stored), None)

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

    def allows_method(self, *methods: str) -> bool:
        """Whether it may prove who it is by one of these methods.

        A client with keys uses them alone, and one without uses its secret, unless its document
        says otherwise: a key is worth little beside a secret that somebody may have copied.
        """
        return not self.allowed_methods().isdisjoint(methods)

    def allowed_methods(self) -> frozenset[str]:
        """How it may prove who it is; see `allows_method`."""
        if self.token_endpoint_auth_methods is not None:
            return self.token_endpoint_auth_methods
        return _KEY_METHODS if self.jwks or self.jwks_uri else _SECRET_METHODS


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """One of a client's secrets as the database holds it: a digest, or an operator's plain text.

    Attributes:
        stored: what is compared with what a caller presents; never shown by `repr`.
        expires_at: when it ends whatever happens, if it does.
        id: which one of the client's it is. It tells nothing of the secret.
        label: what people call it.
        created_at: when it was made, if that is known.
        retire_when_idle: it ends once it was not used for so long; `None`: it need not be used.
        idle_until: when it ends unless it is used before, if that was counted yet.
    """

    stored: str = field(repr=False)
    expires_at: datetime | None = None
    id: str = ""
    label: str | None = None
    created_at: datetime | None = None
    retire_when_idle: timedelta | None = None
    idle_until: datetime | None = None

    @property
    def ends_at(self) -> datetime | None:
        """When it ends as things stand, if it does."""
        ends = [end for end in (self.expires_at, self.idle_until) if end is not None]
        return min(ends, default=None)

    def is_live(self, now: datetime) -> bool:
        """Whether it is still taken."""
        end = self.ends_at
        return end is None or end > now


@dataclass(frozen=True, slots=True)
class RegisteredClient:
    """A client and its secret, which is shown this once and stored nowhere.

    Attributes:
        client: the client.
        client_secret: the secret to hand to whoever runs it; `None` when it uses keys instead.
        secret_id: which one of the client's secrets that is.
    """

    client: Client
    client_secret: str | None = field(repr=False)
    secret_id: str | None = None


def client_from(document: Mapping[str, Any]) -> Client:
    """Read a client's document, whoever wrote it.

    Raises:
        ValueError: a field is malformed; the message names it and quotes nothing.
    """
    minutes = _whole_number(document, "access_token_expire_minutes", 1)
    lifetime = minutes and timedelta(minutes=min(minutes, _LONGEST_LIFETIME_MINUTES))
    grant_types = _texts(document, "grant_types")
    jwks, jwks_uri = _jwks(document), _jwks_uri(document)
    if jwks and jwks_uri:
        raise ValueError("jwks and jwks_uri exclude each other (RFC 7591 section 2)")
    return Client(
        client_id=_typed_id(document),
        scopes=_scopes(document),
        role=_token_text(document, "role") or "user",
        name=_text(document, "name"),
        disabled=_boolean(document, "disabled") or False,
        access_token_lifetime=lifetime or None,
        max_requests_per_minute=_whole_number(document, "max_requests_per_minute", 0),
        max_requests_per_hour=_whole_number(document, "max_requests_per_hour", 0),
        max_requests_per_day=_whole_number(document, "max_requests_per_day", 0),
        allowed_networks=_networks(document),
        grant_types=None if grant_types is None else frozenset(grant_types),
        issue_refresh_tokens=_boolean(document, "issue_refresh_tokens"),
        created_at=as_utc(document.get("created_at")),
        last_used_at=as_utc(document.get("last_used_at")),
        epoch=_text(document, "epoch") or "",
        audience=_audience(document),
        dpop_bound_access_tokens=_boolean(document, "dpop_bound_access_tokens") or False,
        token_endpoint_auth_methods=_methods(document),
        jwks=jwks,
        jwks_uri=jwks_uri,
        secrets=tuple(_stored_secrets(document)),
    )


def check_new_id(client_id: str) -> str:
    """The id, if a client may be given it here; by hand there are more.

    Raises:
        ValueError: it may not.
    """
    if len(client_id) > LONGEST_ID or _NEW_ID.fullmatch(client_id) is None:
        raise ValueError(
            f"client_id must be 1 to {LONGEST_ID} of A-Z a-z 0-9 . _ ~ - (not ~ first)"
        )
    return client_id


def _stored_secrets(document: Mapping[str, Any]) -> Iterable[StoredSecret]:
    first, details = _text(document, "client_secret"), document.get("client_secret_details") or {}
    if not isinstance(details, Mapping):
        raise ValueError("client_secret_details must be a document")
    if first:
        # Where somebody typed another secret over it, the details speak of the one before.
        yield _stored_secret(first, details if is_digest(first) else {}, 0)
    others = document.get("secrets") or []
    if not isinstance(others, list) or len(others) > MOST_SECRETS:
        raise ValueError(f"secrets must be a list of at most {MOST_SECRETS}")
    for place, other in enumerate(others, start=1):
        if not isinstance(other, Mapping):
            raise ValueError("secrets must be a list of documents")
        secret = _text(other, "secret")
        if secret:
            yield _stored_secret(secret, other, place)


def _stored_secret(stored: str, details: Mapping[str, Any], place: int) -> StoredSecret:
    idle = _whole_number(details, "retire_when_idle_seconds", 1)
    longest = LONGEST_IDLE // timedelta(seconds=1)
    return StoredSecret(
        stored,
        expires_at=_moment(details, "expires_at"),
        id=_text(details, "id") or _derived_id(stored, place),
        label=_text(details, "label"),
        created_at=_moment(details, "created_at"),
        retire_when_idle=None if idle is None else timedelta(seconds=min(idle, longest)),
        idle_until=_moment(details, "idle_until"),
    )


def _derived_id(stored: str, place: int) -> str:
    """What a secret is called that came without an id: typed by hand, or by an older version.

    A digest names itself. Of a plain text nothing may be told, so it is called by its place until
    its first use, which gives it an id of its own.
    """
    if is_digest(stored):
        return hashlib.sha256(stored.encode()).hexdigest()[:8]
    return f"typed-{place}"


def _typed_id(document: Mapping[str, Any]) -> str:
    client_id = _text(document, "client_id") or ""
    if not client_id.isprintable() or not 1 <= len(client_id) <= LONGEST_TYPED_ID:
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
    networks = _texts(document, "allowed_networks") or []
    if len(networks) > MOST_NETWORKS:
        raise ValueError(f"allowed_networks must be a list of at most {MOST_NETWORKS}")
    try:
        return tuple(map(ip_network, networks))
    except ValueError:
        raise ValueError("allowed_networks must be networks such as 10.0.0.0/8") from None


def _audience(document: Mapping[str, Any]) -> tuple[str, ...]:
    audience = _texts(document, "audience")
    if not audience:
        return ()
    fine = all(len(name) <= _LONGEST_AUDIENCE and is_resource(name) for name in audience)
    if len(audience) > MOST_AUDIENCES or not fine:
        raise ValueError(
            f"audience must be a list of at most {MOST_AUDIENCES} absolute URIs without fragment, "
            f"each up to {_LONGEST_AUDIENCE} characters (RFC 8707 section 2)"
        )
    return tuple(dict.fromkeys(audience))


def _methods(document: Mapping[str, Any]) -> frozenset[str] | None:
    methods = _texts(document, "token_endpoint_auth_methods")
    if methods is None:
        return None
    if not methods or not _METHODS.issuperset(methods):
        raise ValueError(
            f"token_endpoint_auth_methods must be a list of some of {', '.join(sorted(_METHODS))}"
        )
    return frozenset(methods)


def _jwks(document: Mapping[str, Any]) -> tuple[VerifyingKey, ...]:
    value = document.get("jwks")
    if value is None:
        return ()
    try:
        keys = _keys_of(json.dumps(value, sort_keys=True))
    except (TypeError, RecursionError):  # what MongoDB stores and JSON does not
        raise ValueError("jwks must be a JWK Set") from None
    except ValueError as fault:
        raise ValueError(f"jwks cannot be used: {fault}") from None
    if not keys:  # it would silently become a client of secrets
        raise ValueError("jwks has no key that is supported here: ES256 or RS256")
    return keys


@lru_cache(maxsize=_MOST_REMEMBERED_KEY_SETS)
def _keys_of(jwk_set: str) -> tuple[VerifyingKey, ...]:
    """Parsing a key takes longer than verifying with it, so what was parsed is remembered."""
    return public_keys_from(json.loads(jwk_set))


def _jwks_uri(document: Mapping[str, Any]) -> str | None:
    url = _text(document, "jwks_uri")
    if not url:
        return None
    try:
        place_of(url)  # whether it may be http is for the moment when it is fetched
    except ValueError as fault:
        raise ValueError(f"jwks_uri cannot be used: {fault}") from None
    return url


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} must be a text")
    return value


def _moment(document: Mapping[str, Any], name: str) -> datetime | None:
    moment = as_utc(document.get(name))
    if moment is None and document.get(name) is not None:
        raise ValueError(f"secrets.{name} must be a date")
    return moment


def _token_text(document: Mapping[str, Any], name: str) -> str | None:
    value = _text(document, name)
    if value and (len(value) > LONGEST_TYPED_ID or not is_scope_token(value)):
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
