"""Clients from other servers' exports. A file for each server; plain functions of values.

What is there of a machine is carried over: its id, its secret as the export holds it, its keys, its
scopes and lifetimes. What cannot be is named, with the reason; nothing is left out silently.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import yaml

from _oauth2_m2m.client_documents import SECRET_METHODS, client_from
from _oauth2_m2m.client_files import check_size
from _oauth2_m2m.client_import import auth0, django, hydra, keycloak
from _oauth2_m2m.client_import.foreign import Foreign, Refused, Rows
from _oauth2_m2m.credentials import LONGEST_SECRET, is_digest

__all__ = ["LARGEST_EXPORT_BYTES", "Foreign", "NotImported", "Source", "read_export"]

LARGEST_EXPORT_BYTES = 64 * 1024 * 1024

#: What readers meet where somebody wrote a text for a list, or a moment in a million years.
_NOT_AS_EXPORTED = (AttributeError, TypeError, OverflowError, OSError)


class Source(StrEnum):
    """Where an export comes from."""

    HYDRA = "hydra"
    KEYCLOAK = "keycloak"
    DJANGO = "django-oauth-toolkit"
    AUTH0 = "auth0"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotImported:
    """A client that stays where it is.

    Attributes:
        client_id: which one, as far as the export names it.
        reason: why.
    """

    client_id: str
    reason: str


_READERS: Mapping[Source, Callable[[object], Rows]] = {
    Source.HYDRA: hydra.clients_of,
    Source.KEYCLOAK: keycloak.clients_of,
    Source.DJANGO: django.clients_of,
    Source.AUTH0: auth0.clients_of,
}


def read_export(
    source: Source, text: str, *, scopes: Collection[str] = ()
) -> tuple[list[Foreign], list[NotImported]]:
    """Read an export in full, before anything is written.

    Args:
        source: where it comes from.
        text: what it holds, JSON; of Auth0's Deploy CLI YAML too.
        scopes: the scopes of clients to which the export gives none.

    Returns:
        What can be imported, and what cannot.

    Raises:
        ValueError: it is no export of that kind.
    """
    if len(text.encode()) > LARGEST_EXPORT_BYTES:
        raise ValueError(f"the export is larger than {LARGEST_EXPORT_BYTES} bytes")
    found: dict[str, Foreign] = {}
    refused: list[NotImported] = []
    for client_id, members, read in _READERS[source](_parsed(text, source)):
        try:
            if client_id in found:
                raise Refused("it stands there twice")
            foreign = read(client_id, members)
            _finish(foreign, scopes)
        except ValueError as fault:
            refused.append(NotImported(client_id=client_id, reason=str(fault)))
        except _NOT_AS_EXPORTED:
            reason = "a member of it is of another type than in an export, or out of range"
            refused.append(NotImported(client_id=client_id, reason=reason))
        else:
            found[client_id] = foreign
    return list(found.values()), refused


def _parsed(text: str, source: Source) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if source is not Source.AUTH0:
            raise ValueError("the export is no JSON") from None
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        raise ValueError("the export is neither JSON nor YAML") from None
    check_size(content)
    return content


def _finish(foreign: Foreign, scopes: Collection[str]) -> None:
    """Complete a client, and see that it can be stored.

    Raises:
        ValueError: it cannot.
    """
    if not foreign.fields.get("scopes"):
        foreign.fields["scopes"] = sorted(scopes)
        if not scopes:
            foreign.notes.append("it has no scopes: say which by --scope, or update it afterwards")
    foreign.fields = {name: value for name, value in foreign.fields.items() if value is not None}
    client = client_from({"client_id": foreign.client_id, **foreign.fields})
    if foreign.secret is not None and not 0 < len(foreign.secret) <= LONGEST_SECRET:
        raise Refused(f"its secret is longer than {LONGEST_SECRET} characters")
    if foreign.secret is not None and is_digest(foreign.secret):
        raise Refused("its secret looks like a stored digest")
    has_secret = foreign.secret is not None or foreign.stored is not None
    if not has_secret and client.allows_method(*SECRET_METHODS):
        foreign.notes.append("its secret is not in the export: oauth2-m2m secrets add ID")
