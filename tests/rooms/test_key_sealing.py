"""Private keys at rest: closed to whoever has the database alone, and to whoever swaps them."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _oauth2_m2m.errors import ConfigurationError
from _oauth2_m2m.key_sealing import KeySealer, sealer_from

ONE, TWO, THREE = (bytes([number]) * 32 for number in (1, 2, 255))
PRIVATE = b"the private part of a key, as PKCS #8"


def text(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


@given(st.binary(max_size=2000), st.text(min_size=1, max_size=50))
def test_what_was_sealed_opens(data: bytes, kid: str) -> None:
    """With the same key and id, and to the same bytes."""
    sealed, name = KeySealer([ONE]).seal(data, kid)
    assert KeySealer([ONE]).open(sealed, kid, name) == data
    assert data not in sealed or len(data) < 4
    assert len(sealed) == len(data) + 12 + 16


def test_without_a_key_it_stays_as_it_is() -> None:
    """And so it is read by whoever has keys by now."""
    assert KeySealer().seal(PRIVATE, "kid") == (PRIVATE, None)
    assert KeySealer([ONE]).open(PRIVATE, "kid", None) == PRIVATE


def test_no_two_seals_are_alike() -> None:
    """Each has a nonce of its own."""
    sealer = KeySealer([ONE])
    assert len({sealer.seal(PRIVATE, "kid")[0] for _ in range(100)}) == 100


def test_the_first_key_seals_and_all_open() -> None:
    """So a key can be changed: what the others sealed still opens."""
    sealed, name = KeySealer([ONE, TWO]).seal(PRIVATE, "kid")
    assert KeySealer([ONE]).open(sealed, "kid", name) == PRIVATE
    assert KeySealer([THREE, TWO, ONE]).open(sealed, "kid", name) == PRIVATE
    with pytest.raises(ConfigurationError, match="not at hand"):
        KeySealer([TWO]).open(sealed, "kid", name)


def test_the_name_of_a_key_does_not_tell_the_key() -> None:
    """It stands in the database beside what it sealed."""
    name = KeySealer([ONE]).seal(PRIVATE, "kid")[1]
    assert name
    assert len(name) == 16
    assert name not in {ONE.hex(), text(ONE)}
    assert name != KeySealer([TWO]).seal(PRIVATE, "kid")[1]


def altered(sealed: bytes, place: int) -> bytes:
    changed = bytearray(sealed)
    changed[place] ^= 1
    return bytes(changed)


SEALED, NAME = KeySealer([ONE]).seal(PRIVATE, "kid")


@pytest.mark.parametrize(
    ("data", "kid"),
    [
        *((altered(SEALED, place), "kid") for place in (0, 11, 12, 30, -1)),
        (SEALED[:-1], "kid"),
        (SEALED[:12], "kid"),
        (SEALED[:5], "kid"),
        (b"", "kid"),
        (PRIVATE, "kid"),
        (SEALED, "another"),
    ],
    ids=range(11),
)
def test_what_was_altered_or_exchanged_does_not_open(data: bytes, kid: str) -> None:
    """The error names the key that was asked for, and quotes nothing."""
    with pytest.raises(ConfigurationError, match=f"signing key {kid} does not open") as raised:
        KeySealer([ONE]).open(data, kid, NAME)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("name", ["0123456789abcdef", "", 7, ["x"], {"a": 1}])
def test_a_key_that_is_not_at_hand_is_named(name: object) -> None:
    """So the operator knows which one to add, and where."""
    with pytest.raises(ConfigurationError, match="add that key to OAUTH2_M2M_KEY_ENCRYPTION_KEY"):
        KeySealer([ONE]).open(SEALED, "kid", name)


@pytest.mark.parametrize(
    "value",
    [
        f"{text(ONE)},{text(TWO)}",
        f"  {text(ONE)} ,\n{text(TWO)}\t",
        f"{text(ONE)} {text(TWO)}",
        f",{text(ONE)},,{text(TWO)},",
        f"{base64.b64encode(ONE).decode()},{base64.urlsafe_b64encode(TWO).decode()}",
    ],
)
def test_the_variable_holds_keys_in_their_order(value: str) -> None:
    """Parted by commas or spaces; padding and both alphabets are welcome."""
    sealed, name = sealer_from(value).seal(PRIVATE, "kid")
    assert KeySealer([ONE]).open(sealed, "kid", name) == PRIVATE
    sealed, name = KeySealer([TWO]).seal(PRIVATE, "kid")
    assert sealer_from(value).open(sealed, "kid", name) == PRIVATE


def test_both_alphabets_are_read_alike() -> None:
    """A key of bytes that standard base64 spells with + and /."""
    key = b"\xfb\xff" * 16
    sealed, name = KeySealer([key]).seal(PRIVATE, "kid")
    for spelled in (base64.b64encode(key), base64.urlsafe_b64encode(key)):
        assert sealer_from(spelled.decode()).open(sealed, "kid", name) == PRIVATE


@pytest.mark.parametrize("value", [None, "", "  ", ","])
def test_without_the_variable_nothing_is_sealed(value: str | None) -> None:
    """Empty is as good as missing."""
    assert sealer_from(value).seal(PRIVATE, "kid") == (PRIVATE, None)


@pytest.mark.parametrize(
    "value",
    [
        "short",
        text(b"k" * 16),
        text(b"k" * 31),
        text(b"k" * 33),
        "k" * 43 + "!",
        "k" * 42 + "é",
        f"{text(ONE)},short",
        "k" * 10_000,
    ],
)
def test_a_variable_that_holds_no_keys_is_refused(value: str) -> None:
    """One line says how to make one, and does not quote what was given."""
    with pytest.raises(ConfigurationError, match="OAUTH2_M2M_KEY_ENCRYPTION_KEY must be 32") as r:
        sealer_from(value)
    assert value not in str(r.value)
    assert "\n" not in str(r.value)
