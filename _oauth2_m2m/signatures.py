"""The one place that speaks to the JOSE library.

It signs and verifies bytes, no more: which key, which algorithm and which claims are good is
decided by our own rooms. A key is parsed once and kept.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from jose import jwk
from jose.backends.base import Key
from jose.exceptions import JOSEError

from _oauth2_m2m.config import Secret
from _oauth2_m2m.errors import ConfigurationError


class SigningKey:
    """A key with the one algorithm that it serves. RFC 8725 section 3.1.

    Attributes:
        kid: the key's id, as it stands in a token's header.
        algorithm: the JWS algorithm, such as `HS256`.
    """

    __slots__ = ("_key", "algorithm", "kid")

    def __init__(self, kid: str, algorithm: str, key: Key) -> None:
        self.kid: Final = kid
        self.algorithm: Final = algorithm
        self._key: Final = key

    def sign(self, message: bytes) -> bytes:
        """The signature over these bytes."""
        return bytes(self._key.sign(message))

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature over these bytes is this key's."""
        return bool(self._key.verify(message, signature))


def hs256_key(secret: Secret) -> SigningKey:
    """The HS256 key whose bytes are the secret's UTF-8 bytes, as they are. RFC 7518 section 3.2.

    Raises:
        ConfigurationError: the text is a PEM or an SSH key, which is never a shared secret.
    """
    material = secret.value.encode()
    kid = hashlib.sha256(b"oauth2-m2m HS256 kid\0" + material).hexdigest()[:16]
    try:
        return SigningKey(kid, "HS256", jwk.construct(material, "HS256"))
    except JOSEError:
        raise ConfigurationError(
            "SECRET_KEY holds a public key or certificate: HS256 needs a random shared secret"
        ) from None


def b64url_encode(data: bytes) -> bytes:
    """base64url without padding. RFC 7515 section 2."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def b64url_decode(text: bytes) -> bytes:
    """Decode canonical base64url: one spelling for each value. RFC 7515 section 2.

    Raises:
        ValueError: padding, a foreign character, an impossible length, or unused bits that are set.
    """
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error
    if b64url_encode(data) != text:
        raise ValueError("not the canonical base64url spelling")
    return data
