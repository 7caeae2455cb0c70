"""Signatures: bytes in, bytes out, and base64url in its one spelling."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _oauth2_m2m.config import Secret
from _oauth2_m2m.errors import ConfigurationError
from _oauth2_m2m.signatures import b64url_decode, b64url_encode, hs256_key

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
