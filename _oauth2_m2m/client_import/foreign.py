"""A client of another server, and what the readers of exports share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from _oauth2_m2m.client_documents import PRIVATE_KEY_JWT, SECRET_METHODS
from _oauth2_m2m.foreign_hashes import imported
from _oauth2_m2m.storage import Document

#: What stands in an export in the place of a secret that is not to be shown.
MASKED = re.compile(r"\*+")

_CLIENT_CREDENTIALS = "client_credentials"
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)(?:\.\d+)?s)?", re.ASCII)

Members = Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class Foreign:
    """A client of another server.

    Attributes:
        client_id: its id there, and here.
        fields: its document here, but for its secret.
        secret: its secret as the export has it, in the clear; `None` if it has none.
        stored: its secret as a hash of ours to be; `None` if it is not hashed.
        notes: what is not carried over, and what to do about it.
    """

    client_id: str
    fields: Document
    secret: str | None = field(default=None, repr=False)
    stored: str | None = field(default=None, repr=False)
    notes: list[str] = field(default_factory=list)


class Refused(ValueError):
    """Why a client is not imported."""


#: Reads one client, by its id and its members.
Read = Callable[[str, Members], Foreign]
#: The clients of an export, each with its reader.
Rows = Iterable[tuple[str, Members, Read]]


def rows_of(
    export: object, names: Sequence[str], id_of: Callable[[Members], object], read: Read
) -> Rows:
    """The clients of a list that stands in the export, or is it.

    Args:
        export: what was read.
        names: what the list may be called in it.
        id_of: where a client has its id.
        read: reads one client.

    Raises:
        ValueError: there is no such list.
    """
    if isinstance(export, Mapping):
        export = next((export[name] for name in names if name in export), None)
    if not isinstance(export, list):
        raise ValueError(f"the export holds no list of clients ({', '.join(names)})")
    for place, members in enumerate(export, start=1):
        client_id = id_of(members) if isinstance(members, Mapping) else None
        if isinstance(client_id, str) and client_id:
            yield client_id, members, read
        else:
            yield f"number {place}", {}, _nobody


def _nobody(client_id: str, members: Members) -> Foreign:
    raise Refused("it has no id")


def take_hash(foreign: Foreign, text: str) -> None:
    """Take over a hash; one that cannot be verified leaves the client without a secret."""
    try:
        foreign.stored = imported(text)
    except ValueError as fault:
        foreign.notes.append(f"its secret cannot be carried over, for {fault}")


def check_grant(grants: Collection[str]) -> None:
    """See that it is a machine.

    Raises:
        Refused: it is not.
    """
    if _CLIENT_CREDENTIALS not in grants:
        raise Refused("it is for people: client_credentials is not among its grants")


def check_method(method: str) -> None:
    """See that it can prove itself here as it does there.

    Raises:
        Refused: it cannot.
    """
    if method not in (*SECRET_METHODS, PRIVATE_KEY_JWT):
        raise Refused(f"it proves itself by {method}, which is not offered here")


def keys_of(jwks: object, uri: str | None) -> Document:
    """The fields of a client that signs.

    Raises:
        Refused: the export has neither its keys nor where they are.
    """
    if uri is None and not jwks:
        raise Refused("it signs, and its keys are not in the export")
    return {"jwks_uri": uri} if uri is not None else {"jwks": jwks}


def json_member(members: Members, name: str) -> Any:
    """A member that may be JSON in a text, as in a column of a table.

    Raises:
        Refused: the text is none.
    """
    value = members.get(name)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value or "null")
    except ValueError:
        raise Refused(f"{name} is no JSON") from None


def words_of(members: Members, name: str) -> list[str]:
    """A member that is a list, or one in a text: as JSON, or parted by `|` or spaces.

    Raises:
        ValueError: it is none.
    """
    value = members.get(name) or []
    if isinstance(value, str):
        value = json.loads(value) if value.startswith("[") else re.split(r"[|\s]+", value.strip())
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise Refused(f"{name} is no list of words")
    return [word for word in value if word]


def minutes_of(lifespan: object) -> int | None:
    """A lifetime such as `1h0m0s` in whole minutes, at least one."""
    found = _DURATION.fullmatch(lifespan) if isinstance(lifespan, str) and lifespan else None
    if found is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return max(1, (hours * 3600 + minutes * 60 + seconds) // 60)


def is_uri(name: str) -> bool:
    """Whether a name is an absolute URI, as resources are called here (RFC 8707 section 2)."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*:[^#\s]+$", name) is not None
