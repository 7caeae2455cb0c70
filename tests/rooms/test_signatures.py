"""Signatures: bytes in, bytes out; keys and base64url in their one spelling."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from _oauth2_m2m.config import Secret
from _oauth2_m2m.errors import ConfigurationError
from _oauth2_m2m.signatures import (
    b64url_decode,
    b64url_encode,
    hs256_key,
    new_private_key,
    private_signing_key,
    public_key_from_jwk,
    thumbprint,
)
from tests.forgeries import ecdsa_forgeries, rsa_forgeries, twin
from tests.proofs import MISSING, Key, b64, b64_number, changed, key

SECRETS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=80).filter(
    lambda text: "-----BEGIN" not in text and "ssh-" not in text
)


@given(SECRETS, st.binary(max_size=80))
def test_hs256_is_hmac_with_the_secrets_own_bytes(secret: str, message: bytes) -> None:
    """The key is the UTF-8 bytes of the secret, no derivation of it. RFC 7518 section 3.2."""
    expected = hmac.digest(secret.encode(), message, hashlib.sha256)
    key = hs256_key(Secret(secret))
    assert key.algorithm == "HS256"
    assert key.sign(message) == expected
    assert key.verify(message, expected)


@given(st.binary(max_size=40), st.binary(max_size=40), st.integers(0, 255))
def test_another_signature_does_not_verify(message: bytes, other: bytes, bit: int) -> None:
    """A signature holds for its own bytes only, and whole."""
    key = hs256_key(Secret("k" * 32))
    signature = key.sign(message)
    flipped = bytearray(signature)
    flipped[bit // 8] ^= 1 << bit % 8
    for wrong in (bytes(flipped), signature[:-1], signature + b"\0", b"", other):
        assert not key.verify(message, wrong)
    assert key.verify(other, signature) == (other == message)


def test_a_key_id_names_the_key_and_tells_nothing_of_it() -> None:
    """Equal secrets have equal ids on every worker, others have others."""
    kids = [hs256_key(Secret(secret)).kid for secret in ("a" * 32, "a" * 32, "b" * 32)]
    assert kids[0] == kids[1] != kids[2]
    assert len(kids[0]) == 16
    assert kids[0] not in hashlib.sha256(b"a" * 32).hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----",
        "-----BEGIN RSA PUBLIC KEY-----\nMFkw\n-----END RSA PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----\nMFkw\n-----END CERTIFICATE-----",
        "ssh-rsa AAAAB3NzaC1yc2E",
    ],
)
def test_a_public_key_is_no_shared_secret(text: str) -> None:
    """Whoever pastes a public key as the secret is told so, without a word of it."""
    with pytest.raises(ConfigurationError, match="SECRET_KEY") as mistake:
        hs256_key(Secret(text))
    assert text not in str(mistake.value)


@given(st.binary())
def test_decoding_undoes_encoding(data: bytes) -> None:
    """base64url without padding, as RFC 7515 section 2 has it."""
    text = b64url_encode(data)
    assert text == base64.urlsafe_b64encode(data).rstrip(b"=")
    assert b64url_decode(text) == data


@given(st.text("AB-_+/=xyz019 \n\0\u00e9", max_size=12).map(str.encode))
@settings(max_examples=400)
def test_a_value_has_one_spelling(text: bytes) -> None:
    """What is read at all is exactly what encoding gives back."""
    try:
        data = b64url_decode(text)
    except ValueError:
        return
    assert b64url_encode(data) == text


@pytest.mark.parametrize(
    "text",
    [b"A", b"AB", b"AAB", b"AA==", b"AAA=", b"+A", b"/A", b" AA", b"AA\n", b"A=", b"=", b"AAAAA"],
)
def test_another_spelling_is_refused(text: bytes) -> None:
    """Padding, foreign characters, impossible lengths and unused bits that are set."""
    with pytest.raises(ValueError, match="base64url"):
        b64url_decode(text)


@given(st.binary())
def test_any_bytes_are_base64url_or_a_value_error(data: bytes) -> None:
    """Nothing else is ever raised."""
    try:
        b64url_decode(data)
    except ValueError as fault:
        assert "base64url" in str(fault)  # noqa: PT017


# Public keys of others

EC, RSA = key("signatures"), key("signatures", "RS256")
BOTH = pytest.mark.parametrize("other", [EC, RSA], ids=lambda other: other.algorithm)
MESSAGE = b"eyJhbGciOiJFUzI1NiJ9.e30"
#: The prime of the field of P-256, and the constant of its curve. FIPS 186-4 appendix D.1.2.3.
P = 2**256 - 2**224 + 2**192 + 2**96 - 1
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
#: A point of the curve whose first number is so small that it can be spelled in another way too.
SMALL = {
    "kty": "EC",
    "crv": "P-256",
    "x": b64_number(0, 32),
    "y": b64_number(pow(B, (P + 1) // 4, P), 32),
}
#: RFC 7638 section 3.1.
RFC_7638 = {
    "kty": "RSA",
    "n": (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJ"
        "ECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW"
        "2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQ"
        "Fh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    ),
    "e": "AQAB",
    "alg": "RS256",
    "kid": "2011-04-29",
}


def test_the_thumbprint_of_the_rfcs_example() -> None:
    """RFC 7638 section 3.1: the thumbprint is of what the key is, and not of what it says else."""
    expected = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    assert thumbprint(RFC_7638) == expected
    bare = {name: RFC_7638[name] for name in ("n", "kty", "e")}
    assert thumbprint(bare) == expected
    assert public_key_from_jwk(RFC_7638).kid == "2011-04-29"
    assert public_key_from_jwk(bare).kid == expected


@BOTH
def test_a_public_key_verifies_its_owners_signatures(other: Key) -> None:
    """What somebody else signed verifies, under the algorithm of the key's type."""
    found = public_key_from_jwk(other.jwk)
    assert (found.algorithm, found.kid) == (other.algorithm, other.jkt)
    assert found.public_jwk == other.jwk
    assert found.verify(MESSAGE, other.sign(MESSAGE))
    assert not found.verify(MESSAGE + b"x", other.sign(MESSAGE))
    assert not hasattr(found, "sign")


@pytest.mark.parametrize(
    "more",
    [
        {"use": "sig"},
        {"alg": "ES256"},
        {"key_ops": ["verify"]},
        {"key_ops": ["sign", "verify"]},
        {"kid": "x" * 255},
        {"x5c": ["!"], "x5t": "!", "x5u": "https://evil.example/", "ext": True, "exp": 1},
        {"use": "sig", "alg": "ES256", "key_ops": ["verify"], "kid": "k"},
    ],
    ids=repr,
)
def test_a_key_may_say_what_it_is_for(more: dict[str, Any]) -> None:
    """Purpose, id and certificates change nothing about a key that verifies signatures."""
    found = public_key_from_jwk({**EC.jwk, **more})
    assert found.verify(MESSAGE, EC.sign(MESSAGE))
    assert found.kid == more.get("kid", EC.jkt)
    assert found.public_jwk == EC.jwk


@pytest.mark.parametrize(("bits", "exponent"), [(2048, 3), (3072, 65537), (4096, 65537)])
def test_rsa_keys_of_a_good_size_are_read(bits: int, exponent: int) -> None:
    """From 2048 to 4096 bits, and with a small exponent too, for the padding is checked whole."""
    other = Key("RS256", bits=bits, exponent=exponent)
    assert public_key_from_jwk(other.jwk).verify(MESSAGE, other.sign(MESSAGE))


def test_a_point_with_leading_zeros_is_read_whole() -> None:
    """The numbers of a point have the length of the curve, however small. RFC 7518, 6.2.1.2."""
    assert public_key_from_jwk(SMALL).kid == thumbprint(SMALL)


def spelled(other: Key, name: str, more: str) -> str:
    return other.jwk[name] + more


def number(other: Key, name: str) -> int:
    return int.from_bytes(b64url_decode(other.jwk[name].encode()))


WRONG_KEYS: dict[str, tuple[Key, dict[str, Any]]] = {
    "no kty": (EC, {"kty": MISSING}),
    "kty in lower case": (EC, {"kty": "ec"}),
    "kty is a list": (EC, {"kty": ["EC"]}),
    "kty is null": (RSA, {"kty": None}),
    "the other kty": (EC, {"kty": "RSA"}),
    "the other kty, the other way round": (RSA, {"kty": "EC"}),
    "a shared key": (EC, {"kty": "oct", "k": b64(b"k" * 32)}),
    "a shared key within a public one": (EC, {"k": b64(b"k" * 32)}),
    "a point as a shared key": (EC, {"kty": "oct"}),
    "no crv": (EC, {"crv": MISSING}),
    "crv is null": (EC, {"crv": None}),
    "another curve": (EC, {"crv": "P-384"}),
    "a curve of the same size": (EC, {"crv": "secp256k1"}),
    "the curve's other name": (EC, {"crv": "secp256r1"}),
    "crv is a list": (EC, {"crv": ["P-256"]}),
    "crv on an RSA key": (RSA, {"crv": "P-256"}),
    "an Edwards curve": (EC, {"kty": "OKP", "crv": "Ed25519"}),
    "private": (EC, {"d": b64(b"d" * 32)}),
    "private, but null": (EC, {"d": None}),
    "a prime": (RSA, {"p": "AQ"}),
    "other primes": (RSA, {"oth": []}),
    "for encryption": (EC, {"use": "enc"}),
    "use is null": (EC, {"use": None}),
    "use is a list": (EC, {"use": ["sig"]}),
    "for nothing": (EC, {"key_ops": []}),
    "for signing": (EC, {"key_ops": ["sign"]}),
    "for wrapping": (RSA, {"key_ops": ["encrypt", "wrapKey"]}),
    "key_ops is a text": (EC, {"key_ops": "verify"}),
    "key_ops is null": (EC, {"key_ops": None}),
    "key_ops is an object": (EC, {"key_ops": {"verify": True}}),
    "another alg": (EC, {"alg": "ES384"}),
    "the other type's alg": (EC, {"alg": "RS256"}),
    "a shared key's alg": (RSA, {"alg": "HS256"}),
    "another padding": (RSA, {"alg": "PS256"}),
    "alg none": (EC, {"alg": "none"}),
    "alg is null": (EC, {"alg": None}),
    "an empty kid": (EC, {"kid": ""}),
    "kid is a number": (EC, {"kid": 7}),
    "kid is null": (EC, {"kid": None}),
    "kid without end": (EC, {"kid": "x" * 256}),
    "no x": (EC, {"x": MISSING}),
    "no y": (EC, {"y": MISSING}),
    "y is a number": (EC, {"y": 7}),
    "y is empty": (EC, {"y": ""}),
    "not on the curve": (EC, {"y": b64_number(number(EC, "y") ^ 1, 32)}),
    "numbers swapped": (EC, {"x": EC.jwk["y"], "y": EC.jwk["x"]}),
    "the point at infinity": (EC, {"x": b64_number(0, 32), "y": b64_number(0, 32)}),
    "on the twist": (EC, {"x": b64_number(number(EC, "x") + 1, 32)}),
    "as large as can be": (EC, {"x": b64(b"\xff" * 32)}),
    "beyond the field": (EC, {**SMALL, "x": b64_number(P, 32)}),
    "one byte short": (EC, {"x": b64_number(number(EC, "x") >> 8, 31)}),
    "a leading zero": (EC, {"x": b64_number(number(EC, "x"), 33)}),
    "a byte behind": (EC, {"x": b64_number(number(EC, "x") << 8, 33)}),
    "of another curve's length": (EC, {"x": b64_number(number(EC, "x"), 48)}),
    "x of small numbers in short": (EC, {**SMALL, "x": "AA"}),
    "padding": (EC, {"x": spelled(EC, "x", "=")}),
    "a blank behind": (EC, {"x": spelled(EC, "x", " ")}),
    "a line's end": (EC, {"x": spelled(EC, "x", "\n")}),
    "the other alphabet": (EC, {"x": "+" * 42 + "8"}),
    "unused bits": (EC, {"x": b64(b"\0" * 32)[:-1] + "B"}),
    "not ASCII": (EC, {"x": "\u00e9" * 43}),
    "hexadecimal": (EC, {"x": f"{number(EC, 'x'):064x}"}),
    "no n": (RSA, {"n": MISSING}),
    "no e": (RSA, {"e": MISSING}),
    "n is a number": (RSA, {"n": 7}),
    "e is a number": (RSA, {"e": 65537}),
    "e is empty": (RSA, {"e": ""}),
    "n is empty": (RSA, {"n": ""}),
    "e is 0": (RSA, {"e": "AA"}),
    "e is 1": (RSA, {"e": b64_number(1)}),
    "e is 2": (RSA, {"e": b64_number(2)}),
    "e is even": (RSA, {"e": b64_number(65538)}),
    "e is large": (RSA, {"e": b64_number(2**32 + 1)}),
    "e is as large as n": (RSA, {"e": RSA.jwk["n"]}),
    "e has a leading zero": (RSA, {"e": b64_number(65537, 4)}),
    "e has a leading zero before a small number": (RSA, {"e": b64_number(17, 2)}),
    "n has a leading zero": (RSA, {"n": b64_number(number(RSA, "n"), 257)}),
    "n is even": (RSA, {"n": b64_number(number(RSA, "n") - 1)}),
    "n is short": (RSA, {"n": b64_number(2**1023 + 1)}),
    "n is one bit short": (RSA, {"n": b64_number(2**2047 - 1)}),
    "n is one bit long": (RSA, {"n": b64_number(2**4096 + 1)}),
    "n is very long": (RSA, {"n": b64_number(2**16383 + 1)}),
    "n with padding": (RSA, {"n": spelled(RSA, "n", "==")}),
    "n with unused bits": (RSA, {"n": RSA.jwk["n"][:-1] + "_"}),
}  # fmt: skip


@pytest.mark.parametrize(("other", "changes"), WRONG_KEYS.values(), ids=WRONG_KEYS)
def test_what_is_not_quite_a_key_is_none(other: Key, changes: dict[str, Any]) -> None:
    """A key has its one spelling, its purpose and no private part, or it is refused in words."""
    with pytest.raises(ValueError, match=r"JWK|RSA key|base64url") as refusal:
        public_key_from_jwk(changed(other.jwk, changes))
    assert type(refusal.value) is ValueError


@BOTH
def test_an_algorithm_may_be_unwelcome(other: Key) -> None:
    """Only keys of the algorithms that are asked for are taken."""
    assert public_key_from_jwk(other.jwk, (other.algorithm,)).kid == other.jkt
    for algorithms in (("RS256" if other is EC else "ES256",), ("HS256", "none"), ()):
        with pytest.raises(ValueError, match="not supported"):
            public_key_from_jwk(other.jwk, algorithms)


ANY_JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=50),
        st.sampled_from(["EC", "RSA", "P-256", "sig", "verify", "ES256", "RS256", "AQAB"]),
        st.binary(max_size=300).map(b64),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)  # fmt: skip
NAMES = st.sampled_from(
    ["kty", "crv", "x", "y", "n", "e", "d", "k", "use", "alg", "key_ops", "kid"]
)


@given(st.sampled_from([{}, EC.jwk, RSA.jwk]), st.dictionaries(NAMES, ANY_JSON, max_size=5))
@settings(max_examples=300)
def test_any_object_is_a_whole_key_or_a_value_error(
    good: dict[str, str], changes: dict[str, Any]
) -> None:
    """Nothing else is ever raised, and what is read is a key that was there."""
    members = {**good, **changes}
    try:
        found = public_key_from_jwk(members)
    except ValueError:
        return
    assert found.public_jwk.items() <= members.items()
    assert found.algorithm == members.get("alg", found.algorithm)
    assert members.get("use", "sig") == "sig"


# Signatures that are almost good


def test_no_forged_ecdsa_signature_verifies() -> None:
    """Zeros, numbers beyond the order, other lengths and other encodings are all refused."""
    found = public_key_from_jwk(EC.jwk)
    forged = ecdsa_forgeries(EC, MESSAGE)
    assert [name for name, signature in forged.items() if found.verify(MESSAGE, signature)] == []


def test_the_twin_of_an_ecdsa_signature_verifies() -> None:
    """Anybody can compute it, so nothing may hang on a signature being the only one."""
    found = public_key_from_jwk(EC.jwk)
    signature = EC.sign(MESSAGE)
    assert twin(signature) != signature
    assert found.verify(MESSAGE, twin(signature))


@pytest.mark.parametrize("exponent", [3, 65537])
def test_no_forged_rsa_signature_verifies(exponent: int) -> None:
    """The padding is compared whole, so a small exponent gives nothing away. RFC 8017, 8.2.2."""
    other = Key("RS256", exponent=exponent)
    found = public_key_from_jwk(other.jwk)
    assert found.verify(MESSAGE, other.sign(MESSAGE))
    forged = rsa_forgeries(other, MESSAGE)
    assert [name for name, signature in forged.items() if found.verify(MESSAGE, signature)] == []


@given(st.sampled_from([EC, RSA]), st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_are_no_signature(other: Key, message: bytes, signature: bytes) -> None:
    """Whatever is presented, the answer is no, and nothing is raised."""
    found = public_key_from_jwk(other.jwk)
    assert found.verify(message, signature) is False


@given(st.sampled_from([EC, RSA]), st.integers(0, 8 * 256 - 1))
def test_no_flipped_bit_verifies(other: Key, bit: int) -> None:
    """Every bit of a signature counts."""
    signature = bytearray(other.sign(MESSAGE))
    signature[bit // 8 % len(signature)] ^= 1 << bit % 8
    assert not public_key_from_jwk(other.jwk).verify(MESSAGE, bytes(signature))


# Keys of our own


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_a_new_key_signs_what_its_public_part_verifies(algorithm: str) -> None:
    """A private key is made, kept as bytes, and signs; others verify with what is published."""
    der = new_private_key(algorithm)
    ours = private_signing_key(der, algorithm)
    again = private_signing_key(der, algorithm)
    published = dict(ours.public_jwk)
    assert again.kid == ours.kid == thumbprint(published)
    assert (published.pop("use"), published.pop("alg")) == ("sig", algorithm)
    assert published.pop("kid") == ours.kid
    kinds = {"ES256": {"kty", "crv", "x", "y"}, "RS256": {"kty", "n", "e"}}
    assert published.keys() == kinds[algorithm]
    signature = ours.sign(MESSAGE)
    assert len(signature) == {"ES256": 64, "RS256": 256}[algorithm]
    for verifying in (ours, again, public_key_from_jwk(ours.public_jwk)):
        assert verifying.verify(MESSAGE, signature)
    assert private_signing_key(new_private_key(algorithm), algorithm).kid != ours.kid


def pkcs8(private: Any, *, password: bytes = b"", pem: bool = False) -> bytes:
    """A private key as it lies in the database, or in another way."""
    encoding = serialization.Encoding.PEM if pem else serialization.Encoding.DER
    sealed = serialization.BestAvailableEncryption(password) if password else None
    form = serialization.PrivateFormat.PKCS8
    return bytes(private.private_bytes(encoding, form, sealed or serialization.NoEncryption()))


NOT_OURS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "ES256"),
    "garbage": (b"a secret that must not be quoted", "ES256"),
    "cut short": (pkcs8(EC.private)[:-1], "ES256"),
    "PEM": (pkcs8(EC.private, pem=True), "ES256"),
    "sealed": (pkcs8(EC.private, password=b"a password"), "ES256"),
    "an RSA key for ES256": (pkcs8(RSA.private), "ES256"),
    "a point for RS256": (pkcs8(EC.private), "RS256"),
    "a point for HS256": (pkcs8(EC.private), "HS256"),
    "an unknown algorithm": (pkcs8(EC.private), "ES384"),
    "another curve": (pkcs8(ec.generate_private_key(ec.SECP384R1())), "ES256"),
    "a curve of the same size": (pkcs8(ec.generate_private_key(ec.SECP256K1())), "ES256"),
    "an Edwards curve": (pkcs8(ed25519.Ed25519PrivateKey.generate()), "ES256"),
    "a short RSA key": (pkcs8(rsa.generate_private_key(65537, 1024)), "RS256"),  # noqa: S505
    "a public key": (
        EC.private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        "ES256",
    ),
}


@pytest.mark.parametrize(("der", "algorithm"), NOT_OURS.values(), ids=NOT_OURS)
def test_what_cannot_sign_for_an_algorithm_is_refused(der: bytes, algorithm: str) -> None:
    """Bytes that are no private key of the algorithm's kind, curve and size; none is quoted."""
    with pytest.raises(ValueError, match=r"private key|RSA key") as refusal:
        private_signing_key(der, algorithm)
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None
    assert "quoted" not in str(refusal.value)
