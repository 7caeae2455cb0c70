"""DPoP proofs: what fits its request is read, and nothing else ever is. RFC 9449."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from _oauth2_m2m.dpop import (
    LONGEST_AGE,
    LONGEST_LEAD,
    NONCE_SECONDS,
    Nonces,
    Proof,
    normalised_url,
    own_urls,
    proof_header,
    read_proof,
)
from _oauth2_m2m.errors import InvalidDPoPProof, UseDPoPNonce
from tests.proofs import MISSING, Key, b64, b64_number, changed, compact, key

NOW = datetime(2030, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC)
ISSUED = int(NOW.timestamp())
URL = "https://auth.example.com/token"
URLS = frozenset({URL})
TOKEN = "an.access.token"
ATH = b64(hashlib.sha256(TOKEN.encode()).digest())
NONCES = Nonces(b"a secret of all workers")
MINE = key("mine")
SECOND = timedelta(seconds=1)
#: RFC 6749 section 5.2: the characters of `error_description`.
DESCRIPTION = re.compile(r"[\x20\x21\x23-\x5B\x5D-\x7E]+")


def proof(head: dict[str, Any] | None = None, by: Key = MINE, **claims: Any) -> str:
    """A proof with the good signature of its key over whatever stands in it."""
    claims = {"iat": ISSUED, "jti": "the-id-of-the-proof", **claims}
    return by.proof("POST", URL, header=head, **claims)


def read(text: str, **asked: Any) -> Proof:
    return read_proof(text, **{"method": "POST", "urls": URLS, "now": NOW, **asked})


def refuse(text: str, **asked: Any) -> str:
    """The words of the refusal, which must be one."""
    with pytest.raises(InvalidDPoPProof) as refusal:
        read(text, **asked)
    assert DESCRIPTION.fullmatch(refusal.value.description)
    return refusal.value.description


VALID = proof()
assert len(VALID) > 100


# What is good


@pytest.mark.parametrize("by", [MINE, key("rsa", "RS256")], ids=lambda by: by.algorithm)
def test_a_proof_names_its_key_and_its_id(by: Key) -> None:
    """What is read is the thumbprint of the key, the id, and until when the id must be kept."""
    found = read(proof(by=by))
    assert found == Proof(
        by.jkt, "the-id-of-the-proof", datetime.fromtimestamp(ISSUED, UTC) + LONGEST_AGE
    )


RFC_JKT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
RFC_HEAD = (
    "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNo"
    "UklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERW"
    "clUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19."
)
RFC_REQUEST = (
    "eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUu"
    "Y29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLX"
    "iOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
)
RFC_CALL = (
    "eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxl"
    "Lm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0Ji"
    "MHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVn"
    "mcw6Fy1dqd-jfxSYoMxhAJpLjA"
)


def test_the_examples_of_the_rfc_are_good() -> None:
    """The proofs of RFC 9449 sections 4.1 and 7.1 are read, under the thumbprint of section 6.1."""
    request = read_proof(
        RFC_HEAD + RFC_REQUEST,
        method="POST",
        urls=own_urls("https://server.example.com", "/token"),
        now=datetime.fromtimestamp(1562262616, UTC),
    )
    call = read_proof(
        RFC_HEAD + RFC_CALL,
        method="GET",
        urls=own_urls("https://resource.example.org", "/protectedresource"),
        now=datetime.fromtimestamp(1562262618, UTC),
        access_token="Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU",
    )
    assert (request.jkt, request.jti) == (RFC_JKT, "-BwC3ESc6acc2lTc")
    assert (call.jkt, call.jti) == (RFC_JKT, "e1j3V_bKic8-LAEB")


WELCOME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "claims that nobody asked for": ({}, {"ath": 7, "nonce": 7, "sub": "x", "aud": ["y"]}),
    "members of the header that nobody asked for": ({"kid": 7, "x5u": "z", "jku": "z"}, {}),
    "a key that says what it is for": (
        {"jwk": {**MINE.jwk, "kid": "k", "use": "sig", "alg": "ES256", "key_ops": ["verify"]}},
        {},
    ),
    "an address with query and fragment": ({}, {"htu": URL + "?a=b#c"}),
    "an address in another spelling": ({}, {"htu": "HTTPS://AUTH.example.com:443/%74oken"}),
    "parts of a second": ({}, {"iat": ISSUED + 0.25}),
    "an id of one character": ({}, {"jti": "x"}),
    "an id of 255 characters": ({}, {"jti": "x" * 255}),
    "an end to come": ({}, {"exp": ISSUED + 1}),
    "a beginning that has passed": ({}, {"nbf": ISSUED}),
    "a beginning by a clock that is ahead": ({}, {"nbf": ISSUED + 30}),
}


@pytest.mark.parametrize(("head", "claims"), WELCOME.values(), ids=WELCOME)
def test_what_does_no_harm_is_welcome(head: dict[str, Any], claims: dict[str, Any]) -> None:
    """A proof may say more than it must, and say it in its own way."""
    assert read(proof(head, **claims)).jkt == MINE.jkt


# What the header must say


RSA = key("rsa", "RS256").jwk
WRONG_HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "no typ": ({"typ": MISSING}, "typ"),
    "an access token's typ": ({"typ": "at+jwt"}, "typ"),
    "typ in capitals": ({"typ": "DPOP+JWT"}, "typ"),
    "a long typ": ({"typ": "application/dpop+jwt"}, "typ"),
    "typ is a list": ({"typ": ["dpop+jwt"]}, "typ"),
    "no alg": ({"alg": MISSING}, "alg"),
    "alg none": ({"alg": "none"}, "alg"),
    "a shared secret": ({"alg": "HS256"}, "alg"),
    "another key's alg": ({"alg": "RS256"}, "alg"),
    "another curve's alg": ({"alg": "ES384"}, "alg"),
    "alg is a list": ({"alg": ["ES256"]}, "alg"),
    "crit": ({"crit": ["exp"]}, "crit"),
    "no jwk": ({"jwk": MISSING}, "jwk"),
    "jwk is null": ({"jwk": None}, "jwk"),
    "jwk is a text": ({"jwk": json.dumps(MINE.jwk)}, "jwk"),
    "jwk is a list": ({"jwk": [MINE.jwk]}, "jwk"),
    "jwk is empty": ({"jwk": {}}, "JWK"),
    "a private key": ({"jwk": {**MINE.jwk, "d": b64(b"\1" * 32)}}, "private"),
    "an empty private part": ({"jwk": {**MINE.jwk, "d": ""}}, "private"),
    "a shared key": ({"jwk": {"kty": "oct", "k": b64(b"k" * 32)}}, "private or shared"),
    "no shared key either": ({"jwk": {"kty": "oct"}}, "type"),
    "a private RSA key": ({"jwk": {**RSA, "p": "AQ"}}, "private"),
    "another curve": ({"jwk": {**MINE.jwk, "crv": "P-384"}}, "type"),
    "an Edwards curve": ({"jwk": {"kty": "OKP", "crv": "Ed25519", "x": b64(b"x" * 32)}}, "type"),
    "a key for encryption": ({"jwk": {**MINE.jwk, "use": "enc"}}, "not for signatures"),
    "a key for signing only": ({"jwk": {**MINE.jwk, "key_ops": ["sign"]}}, "not for verifying"),
    "a key of another algorithm": ({"jwk": {**MINE.jwk, "alg": "ES512"}}, "another algorithm"),
    "not on the curve": ({"jwk": {**MINE.jwk, "y": b64_number(1, 32)}}, "no key"),
    "somebody else's key": ({"jwk": key("another").jwk}, "signature"),
    "a key of another type": ({"jwk": RSA}, "alg"),
    "a key of another type, and its alg": ({"jwk": RSA, "alg": "RS256"}, "signature"),
}


@pytest.mark.parametrize(("head", "words"), WRONG_HEADERS.values(), ids=WRONG_HEADERS)
def test_a_wrong_header_is_refused_though_it_is_signed(head: dict[str, Any], words: str) -> None:
    """The type, the algorithm and the public key are those of a proof, or it is none."""
    assert words in refuse(proof(head))


def test_an_algorithm_may_be_unwelcome() -> None:
    """Where ES256 alone is asked for, a good proof by RS256 is refused."""
    text = proof(by=key("rsa", "RS256"))
    assert read(text, algorithms=("RS256",))
    assert "type" in refuse(text, algorithms=("ES256",))
    assert read(VALID, algorithms=("ES256",))


# What the claims must say

WRONG_TEXTS: list[Any] = [MISSING, None, "", 7, 1.5, True, [], ["POST"], {"$ne": None}]
WRONG_MOMENTS: list[Any] = [
    None, "", str(ISSUED), True, False, -1, -(10**18), 253_402_300_800, 2**63, 2**64, 10**90,
    [ISSUED], {"$gt": 0}, 1e300,
]  # fmt: skip
WRONG_CLAIMS: list[tuple[str, Any]] = [
    *[("htm", value) for value in WRONG_TEXTS],
    *[("htm", value) for value in ("GET", "post", "POST ", " POST", "POSTS", "PO", "POST\0")],
    *[("htu", value) for value in WRONG_TEXTS],
    *[("htu", URL + more) for more in ("/", "/x", "%20", " ", "s", ";x", "//")],
    ("htu", "/token"),
    ("htu", "//auth.example.com/token"),
    ("htu", "https://auth.example.com"),
    ("htu", "https://auth.example.com/"),
    ("htu", "https://auth.example.com/TOKEN"),
    ("htu", "http://auth.example.com/token"),
    ("htu", "https://auth.example.com:8443/token"),
    ("htu", "https://auth.example.com:80/token"),
    ("htu", "https://auth.example.com.evil.example/token"),
    ("htu", "https://evil.example/token"),
    ("htu", "https://evil.example/?https://auth.example.com/token"),
    ("htu", "https://evil.example#@auth.example.com/token"),
    ("htu", "https://auth.example.com@evil.example/token"),
    ("htu", "https://evil.example@auth.example.com/token"),
    ("htu", "https://auth.example.com\\@evil.example/token"),
    ("htu", "https:auth.example.com/token"),
    ("htu", "https:///auth.example.com/token"),
    ("htu", "ftp://auth.example.com/token"),
    ("htu", "https://auth.example.com/tok%65%6E/../x"),
    ("htu", [URL]),
    ("iat", MISSING),
    *[(name, value) for name in ("iat", "exp", "nbf") for value in WRONG_MOMENTS],
    ("iat", 0),
    ("exp", 0),
    *[("jti", value) for value in (*WRONG_TEXTS, "x" * 256)],
]


@pytest.mark.parametrize(("name", "value"), WRONG_CLAIMS, ids=lambda value: repr(value)[:40])
def test_a_wrong_claim_is_refused_though_it_is_signed(name: str, value: Any) -> None:
    """Every claim is there, of its type, and about this request; the refusal names which is not."""
    assert f": {name} is " in refuse(proof(**{name: value})).replace("exp has", "exp is")


@pytest.mark.parametrize(
    "ath",
    [*WRONG_TEXTS, ATH + "=", ATH[:-1], ATH.lower(), TOKEN, b64(hashlib.sha256(b"").digest())],
    ids=repr,
)
def test_a_proof_is_for_one_access_token(ath: Any) -> None:
    """With an access token the proof holds the hash of that one. RFC 9449 section 4.3, (12)."""
    assert read(proof(ath=ATH), access_token=TOKEN).jkt == MINE.jkt
    assert "ath" in refuse(proof(ath=ath), access_token=TOKEN)


def test_a_proof_is_made_with_the_key_of_the_token() -> None:
    """Where the token is bound already, another key's proof is refused."""
    for by, other in ((MINE, key("another")), (key("rsa", "RS256"), MINE)):
        assert read(proof(by=by), jkt=by.jkt).jkt == by.jkt
        assert "key of the token" in refuse(proof(by=by), jkt=other.jkt)


# Time

TIMES: dict[str, tuple[timedelta, bool]] = {
    "now": (timedelta(0), True),
    "ten seconds ago": (-10 * SECOND, True),
    "in ten seconds": (10 * SECOND, True),
    "as old as may be": (-LONGEST_AGE, True),
    "older": (-LONGEST_AGE - SECOND / 100, False),
    "as far ahead as may be": (LONGEST_LEAD, True),
    "farther": (LONGEST_LEAD + SECOND / 100, False),
    "five minutes ago": (-300 * SECOND, False),
    "in five minutes": (300 * SECOND, False),
}


@pytest.mark.parametrize(("offset", "good"), TIMES.values(), ids=TIMES)
def test_a_proof_is_good_for_a_moment(offset: timedelta, good: bool) -> None:
    """Sixty seconds back and thirty ahead, and neither more nor less."""
    now = datetime.fromtimestamp(ISSUED, UTC)
    text = proof(iat=(now + offset).timestamp())
    if good:
        assert abs(read(text, now=now).expires_at - (now + offset + LONGEST_AGE)) < SECOND / 1000
    else:
        assert "iat" in refuse(text, now=now)


def test_a_mark_outlives_its_proof() -> None:
    """Whenever a proof is still taken, the moment at which its mark may go has not passed."""
    for age in (-LONGEST_LEAD, timedelta(0), LONGEST_AGE):
        now = datetime.fromtimestamp(ISSUED, UTC) + age
        assert read(VALID, now=now).expires_at >= now


ENDS: dict[str, tuple[dict[str, Any], str | None]] = {
    "ends now": ({"exp": ISSUED}, "exp"),
    "ends this very moment": ({"exp": NOW.timestamp()}, "exp"),
    "ended five minutes ago": ({"exp": ISSUED - 300}, "exp"),
    "ended a moment ago": ({"exp": NOW.timestamp() - 0.01}, "exp"),
    "ends in a moment": ({"exp": NOW.timestamp() + 0.01}, None),
    "begins in five minutes": ({"nbf": ISSUED + 300}, "nbf"),
    "begins in 31 s": ({"nbf": ISSUED + 31}, "nbf"),
    "begins in 30 s": ({"nbf": ISSUED + 30}, None),
    "both, and good": ({"nbf": ISSUED - 5, "exp": ISSUED + 5}, None),
    "a good end mends no issue": ({"iat": ISSUED - 62, "exp": ISSUED + 60}, "iat"),
}


@pytest.mark.parametrize(("claims", "fault"), ENDS.values(), ids=ENDS)
def test_a_proof_may_set_bounds_of_its_own(claims: dict[str, Any], fault: str | None) -> None:
    """Nobody needs `exp` and `nbf`, but whoever sends them means them."""
    if fault is None:
        assert read(proof(**claims)).jkt == MINE.jkt
    else:
        assert fault in refuse(proof(**claims))


# Nonces


@pytest.mark.parametrize("nonce", [MISSING, None, "", "wrong", 7, [], "\u00e9\U0001f512"], ids=repr)
def test_without_a_fresh_nonce_a_new_one_is_handed_out(nonce: Any) -> None:
    """Where nonces are asked for, the refusal brings the one to use. RFC 9449 section 8."""
    with pytest.raises(UseDPoPNonce) as refusal:
        NONCES.check(read(proof(nonce=nonce)), NOW)
    assert refusal.value.headers()["DPoP-Nonce"] == NONCES.current(NOW)
    NONCES.check(read(proof(nonce=refusal.value.nonce)), NOW)


@given(st.integers(0, 2**33), st.integers(-300, 300))
def test_a_nonce_is_good_for_one_to_two_windows(start: int, later: int) -> None:
    """It is good for its window and the next, and before it to a host whose clock is behind."""
    now = datetime.fromtimestamp(start, UTC)
    then = datetime.fromtimestamp(max(0, start + later), UTC)
    windows = int(then.timestamp()) // NONCE_SECONDS - start // NONCE_SECONDS
    nonce = NONCES.current(now)
    assert NONCES.accepts(nonce, then) == (-1 <= windows <= 1)
    assert re.fullmatch(r"[\w-]{22}", nonce)


def test_a_nonce_is_the_same_on_every_worker_and_on_no_other_server() -> None:
    """Workers with the same secret take each other's nonces, others do not."""
    nonce = NONCES.current(NOW)
    assert Nonces(b"a secret of all workers").accepts(nonce, NOW)
    assert not Nonces(b"another secret").accepts(nonce, NOW)


@given(st.text(max_size=30))
def test_no_guess_is_a_nonce(guess: str) -> None:
    """Whatever is presented is compared and found wrong, and nothing is raised."""
    assert not NONCES.accepts(guess, NOW)


# The header field


def test_a_request_has_one_proof_or_none() -> None:
    """RFC 9449 section 4.3, (1): not more than one header field, and not an empty one."""
    assert proof_header([]) is None
    assert proof_header([VALID]) == VALID
    for values in ([VALID, VALID], [VALID, ""], ["", ""], [""], [" "], ["\t"]):
        with pytest.raises(InvalidDPoPProof) as refusal:
            proof_header(values)
        assert DESCRIPTION.fullmatch(refusal.value.description)
    refuse(f"{VALID}, {VALID}")
    refuse(f"{VALID},{VALID}")


# Addresses

SPELLINGS: dict[str, tuple[str, str]] = {
    "as it is": ("https://a.example/b", "https://a.example/b"),
    "scheme and host have no case": ("HTTPS://A.Example/B", "https://a.example/B"),
    "the port of https": ("https://a.example:443/b", "https://a.example/b"),
    "the port of http": ("http://a.example:80/b", "http://a.example/b"),
    "the other's port": ("http://a.example:443/b", "http://a.example:443/b"),
    "an empty port": ("https://a.example:/b", "https://a.example/b"),
    "a port with zeros": ("https://a.example:0443/b", "https://a.example/b"),
    "port zero": ("https://a.example:0/b", "https://a.example:0/b"),
    "a port": ("http://localhost:8000/b", "http://localhost:8000/b"),
    "no path": ("https://a.example", "https://a.example/"),
    "no path, but a query": ("https://a.example?q", "https://a.example/"),
    "a query": ("https://a.example/b?c=d/../e&f", "https://a.example/b"),
    "a fragment": ("https://a.example/b#c?d", "https://a.example/b"),
    "what needs no encoding": ("https://a.example/%7Eb%2dc%5F%2E%41", "https://a.example/~b-c_.A"),
    "what needs it": ("https://a.example/%2f%3f%25%20%c3%a9", "https://a.example/%2F%3F%25%20%C3%A9"),
    "an encoded percent sign": ("https://a.example/%2541", "https://a.example/%2541"),
    "reserved characters": ("https://a.example/!$&'()*+,;=:@", "https://a.example/!$&'()*+,;=:@"),
    "a slash at the end": ("https://a.example/b/", "https://a.example/b/"),
    "two slashes": ("https://a.example//b//c", "https://a.example//b//c"),
    "a dot": ("https://a.example/./b/./c", "https://a.example/b/c"),
    "two dots": ("https://a.example/a/../b/c/../d", "https://a.example/b/d"),
    "encoded dots": ("https://a.example/a/%2e%2E/b", "https://a.example/b"),
    "dots at the end": ("https://a.example/a/b/..", "https://a.example/a/"),
    "a dot at the end": ("https://a.example/a/.", "https://a.example/a/"),
    "dots above the root": ("https://a.example/../../b", "https://a.example/b"),
    "dots in a name": ("https://a.example/..b/c.../.well-known", "https://a.example/..b/c.../.well-known"),
    "RFC 3986 section 5.2.4": ("http://a/a/b/c/./../../g", "http://a/a/g"),
    "an IPv4 address": ("http://127.0.0.1:8000/b", "http://127.0.0.1:8000/b"),
    "an IPv6 address": ("http://[2001:DB8::1]:80/b", "http://[2001:db8::1]/b"),
    "a host with an underscore": ("http://auth_server:8000/b", "http://auth_server:8000/b"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), SPELLINGS.values(), ids=SPELLINGS)
def test_an_address_has_one_spelling(text: str, expected: str) -> None:
    """RFC 3986 sections 6.2.2 and 6.2.3, without query and fragment; once is enough."""
    assert normalised_url(text) == expected
    assert normalised_url(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "/b", "b", "a.example/b", "//a.example/b", "https:/a.example", "https:a.example",
        "https://", "https:///b", "https://:443/b", "ftp://a.example/", "file:///b", "javascript:b",
        "urn:a:b", "https://user@a.example/", "https://user:word@a.example/", "https://@a.example/",
        "https://a.example:x/", "https://a.example:-1/", "https://a.example:123456/",
        "https://a.example:80:80/", "https://[::1/", "https://::1/", "https://[::1]b/",
        "https://[v1.b]/", "https://a.example/%", "https://a.example/%4", "https://a.example/%zz",
        "https://a%2Eexample/", "https://a.example/b c", "https://a.example/b\n",
        "https://a.example/b\t", " https://a.example/", "https://a.example/ ",
        "https://a.example/\0", "https://a.ex\u00e4mple/", "https://a.example/\u00e9",
        "https://\u212a.example/", "http\u017f://a.example/", "https://a.example:\u0664\u0664/",
        "https://a.example\\b", "https://a.example/\\b", "https://a.example/<b>",
        'https://a.example/"', "https://a.example/{b}", "https://a.example/b|c",
        "https://a.example/b^c", "https://a.example/`", "https://a.example/[b]",
        "https://a.example/b?\u00e9", "https://a.example/b?\n", "https://a.example/b# ",
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_address_has_no_spelling(text: str) -> None:
    """Neither relative, nor of another scheme, nor with a user, nor with a foreign character."""
    with pytest.raises(ValueError, match="not an http or https address"):
        normalised_url(text)


@given(
    st.one_of(
        st.text(max_size=40).map(lambda more: "https://a.example/" + more),
        st.text("/.%2e2E2fA~?#:@[]", max_size=30).map(lambda more: "https://a.example/" + more),
        st.text("htps:/a.%@[]0", max_size=30),
    )
)
@settings(max_examples=500)
def test_normalising_twice_changes_nothing(text: str) -> None:
    """Whatever is an address at all is found in its one spelling, and stays at its host."""
    try:
        once = normalised_url(text)
    except ValueError:
        return
    assert normalised_url(once) == once
    assert re.match(r"https?://[^/?#@]+/", once)
    assert "/../" not in once
    assert "/./" not in once


OWN: dict[str, tuple[str, str, set[str]]] = {
    "at the origin": ("https://a.example", "/token", {"https://a.example/token"}),
    "a slash too many": ("https://a.example/", "/token", {"https://a.example/token"}),
    "another spelling": ("HTTPS://A.example:443", "/%74oken", {"https://a.example/token"}),
    "below a path": (
        "https://a.example/auth",
        "/token",
        {"https://a.example/token", "https://a.example/auth/token"},
    ),
    "below a path that the request has": (
        "https://a.example/auth/",
        "/auth/token",
        {"https://a.example/auth/token", "https://a.example/auth/auth/token"},
    ),
    "an encoded path": ("https://a.example", "/a%20b", {"https://a.example/a%20b"}),
    "the root": ("https://a.example", "/", {"https://a.example/"}),
    "no path": ("https://a.example", "", {"https://a.example/"}),
    "an audience that is no address": ("urn:billing", "/token", set()),
    "a name as audience": ("billing", "/token", set()),
    "a path that is none": ("https://a.example", "/\u00e9", set()),
    "a path that would be a host": ("https://a.example", "@evil.example/", set()),
}


@pytest.mark.parametrize(("base", "path", "expected"), OWN.values(), ids=OWN)
def test_own_addresses_are_those_of_the_configuration(
    base: str, path: str, expected: set[str]
) -> None:
    """The path at the base's origin and below the base; none where there is no address."""
    assert own_urls(base, path) == expected


# Everything else


def mutations(data: DataObject, text: str) -> str:
    """A text with one to three edits."""
    characters = list(text)
    for _ in range(data.draw(st.integers(1, 3), "edits")):
        kind = data.draw(st.sampled_from(["replace", "insert", "delete", "swap", "repeat", "case"]))
        place = data.draw(st.integers(0, len(characters) - 1), "place")
        anything = st.one_of(st.sampled_from("AZaz09-_+/=., \n\t\0"), st.characters())
        if kind == "replace":
            characters[place] = data.draw(anything)
        elif kind == "insert":
            characters.insert(place, data.draw(anything))
        elif kind == "delete":
            del characters[place]
        elif kind == "swap":
            other = data.draw(st.integers(0, len(characters) - 1), "other")
            characters[place], characters[other] = characters[other], characters[place]
        elif kind == "repeat":
            characters[place:place] = characters[place : place + 8]
        else:
            characters[place] = characters[place].swapcase()
    return "".join(characters)


@given(st.data())
@settings(max_examples=300)
def test_no_mutation_of_a_good_proof_is_accepted(data: DataObject) -> None:
    """Whatever is flipped, inserted, removed, moved or repeated in a proof ends it."""
    mutated = mutations(data, VALID)
    assume(mutated != VALID)
    refuse(mutated)


@given(st.integers(0, 2), st.integers(0, 8 * 400))
@settings(max_examples=300)
def test_no_flipped_bit_is_accepted(place: int, bit: int) -> None:
    """Every bit of what is signed, and of the signature, counts."""
    parts = VALID.split(".")
    data = bytearray(base64.urlsafe_b64decode(parts[place] + "=="))
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    parts[place] = b64(bytes(data))
    refuse(".".join(parts))


@given(st.one_of(st.text(), st.binary().map(b64), st.lists(st.binary()).map(
    lambda parts: ".".join(map(b64, parts))
)))  # fmt: skip
@example("\ud800.\ud800.\ud800")
@settings(max_examples=200)
def test_no_text_raises_anything_but_the_refusal(text: str) -> None:
    """Whatever is presented, the answer is `InvalidDPoPProof`."""
    refuse(text)


ANY_JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**30), 10**30),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=20),
        st.sampled_from([URL, "POST", "dpop+jwt", "ES256", ATH, ISSUED, MINE.jwk]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
CLAIMS = st.dictionaries(
    st.sampled_from(["htm", "htu", "iat", "jti", "ath", "exp", "nbf", "nonce"]),
    st.one_of(st.just(MISSING), ANY_JSON),
    max_size=3,
)
HEADERS = st.dictionaries(
    st.sampled_from(["typ", "alg", "jwk", "crit", "b64", "zip", "kid"]), ANY_JSON, max_size=2
)
JWKS = st.dictionaries(
    st.sampled_from(["kty", "crv", "x", "y", "d", "n", "e", "k", "use", "key_ops", "alg", "kid"]),
    st.one_of(st.just(MISSING), ANY_JSON),
    max_size=2,
)


@given(CLAIMS, HEADERS, JWKS)
@settings(max_examples=400)
def test_whatever_is_signed_is_either_whole_or_refused(
    claims: dict[str, Any], head: dict[str, Any], jwk: dict[str, Any]
) -> None:
    """Even a good signature gets nothing through that is not of RFC 9449 section 4.3."""
    good = {"htm": "POST", "htu": URL, "iat": ISSUED, "jti": "an-id", "ath": ATH}
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": changed(MINE.jwk, jwk), **head}
    body = changed(good, claims)
    try:
        found = read(compact(header, body, MINE), access_token=TOKEN)
    except InvalidDPoPProof as refusal:
        assert DESCRIPTION.fullmatch(refusal.description)  # noqa: PT017
        return
    assert (header["typ"], header["alg"]) == ("dpop+jwt", "ES256")
    assert {name: header["jwk"][name] for name in MINE.jwk} == MINE.jwk
    assert not {"d", "k", "p", "q"} & header["jwk"].keys()
    assert (body["htm"], body["htu"], body["ath"]) == ("POST", URL, ATH)
    assert type(body["iat"]) in (int, float)
    assert found.jkt == MINE.jkt
    assert found.jti == body["jti"] != ""


def test_a_refusal_quotes_nothing_of_the_proof() -> None:
    """What the caller and the audit log read holds no part of what was presented."""
    marker = "a-text-that-must-not-appear"
    makers: list[Callable[[], str]] = [
        lambda: proof({"typ": marker}),
        lambda: proof({"alg": marker}),
        lambda: proof({"jwk": {**MINE.jwk, "kty": marker}}),
        lambda: proof({"jwk": {**MINE.jwk, "x": marker}}),
        lambda: proof(htm=marker),
        lambda: proof(htu=marker),
        lambda: proof(htu=f"https://{marker}/"),
        lambda: proof(iat=marker),
        lambda: proof(jti=[marker]),
        lambda: proof(ath=marker),
        lambda: compact({"typ": "dpop+jwt"}, f'{{"{marker}"'.encode(), MINE),
        lambda: compact(f'{{"{marker}":1,"{marker}":2}}'.encode(), b"{}", MINE),
        lambda: marker,
    ]
    assert not [make for make in makers if marker in refuse(make(), access_token=TOKEN)]
