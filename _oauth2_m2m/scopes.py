"""Scopes as values: parse, narrow, cover. RFC 6749 section 3.3."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Collection, Iterable, Mapping
from enum import Enum, StrEnum
from itertools import pairwise
from typing import Any

from _oauth2_m2m.errors import ConfigurationError, InvalidScope
from _oauth2_m2m.rules import Rule

Scope = frozenset[str]

#: The scopes that an app offers: an enum of them, or what each allows by its name.
OfferedScopes = type[StrEnum] | Mapping[Any, str]

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
        beyond = InvalidScope(detail=f"beyond the allowed: {format_scope(requested - allowed)}")
        raise beyond.breaking(Rule.SCOPE, had=format_scope(requested), wanted=format_scope(allowed))
    return requested or allowed


def is_scope_token(text: str) -> bool:
    """Whether the text is one scope name."""
    return _TOKEN.fullmatch(text) is not None


def plain(words: Iterable[str]) -> tuple[str, ...]:
    """The words of an enum, or of anything else that is a text, as texts and nothing more.

    Raises:
        ValueError: it is one text, which would be taken for its letters.
    """
    if isinstance(words, str):
        raise ValueError(f"{str.__str__(words)!r} is one word: hand over a list of words")
    return tuple(map(str.__str__, words))


def offered_scopes(scopes: OfferedScopes | None) -> dict[str, str]:
    """The scopes that an app offers, with what each allows.

    Of an enum's member that is its attribute `description` if it has one, else the text that stands
    below it in the source.

    Raises:
        ConfigurationError: one of them is no scope.
    """
    if isinstance(scopes, type):
        found: dict[Any, Any] = _described(scopes)
    else:
        found = dict(scopes or {})
    for name, description in found.items():
        if not isinstance(name, str) or not is_scope_token(name):
            raise ConfigurationError(f"scopes: {name!r} is no scope: use one word without quotes")
        if not isinstance(description, str):
            raise ConfigurationError(f"scopes: say in words what {name!s} allows")
    return dict(zip(plain(found), found.values(), strict=True))


def _described(scopes: type[StrEnum]) -> dict[Any, Any]:
    written = _written_below(scopes)
    found = {}
    for member in scopes:
        own = getattr(member, "description", None)
        is_said = isinstance(own, str) and not isinstance(own, Enum)
        found[member] = own if is_said else written.get(member.name, "")
    return found


def _written_below(scopes: type[StrEnum]) -> dict[str, str]:
    """The text below each member; nothing where there is no source, as in a console."""
    try:
        source = ast.parse(textwrap.dedent(inspect.getsource(scopes))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return {}
    found = {}
    for line, below in pairwise(getattr(source, "body", ())):
        match line, below:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(ast.Constant(str(text))):
                found[name] = inspect.cleandoc(text)
    return found
