"""Access tokens: JWTs of the RFC 9068 profile, made and read.

Reading is strict, and by our own hand: the JOSE library only ever sees bytes that were judged
here, with a key and an algorithm that were chosen here.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeVar

from _oauth2_m2m.config import Settings
from _oauth2_m2m.credentials import make_id
from _oauth2_m2m.errors import InvalidScope, InvalidToken, UnknownKey
from _oauth2_m2m.forms import parse_json
from _oauth2_m2m.keys import KeyRing
from _oauth2_m2m.scopes import Scope, format_scope, parse_scope
from _oauth2_m2m.signatures import b64url_decode, b64url_encode

T = TypeVar("T")

TOKEN_TYPE = "at+jwt"
LONGEST_TOKEN = 16_384
_LATEST_MOMENT = 253_370_764_800  # the year 9999, the last that Python can hold, begins
_SHORTEST_JTI, _LONGEST_ID = 1, 255
_MOST_REMEMBERED = 10_000

_compact_json = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """An access token that was checked and found good.

    Attributes:
        client_id: the client that it was issued to.
        scopes: what it allows.
        roles: the roles of the client.
        jti: its id, by which it can be revoked.
        issued_at, expires_at: its life, in UTC.
        claims: everything that it says, read-only.
    """

    client_id: str
    scopes: frozenset[str]
    roles: tuple[str, ...]
    jti: str
    issued_at: datetime
    expires_at: datetime
    claims: Mapping[str, Any]

    @property
    def family_id(self) -> str | None:
        """The chain of refresh tokens that it came with, if it came with one."""
        return self.claims.get("family_id")

    @property
    def epoch(self) -> str:
        """The epoch of its client in which it was issued."""
        return str(self.claims.get("epoch", ""))


@dataclass(frozen=True, slots=True)
class SignedToken:
    """A token that was just made.

    Attributes:
        text: the compact serialization, to be handed out.
        jti: its id.
        lifetime: how long it is good for.
    """

    text: str
    jti: str
    lifetime: timedelta


def sign_access_token(
    *,
    settings: Settings,
    keys: KeyRing,
    now: datetime,
    client_id: str,
    scope: Scope,
    roles: Collection[str],
    lifetime: timedelta,
    epoch: str = "",
    family_id: str | None = None,
) -> SignedToken:
    """Make an access token. RFC 9068 section 2.

    Args:
        settings: whose issuer and audience it names.
        keys: whose signing key signs it.
        now: the moment of issue; tokens count whole seconds.
        client_id: the client that it is for; also its subject, for there is no other.
        scope: what it allows.
        roles: the client's roles.
        lifetime: how long it is good for.
        epoch: the client's epoch, if it has one.
        family_id: the chain of refresh tokens that it comes with, if any.
    """
    issued_at = int(now.timestamp())
    claims: dict[str, Any] = {
        "iss": settings.issuer,
        "sub": client_id,
        "client_id": client_id,
        "aud": settings.audience,
        "iat": issued_at,
        "exp": issued_at + int(lifetime.total_seconds()),
        "jti": make_id(),
        "scope": format_scope(scope),
        "roles": sorted(roles),
    }
    if epoch:
        claims["epoch"] = epoch
    if family_id is not None:
        claims["family_id"] = family_id
    key = keys.signing
    message = _header(key.algorithm, key.kid) + b"." + _segment(claims)
    text = message + b"." + b64url_encode(key.sign(message))
    return SignedToken(text.decode("ascii"), claims["jti"], lifetime)


def read_access_token(
    text: str, *, settings: Settings, keys: KeyRing, now: datetime
) -> AccessToken:
    """Read an access token and check everything that can be checked without the database.

    Args:
        text: the compact serialization, as it was presented.
        settings: whose issuer, audience and leeway count.
        keys: the keys that may have signed it.
        now: the moment to judge it at.

    Raises:
        UnknownKey: it names a key that is not among these.
        InvalidToken: it is malformed, not ours, or expired; `detail` says which. Whether it was
            revoked is for the database to say.
    """
    try:
        return _read(text, settings, keys, now)
    except ValueError as fault:
        raise InvalidToken(detail=str(fault)) from None


class TokenReader:
    """Reads access tokens, and remembers the ones that it has read.

    A token that is presented again is not verified again: the same bytes have the same signature.
    Only that is remembered, under a digest, and only as long as the settings stay; expiry is judged
    every time, and revocation is for the database. The other way round, a token that was seen
    revoked stays so: it is refused here, before it can take anything of its client's budget.
    """

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._tokens: OrderedDict[bytes, AccessToken | None] = OrderedDict()  # None is revoked

    def read(self, text: str, *, settings: Settings, keys: KeyRing, now: datetime) -> AccessToken:
        """As `read_access_token`.

        Raises:
            InvalidToken: it is malformed, not ours, or expired.
        """
        if settings is not self._settings:
            self._tokens.clear()
            self._settings = settings
        digest = _digest(text)
        if digest not in self._tokens:
            token = read_access_token(text, settings=settings, keys=keys, now=now)
            self._remember(digest, token)
            return token
        known = self._tokens[digest]
        if known is None:
            raise InvalidToken(detail="revoked")
        if now >= known.expires_at + settings.leeway:
            del self._tokens[digest]
            raise InvalidToken(detail="expired")
        return known

    def note_revoked(self, text: str) -> None:
        """Learn that a token was revoked."""
        self._remember(_digest(text), None)

    def _remember(self, digest: bytes, token: AccessToken | None) -> None:
        self._tokens[digest] = token
        if len(self._tokens) > _MOST_REMEMBERED:
            self._tokens.popitem(last=False)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _read(text: str, settings: Settings, keys: KeyRing, now: datetime) -> AccessToken:
    # (1) Compact serialization, bounded, each part in its one spelling. RFC 7515 section 7.1
    if len(text) > LONGEST_TOKEN:
        raise ValueError(f"longer than {LONGEST_TOKEN} characters")
    if not text.isascii():
        raise ValueError("not ASCII")
    parts = text.encode("ascii").split(b".")
    if len(parts) != 3:
        raise ValueError("not a JWT of three parts")
    header = _json_object(parts[0])
    signature = b64url_decode(parts[2])

    # (2) The header names a key; the key chooses the algorithm. RFC 8725 section 3.1.
    #     Keys that the header brings along (jku, jwk, x5u, x5c) are never looked at.
    if "crit" in header:
        raise ValueError("crit is not supported")
    if header.get("typ") != TOKEN_TYPE:
        raise ValueError("not an access token: typ is not at+jwt")
    kid = header.get("kid")
    key = keys.verifying.get(kid) if isinstance(kid, str) else None
    if key is None:
        raise UnknownKey(detail="signed by an unknown key")
    if header.get("alg") != key.algorithm:
        raise ValueError("alg is not the key's")

    # (3) The signature holds: from here on the claims are worth reading.
    if not key.verify(parts[0] + b"." + parts[1], signature):
        raise ValueError("the signature does not verify")
    claims = _json_object(parts[1])

    # (4) Issued by us and meant for us. RFC 9068 section 4
    if _claim(claims, "iss", str) != settings.issuer:
        raise ValueError("iss is not this issuer")
    if _claim(claims, "aud", str) != settings.audience:
        raise ValueError("aud is not this audience")

    # (5) In time. No nbf check, for we never issue one; and none of iat: a token from a host
    #     whose clock runs a little ahead is no worse for it.
    issued_at, expires_at = _moment(claims, "iat"), _moment(claims, "exp")
    if now >= expires_at + settings.leeway:
        raise ValueError("expired")

    # (6) The rest, each claim with its type. RFC 9068 section 2.2
    return AccessToken(
        client_id=_client_id(claims),
        scopes=_scope(claims),
        roles=_roles(claims),
        jti=_text(claims, "jti"),
        issued_at=issued_at,
        expires_at=expires_at,
        claims=_with_private_claims(claims),
    )


@lru_cache(maxsize=8)
def _header(algorithm: str, kid: str) -> bytes:
    return _segment({"typ": TOKEN_TYPE, "alg": algorithm, "kid": kid})


def _segment(members: Mapping[str, Any]) -> bytes:
    return b64url_encode(_compact_json(members).encode())


def _json_object(segment: bytes) -> dict[str, Any]:
    value = parse_json(b64url_decode(segment))
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _claim(claims: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = claims.get(name)
    # bool is an int to Python, and to nobody else.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} is missing or of the wrong type")
    return value


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = _claim(claims, name, str)
    if not _SHORTEST_JTI <= len(value) <= _LONGEST_ID:
        raise ValueError(f"{name} is empty or too long")
    return value


def _moment(claims: Mapping[str, Any], name: str) -> datetime:
    seconds = _claim(claims, name, int)
    if not 0 <= seconds <= _LATEST_MOMENT:
        raise ValueError(f"{name} is no moment")
    return datetime.fromtimestamp(seconds, UTC)


def _client_id(claims: Mapping[str, Any]) -> str:
    client_id = _text(claims, "client_id")
    if _text(claims, "sub") != client_id:
        raise ValueError("sub is not the client")
    return client_id


def _scope(claims: Mapping[str, Any]) -> Scope:
    try:
        return parse_scope(_claim(claims, "scope", str))
    except InvalidScope:
        raise ValueError("scope is malformed") from None


def _roles(claims: Mapping[str, Any]) -> tuple[str, ...]:
    roles = _claim(claims, "roles", list)
    if not all(isinstance(role, str) for role in roles):
        raise ValueError("roles is not a list of texts")
    return tuple(roles)


def _with_private_claims(claims: dict[str, Any]) -> Mapping[str, Any]:
    for name in {"family_id", "epoch"} & claims.keys():
        _text(claims, name)
    return MappingProxyType(claims)
