"""What operators want clients to be, and what is to change for that. Plain functions of values."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from _oauth2_m2m.client_documents import check_new_id, client_from
from _oauth2_m2m.scopes import plain
from _oauth2_m2m.storage import Document


class ClientFields(TypedDict, total=False):
    """What clients can differ in; see `Clients.register`. `None` is the usual, whatever that is."""

    scopes: Collection[str]
    role: str | None
    name: str | None
    access_token_expire_minutes: int | None
    max_requests_per_minute: int | None
    max_requests_per_hour: int | None
    max_requests_per_day: int | None
    allowed_networks: Sequence[str] | None
    grant_types: Collection[str] | None
    issue_refresh_tokens: bool | None
    jwks: Mapping[str, Any] | None
    jwks_uri: str | None
    token_endpoint_auth_methods: Collection[str] | None
    audience: Sequence[str] | None
    dpop_bound_access_tokens: bool | None


FIELDS: tuple[str, ...] = tuple(ClientFields.__annotations__)
_SETS = frozenset({"scopes", "grant_types", "token_endpoint_auth_methods"})
_LISTS = frozenset({"allowed_networks", "audience"})
#: Where a client has no value of its own, and what that means. A list that is empty restricts
#: nothing, but for grants and methods, of which none can be used.
_USUAL: Mapping[str, object] = {
    "scopes": [],
    "role": "user",
    "allowed_networks": [],
    "audience": [],
    "dpop_bound_access_tokens": False,
}

Action = Literal["create", "update", "disable", "enable", "remove"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientChange:
    """One thing to do, so that a client becomes what it is wanted to be.

    Attributes:
        action: what to do.
        client_id: with whom.
        fields: each field that changes, what it is and what it becomes; `None` for the usual.
    """

    action: Action
    client_id: str
    fields: Mapping[str, tuple[Any, Any]]


def stored_fields(fields: Mapping[str, Any]) -> Document:
    """Fields as documents hold them; `None` for the usual.

    Raises:
        ValueError: there is no such field, or a text stands for a list.
    """
    return {name: _stored(name, value) for name, value in fields.items()}


def _stored(name: str, value: Any) -> Any:
    if name not in FIELDS:
        raise ValueError(f"{name} is no field of a client")
    if name in _SETS | _LISTS and value is not None:
        if isinstance(value, Mapping) or not isinstance(value, Iterable):
            raise ValueError(f"{name} must be a list")
        value = value if isinstance(value, str) else list(value)
        if not all(isinstance(word, str) for word in value):
            raise ValueError(f"{name} must be a list of texts")
        value = sorted(set(plain(value))) if name in _SETS else list(plain(value))
    if isinstance(value, str):
        value = str.__str__(value)
    if isinstance(value, Mapping):
        value = dict(value)
    return None if name in _USUAL and value == _USUAL[name] and name != "scopes" else value


def changed_fields(
    document: Mapping[str, Any], wanted: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """The fields that differ from a document, each with what it is and what it becomes."""
    pairs = {name: (document.get(name), wanted[name]) for name in FIELDS if name in wanted}
    return {
        name: pair
        for name, pair in pairs.items()
        if _comparable(name, pair[0]) != _comparable(name, pair[1])
    }


def _comparable(name: str, value: Any) -> Any:
    if value is None:
        return _USUAL.get(name)
    return sorted(value) if name in _SETS and isinstance(value, list) else value


def in_words(fields: Mapping[str, tuple[Any, Any]]) -> str:
    """Changes in one line, for the audit log: scopes and roles in full, the others by name."""
    words = []
    for name, (before, after) in fields.items():
        if name == "scopes":
            old, new = set(before or ()), set(after or ())
            gained, lost = sorted(new - old), sorted(old - new)
            words.append(" ".join(["scopes", *(f"+{s}" for s in gained), *(f"-{s}" for s in lost)]))
        elif name == "role":
            words.append(f"role {before or 'user'} -> {after or 'user'}")
        else:
            words.append(name)
    return ", ".join(words)


def check_wanted(wanted: Mapping[str, Any]) -> dict[str, Document]:
    """Read what clients are wanted to be: for each id its fields.

    Every client is read in full before any of them counts, so that nothing is changed by half.

    Args:
        wanted: for each id `ClientFields`, and `disabled` if it is to be.

    Raises:
        ValueError: one cannot be stored; the message names the client and the field.
    """
    checked = {}
    for client_id, fields in wanted.items():
        try:
            checked[client_id] = _checked(client_id, fields)
        except ValueError as fault:
            raise ValueError(f"client {client_id!r}: {fault}") from None
    return checked


def _checked(client_id: object, fields: object) -> Document:
    if not isinstance(client_id, str):
        raise ValueError("its id must be a text: put it in quotes")
    if not isinstance(fields, Mapping) or not all(isinstance(name, str) for name in fields):
        raise ValueError("must be fields such as scopes and role")
    if secret := fields.keys() & {"client_secret", "client_secret_details", "secrets"}:
        raise ValueError(f"{min(secret)} does not belong here: secrets are made and shown once")
    if "scopes" not in fields:
        raise ValueError("scopes is missing; [] is none")
    disabled = fields.get("disabled", False)
    if not isinstance(disabled, bool):
        raise ValueError("disabled must be true or false")
    own = {name: value for name, value in fields.items() if name != "disabled"}
    stored = {**dict.fromkeys(FIELDS), **stored_fields(own), "disabled": disabled}
    client_from({"client_id": client_id, **{k: v for k, v in stored.items() if v is not None}})
    return stored


def diff(
    documents: Iterable[Mapping[str, Any]], wanted: Mapping[str, Document], *, prune: bool = False
) -> list[ClientChange]:
    """What is to be done, so that the clients become what they are wanted to be.

    What a wanted client says nothing of becomes the usual. Doing all of it leaves nothing to do.

    Args:
        documents: the clients that there are.
        wanted: what they are wanted to be, as `check_wanted` gives it.
        prune: remove those that nobody wants; else they are left alone.

    Raises:
        ValueError: one that is to be made cannot have its id.
    """
    there = {document["client_id"]: document for document in documents}
    changes: list[ClientChange] = []
    for client_id, fields in wanted.items():
        changes += _changes(client_id, there.get(client_id), fields)
    if prune:
        changes += [
            ClientChange(action="remove", client_id=client_id, fields={})
            for client_id in there
            if client_id not in wanted
        ]
    return changes


def _changes(
    client_id: str, document: Mapping[str, Any] | None, wanted: Document
) -> Iterable[ClientChange]:
    if document is None:
        check_new_id(client_id)
        document, fields = {}, {n: (None, v) for n, v in wanted.items() if v is not None}
        fields.pop("disabled", None)
        yield ClientChange(action="create", client_id=client_id, fields=fields)
    else:
        own = {name: value for name, value in wanted.items() if name != "disabled"}
        if fields := changed_fields(document, own):
            yield ClientChange(action="update", client_id=client_id, fields=fields)
    if bool(document.get("disabled")) != wanted["disabled"]:
        yield ClientChange(
            action="disable" if wanted["disabled"] else "enable", client_id=client_id, fields={}
        )
