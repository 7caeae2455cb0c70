"""Compact tokens: three parts in their one spelling, and claims of the right types."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _oauth2_m2m.compact_tokens import (
    LONGEST_TOKEN,
    audience_claim,
    claim,
    encoded,
    moment_claim,
    parse_compact,
    signed,
    text_claim,
)
from _oauth2_m2m.config import Secret
from _oauth2_m2m.signatures import (
    hs256_key,
    new_private_key,
    private_signing_key,
    public_key_from_jwk,
)
from tests.proofs import MISSING, b64, changed, compact, key

OURS = [
    hs256_key(Secret("a secret of more than thirty-two bytes")),
    *(private_signing_key(new_private_key(name), name) for name in ("ES256", "RS256")),
]
HEAD = {"alg": "ES256", "typ": "JWT"}
CLAIMS = {"iss": "somebody", "n": 1, "deep": {"a": ["b"]}}
MINE = key("compact")
VALID = compact(HEAD, CLAIMS, MINE)
VERIFYING = public_key_from_jwk(MINE.jwk)


def read(text: str) -> dict[str, Any]:
    return parse_compact(text).claims_verified_by(VERIFYING)


def refuse(text: str) -> str:
    """The words of the refusal, which must be one."""
    with pytest.raises(ValueError, match=r".") as refusal:
        read(text)
    # UnicodeError, for example, would quote.
    assert type(refusal.value) is ValueError
    return str(refusal.value)


# What is good


@pytest.mark.parametrize("ours", OURS, ids=lambda ours: ours.algorithm)
def test_what_is_signed_is_read_again(ours: Any) -> None:
    """Header and claims come out as they went in, under the key and no other."""
    text = signed(encoded({"alg": ours.algorithm, "kid": ours.kid}), CLAIMS, ours)
    token = parse_compact(text)
    assert token.header == {"alg": ours.algorithm, "kid": ours.kid}
    assert token.unverified_claims() == token.claims_verified_by(ours) == CLAIMS
    for another in OURS:
        if another is not ours:
            with pytest.raises(ValueError, match="alg"):
                token.claims_verified_by(another)


def test_other_people_spell_json_in_their_own_way() -> None:
    """Blanks, another order, escapes and members that nobody knows do no harm."""
    head = b' {\n"typ" : "\\u004aWT", "alg":"ES256","cty":"x","b64":false,"zip":"DEF" } '
    assert read(compact(head, b'\t{"a" : [ 1.5e3, null ] }\r\n', MINE)) == {"a": [1500.0, None]}


def test_nothing_is_shown_but_the_header() -> None:
    """What a token says stays out of logs until somebody has proved it."""
    assert "somebody" not in repr(parse_compact(VALID))
    assert VALID.split(".")[1] not in repr(parse_compact(VALID))
    assert VALID.split(".")[2] not in repr(parse_compact(VALID))


def test_the_length_is_bounded() -> None:
    """A token of the longest length is read, one that is longer is not looked at."""
    room = LONGEST_TOKEN - len(compact(HEAD, {"x": ""}, MINE))
    texts = [
        compact(HEAD, {"x": "y" * n}, MINE) for n in range(room // 4 * 3 - 8, room // 4 * 3 + 8)
    ]
    longest = max((text for text in texts if len(text) <= LONGEST_TOKEN), key=len)
    assert LONGEST_TOKEN - len(longest) <= 1
    assert read(longest)["x"]
    assert "longer" in refuse(next(text for text in texts if len(text) > LONGEST_TOKEN))
    assert "longer" in refuse("." * (LONGEST_TOKEN + 1))


# Spelling

H, C, S = VALID.split(".")


def respelled(part: str) -> str:
    """The same bytes with a bit set that no byte holds."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return part[:-1] + alphabet[alphabet.index(part[-1]) + 1]


MALFORMED: dict[str, str] = {
    "nothing": "",
    "a dot": ".",
    "two dots": "..",
    "one part": H,
    "two parts": f"{H}.{C}",
    "four parts": f"{VALID}.{S}",
    "five parts, as if encrypted": f"{H}..{C}.{S}.{S}",
    "a dot before": f".{VALID}",
    "a dot behind": f"{VALID}.",
    "no header": f".{C}.{S}",
    "no claims": f"{H}..{S}",
    "no signature": f"{H}.{C}.",
    "another separator": VALID.replace(".", ","),
    "the parts in another order": f"{C}.{H}.{S}",
    "a blank before": f" {VALID}",
    "a blank behind": f"{VALID} ",
    "a line's end": f"{VALID}\n",
    "a line's end within": f"{H}.{C[:10]}\n{C[10:]}.{S}",
    "a tab": f"{H}.\t{C}.{S}",
    "a NUL": f"{VALID}\0",
    "a byte order mark": f"\ufeff{VALID}",
    "a letter that looks the same": VALID.replace("e", "\u0435", 1),
    "a digit that means the same": f"{H}.{C}.{S[:-1]}\u0661",
    "a lone surrogate": f"{VALID}\ud800",
    "percent-encoded": VALID.replace(".", "%2E"),
    "padding of the header": f"{H}=.{C}.{S}",
    "padding of the claims": f"{H}.{C}==.{S}",
    "padding of the signature": f"{VALID}==",
    "padding within": f"{H}.{C}.{S[:4]}={S[4:]}",
    "the other alphabet": f"{H}.{C}.+{S[1:]}",
    "the other alphabet's slash": f"{H}.{C}./{S[1:]}",
    "unused bits of the signature": f"{H}.{C}.{respelled(S)}",
    "an impossible length": f"{H}.{C}.{S}AAA",
    "JSON serialization": json.dumps({"protected": H, "payload": C, "signature": S}),
    "general JSON serialization": json.dumps(
        {"payload": C, "signatures": [{"protected": H, "signature": S}]}
    ),
    "with its scheme": f"Bearer {VALID}",
    "in quotation marks": f'"{VALID}"',
    "twice": f"{VALID} {VALID}",
    "encoded once more": b64(VALID.encode()),
    "not encoded": f"{json.dumps(HEAD)}.{json.dumps(CLAIMS)}.{S}",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_another_spelling_is_another_token_and_no_good_one(text: str) -> None:
    """Three parts in canonical base64url, and not a character besides. RFC 7515 section 7.1."""
    assert read(VALID) == CLAIMS
    refuse(text)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_bits_that_no_byte_holds_are_not_set(place: int) -> None:
    """Each part has one spelling, though another be signed. RFC 4648 section 3.5."""
    for filler in range(3):
        more = "y" * filler
        parts = compact({**HEAD, "x": more}, {**CLAIMS, "x": more}, MINE).split(".")
        if len(parts[place]) % 4:
            parts[place] = respelled(parts[place])
            if place < 2:
                parts[2] = b64(MINE.sign(f"{parts[0]}.{parts[1]}".encode()))
            assert "canonical" in refuse(".".join(parts))


# What stands in the parts

GOOD_JSON = json.dumps(HEAD).encode()
NO_OBJECTS: dict[str, bytes] = {
    "nothing": b"",
    "null": b"null",
    "true": b"true",
    "a number": b"1",
    "a text": b'"alg"',
    "a list": b"[" + GOOD_JSON + b"]",
    "not JSON": b"alg=ES256",
    "cut short": GOOD_JSON[:-1],
    "more behind": GOOD_JSON + b"{}",
    "a NUL behind": GOOD_JSON + b"\0",
    "a comma too many": GOOD_JSON[:-1] + b",}",
    "other quotation marks": GOOD_JSON.replace(b'"', b"'"),
    "a comment": GOOD_JSON[:-1] + b"/**/}",
    "a byte order mark": b"\xef\xbb\xbf" + GOOD_JSON,
    "UTF-16": GOOD_JSON.decode().encode("utf-16"),
    "not UTF-8": GOOD_JSON[:-1] + b', "x": "\xff"}',
    "overlong UTF-8": GOOD_JSON[:-1] + b', "x": "\xc0\xaf"}',
    "a surrogate in UTF-8": GOOD_JSON[:-1] + b', "x": "\xed\xa0\x80"}',
    "a lone surrogate": GOOD_JSON[:-1] + b', "x": "\\ud800"}',
    "a lone surrogate as a name": GOOD_JSON[:-1] + b', "\\udc00": 1}',
    "a member twice": GOOD_JSON[:-1] + b', "alg": "ES256"}',
    "a member twice, escaped": GOOD_JSON[:-1] + b', "\\u0061lg": "none"}',
    "a member twice, inside": GOOD_JSON[:-1] + b', "x": [{"a": 1, "a": 1}]}',
    "NaN": GOOD_JSON[:-1] + b', "x": NaN}',
    "Infinity": GOOD_JSON[:-1] + b', "x": -Infinity}',
    "a number without end": GOOD_JSON[:-1] + b', "x": ' + b"9" * 5000 + b"}",
    "a control character": GOOD_JSON[:-1] + b', "x": "\n"}',
    "too deep": GOOD_JSON[:-1] + b', "x": ' + b"[" * 17 + b"]" * 17 + b"}",
    "far too deep": GOOD_JSON[:-1] + b', "x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deep without end": b"[" * 10_000,
}


@pytest.mark.parametrize("raw", NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_a_malformed_part_is_refused_though_it_is_signed(raw: bytes) -> None:
    """Header and claims are one JSON object each, with every member once. RFC 7515 section 4."""
    refuse(compact(raw, CLAIMS, MINE))
    refuse(compact(HEAD, raw, MINE))
    with pytest.raises(ValueError, match=r"."):
        parse_compact(compact(HEAD, raw, MINE)).unverified_claims()


@pytest.mark.parametrize(
    "crit", [None, [], ["exp"], ["b64"], ["crit"], ["alg"], "exp", {}, True, 0], ids=repr
)
def test_no_critical_extension_is_understood(crit: Any) -> None:
    """Whatever `crit` says, there is nothing that it could name here. RFC 7515 section 4.1.11."""
    text = compact({**HEAD, "crit": crit, "b64": True, "exp": 1}, CLAIMS, MINE)
    assert "crit" in refuse(text)


@pytest.mark.parametrize(
    "alg", [None, "", "none", "None", "NONE", "nOnE", "es256", "ES256 ", "HS256", "RS256", "ES384",
            "ES256K", "PS256", "EdDSA", 7, True, ["ES256"], {"ES256": 1}], ids=repr
)  # fmt: skip
def test_the_key_chooses_the_algorithm(alg: Any) -> None:
    """A header that names another algorithm than the key's proves nothing. RFC 8725, 3.1."""
    assert "alg" in refuse(compact({**HEAD, "alg": alg}, CLAIMS, MINE))
    assert "alg" in refuse(compact({"typ": "JWT"}, CLAIMS, MINE))


# Claims


def test_a_claim_has_its_type() -> None:
    """What is missing, null or of another type is refused; true is no number."""
    for kind, good in ((str, ""), (int, 0), (list, []), (dict, {}), (bool, False)):
        assert claim({"x": good}, "x", kind) is good
    for kind, bad in ((str, 1), (int, "1"), (int, True), (int, 1.0), (list, {}), (dict, [])):
        with pytest.raises(ValueError, match="x is missing or of the wrong type"):
            claim({"x": bad}, "x", kind)
    for absent in ({}, {"x": None}, {"X": "y"}):
        with pytest.raises(ValueError, match="x is missing"):
            claim(absent, "x", str)


@pytest.mark.parametrize("value", [MISSING, None, "", "y" * 256, 7, True, ["y"], {}], ids=repr)
def test_a_text_is_neither_empty_nor_without_end(value: Any) -> None:
    """From 1 to 255 characters, or as many as are asked for."""
    assert text_claim({"x": "y"}, "x") == "y"
    assert text_claim({"x": "y" * 255}, "x") == "y" * 255
    assert text_claim({"x": "y" * 300}, "x", 300) == "y" * 300
    with pytest.raises(ValueError, match="x is"):
        text_claim(changed({}, {"x": value}), "x")


BAD_MOMENTS: list[Any] = [
    MISSING, None, "", "1", True, False, -1, -0.5, 253_402_300_800, 2**63, 10**90, 1e300,
    float("inf"), float("-inf"), float("nan"), [1], {},
]  # fmt: skip


@pytest.mark.parametrize("value", BAD_MOMENTS, ids=repr)
@pytest.mark.parametrize("fractions", [False, True])
def test_a_moment_is_a_number_within_the_calendar(value: Any, fractions: bool) -> None:
    """Seconds since 1970, in a year that Python can add to. RFC 7519 section 2."""
    with pytest.raises(ValueError, match="x is"):
        moment_claim(changed({}, {"x": value}), "x", fractions=fractions)


def test_a_moment_is_read_in_utc() -> None:
    """Whole seconds always, parts of a second where they are welcome."""
    at = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    seconds = int(at.timestamp())
    assert moment_claim({"x": seconds}, "x") == at
    assert moment_claim({"x": seconds}, "x", fractions=True) == at
    assert moment_claim({"x": seconds + 0.5}, "x", fractions=True) == at + timedelta(seconds=0.5)
    assert moment_claim({"x": 0}, "x") == datetime(1970, 1, 1, tzinfo=UTC)
    assert moment_claim({"x": 253_370_764_800}, "x") + timedelta(days=300)
    for value in (seconds + 0.5, float(seconds)):
        with pytest.raises(ValueError, match="x is"):
            moment_claim({"x": value}, "x")


AUDIENCES: dict[str, tuple[Any, tuple[str, ...] | None]] = {
    "a text": ("a", ("a",)),
    "a list of one": (["a"], ("a",)),
    "a list": (["a", "b"], ("a", "b")),
    "as many as may be": (["a"] * 3, ("a",) * 3),
    "one more": (["a"] * 4, None),
    "an empty list": ([], None),
    "an empty text": ("", None),
    "an empty text in a list": (["a", ""], None),
    "a number": (7, None),
    "a number in a list": (["a", 7], None),
    "a list in a list": ([["a"]], None),
    "null": (None, None),
    "true": (True, None),
    "an object": ({"a": 1}, None),
}


@pytest.mark.parametrize(("value", "expected"), AUDIENCES.values(), ids=AUDIENCES)
def test_an_audience_is_a_text_or_a_list(value: Any, expected: tuple[str, ...] | None) -> None:
    """RFC 7519 section 4.1.3, and no longer than the caller takes."""
    if expected is not None:
        assert audience_claim({"aud": value}, 3) == expected
    else:
        with pytest.raises(ValueError, match="aud is"):
            audience_claim({"aud": value}, 3)
    with pytest.raises(ValueError, match="aud is"):
        audience_claim({}, 3)


# Everything else


@given(st.one_of(
    st.text(alphabet=st.characters(categories=None)),
    st.lists(st.binary(max_size=60), max_size=5).map(lambda parts: ".".join(map(b64, parts))),
    st.text("{}[]\",:.aA01=-_+/ \n", max_size=60),
))  # fmt: skip
@settings(max_examples=300)
def test_no_text_raises_anything_but_a_value_error(text: str) -> None:
    """Whatever is presented is refused in words that quote nothing."""
    refuse(text)


@given(st.integers(0, 2), st.integers(0, 8 * 64))
def test_no_flipped_bit_is_read(place: int, bit: int) -> None:
    """Every bit of the three parts counts."""
    parts = VALID.split(".")
    data = bytearray(base64.urlsafe_b64decode(parts[place] + "=="))
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    parts[place] = b64(bytes(data))
    refuse(".".join(parts))


def test_a_refusal_quotes_nothing() -> None:
    """The words go to callers and logs, so they hold no part of what was presented."""
    marker = "a-text-that-must-not-appear"
    makers: list[Callable[[], str]] = [
        lambda: compact({**HEAD, "alg": marker}, CLAIMS, MINE),
        lambda: compact({**HEAD, "crit": [marker]}, CLAIMS, MINE),
        lambda: compact(f'{{"{marker}"'.encode(), CLAIMS, MINE),
        lambda: compact(f'{{"{marker}":1,"{marker}":2}}'.encode(), CLAIMS, MINE),
        lambda: compact(HEAD, f'{{"x": {marker}}}'.encode(), MINE),
        lambda: marker,
        lambda: f"{marker}.{marker}.{marker}",
        lambda: f"{marker}\u00e9",
    ]
    assert not [make for make in makers if marker in refuse(make())]
