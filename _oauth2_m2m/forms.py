"""Strict reading of what arrives from outside: forms and JSON. Bytes in, plain values out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl

from _oauth2_m2m.errors import BodyTooLarge, InvalidRequest

LARGEST_BODY_BYTES = 64 * 1024
MOST_FIELDS = 100
DEEPEST_JSON = 16
_LONGEST_NUMBER = 100

#: RFC 8707 section 2: the one parameter that may stand several times.
RESOURCE = "resource"


class Form(dict[str, str]):
    """The parameters of a request, each once.

    Attributes:
        resources: the values of `resource`, which may stand several times.
    """

    def __init__(self, members: Mapping[str, str], resources: Sequence[str] = ()) -> None:
        super().__init__(members)
        self.resources: Final = tuple(resources)


def parse_form(body: bytes) -> Form:
    """Read an `application/x-www-form-urlencoded` body. RFC 6749 appendix B.

    A parameter without a value counts as omitted; none may stand twice (RFC 6749 section 3.2), but
    `resource` (RFC 8707 section 2).

    Raises:
        BodyTooLarge: more than 64 KiB.
        InvalidRequest: not UTF-8, more than 100 fields, or a repeated parameter.
    """
    if len(body) > LARGEST_BODY_BYTES:
        raise BodyTooLarge(LARGEST_BODY_BYTES)
    try:
        pairs = parse_qsl(
            body.decode("utf-8"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MOST_FIELDS,
        )
    except UnicodeDecodeError:
        raise InvalidRequest("The form is not UTF-8") from None
    except ValueError:
        raise InvalidRequest(f"The form has more than {MOST_FIELDS} fields") from None
    form: dict[str, str] = {}
    for name, value in pairs:
        if name in form and name != RESOURCE:
            raise InvalidRequest("A parameter is repeated: send each once")
        form[name] = value
    return Form(
        {name: value for name, value in form.items() if value and name != RESOURCE},
        [value for name, value in pairs if name == RESOURCE and value],
    )


def parse_json(body: bytes) -> Any:
    """Read JSON as RFC 8259 says it, and a little stricter.

    Raises:
        ValueError: not UTF-8, not JSON, `NaN` or `Infinity`, a repeated member, a lone surrogate,
            or nesting deeper than 16. The message says which, and quotes nothing.
    """
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_bounded_int,
            parse_float=_finite_float,
            parse_constant=_no_constant,
        )
        _check(value, DEEPEST_JSON)
    except UnicodeError:
        raise ValueError("not UTF-8") from None
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST_JSON}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON (at character {error.pos})") from None
    return value


def _unique(members: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in members:
        if name in found:
            raise ValueError("a repeated member")
        found[name] = value
    return found


def _bounded_int(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise ValueError(f"a number of more than {_LONGEST_NUMBER} digits")
    return int(digits)


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number without end")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError("a number that JSON does not have")


def _check(value: Any, depth: int) -> None:
    if depth < 0:
        raise ValueError(f"nested deeper than {DEEPEST_JSON}")
    if isinstance(value, str):
        value.encode("utf-8")  # fails on a lone surrogate, which no database or hash could take
    elif isinstance(value, dict):
        for name, member in value.items():
            name.encode("utf-8")
            _check(member, depth - 1)
    elif isinstance(value, list):
        for member in value:
            _check(member, depth - 1)
