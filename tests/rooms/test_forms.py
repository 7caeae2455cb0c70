"""Strict reading of forms and JSON: any bytes give a plain value or the one error."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from _oauth2_m2m.errors import BodyTooLarge, InvalidRequest
from _oauth2_m2m.forms import (
    DEEPEST_JSON,
    LARGEST_BODY_BYTES,
    MOST_FIELDS,
    parse_form,
    parse_json,
)

TEXT = st.text(st.characters(codec="utf-8"))
# Bytes that come near to something that could be read.
NEARLY = st.lists(
    st.one_of(
        st.sampled_from([b"a", b"=", b"&", b"%", b"%0", b"%00", b"%ff", b"%ed%a0%80", b"+", b";"]),
        st.sampled_from(
            [b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\ud800", b"\\", b"NaN", b"-"]
        ),
        st.sampled_from([b'{"a":', b"1e999", b"9" * 30, b"true", b"null", b"\xef\xbb\xbf", b"\0"]),
        st.binary(max_size=4),
    ),
    max_size=30,
).map(b"".join)


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (b"", {}),
        (b"a=1", {"a": "1"}),
        (b"a=1&b=2", {"a": "1", "b": "2"}),
        (b"a=1&&b=2&", {"a": "1", "b": "2"}),
        (b"a=1;b=2", {"a": "1;b=2"}),
        (b"a=1=2", {"a": "1=2"}),
        (b"a=x+y%20z%2B", {"a": "x y z+"}),
        (b"a%3D=1", {"a=": "1"}),
        (b"a=%C3%A9", {"a": "\u00e9"}),
        (b"a=\xc3\xa9", {"a": "\u00e9"}),
        (b"a=", {}),
        (b"a", {}),
        (b"a=%zz", {"a": "%zz"}),
        (b"a=%00", {"a": "\0"}),
        (b"a[$ne]=1", {"a[$ne]": "1"}),
        (b'{"a": 1}', {}),
    ],
)
def test_a_form_is_read(body: bytes, form: dict[str, str]) -> None:
    """Names and values are decoded; one without a value counts as omitted. RFC 6749, 3.2."""
    assert parse_form(body) == form


@pytest.mark.parametrize(
    "body",
    [
        b"a=1&a=2",
        b"a=1&a=1",
        b"a=&a=1",
        b"a&a",
        b"a=1&%61=2",
        b"a=\xff",
        b"a=%ff",
        b"%ff=1",
        b"a=%ed%a0%80",
        b"\xef\xbb\xbf\xff",
        b"&".join(b"a%d=1" % n for n in range(MOST_FIELDS + 1)),
        b"&" * MOST_FIELDS,
    ],
    ids=lambda body: repr(body[:20]),
)
def test_a_malformed_form_is_refused(body: bytes) -> None:
    """Repeated parameters, too many fields, and what is not UTF-8. RFC 6749 section 3.2."""
    with pytest.raises(InvalidRequest) as refusal:
        parse_form(body)
    assert refusal.value.status_code == 400


def test_the_bounds_of_a_form_are_inclusive() -> None:
    """64 KiB and 100 fields are read; one more of either is refused."""
    assert len(parse_form(b"&".join(b"a%d=1" % n for n in range(MOST_FIELDS)))) == MOST_FIELDS
    assert parse_form(b"a=" + b"x" * (LARGEST_BODY_BYTES - 2))
    with pytest.raises(BodyTooLarge):
        parse_form(b"a=" + b"x" * (LARGEST_BODY_BYTES - 1))


@given(st.one_of(st.binary(), NEARLY))
@example(b"\xff" * (LARGEST_BODY_BYTES + 1))
@settings(max_examples=300)
def test_any_bytes_are_a_form_or_an_invalid_request(body: bytes) -> None:
    """Nothing but `InvalidRequest` comes of bytes that are no form, and no surrogate gets in."""
    try:
        form = parse_form(body)
    except InvalidRequest:
        return
    for name, value in form.items():
        assert value
        assert (name + value).encode()


@given(st.dictionaries(TEXT, TEXT.filter(bool), max_size=MOST_FIELDS))
def test_a_form_that_was_encoded_is_read_as_it_was(form: dict[str, str]) -> None:
    """Reading undoes the encoding that every HTTP client does."""
    assert parse_form(urlencode(form).encode()) == form


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": "b"}', {"a": "b"}),
        (b" [1, 2.5, -3e2, true, null] \n", [1, 2.5, -300.0, True, None]),
        (b'"\\u00e9\\ud83d\\ude00"', "\u00e9\U0001f600"),
        ("\u00e9".join('""').encode(), "\u00e9"),
        (b'{"a": {"a": {"a": 1}}}', {"a": {"a": {"a": 1}}}),
        (b'{"__proto__": {"$ne": null}}', {"__proto__": {"$ne": None}}),
    ],
)
def test_json_is_read(body: bytes, value: object) -> None:
    """JSON as RFC 8259 says it."""
    assert parse_json(body) == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": 1} x',
        b'{"a": 1, "a": 1}',
        b'{"a": 1, "\\u0061": 2}',
        b'[{"b": {"a": 1, "a": 2}}]',
        b"NaN",
        b"-Infinity",
        b'{"a": [Infinity]}',
        b'"\\ud800"',
        b'{"\\udfff": 1}',
        b'[["\\ud800\\u0041"]]',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\t"',
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        b"9" * 5000,
        b"[" * 60_000,
        b"[" * 30_000 + b"]" * 30_000,
        b'{"a":' * 12_000 + b"1" + b"}" * 12_000,
        b"01",
        b"1.",
        b"+1",
        b"0x10",
        b"// comment\n1",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    """Everything that RFC 8259 forbids or leaves open, and what is too deep, is `ValueError`."""
    with pytest.raises(ValueError, match=r"\S"):
        parse_json(body)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_the_depth_of_json_is_bounded(opening: str) -> None:
    """Sixteen levels are read, one more is refused."""
    closing = "]" if opening == "[" else "}"
    for depth in range(1, DEEPEST_JSON + 1):
        parse_json((opening * depth + "1" + closing * depth).encode())
    deeper = DEEPEST_JSON + 1
    with pytest.raises(ValueError, match="deeper than 16"):
        parse_json((opening * deeper + "1" + closing * deeper).encode())


@given(st.one_of(st.binary(), NEARLY))
@settings(max_examples=300)
def test_any_bytes_are_json_or_a_value_error(body: bytes) -> None:
    """Nothing but `ValueError` comes of bytes that are no JSON, and no surrogate gets in."""
    try:
        value = parse_json(body)
    except ValueError:
        return
    assert json.dumps(value, ensure_ascii=False).encode()


JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)


@given(JSON_VALUES, st.booleans())
def test_json_that_was_written_is_read_as_it_was(value: Any, ascii_only: bool) -> None:
    """Reading undoes writing, however the writer spells its characters."""
    text = json.dumps(value, ensure_ascii=ascii_only)
    if "Infinity" in text.replace('"', ""):
        return
    assert parse_json(text.encode()) == value


@given(st.text(st.characters(codec="ascii", categories=["L"]), min_size=6, max_size=30))
def test_a_fault_quotes_nothing(secret: str) -> None:
    """The message says what is wrong and where, never what was sent."""
    for body in (f'{{"{secret}', f'{{"{secret}": 1, "{secret}": 2}}', f'"{secret}\\ud800"'):
        with pytest.raises(ValueError, match=r"\S") as fault:
            parse_json(body.encode())
        assert secret not in str(fault.value)
