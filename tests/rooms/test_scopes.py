"""Scopes: parse, narrow, cover."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from _oauth2_m2m.errors import InvalidScope
from _oauth2_m2m.scopes import Scope, format_scope, is_scope_token, narrow, parse_scope

# scope-token = 1*( %x21 / %x23-5B / %x5D-7E ), RFC 6749 section 3.3
NAME_CHARACTERS = "".join(chr(c) for c in range(0x21, 0x7F) if c not in (0x22, 0x5C))
NAMES = st.text(NAME_CHARACTERS, min_size=1, max_size=12)
SCOPES = st.frozensets(NAMES, max_size=8)


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("", set()),
        ("read", {"read"}),
        ("read write", {"read", "write"}),
        ("read read", {"read"}),
        ("Read read", {"Read", "read"}),
        ("https://api.example.com/a:b,c!#[]~", {"https://api.example.com/a:b,c!#[]~"}),
        ("a" * 4096, {"a" * 4096}),
    ],
)
def test_a_scope_is_read(text: str, scope: set[str]) -> None:
    """Names parted by single spaces, case-sensitive, in any order. RFC 6749 section 3.3."""
    assert parse_scope(text) == scope


@pytest.mark.parametrize(
    "text",
    [
        " ",
        " read",
        "read ",
        "read  write",
        "read\twrite",
        "read\nwrite",
        "read\u00a0write",
        'say"so',
        "back\\slash",
        "\x00",
        "\x7f",
        "caf\u00e9",
        "\uff52ead",
        "\ud800",
        "a" * 4097,
    ],
    ids=ascii,
)
def test_a_malformed_scope_is_refused(text: str) -> None:
    """What RFC 6749 section 3.3 does not allow is refused whole."""
    with pytest.raises(InvalidScope):
        parse_scope(text)


@given(st.text(st.characters(categories=None), max_size=30))
def test_a_text_is_read_or_refused(text: str) -> None:
    """Any text is either a scope of well-formed names or `InvalidScope`."""
    try:
        scope = parse_scope(text)
    except InvalidScope:
        return
    assert set(text.split(" ")) - {""} == scope
    assert all(set(name) <= set(NAME_CHARACTERS) for name in scope)


@given(SCOPES)
def test_reading_undoes_writing(scope: Scope) -> None:
    """Equal scopes are written alike, and read back as they were."""
    assert parse_scope(format_scope(scope)) == scope
    assert format_scope(sorted(scope, reverse=True)) == format_scope(scope)


@given(SCOPES, SCOPES)
def test_narrowing_never_widens(requested: Scope, allowed: Scope) -> None:
    """What is granted is what was asked for, or all that is allowed, or nothing at all."""
    if requested <= allowed:
        assert narrow(requested, allowed) == (requested or allowed)
    else:
        with pytest.raises(InvalidScope):
            narrow(requested, allowed)


@given(SCOPES, SCOPES)
def test_a_refusal_tells_the_caller_nothing_of_what_is_allowed(
    requested: Scope, allowed: Scope
) -> None:
    """The caller reads one constant description; the log reads what went beyond."""
    assume(not requested <= allowed)
    with pytest.raises(InvalidScope) as refusal:
        narrow(requested, allowed)
    assert refusal.value.description == InvalidScope.default
    assert all(name in refusal.value.detail for name in requested - allowed)


@given(st.text(max_size=4))
def test_a_name_is_a_scope_of_one(text: str) -> None:
    """`is_scope_token` and `parse_scope` agree on what one name is."""
    try:
        single = parse_scope(text) == {text}
    except InvalidScope:
        single = False
    assert is_scope_token(text) == single
