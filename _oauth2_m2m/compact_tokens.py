"""Signed JSON Web Tokens in compact serialization, made and strictly read. RFC 7515, RFC 7519.

Access tokens, client assertions and DPoP proofs all come in here as text, and leave as claims of
the right types under a signature that holds. Which key may have signed, and what the claims must
say, is for the room that asks. Every fault is a `ValueError` whose words quote nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from _oauth2_m2m.forms import parse_json
from _oauth2_m2m.signatures import SigningKey, VerifyingKey, b64url_decode, b64url_encode

T = TypeVar("T")

LONGEST_TOKEN = 16_384
_LONGEST_ID = 255
_LATEST_MOMENT = 253_370_764_800  # the year 9999, the last that Python can hold, begins

_compact_json = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class CompactToken:
    """A token that was taken apart, and nothing more: nobody has looked at its signature yet.

    Attributes:
        header: what it says of itself. Keys that it brings along prove nothing.
    """

    header: Mapping[str, Any]
    _payload: bytes = field(repr=False)
    _message: bytes = field(repr=False)
    _signature: bytes = field(repr=False)

    def claims_verified_by(self, key: VerifyingKey) -> dict[str, Any]:
        """The claims, once the signature has proved to be this key's.

        Raises:
            ValueError: the header names another algorithm than the key's (RFC 8725 section 3.1),
                the signature does not hold, or the claims are no JSON object.
        """
        if self.header.get("alg") != key.algorithm:
            raise ValueError("alg is not the key's")
        if not key.verify(self._message, self._signature):
            raise ValueError("the signature does not verify")
        return _json_object(self._payload)

    def unverified_claims(self) -> dict[str, Any]:
        """What the claims say before anybody has proved it: good for choosing a key, no more.

        Raises:
            ValueError: they are no JSON object.
        """
        return _json_object(self._payload)


def parse_compact(text: str) -> CompactToken:
    """Take a token apart, each part in its one spelling. RFC 7515 section 7.1.

    Raises:
        ValueError: it is too long, malformed, or has a `crit` header, of which none is known here.
    """
    if len(text) > LONGEST_TOKEN:
        raise ValueError(f"longer than {LONGEST_TOKEN} characters")
    if not text.isascii():
        raise ValueError("not ASCII")
    parts = text.encode("ascii").split(b".")
    if len(parts) != 3:
        raise ValueError("not a JWT of three parts")
    header = _json_object(parts[0])
    signature = b64url_decode(parts[2])
    if "crit" in header:
        raise ValueError("crit is not supported")
    return CompactToken(header, parts[1], parts[0] + b"." + parts[1], signature)


def encoded(members: Mapping[str, Any]) -> bytes:
    """A header or claims, as they stand in a token."""
    return b64url_encode(_compact_json(members).encode())


def signed(header: bytes, claims: Mapping[str, Any], key: SigningKey) -> str:
    """A token over an encoded header and these claims."""
    message = header + b"." + encoded(claims)
    return (message + b"." + b64url_encode(key.sign(message))).decode("ascii")


def claim(claims: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """A claim that must be there, of this type."""
    value = claims.get(name)
    # bool is an int to Python, and to nobody else.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name} is missing or of the wrong type")
    return value


def text_claim(claims: Mapping[str, Any], name: str, longest: int = _LONGEST_ID) -> str:
    """A claim that must be a text, neither empty nor longer than that many characters."""
    value = claim(claims, name, str)
    if not 1 <= len(value) <= longest:
        raise ValueError(f"{name} is empty or too long")
    return value


def moment_claim(claims: Mapping[str, Any], name: str, *, fractions: bool = False) -> datetime:
    """A claim that must be seconds since 1970, as a moment. RFC 7519 section 2.

    Args:
        claims: the claims.
        name: which.
        fractions: whether parts of a second are welcome. Ours are whole; other people's may not be.
    """
    seconds = claims.get(name) if fractions else None
    if not isinstance(seconds, float):
        seconds = claim(claims, name, int)
    if not 0 <= seconds <= _LATEST_MOMENT:  # so much for infinity, too
        raise ValueError(f"{name} is no moment")
    return datetime.fromtimestamp(seconds, UTC)


def audience_claim(claims: Mapping[str, Any], most: int) -> tuple[str, ...]:
    """Whom a token is meant for: a text or a list of at most that many. RFC 7519 section 4.1.3."""
    value = claims.get("aud")
    audience = value if isinstance(value, list) else [value]
    if not 1 <= len(audience) <= most or not all(isinstance(a, str) and a for a in audience):
        raise ValueError("aud is missing or of the wrong type")
    return tuple(audience)


def _json_object(segment: bytes) -> dict[str, Any]:
    value = parse_json(b64url_decode(segment))
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
