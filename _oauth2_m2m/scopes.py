"""Scopes as values: parse, narrow, cover. RFC 6749 section 3.3."""

from __future__ import annotations

import re
from collections.abc import Collection

from _oauth2_m2m.errors import InvalidScope

Scope = frozenset[str]

LONGEST_SCOPE = 4096
#: scope-token = 1*( %x21 / %x23-5B / %x5D-7E ), tokens parted by exactly one space.
_TOKEN = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+", re.ASCII)


def parse_scope(text: str) -> Scope:
    """Read a `scope` parameter. The empty text is the empty scope.

    Raises:
        InvalidScope: a character or a space stands where RFC 6749 section 3.3 allows none.
    """
    if len(text) > LONGEST_SCOPE:
        raise InvalidScope(f"The scope is longer than {LONGEST_SCOPE} characters")
    if not text:
        return frozenset()
    tokens = text.split(" ")
    if not all(map(is_scope_token, tokens)):
        raise InvalidScope("The scope is malformed: send scope names parted by single spaces")
    return frozenset(tokens)


def format_scope(scope: Collection[str]) -> str:
    """Write a scope as it stands on the wire: sorted, so that equal scopes look equal."""
    return " ".join(sorted(scope))


def narrow(requested: Scope, allowed: Scope) -> Scope:
    """Grant what was asked for, or everything allowed when nothing was.

    Raises:
        InvalidScope: more was asked for than is allowed. RFC 6749 section 5.2.
    """
    if not requested <= allowed:
        raise InvalidScope(detail=f"beyond the allowed: {format_scope(requested - allowed)}")
    return requested or allowed


def is_scope_token(text: str) -> bool:
    """Whether the text is one scope name."""
    return _TOKEN.fullmatch(text) is not None
