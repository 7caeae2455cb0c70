"""Keys and client assertions as other people's software makes them: none of our signing code."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

Document = dict[str, Any]

#: RFC 7523 section 2.2.
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
#: Any value of a member or claim that is to be left out.
ABSENT: Any = object()


@dataclass(frozen=True)
class ClientKey:
    """A client's key pair, for ES256 or RS256."""

    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = field(repr=False)
    kid: str | None = None

    @property
    def algorithm(self) -> str:
        """The one algorithm that it signs with."""
        return "ES256" if isinstance(self.private, ec.EllipticCurvePrivateKey) else "RS256"

    def jwk(self, **changes: Any) -> Document:
        """The public key as a JWK, some members changed or `ABSENT`."""
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            point = self.private.public_key().public_numbers()
            members = {"kty": "EC", "crv": "P-256", "x": number(point.x, 32)}
            members["y"] = number(point.y, 32)
        else:
            numbers = self.private.public_key().public_numbers()
            members = {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
        return _present({**members, "kid": self.kid or ABSENT, **changes})

    def sign(self, message: bytes) -> bytes:
        """The JWS signature. RFC 7518 sections 3.3 and 3.4."""
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(self.private.sign(message, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32) + s.to_bytes(32)
        return self.private.sign(message, padding.PKCS1v15(), hashes.SHA256())

    def token(self, header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
        """A token in compact serialization, whatever it says."""
        message = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
        return f"{message}.{b64(self.sign(message.encode()))}"

    def assertion(
        self,
        client_id: str,
        audience: str | list[str],
        *,
        header: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> str:
        """A client assertion that is good for a minute, but for these changes."""
        now = int(time.time())
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": audience,
            "iat": now,
            "exp": now + 60,
            "jti": uuid.uuid4().hex,
            **changes,
        }
        whole = {"alg": self.algorithm, "typ": "JWT", "kid": self.kid or ABSENT, **(header or {})}
        return self.token(_present(whole), _present(claims))


def es256_key(kid: str | None = None) -> ClientKey:
    """A key on the curve P-256: the same for the same name, a new one without a name."""
    if kid is None:
        return ClientKey(ec.generate_private_key(ec.SECP256R1()))
    seed = int.from_bytes(hashlib.sha256(kid.encode()).digest()[:31])
    return ClientKey(ec.derive_private_key(seed, ec.SECP256R1()), kid)


def rs256_key(kid: str | None = None, bits: int = 2048) -> ClientKey:
    """A new RSA key."""
    return ClientKey(rsa.generate_private_key(public_exponent=65537, key_size=bits), kid)


def jwks(*keys: ClientKey | Mapping[str, Any]) -> Document:
    """A JWK Set of these keys."""
    return {"keys": [key.jwk() if isinstance(key, ClientKey) else dict(key) for key in keys]}


def fields(assertion: str, **more: str) -> dict[str, str]:
    """The parameters of a form that present an assertion."""
    return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion, **more}


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def number(value: int, length: int | None = None) -> str:
    """A number of a JWK. RFC 7518 section 2."""
    return b64(value.to_bytes(length or (value.bit_length() + 7) // 8))


def _present(members: Mapping[str, Any]) -> Document:
    return {name: value for name, value in members.items() if value is not ABSENT}
