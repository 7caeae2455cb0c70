"""Scopes: parse, narrow, cover."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from _oauth2_m2m.errors import ConfigurationError, InvalidScope
from _oauth2_m2m.scopes import (
    OfferedScopes,
    Scope,
    format_scope,
    is_scope_token,
    narrow,
    offered_scopes,
    parse_scope,
    plain,
)

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


class Typed(StrEnum):
    READ = "read"
    """Read reports,
    all of them."""
    WRITE = "write"
    ADMIN = "admin"  # a comment is for others
    ALSO_READ = "read"
    """An alias is no scope of its own."""


class Described(StrEnum):
    def __new__(cls, value: str, description: str) -> Described:  # noqa: D102
        member = str.__new__(cls, value)
        member._value_ = value
        member.description = description
        return member

    description: str
    READ = "read", "Read reports"
    """What is said in the code comes first."""
    WRITE = "write", "Write reports"


class Older(str, Enum):  # noqa: UP042 - as people wrote it before 3.11
    READ = "read"


WITHOUT_SOURCE = StrEnum("WITHOUT_SOURCE", {"READ": "read"})


@pytest.mark.parametrize(
    ("scopes", "offered"),
    [
        (None, {}),
        ({"read": "Read reports"}, {"read": "Read reports"}),
        ({Typed.READ: "Read reports"}, {"read": "Read reports"}),
        (Typed, {"read": "Read reports,\nall of them.", "write": "", "admin": ""}),
        (Described, {"read": "Read reports", "write": "Write reports"}),
        (Older, {"read": ""}),
        (WITHOUT_SOURCE, {"read": ""}),
    ],
)
def test_an_app_offers_scopes(scopes: OfferedScopes | None, offered: dict[str, str]) -> None:
    """By an enum, with what is said of its members, or by a mapping; they come as plain texts."""
    found = offered_scopes(scopes)
    assert found == offered
    assert {type(name) for name in found} <= {str}


@pytest.mark.parametrize(
    "scopes",
    [
        {"two words": ""},
        {"": ""},
        {1: ""},
        {"read": None},
        Enum("Plain", {"READ": 1}),
        StrEnum("Words", {"READ": "read all"}),
    ],
    ids=repr,
)
def test_what_is_no_scope_cannot_be_offered(scopes: Any) -> None:
    """A scope that nobody could ever ask for is a mistake at the start."""
    with pytest.raises(ConfigurationError, match="scopes"):
        offered_scopes(scopes)


def test_typed_words_become_plain_ones() -> None:
    """What is stored and signed is a text, whatever enum it came from."""
    words = plain([Typed.READ, Older.READ, "write"])
    assert words == ("read", "read", "write")
    assert {type(word) for word in words} == {str}
    assert plain(Typed) == ("read", "write", "admin")


@pytest.mark.parametrize("word", ["read", Typed.READ])
def test_one_word_in_place_of_many_is_refused(word: str) -> None:
    """Else `scopes="read"` would mean the scopes r, e, a and d."""
    with pytest.raises(ValueError, match="'read' is one word"):
        plain(word)
