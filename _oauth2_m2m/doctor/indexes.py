"""Which indexes are missing, and which are not what the rooms rely on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from _oauth2_m2m.doctor.findings import Finding, Severity, found
from _oauth2_m2m.storage import DeclaredIndex, Document

#: What makes an index what it is, beside its fields.
_OPTIONS = ("unique", "expireAfterSeconds", "partialFilterExpression")


def index_findings(
    declared: Iterable[DeclaredIndex], actual: Mapping[str, Mapping[str, Document]]
) -> Iterator[Finding]:
    """What the rooms rely on, against what is there.

    Args:
        declared: the indexes that rooms make.
        actual: for each collection its indexes by name, as `index_information` gives them.
    """
    wanted: dict[str, dict[tuple[Any, ...], Document]] = {}
    for index in declared:
        wanted.setdefault(index.collection, {})[index.keys] = _options(index.options)
    if not any(indexes.keys() - {"_id_"} for indexes in actual.values()):
        yield found("not-started", Severity.INFO, "no worker has started on this database yet")
        return
    for collection, indexes in wanted.items():
        there = {tuple(i["key"]): _options(i) for i in actual.get(collection, {}).values()}
        for keys, options in indexes.items():
            yield from _compared(collection, keys, options, there.get(keys))
        for keys in there.keys() - indexes.keys():
            if "unique" in there[keys] or "expireAfterSeconds" in there[keys]:
                name = _index_name(collection, keys)
                what = f"{name} is no index of this software: {_told(there[keys])}"
                yield found("index-foreign", Severity.WARNING, what, [name])


def _compared(
    collection: str, keys: tuple[Any, ...], wanted: Document, there: Document | None
) -> Iterator[Finding]:
    name = _index_name(collection, keys)
    if there is None:
        yield found("index-missing", Severity.ERROR, f"{name} is missing", [name])
    elif there != wanted:
        what = f"{name} is {_told(there)}, and should be {_told(wanted)}"
        yield found("index-drifted", Severity.ERROR, what, [name])


def _options(index: Mapping[str, Any]) -> Document:
    return {name: index[name] for name in _OPTIONS if index.get(name) not in (None, False)}


def _index_name(collection: str, keys: tuple[Any, ...]) -> str:
    return f"{collection} by {', '.join(str(field) for field, _ in keys)}"


def _told(options: Document) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items()) or "a plain index"
