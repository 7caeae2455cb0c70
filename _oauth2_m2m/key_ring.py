"""The keys of one moment, and the rules of their lives. Plain functions of values.

Workers agree without a leader, for all that a key may do follows from the moments in its document:
it is announced, signs from `signs_from` until its successor does, and then only verifies until the
last token that it signed has expired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from _oauth2_m2m.config import Settings
from _oauth2_m2m.errors import ConfigurationError
from _oauth2_m2m.key_sealing import KeySealer
from _oauth2_m2m.signatures import (
    ASYMMETRIC_ALGORITHMS,
    SigningKey,
    VerifyingKey,
    hs256_key,
    private_signing_key,
    public_key_from_jwk,
)
from _oauth2_m2m.storage import Document, as_utc

#: How long a key is published before it signs, and how long it signs.
ANNOUNCED_FOR = timedelta(days=1)
SIGNS_FOR = timedelta(days=90)
#: A key stays this long after its last token: leeways, and workers that have not noticed yet.
KEPT = timedelta(hours=1)

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """A key as the database knows it.

    Attributes:
        kid: its id.
        algorithm: what it signs with.
        number: which one of its algorithm, counted from 1; 0 for a shared secret.
        signs_from, signs_until: when it is to sign; it goes on until a successor has begun.
        last_expiry: no token that it signed lives longer; `None` when it signed none.
        burned_at: when it was given up, if it was.
    """

    kid: str
    algorithm: str
    number: int = 0
    signs_from: datetime = _LONG_AGO
    signs_until: datetime = _LONG_AGO
    last_expiry: datetime | None = None
    burned_at: datetime | None = None
    document: Document = field(default_factory=dict, repr=False)

    def has_begun(self, now: datetime) -> bool:
        """Whether its time to sign has come, before it was burned."""
        return self.signs_from <= (now if self.burned_at is None else min(now, self.burned_at))

    def may_have_live_tokens(self, now: datetime) -> bool:
        """Whether a token that it signed can still be alive."""
        return self.last_expiry is not None and now < self.last_expiry + KEPT


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of one moment.

    Attributes:
        signing: the key that signs new tokens.
        verifying: every key that may verify one, by its `kid`; those announced included.
    """

    signing: SigningKey
    verifying: Mapping[str, VerifyingKey]

    def published(self) -> list[Mapping[str, str]]:
        """The public keys as JWKs; a shared secret has none. RFC 7517 section 5."""
        return [key.public_jwk for key in self.verifying.values() if key.public_jwk]

    def same_as(self, other: KeyRing | None) -> bool:
        """Whether another ring holds the same keys, and signs with the same one."""
        return (
            other is not None
            and self.signing.kid == other.signing.kid
            and self.verifying.keys() == other.verifying.keys()
        )


def stored_key(document: Document) -> StoredKey:
    """Read a key's document.

    Raises:
        ConfigurationError: it makes no sense.
    """
    kid, algorithm, number = document["_id"], document.get("algorithm"), document.get("number", 0)
    begins, ends = as_utc(document.get("signs_from")), as_utc(document.get("signs_until"))
    sound = isinstance(kid, str) and isinstance(algorithm, str) and isinstance(number, int)
    if not sound or (number and not (begins and ends)):
        raise ConfigurationError(
            f"signing key {kid} makes no sense: restore it, see docs/storage.md"
        )
    return StoredKey(
        kid=kid,
        algorithm=str(algorithm),
        number=number,
        signs_from=begins or _LONG_AGO,
        signs_until=ends or _LONG_AGO,
        last_expiry=as_utc(document.get("last_expiry")),
        burned_at=as_utc(document.get("burned_at")),
        document=document,
    )


def signing_at(stored: Sequence[StoredKey], algorithm: str, now: datetime) -> StoredKey | None:
    """The key that signs: the last made that has begun, else the first made of those to come.

    A key that was superseded never signs again, not even when its successor is burned. So keys go
    by their numbers: one that had to sign before its time, since the one before it was burned, may
    be superseded before its own time comes.
    """
    ours = [key for key in stored if key.number and key.algorithm == algorithm]
    last = max((key for key in ours if key.has_begun(now)), key=_number, default=None)
    if last is not None and last.burned_at is None:
        return last
    to_come = [
        key for key in ours if key.burned_at is None and (not last or key.number > last.number)
    ]
    return min(to_come, key=_number, default=None)


def successor_begins(stored: Sequence[StoredKey], algorithm: str, now: datetime) -> datetime | None:
    """When the next key is to sign, if it is time to make it; `None` while it is not.

    The first one signs at once. A successor is announced ahead, also when nobody was there to
    announce it in time: then its predecessor signs for longer.
    """
    if algorithm not in ASYMMETRIC_ALGORITHMS:
        return None
    signing = signing_at(stored, algorithm, now)
    if signing is None:
        return now
    newest = max(_from(signing, stored), key=_number)
    if now < newest.signs_until - ANNOUNCED_FOR:
        return None
    return max(newest.signs_until, now + ANNOUNCED_FOR)


def next_number(stored: Iterable[StoredKey], algorithm: str) -> int:
    """The number of the next key of an algorithm; burned ones count."""
    return max((key.number for key in stored if key.algorithm == algorithm), default=0) + 1


def dead_keys(
    stored: Iterable[StoredKey], signing: StoredKey | None, now: datetime
) -> list[StoredKey]:
    """The keys that can be forgotten, the oldest first.

    A key that is needed keeps those that came after it: without them it would sign again.

    Args:
        stored: the keys of the collection.
        signing: the one among them that signs now, if one does.
        now: the moment.
    """
    dead, needed = [], set()
    for key in sorted(stored, key=_number):
        if key.algorithm not in needed and _is_dead(key, signing, now):
            dead.append(key)
        elif key.number:
            needed.add(key.algorithm)
    return dead


def _is_dead(key: StoredKey, signing: StoredKey | None, now: datetime) -> bool:
    """Whether it signs no more, and no token of it can be alive."""
    if key.burned_at is not None and not key.number:
        # Its secret lies in copies of the config document: written back, it would be good again.
        return False
    moments = [key.signs_from, key.last_expiry, key.burned_at]
    if signing is not None:
        moments.append(signing.signs_from)  # a worker may not have noticed yet that another signs
        later = key.algorithm == signing.algorithm and key.number > signing.number
        if key.burned_at is None and (key.kid == signing.kid or later):
            return False
    return max(moment for moment in moments if moment is not None) + KEPT < now


def build_ring(
    settings: Settings,
    stored: Sequence[StoredKey],
    sealer: KeySealer,
    now: datetime,
    before: KeyRing | None = None,
) -> KeyRing:
    """The ring of one moment.

    Args:
        settings: which algorithm signs, and the shared secrets.
        stored: the keys of the collection.
        sealer: what opens their private parts.
        now: the moment.
        before: the last ring, whose keys need not be parsed again.

    Raises:
        ConfigurationError: a key cannot be used or opened.
    """
    known = before.verifying if before else {}
    verifying = _shared_keys(settings, {key.kid: key for key in stored}, now)
    for key in stored:
        if key.number and key.burned_at is None:
            verifying[key.kid] = known.get(key.kid) or _public_key(key)
    if settings.algorithm not in ASYMMETRIC_ALGORITHMS:
        signing: VerifyingKey | None = verifying.get(hs256_key(settings.secret_key).kid)
    else:
        first = signing_at(stored, settings.algorithm, now)
        for key in _from(first, stored) if first is not None else []:
            # A key that will sign must open now: there is a day to mend it.
            verifying[key.kid] = _private_key(key, sealer, known.get(key.kid))
        signing = verifying[first.kid] if first is not None else None
    if not isinstance(signing, SigningKey):
        raise ConfigurationError("no key is left to sign with: SECRET_KEY was burned, set another")
    return KeyRing(signing, MappingProxyType(verifying))


def _shared_keys(
    settings: Settings, stored: Mapping[str, StoredKey], now: datetime
) -> dict[str, VerifyingKey]:
    """The HS256 keys that may verify. When it signs no more, only as long as its tokens live."""
    keys = [hs256_key(secret) for secret in settings.previous_secret_keys]
    current = hs256_key(settings.secret_key)
    noted = stored.get(current.kid)
    if settings.algorithm == current.algorithm or (noted and noted.may_have_live_tokens(now)):
        keys.append(current)
    burned = {kid for kid, key in stored.items() if key.burned_at is not None}
    return {key.kid: key for key in keys if key.kid not in burned}


def _number(key: StoredKey) -> int:
    return key.number


def _from(first: StoredKey, stored: Iterable[StoredKey]) -> list[StoredKey]:
    """A key and those that will sign after it."""
    later = [k for k in stored if k.algorithm == first.algorithm and k.number >= first.number]
    return [key for key in later if key.burned_at is None]


def _public_key(key: StoredKey) -> VerifyingKey:
    members: Any = key.document.get("public")
    try:
        public = public_key_from_jwk(members)
    except (ValueError, AttributeError, TypeError):
        raise _unusable(key) from None
    if public.kid != key.kid or public.algorithm != key.algorithm:
        raise _unusable(key)
    return VerifyingKey(public.kid, public.algorithm, public.verifier, members)


def _private_key(key: StoredKey, sealer: KeySealer, known: VerifyingKey | None) -> SigningKey:
    if isinstance(known, SigningKey):
        return known
    private, sealed_with = key.document.get("private"), key.document.get("sealed_with")
    if not isinstance(private, bytes):
        raise _unusable(key)
    try:
        opened = private_signing_key(sealer.open(private, key.kid, sealed_with), key.algorithm)
    except ValueError:
        raise _unusable(key) from None
    if opened.kid != key.kid:
        raise _unusable(key)
    return opened


def _unusable(key: StoredKey) -> ConfigurationError:
    return ConfigurationError(
        f"signing key {key.kid} cannot be used: restore its document in the collection keys"
    )
