"""Access tokens: JWTs of the RFC 9068 profile, made and read.

Reading is strict, and by our own hand: the JOSE library only ever sees bytes that were judged
here, with a key and an algorithm that were chosen here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from _oauth2_m2m.compact_tokens import (
    CompactToken,
    audience_claim,
    claim,
    encoded,
    moment_claim,
    parse_compact,
    signed,
    text_claim,
)
from _oauth2_m2m.config import Settings
from _oauth2_m2m.credentials import make_id
from _oauth2_m2m.errors import InvalidScope, InvalidToken, UnknownKey
from _oauth2_m2m.key_ring import KeyRing
from _oauth2_m2m.newest import Newest
from _oauth2_m2m.resources import MOST_RESOURCES
from _oauth2_m2m.revocation import epoch_mark, family_mark, key_mark
from _oauth2_m2m.rules import Broken, Rule
from _oauth2_m2m.scopes import Scope, format_scope, parse_scope
from _oauth2_m2m.signatures import VerifyingKey

TOKEN_TYPE = "at+jwt"
_MOST_REMEMBERED = 10_000


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
        audience: the resources that it is meant for.
        kid: the key that signed it.
        jkt: the thumbprint of the key that its holder must prove to have; `None` for a bearer
            token. RFC 9449 section 6.
    """

    client_id: str
    scopes: frozenset[str]
    roles: tuple[str, ...]
    jti: str
    issued_at: datetime
    expires_at: datetime
    claims: Mapping[str, Any]
    audience: tuple[str, ...] = ()
    kid: str = ""
    jkt: str | None = None

    @property
    def family_id(self) -> str | None:
        """The chain of refresh tokens that it came with, if it came with one."""
        return self.claims.get("family_id")

    def marks(self) -> tuple[str, ...]:
        """What would revoke it."""
        marks = (self.jti, epoch_mark(self.client_id, self.epoch), key_mark(self.kid))
        family_id = self.family_id
        return marks if family_id is None else (*marks, family_mark(family_id))

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
        expires_at: when it expires, in seconds since 1970.
        lifetime: how long it is good for.
    """

    text: str
    jti: str
    expires_at: int
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
    audience: Sequence[str] = (),
    jkt: str | None = None,
    extra: Mapping[str, Any] = MappingProxyType({}),
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
        audience: the resources that it is meant for; else the settings' audience.
        jkt: the thumbprint of the key that it is bound to, if it is. RFC 9449 section 6.1.
        extra: more claims; none of them stands in the place of ours.
    """
    issued_at = int(now.timestamp())
    claims: dict[str, Any] = {
        **extra,
        "iss": settings.issuer,
        "sub": client_id,
        "client_id": client_id,
        "aud": settings.audience if not audience else _one_or_all(audience),
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
    if jkt is not None:
        claims["cnf"] = {"jkt": jkt}
    key = keys.signing
    text = signed(_header(key.algorithm, key.kid), claims, key)
    return SignedToken(text, claims["jti"], claims["exp"], lifetime)


def read_access_token(
    text: str,
    *,
    issuer: str,
    keys: Mapping[str, VerifyingKey],
    now: datetime,
    leeway: timedelta = timedelta(0),
) -> AccessToken:
    """Read an access token and check everything that can be checked without the database.

    Args:
        text: the compact serialization, as it was presented.
        issuer: who must have issued it.
        keys: the keys that may have signed it, by their `kid`.
        now: the moment to judge it at.
        leeway: how long after its expiry it is still taken.

    Returns:
        The token. Whom it is meant for is for the caller to compare, see `check_audience`.

    Raises:
        UnknownKey: it names a key that is not among these.
        InvalidToken: it is malformed, not this issuer's, or expired; `detail` says which. Whether
            it was revoked is for the database to say.
    """
    try:
        return _read(text, issuer, keys, now, leeway)
    except ValueError as fault:
        raise InvalidToken(detail=str(fault)).because(fault, Rule.TOKEN_CLAIMS) from None


def check_audience(token: AccessToken, audience: str) -> None:
    """Whether a token is meant for this resource. RFC 9068 section 4.

    Raises:
        InvalidToken: it is not.
    """
    if audience not in token.audience:
        elsewhere = InvalidToken(detail="aud is not this audience")
        raise elsewhere.breaking(Rule.TOKEN_AUDIENCE, had=token.audience, wanted=audience)


class TokenReader:
    """Reads access tokens, and remembers the ones that it has read.

    A token that is presented again is not verified again: the same bytes have the same signature.
    Only that is remembered, under a digest, and only as long as the keys stay; expiry is judged
    every time, and revocation is for the database. The other way round, a token that was seen
    revoked stays so: it is refused here, before it can take anything of its client's budget.
    """

    def __init__(self) -> None:
        self._issuer: str | None = None
        self._keys: Mapping[str, VerifyingKey] = {}
        self._tokens: Newest[bytes, AccessToken | None] = Newest(
            _MOST_REMEMBERED
        )  # None is revoked

    def read(
        self,
        text: str,
        *,
        issuer: str,
        keys: Mapping[str, VerifyingKey],
        now: datetime,
        leeway: timedelta = timedelta(0),
    ) -> AccessToken:
        """As `read_access_token`.

        Raises:
            InvalidToken: it is malformed, not this issuer's, or expired.
        """
        if keys is not self._keys or issuer != self._issuer:
            self._tokens.clear()
            self._keys, self._issuer = keys, issuer
        digest = _digest(text)
        if digest not in self._tokens:
            token = read_access_token(text, issuer=issuer, keys=keys, now=now, leeway=leeway)
            self._tokens[digest] = token
            return token
        known = self._tokens[digest]
        if known is None:
            raise InvalidToken(detail="revoked").breaking(Rule.TOKEN_NOT_REVOKED)
        if now >= known.expires_at + leeway:
            del self._tokens[digest]
            expired = InvalidToken(detail="expired")
            raise expired.breaking(Rule.TOKEN_LIVE, expired_at=known.expires_at)
        return known

    def note_revoked(self, text: str) -> None:
        """Learn that a token was revoked."""
        self._tokens[_digest(text)] = None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _read(
    text: str,
    issuer: str,
    keys: Mapping[str, VerifyingKey],
    now: datetime,
    leeway: timedelta,
) -> AccessToken:
    # (1) Compact serialization, bounded, each part in its one spelling; no crit.
    token = _parsed(text)

    # (2) The header names a key; the key chooses the algorithm. RFC 8725 section 3.1.
    #     Keys that the header brings along (jku, jwk, x5u, x5c) are never looked at.
    if token.header.get("typ") != TOKEN_TYPE:
        raise Broken(Rule.TOKEN_TYPE, "not an access token: typ is not at+jwt")
    #     One that names none cannot mean a key that is new, so nobody waits for that.
    kid = token.header.get("kid")
    if not isinstance(kid, str):
        raise Broken(Rule.TOKEN_KEY, "kid is missing or of the wrong type")
    key = keys.get(kid)
    if key is None:
        raise UnknownKey(detail="signed by an unknown key").breaking(Rule.TOKEN_KEY, had=kid)

    # (3) The signature holds: from here on the claims are worth reading.
    claims = _verified(token, key)

    # (4) Issued by us. Whom it is meant for is asked every time it is presented.
    if claim(claims, "iss", str) != issuer:
        raise Broken(Rule.TOKEN_ISSUER, "iss is not this issuer", had=claims["iss"], wanted=issuer)
    audience = audience_claim(claims, MOST_RESOURCES)

    # (5) In time. We issue no nbf, but whoever shares an HS256 key may (RFC 7519 section 4.1.5).
    #     None of iat: a token from a host whose clock runs a little ahead is no worse for it.
    issued_at, expires_at = moment_claim(claims, "iat"), moment_claim(claims, "exp")
    if now >= expires_at + leeway:
        raise Broken(Rule.TOKEN_LIVE, "expired", expired_at=expires_at)
    if "nbf" in claims and now < moment_claim(claims, "nbf", fractions=True) - leeway:
        raise Broken(Rule.TOKEN_LIVE, "nbf is in the future")

    # (6) The rest, each claim with its type. RFC 9068 section 2.2
    return AccessToken(
        client_id=_client_id(claims),
        scopes=_scope(claims),
        roles=_roles(claims),
        jti=text_claim(claims, "jti"),
        issued_at=issued_at,
        expires_at=expires_at,
        claims=_with_private_claims(claims),
        audience=audience,
        kid=key.kid,
        jkt=_jkt(claims),
    )


def _parsed(text: str) -> CompactToken:
    try:
        return parse_compact(text)
    except ValueError as fault:
        raise Broken(Rule.TOKEN_READABLE, str(fault)) from None


def _verified(token: CompactToken, key: VerifyingKey) -> dict[str, Any]:
    try:
        return token.claims_verified_by(key)
    except ValueError as fault:
        raise Broken(Rule.TOKEN_SIGNATURE, str(fault)) from None


@lru_cache(maxsize=8)
def _header(algorithm: str, kid: str) -> bytes:
    return encoded({"typ": TOKEN_TYPE, "alg": algorithm, "kid": kid})


def _one_or_all(audience: Sequence[str]) -> str | list[str]:
    return audience[0] if len(audience) == 1 else list(audience)


def _client_id(claims: Mapping[str, Any]) -> str:
    client_id = text_claim(claims, "client_id")
    if text_claim(claims, "sub") != client_id:
        raise ValueError("sub is not the client")
    return client_id


def _scope(claims: Mapping[str, Any]) -> Scope:
    try:
        return parse_scope(claim(claims, "scope", str))
    except InvalidScope:
        raise ValueError("scope is malformed") from None


def _roles(claims: Mapping[str, Any]) -> tuple[str, ...]:
    roles = claim(claims, "roles", list)
    if not all(isinstance(role, str) for role in roles):
        raise ValueError("roles is not a list of texts")
    return tuple(roles)


def _jkt(claims: Mapping[str, Any]) -> str | None:
    """The key that the token is bound to; another kind of binding is none that we can check."""
    if "cnf" not in claims:
        return None
    confirmation = claim(claims, "cnf", dict)
    if confirmation.keys() != {"jkt"}:
        raise ValueError("cnf is not a key's thumbprint")
    return text_claim(confirmation, "jkt")


def _with_private_claims(claims: dict[str, Any]) -> Mapping[str, Any]:
    for name in {"family_id", "epoch"} & claims.keys():
        text_claim(claims, name)
    return MappingProxyType(claims)
