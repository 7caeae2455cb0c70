"""Keys, signatures and DPoP proofs of other people, made apart from the code under test."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Mapping
from functools import cache
from typing import Any
from uuid import uuid4

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

Document = dict[str, Any]

#: In place of a value: the member is left out.
MISSING: Any = ...
#: The order of the group of P-256, which bounds both numbers of a signature.
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def b64_number(number: int, length: int | None = None) -> str:
    """A number in base64url, in as few bytes as it takes or in that many."""
    return b64(number.to_bytes(length or (number.bit_length() + 7) // 8 or 1))


def changed(members: Mapping[str, Any], changes: Mapping[str, Any]) -> Document:
    """Members with some changed, and those left out that are `MISSING` now."""
    return {name: value for name, value in {**members, **changes}.items() if value is not MISSING}


def compact(header: Mapping[str, Any] | bytes, claims: Mapping[str, Any] | bytes, key: Key) -> str:
    """A token over whatever stands in it, with the key's good signature."""
    raw = [
        part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)
    ]
    message = f"{b64(raw[0])}.{b64(raw[1])}"
    return f"{message}.{b64(key.sign(message.encode()))}"


class Key:
    """A key pair of somebody else's, `ES256` or `RS256`.

    Attributes:
        algorithm: what it signs with.
        jwk: its public part.
        jkt: the thumbprint of that. RFC 7638.
    """

    def __init__(
        self, algorithm: str = "ES256", *, bits: int = 2048, exponent: int = 65537
    ) -> None:
        self.algorithm = algorithm
        if algorithm == "ES256":
            point = ec.generate_private_key(ec.SECP256R1())
            numbers = point.public_key().public_numbers()
            self.private: Any = point
            x, y = b64_number(numbers.x, 32), b64_number(numbers.y, 32)
            self.jwk = {"kty": "EC", "crv": "P-256", "x": x, "y": y}
        else:
            modulus = rsa.generate_private_key(public_exponent=exponent, key_size=bits)
            n = modulus.public_key().public_numbers()
            self.private = modulus
            self.jwk = {"kty": "RSA", "n": b64_number(n.n), "e": b64_number(n.e)}
        required = dict(sorted(self.jwk.items()))
        canonical = json.dumps(required, separators=(",", ":"))
        self.jkt = b64(hashlib.sha256(canonical.encode()).digest())

    def sign(self, message: bytes) -> bytes:
        """A signature as a token holds it. RFC 7518 sections 3.3 and 3.4."""
        if self.algorithm == "RS256":
            return bytes(self.private.sign(message, padding.PKCS1v15(), hashes.SHA256()))
        r, s = decode_dss_signature(self.private.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32) + s.to_bytes(32)

    def proof(
        self,
        method: str,
        url: str,
        *,
        access_token: str | None = None,
        header: Mapping[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """A DPoP proof for a request, made now. RFC 9449 section 4.2.

        Args:
            method: the request's method.
            url: the request's address.
            access_token: what it is sent with, if anything.
            header: members of the header that differ.
            claims: claims that differ.
        """
        good = {"jti": uuid4().hex, "htm": method, "htu": url, "iat": int(time.time())}
        if access_token is not None:
            good["ath"] = b64(hashlib.sha256(access_token.encode()).digest())
        head = {"typ": "dpop+jwt", "alg": self.algorithm, "jwk": self.jwk}
        return compact(changed(head, header or {}), changed(good, claims), self)


@cache
def key(name: str, algorithm: str = "ES256") -> Key:
    """A key by name, made once: an RSA key takes its time."""
    return Key(algorithm)
