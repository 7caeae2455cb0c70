"""Clients in a file, as YAML: for `clients apply`. It holds no secrets."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import yaml

from _oauth2_m2m.client_changes import FIELDS

LARGEST_FILE_BYTES = 4 * 1024 * 1024
#: Aliases of aliases make a short text mean more than any memory holds.
MOST_VALUES = 1_000_000


def wanted_from(text: str) -> Mapping[str, Any]:
    """Read a file of clients: under `clients`, for each id its fields.

    Raises:
        ValueError: it is none; the message says where it goes wrong.
    """
    if len(text.encode()) > LARGEST_FILE_BYTES:
        raise ValueError(f"the file is larger than {LARGEST_FILE_BYTES} bytes")
    try:
        content = yaml.load(text, Loader=_Strict)  # noqa: S506 - it is a SafeLoader
    except (yaml.YAMLError, RecursionError) as fault:
        place = getattr(fault, "problem_mark", None)
        where = f"line {place.line + 1}: " if place else ""
        problem = getattr(fault, "problem", None) or "it is nested too deeply"
        raise ValueError(f"the file is no YAML: {where}{problem}") from None
    check_size(content)
    clients = content.get("clients") if isinstance(content, Mapping) else None
    if not isinstance(content, Mapping) or content.keys() != {"clients"}:
        raise ValueError("the file must hold `clients:` and nothing else, an id for each below")
    if not isinstance(clients or {}, Mapping):
        raise ValueError("clients must name each client by its id")
    return clients or {}


def check_size(content: object) -> None:
    """See that what was read of a YAML file is not too much when all its aliases are written out.

    Raises:
        ValueError: it is, or has no end.
    """
    left, count = [content], 0
    while left:
        value = left.pop()
        each: Iterable[object] = ()
        if isinstance(value, Mapping):
            each = value.values()
        elif isinstance(value, list):
            each = value
        count += 1
        left.extend(each)
        if count + len(left) > MOST_VALUES:
            raise ValueError(f"the file holds more than {MOST_VALUES} values, its aliases included")


def text_of(documents: Iterable[Mapping[str, Any]]) -> str:
    """Clients as such a file. What is secret, or happens by itself, is not in it."""
    text: str = yaml.safe_dump(
        members_of(documents), sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    return text


def members_of(documents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What such a file holds."""
    return {"clients": {document["client_id"]: _fields(document) for document in documents}}


def _fields(document: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: document[name] for name in FIELDS if document.get(name) is not None}
    return {"scopes": [], **own, **({"disabled": True} if document.get("disabled") else {})}


class _Strict(yaml.SafeLoader):
    """Refuses what YAML lets pass: of two members of one name it would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping whose members all have names of their own."""
        names: set[Hashable] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, Hashable):
                continue  # is refused below
            if name in names:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name!r} stands there twice", key.start_mark
                )
            names.add(name)
        return super().construct_mapping(node, deep)
