"""JWK Sets: the public keys that a client or an issuer publishes. RFC 7517 section 5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from _oauth2_m2m.signatures import PRIVATE_MEMBERS, VerifyingKey, public_key_from_jwk

MOST_KEYS = 20


def public_keys_from(jwk_set: object) -> tuple[VerifyingKey, ...]:
    """The keys of a set that verify signatures here.

    Keys of other types, for other uses or algorithms, or of sizes that nobody here accepts are
    passed over: a set may serve others too (RFC 7517 section 5).

    Args:
        jwk_set: the JWK Set, as it was read from JSON or from the database.

    Returns:
        The keys in their order, no two with the same `kid`; none, when none can be used.

    Raises:
        ValueError: it is no JWK Set, holds too many keys, a private or shared one (whoever
            published it has lost it), or two usable ones with the same `kid`.
    """
    members = jwk_set.get("keys") if isinstance(jwk_set, Mapping) else None
    if not isinstance(members, list) or not all(isinstance(key, Mapping) for key in members):
        raise ValueError("not a JWK Set: an object with a list keys")
    if len(members) > MOST_KEYS:
        raise ValueError(f"the JWK Set has more than {MOST_KEYS} keys")
    if not all(PRIVATE_MEMBERS.isdisjoint(key) for key in members):
        raise ValueError("the JWK Set holds a private or shared key")
    keys = [key for key in map(_usable, members) if key is not None]
    if len({key.kid for key in keys}) < len(keys):
        raise ValueError("the JWK Set holds two keys with the same kid")
    return tuple(keys)


def _usable(members: Mapping[str, Any]) -> VerifyingKey | None:
    try:
        return public_key_from_jwk(members)
    except ValueError:
        return None
