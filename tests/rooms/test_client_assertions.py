"""Client assertions: what a client signs about itself, and which of it is believed."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _oauth2_m2m import client_assertions
from _oauth2_m2m.client_assertions import (
    UnknownClientKey,
    claimed_client_id,
    read_assertion,
)
from _oauth2_m2m.errors import InvalidClient
from _oauth2_m2m.key_sets import public_keys_from
from tests.assertions import ABSENT, ClientKey, es256_key, jwks, rs256_key

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
ISSUER = "https://auth.example.com"
OUR_NAMES = (ISSUER, f"{ISSUER}/token")

KEY, OTHER, RSA_KEY = es256_key("one"), es256_key("two"), rs256_key("three")
ALL = (KEY, OTHER, RSA_KEY)
STRANGER = es256_key("stranger")


def made(key: ClientKey = KEY, *, header: Mapping[str, Any] | None = None, **changes: Any) -> str:
    """A good assertion, but for these changes."""
    times = {"iat": SECONDS, "exp": SECONDS + 60, "jti": "an-id"}
    audience = changes.pop("aud", ISSUER)
    return key.assertion("billing", audience, header=header, **{**times, **changes})


def read(text: str, *keys: ClientKey, fapi2: bool = False, now: datetime = NOW) -> Any:
    """What the server makes of it for the client `billing`."""
    return read_assertion(
        text,
        client_id="billing",
        keys=public_keys_from(jwks(*(keys or ALL))),
        audiences=OUR_NAMES[:1] if fapi2 else OUR_NAMES,
        algorithms=("ES256",) if fapi2 else ("ES256", "RS256"),
        now=now,
        fapi2=fapi2,
    )


GOOD: dict[str, dict[str, Any]] = {
    "as most libraries make it": {},
    "no typ": {"header": {"typ": ABSENT}},
    "typ in another case": {"header": {"typ": "jwt"}},
    "typ for this purpose": {"header": {"typ": "client-authentication+jwt"}},
    "no kid": {"header": {"kid": ABSENT}},
    "no iat": {"iat": ABSENT},
    "an nbf": {"nbf": SECONDS},
    "a clock that runs ahead": {"iat": SECONDS + 30, "nbf": SECONDS + 30, "exp": SECONDS + 330},
    "parts of a second": {"iat": SECONDS + 0.5, "nbf": SECONDS + 0.5, "exp": SECONDS + 60.25},
    "a second left": {"exp": SECONDS + 1},
    "an old iat": {"iat": SECONDS - 86_400},
    "more claims": {"scope": "read", "nonce": [1, {"a": None}]},
    "the longest jti": {"jti": "j" * 255},
}
GOOD_BY_DEFAULT: dict[str, dict[str, Any]] = {
    "RS256": {"key": RSA_KEY},
    "RS256 without kid": {"key": RSA_KEY, "header": {"kid": ABSENT}},
    "for the token endpoint": {"aud": OUR_NAMES[1]},
    "aud as a list": {"aud": [ISSUER]},
    "for others too": {"aud": ["https://other.example", OUR_NAMES[1]]},
}

#: The changes, and words that the audit log says of them.
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an access token's typ": ({"header": {"typ": "at+jwt"}}, "typ"),
    "a proof's typ": ({"header": {"typ": "dpop+jwt"}}, "typ"),
    "typ that is no text": ({"header": {"typ": 7}}, "typ"),
    "crit": ({"header": {"crit": ["exp"], "exp": 1}}, "crit"),
    "no alg": ({"header": {"alg": ABSENT}}, "alg"),
    "alg none": ({"header": {"alg": "none"}}, "alg"),
    "alg that is no text": ({"header": {"alg": ["ES256"]}}, "alg"),
    "a shared secret's alg": ({"header": {"alg": "HS256"}}, "alg"),
    "another key's alg": ({"header": {"alg": "RS256"}}, "none of the client's keys"),
    "kid that is no text": ({"header": {"kid": 1}}, "kid"),
    "an unknown kid": ({"header": {"kid": "four"}}, "none of the client's keys"),
    "another key's kid": ({"header": {"kid": "two"}}, "none of the client's keys"),
    "a stranger's key": ({"key": STRANGER}, "none of the client's keys"),
    "a stranger's key, its kid": (
        {"key": STRANGER, "header": {"kid": "one"}}, "none of the client's keys",
    ),
    "a stranger's key, no kid": (
        {"key": STRANGER, "header": {"kid": ABSENT}}, "none of the client's keys",
    ),
    "the key brought along": (
        {"key": STRANGER, "header": {"jwk": STRANGER.jwk(), "kid": ABSENT}},
        "none of the client's keys",
    ),
    "no iss": ({"iss": ABSENT}, "iss"),
    "another iss": ({"iss": "other"}, "differ"),
    "no sub": ({"sub": ABSENT}, "sub"),
    "another sub": ({"sub": "other"}, "differ"),
    "sub that is no text": ({"sub": 7}, "sub"),
    "another client": ({"iss": "other", "sub": "other"}, "not the client"),
    "no aud": ({"aud": ABSENT}, "aud"),
    "aud that is no text": ({"aud": 7}, "aud"),
    "an empty aud": ({"aud": ""}, "aud"),
    "an empty list": ({"aud": []}, "aud"),
    "aud with a number": ({"aud": [ISSUER, 7]}, "aud"),
    "aud without end": ({"aud": [ISSUER] * 11}, "aud"),
    "another server": ({"aud": "https://other.example"}, "aud"),
    "nearly us": ({"aud": f"{ISSUER}/"}, "aud"),
    "another endpoint": ({"aud": f"{ISSUER}/revoke"}, "aud"),
    "no exp": ({"exp": ABSENT}, "exp"),
    "exp null": ({"exp": None}, "exp"),
    "exp as a text": ({"exp": str(SECONDS + 60)}, "exp"),
    "exp true": ({"exp": True}, "exp"),
    "exp infinite": ({"exp": float("inf")}, "number"),
    "exp beyond time": ({"exp": 1e300}, "exp"),
    "expired now": ({"exp": SECONDS}, "expired"),
    "expired long ago": ({"exp": SECONDS - 300}, "expired"),
    "exp too far ahead": ({"exp": SECONDS + 331}, "too far"),
    "exp in an hour": ({"exp": SECONDS + 3600}, "too far"),
    "iat in the future": ({"iat": SECONDS + 31}, "iat is in the future"),
    "iat as a text": ({"iat": "now"}, "iat"),
    "iat null": ({"iat": None}, "iat"),
    "nbf in the future": ({"nbf": SECONDS + 30.5}, "nbf is in the future"),
    "no jti": ({"jti": ABSENT}, "jti"),
    "an empty jti": ({"jti": ""}, "jti"),
    "jti as a number": ({"jti": 7}, "jti"),
    "jti without end": ({"jti": "j" * 256}, "jti"),
}  # fmt: skip


@pytest.mark.parametrize("fapi2", [False, True])
@pytest.mark.parametrize("changes", GOOD.values(), ids=GOOD)
def test_a_good_assertion_is_taken(changes: dict[str, Any], fapi2: bool) -> None:
    """With its id, and until when that must be remembered."""
    assertion = read(made(**changes), fapi2=fapi2)
    assert assertion.jti == changes.get("jti", "an-id")
    assert assertion.expires_at.timestamp() == changes.get("exp", SECONDS + 60)


@pytest.mark.parametrize("changes", GOOD_BY_DEFAULT.values(), ids=GOOD_BY_DEFAULT)
def test_fapi2_is_stricter_than_the_rfcs(changes: dict[str, Any]) -> None:
    """ES256 alone, for the issuer alone, as one text."""
    text = made(**changes)
    assert read(text).jti == "an-id"
    with pytest.raises(InvalidClient):
        read(text, fapi2=True)


@pytest.mark.parametrize("fapi2", [False, True])
@pytest.mark.parametrize(("changes", "words"), BAD.values(), ids=BAD)
def test_every_other_assertion_is_refused(changes: dict[str, Any], words: str, fapi2: bool) -> None:
    """With one answer on the wire; only the audit log knows which rule it broke."""
    text = made(**changes)
    with pytest.raises(InvalidClient) as refusal:
        read(text, fapi2=fapi2)
    assert refusal.value.description == InvalidClient.default
    assert "WWW-Authenticate" not in refusal.value.headers()
    detail = refusal.value.detail
    assert words in detail or (fapi2 and "alg" in detail)
    assert not any(part in detail for part in text.split("."))


@pytest.mark.parametrize("name", BAD)
def test_only_an_unknown_key_is_worth_another_look(name: str) -> None:
    """A client that has changed its keys is met by looking again; nothing else is."""
    changes, words = BAD[name]
    with pytest.raises(InvalidClient) as refusal:
        read(made(**changes))
    assert isinstance(refusal.value, UnknownClientKey) == ("none of" in words)


@pytest.mark.parametrize("key", ALL, ids=["one", "two", "three"])
def test_without_a_kid_any_key_of_the_algorithm_is_tried(key: ClientKey) -> None:
    """The keys need no names, and their order means nothing."""
    text = made(key, header={"kid": ABSENT})
    assert read(text, *ALL).jti == read(text, *reversed(ALL)).jti == "an-id"
    with pytest.raises(UnknownClientKey):
        read(text, *(other for other in ALL if other is not key))


def test_without_a_kid_few_keys_are_tried() -> None:
    """So nobody can tell by the time how many keys a client has. With a `kid` any is found."""
    several = [es256_key(f"key {number}") for number in range(5)]
    assert read(made(several[4]), *several).jti == "an-id"
    assert read(made(several[2], header={"kid": ABSENT}), *several).jti == "an-id"
    with pytest.raises(UnknownClientKey):
        read(made(several[3], header={"kid": ABSENT}), *several)


def test_a_client_without_keys_has_no_good_assertion() -> None:
    """None at hand is as good as none that fits."""
    with pytest.raises(UnknownClientKey):
        read_assertion(
            made(),
            client_id="billing",
            keys=(),
            audiences=OUR_NAMES,
            algorithms=("ES256",),
            now=NOW,
        )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"key": STRANGER},
        {"header": {"kid": "four"}},
        {"header": {"kid": ABSENT}, "key": RSA_KEY},
        {"header": {"alg": "HS256"}},
        {"header": {"alg": "none"}},
    ],
)
def test_whatever_is_presented_a_signature_is_verified(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """So a client's keys and their names do not show in the time that a refusal takes."""
    verified = 0
    keys = public_keys_from(jwks(KEY))

    class Counting:
        kid, algorithm = "one", "ES256"

        def verify(self, message: bytes, signature: bytes) -> bool:
            nonlocal verified
            verified += 1
            return keys[0].verify(message, signature)

    nobody, message, signature = client_assertions._nobody()
    assert nobody.verify(message, signature)
    monkeypatch.setattr(client_assertions, "_nobody", lambda: (Counting(), message, signature))
    try:
        read_assertion(
            made(**changes),
            client_id="billing",
            keys=[Counting()],  # type: ignore[list-item]
            audiences=OUR_NAMES,
            algorithms=("ES256", "RS256"),
            now=NOW,
        )
    except InvalidClient:
        assert changes
    assert verified == 1


# Before anything is proved


def test_the_claimed_client_is_read_from_an_unproved_assertion() -> None:
    """It chooses whose keys are looked at, and proves nothing."""
    assert claimed_client_id(made()) == claimed_client_id(made(STRANGER)) == "billing"


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "a.b.c", "x" * 20_000, "\u00e9.\u00e9.\u00e9",
        made().rpartition(".")[0], made() + ".x", made() + "=", made(iss=ABSENT), made(sub="other"),
        made(iss=7, sub=7), made(iss="", sub=""), made(iss="x" * 256, sub="x" * 256),
    ],
    ids=range(14),
)  # fmt: skip
def test_who_claims_nothing_is_refused(text: str) -> None:
    """Malformed, or without one client in both `iss` and `sub`."""
    with pytest.raises(InvalidClient) as refusal:
        claimed_client_id(text)
    assert refusal.value.description == InvalidClient.default


@given(st.text(max_size=200))
def test_any_text_is_refused(text: str) -> None:
    """Never anything else than the constant answer."""
    with pytest.raises(InvalidClient):
        claimed_client_id(text)
    with pytest.raises(InvalidClient):
        read(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
CLAIMS = st.sampled_from(["iss", "sub", "aud", "exp", "nbf", "iat", "jti"])
HEADERS = st.sampled_from(["alg", "typ", "kid", "crit", "jwk", "x5c"])


@given(st.dictionaries(CLAIMS, JSON, max_size=3), st.dictionaries(HEADERS, JSON, max_size=2))
def test_whatever_a_client_signs_it_is_taken_or_refused(
    claims: dict[str, Any], header: dict[str, Any]
) -> None:
    """No value of any JSON type leads anywhere else; what is taken is as the rules say."""
    try:
        text = made(header=header, **claims)
        assertion = read(text)
    except InvalidClient:
        return
    said = json.loads(base64.urlsafe_b64decode(text.split(".")[1] + "=="))
    assert said["iss"] == said["sub"] == "billing"
    assert NOW < assertion.expires_at <= NOW + timedelta(seconds=330)
    assert 1 <= len(assertion.jti) <= 255


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_changed_character_spoils_an_assertion(place: int, bit: int) -> None:
    """Wherever it stands: header, claims or signature."""
    place %= len(TEXT)
    changed = TEXT[:place] + chr(ord(TEXT[place]) ^ (1 << bit)) + TEXT[place + 1 :]
    with pytest.raises(InvalidClient):
        read(changed)


TEXT = made()


@given(st.integers(-400, 400), st.integers(-400, 400), st.integers(-400, 400))
def test_the_window_is_where_the_rules_put_it(exp: int, nbf: int, iat: int) -> None:
    """Not expired, at most 330 s ahead, and begun within 30 s."""
    text = made(exp=SECONDS + exp, nbf=SECONDS + nbf, iat=SECONDS + iat)
    good = 0 < exp <= 330 and nbf <= 30 and iat <= 30
    if good:
        assert read(text)
    else:
        with pytest.raises(InvalidClient):
            read(text)
