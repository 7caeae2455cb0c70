"""JWK Sets: which of the keys that somebody publishes are used here."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _oauth2_m2m.key_sets import MOST_KEYS, public_keys_from
from tests.assertions import ABSENT, ClientKey, es256_key, jwks, rs256_key

FIRST, SECOND = es256_key("first"), es256_key("second")
RSA_KEY = rs256_key("rsa")
SMALL_RSA_KEY = rs256_key("small", bits=1024)

#: Keys for others, or for other work: RFC 7517 section 5 says to ignore them.
NOT_FOR_US: dict[str, dict[str, Any]] = {
    "another type": {"kty": "OKP", "crv": "Ed25519", "x": "A" * 43},
    "an unknown type": {"kty": "XYZ"},
    "a type that is no text": {"kty": ["EC"]},
    "no type": {},
    "another curve": FIRST.jwk(crv="P-384"),
    "for encryption": FIRST.jwk(use="enc"),
    "for another algorithm": FIRST.jwk(alg="ES384"),
    "for making signatures only": FIRST.jwk(key_ops=["sign"]),
    "operations that are no list": FIRST.jwk(key_ops="verify"),
    "without a coordinate": FIRST.jwk(y=ABSENT),
    "not on the curve": FIRST.jwk(y="A" * 43),
    "a kid that is no text": FIRST.jwk(kid=7),
    "an empty kid": FIRST.jwk(kid=""),
    "a kid without end": FIRST.jwk(kid="k" * 256),
    "a small RSA key": SMALL_RSA_KEY.jwk(),
    "RSA for another algorithm": RSA_KEY.jwk(alg="PS256"),
}


def kids(jwk_set: object) -> list[str]:
    return [key.kid for key in public_keys_from(jwk_set)]


def test_the_keys_of_a_set_verify_what_their_owners_signed() -> None:
    """Each key has its kid and its one algorithm, and verifies."""
    keys = public_keys_from(jwks(FIRST, RSA_KEY))
    assert [(key.kid, key.algorithm) for key in keys] == [("first", "ES256"), ("rsa", "RS256")]
    for key, owner in zip(keys, (FIRST, RSA_KEY), strict=True):
        assert key.verify(b"message", owner.sign(b"message"))
        assert not key.verify(b"another", owner.sign(b"message"))


@pytest.mark.parametrize("other", NOT_FOR_US.values(), ids=NOT_FOR_US)
def test_a_key_that_is_not_for_us_is_passed_over(other: dict[str, Any]) -> None:
    """The others of its set go on working. RFC 7517 section 5."""
    assert kids(jwks(other, SECOND)) == ["second"]
    assert kids(jwks(other)) == []


@pytest.mark.parametrize(
    "members", [{}, {"use": "sig"}, {"alg": "ES256"}, {"key_ops": ["verify"]}, {"x5t": "ignored"}]
)
def test_a_key_for_verifying_is_used(members: dict[str, Any]) -> None:
    """Whether it says so, or says nothing."""
    assert kids(jwks(FIRST.jwk(**members))) == ["first"]


def test_a_key_without_kid_is_known_by_its_thumbprint() -> None:
    """So two keys without one stand side by side, and the same one twice is found."""
    first, second = FIRST.jwk(kid=ABSENT), SECOND.jwk(kid=ABSENT)
    assert len({*kids(jwks(first, second))}) == 2
    with pytest.raises(ValueError, match="same kid"):
        public_keys_from(jwks(first, first))


NO_SETS: list[object] = [
    None, [], "keys", 7, {}, {"keys": None}, {"keys": {}}, {"keys": "first"},
    {"keys": ["first"]}, {"keys": [None]}, [FIRST.jwk()], FIRST.jwk(),
]  # fmt: skip


@pytest.mark.parametrize("jwk_set", NO_SETS, ids=range(len(NO_SETS)))
def test_what_is_no_set_is_refused(jwk_set: object) -> None:
    """An object with a list of objects, and nothing else."""
    with pytest.raises(ValueError, match="not a JWK Set"):
        public_keys_from(jwk_set)


@pytest.mark.parametrize(
    "private",
    [
        FIRST.jwk(d="AQ"),
        RSA_KEY.jwk(p="AQ"),
        {"kty": "oct", "k": "AQ"},
        {"kty": "OKP", "crv": "Ed25519", "x": "A" * 43, "d": "A" * 43},
    ],
    ids=["EC", "RSA", "oct", "OKP"],
)
def test_a_private_key_spoils_its_set(private: dict[str, Any]) -> None:
    """Whoever published it has lost it, of whatever type it is; the words quote nothing of it."""
    with pytest.raises(ValueError, match="private") as refusal:
        public_keys_from(jwks(SECOND, private))
    assert "AQ" not in str(refusal.value)


def test_two_keys_of_one_name_are_refused() -> None:
    """Which of them a token means would be a guess."""
    with pytest.raises(ValueError, match="same kid"):
        public_keys_from(jwks(FIRST, SECOND.jwk(kid="first")))
    assert kids(jwks(FIRST, SECOND.jwk(kid="first", use="enc"))) == ["first"]


def test_a_set_is_bounded() -> None:
    """Neither a client nor an issuer decides how much work a set is."""
    filling = [{"kty": "XYZ"}] * (MOST_KEYS - 1)
    assert kids(jwks(*filling, FIRST)) == ["first"]
    with pytest.raises(ValueError, match="more than 20 keys"):
        public_keys_from(jwks(*filling, FIRST, SECOND))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(
    st.sampled_from([FIRST, RSA_KEY]),
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "n", "e", "kid", "use", "alg", "key_ops"]),
        JSON,
        min_size=1,
        max_size=3,
    ),
)
def test_whatever_a_member_holds_a_set_is_read_or_refused(
    key: ClientKey, nonsense: dict[str, Any]
) -> None:
    """No value of any JSON type leads anywhere else than to keys or a ValueError."""
    try:
        keys = public_keys_from(jwks(key.jwk(**nonsense)))
    except ValueError:
        return
    assert len(keys) <= 1
