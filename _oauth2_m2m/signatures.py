"""The one place that speaks to the JOSE library.

It signs and verifies bytes, no more: which key, which algorithm and which claims are good is
decided by our own rooms. A key is parsed once and kept.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose import jwk
from jose.backends.base import Key
from jose.exceptions import JOSEError

from _oauth2_m2m.config import Secret
from _oauth2_m2m.errors import ConfigurationError

#: What other people's keys may sign for us, and ours for other people: never a shared secret.
ASYMMETRIC_ALGORITHMS = ("ES256", "RS256")
#: RFC 7518 section 3.3 asks for 2048; beyond 4096 a verification costs more than it gives.
SMALLEST_RSA_BITS, LARGEST_RSA_BITS = 2048, 4096
LONGEST_KID = 255
_LARGEST_RSA_EXPONENT = 2**32
_P256_BYTES = 32
_P256_FIELD = 2**256 - 2**224 + 2**192 + 2**96 - 1
#: RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1: what no published key may hold.
PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_ALGORITHM_OF: Mapping[tuple[Any, Any], str] = {("EC", "P-256"): "ES256", ("RSA", None): "RS256"}
#: RFC 7638 section 3.2, in lexicographic order.
_THUMBPRINT_MEMBERS = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n")}


class VerifyingKey:
    """A key with the one algorithm that it serves. RFC 8725 section 3.1.

    Attributes:
        kid: the key's id, as it stands in a token's header.
        algorithm: the JWS algorithm, such as `ES256`.
        public_jwk: its public part as a JWK; empty for a shared secret, which has none.
        verifier: the library's key.
    """

    __slots__ = ("algorithm", "kid", "public_jwk", "verifier")

    def __init__(
        self, kid: str, algorithm: str, verifier: Key, public_jwk: Mapping[str, str]
    ) -> None:
        self.kid: Final = kid
        self.algorithm: Final = algorithm
        self.public_jwk: Final = public_jwk
        self.verifier: Final = verifier

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature over these bytes is this key's."""
        return bool(self.verifier.verify(message, signature))


class SigningKey(VerifyingKey):
    """A key that signs, too."""

    __slots__ = ("_signer",)

    def __init__(
        self,
        kid: str,
        algorithm: str,
        signer: Key,
        verifier: Key,
        public_jwk: Mapping[str, str],
    ) -> None:
        super().__init__(kid, algorithm, verifier, public_jwk)
        self._signer: Final = signer

    def sign(self, message: bytes) -> bytes:
        """The signature over these bytes."""
        return bytes(self._signer.sign(message))


def hs256_key(secret: Secret) -> SigningKey:
    """The HS256 key whose bytes are the secret's UTF-8 bytes, as they are. RFC 7518 section 3.2.

    Raises:
        ConfigurationError: the text is a PEM or an SSH key, which is never a shared secret.
    """
    material = secret.value.encode()
    kid = hashlib.sha256(b"oauth2-m2m HS256 kid\0" + material).hexdigest()[:16]
    try:
        key = jwk.construct(material, "HS256")
    except JOSEError:
        raise ConfigurationError(
            "SECRET_KEY holds a public key or certificate: HS256 needs a random shared secret"
        ) from None
    return SigningKey(kid, "HS256", key, key, {})


def new_private_key(algorithm: str) -> bytes:
    """A new private key for `ES256` or `RS256`, as PKCS #8 in DER. It takes up to a second."""
    private = (
        ec.generate_private_key(ec.SECP256R1())
        if algorithm == "ES256"
        else rsa.generate_private_key(public_exponent=65537, key_size=SMALLEST_RSA_BITS)
    )
    return private.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def private_signing_key(der: bytes, algorithm: str) -> SigningKey:
    """A private key of ours, ready to sign; its `kid` is its thumbprint (RFC 7638).

    Raises:
        ValueError: the bytes are no private key for this algorithm.
    """
    try:
        private: Any = serialization.load_der_private_key(der, password=None)
    except Exception:  # the library's words could quote the key
        raise ValueError("not a private key in PKCS #8") from None
    if not _serves(private, algorithm):
        raise ValueError("not a private key for this algorithm")
    signer = jwk.construct(private, algorithm)
    # What we would not take from others we do not publish either.
    public = public_key_from_jwk(signer.public_key().to_dict(), (algorithm,))
    published = {**public.public_jwk, "kid": public.kid, "use": "sig", "alg": algorithm}
    return SigningKey(public.kid, algorithm, signer, public.verifier, published)


def public_key_from_jwk(
    members: Mapping[str, Any], algorithms: Collection[str] = ASYMMETRIC_ALGORITHMS
) -> VerifyingKey:
    """A public key from a JWK that somebody presents or publishes. RFC 7517 section 4.

    Args:
        members: the JWK.
        algorithms: the algorithms that are welcome, of `ASYMMETRIC_ALGORITHMS`.

    Returns:
        The key. Its `kid` is the JWK's, or its thumbprint when it has none.

    Raises:
        ValueError: it is private, of another type, too small or too large, not for verifying
            signatures, or spelled in another way than the one.
    """
    if not PRIVATE_MEMBERS.isdisjoint(members):
        raise ValueError("the JWK holds a private or shared key")
    kty, crv = members.get("kty"), members.get("crv")
    algorithm = _ALGORITHM_OF.get((kty, crv)) if _are_texts(kty, crv) else None
    if algorithm is None or algorithm not in algorithms:
        raise ValueError("the JWK is of a type that is not supported here")
    _check_purpose(members, algorithm)
    if kty == "EC":
        public = {"kty": "EC", "crv": "P-256"}
        for name in ("x", "y"):
            _check_coordinate(_number_bytes(members, name))
            public[name] = members[name]
    else:
        public = {"kty": "RSA", "n": members.get("n", ""), "e": members.get("e", "")}
        _check_rsa(members)
    try:
        verifier = jwk.construct(public, algorithm)
    except Exception:  # not on the curve, for example
        raise ValueError("the JWK is no key") from None
    kid = members.get("kid", thumbprint(public))
    if not isinstance(kid, str) or not 1 <= len(kid) <= LONGEST_KID:
        raise ValueError("the JWK's kid is no text, or too long")
    return VerifyingKey(kid, algorithm, verifier, public)


def thumbprint(members: Mapping[str, Any]) -> str:
    """The SHA-256 thumbprint of a public JWK, in base64url. RFC 7638 section 3."""
    required = {name: members[name] for name in _THUMBPRINT_MEMBERS[members["kty"]]}
    canonical = json.dumps(required, separators=(",", ":"), sort_keys=True)
    return b64url_encode(hashlib.sha256(canonical.encode()).digest()).decode("ascii")


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


def _serves(private: Any, algorithm: str) -> bool:
    """Whether a private key is of the kind that this algorithm signs with."""
    if algorithm == "ES256":
        is_on_a_curve = isinstance(private, ec.EllipticCurvePrivateKey)
        return is_on_a_curve and isinstance(private.curve, ec.SECP256R1)
    return algorithm == "RS256" and isinstance(private, rsa.RSAPrivateKey)


def _check_purpose(members: Mapping[str, Any], algorithm: str) -> None:
    """Whether the JWK says that it verifies signatures, if it says what it is for."""
    if members.get("alg", algorithm) != algorithm:
        raise ValueError("the JWK is for another algorithm")
    if members.get("use", "sig") != "sig":
        raise ValueError("the JWK is not for signatures")
    key_ops = members.get("key_ops", ["verify"])
    if not isinstance(key_ops, list) or "verify" not in key_ops:
        raise ValueError("the JWK is not for verifying")


def _check_coordinate(number: bytes) -> None:
    """RFC 7518 section 6.2.1.2. The library would take a number modulo the field's prime."""
    if len(number) != _P256_BYTES:
        raise ValueError("the JWK's point has not the length of its curve")
    if int.from_bytes(number) >= _P256_FIELD:
        raise ValueError("the JWK's point is beyond the field of its curve")


def _check_rsa(members: Mapping[str, Any]) -> None:
    """RFC 7518 section 6.3.1. A number is as short as can be, so that a key has one thumbprint."""
    numbers = _number_bytes(members, "n"), _number_bytes(members, "e")
    if any(number[:1] == b"\0" for number in numbers):
        raise ValueError("the JWK's numbers have leading zeros")
    modulus, exponent = (int.from_bytes(number) for number in numbers)
    if not SMALLEST_RSA_BITS <= modulus.bit_length() <= LARGEST_RSA_BITS:
        raise ValueError(f"an RSA key has {SMALLEST_RSA_BITS} to {LARGEST_RSA_BITS} bits")
    if modulus % 2 == 0:
        raise ValueError("the JWK's modulus is not usable")
    if exponent % 2 == 0 or not 3 <= exponent < _LARGEST_RSA_EXPONENT:
        raise ValueError("the JWK's exponent is not usable")


def _number_bytes(members: Mapping[str, Any], name: str) -> bytes:
    value = members.get(name)
    if not isinstance(value, str) or not value.isascii():
        raise ValueError(f"the JWK's {name} is missing or no text")
    return b64url_decode(value.encode("ascii"))


def _are_texts(kty: object, crv: object) -> bool:
    return isinstance(kty, str) and (crv is None or isinstance(crv, str))
