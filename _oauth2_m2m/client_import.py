"""Clients from other servers' exports. Plain functions of values.

What is there of a machine is carried over: its id, its secret as the export holds it, its keys, its
scopes and lifetimes. What cannot be is named, with the reason; nothing is left out silently.

| from | the export |
|---|---|
| Hydra | the rows of the table `hydra_client` as JSON, for its API shows no hashes; or `hydra list clients --format json`, without secrets |
| Keycloak | a realm, as `kc.sh export` writes it; one by the admin console masks the secrets |
| django-oauth-toolkit | `manage.py dumpdata oauth2_provider.application` |
| Auth0 | `{"clients": [...], "client_grants": [...]}` of the Management API, or what the Deploy CLI exports (without secrets) |
"""  # noqa: E501

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import yaml

from _oauth2_m2m.client_documents import PRIVATE_KEY_JWT, SECRET_METHODS, client_from
from _oauth2_m2m.credentials import LONGEST_SECRET, is_digest
from _oauth2_m2m.foreign_hashes import imported
from _oauth2_m2m.storage import Document, as_utc

LARGEST_EXPORT_BYTES = 64 * 1024 * 1024

_CLIENT_CREDENTIALS = "client_credentials"
#: What Keycloak gives every client, and what means nothing without people.
_SCOPES_OF_PEOPLE = frozenset({
    "acr", "address", "basic", "email", "microprofile-jwt", "offline_access", "openid",
    "organization", "phone", "profile", "role_list", "roles", "saml_organization",
    "service_account", "web-origins",
})  # fmt: skip
_MASKED = re.compile(r"\*+")
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)(?:\.\d+)?s)?", re.ASCII)

Members = Mapping[str, Any]


class Source(StrEnum):
    """Where an export comes from."""

    HYDRA = "hydra"
    KEYCLOAK = "keycloak"
    DJANGO = "django-oauth-toolkit"
    AUTH0 = "auth0"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class NotImported:
    """A client that stays where it is.

    Attributes:
        client_id: which one, as far as the export names it.
        reason: why.
    """

    client_id: str
    reason: str


class _Refused(ValueError):
    """Why a client is not imported."""


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
                raise _Refused("it stands there twice")
            foreign = read(client_id, members)
            _finish(foreign, scopes)
        except ValueError as fault:
            refused.append(NotImported(client_id=client_id, reason=str(fault)))
        else:
            found[client_id] = foreign
    return list(found.values()), refused


_Read = Callable[[str, Members], Foreign]
_Rows = Iterable[tuple[str, Members, _Read]]


def _parsed(text: str, source: Source) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if source is not Source.AUTH0:
            raise ValueError("the export is no JSON") from None
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        raise ValueError("the export is neither JSON nor YAML") from None


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
        raise _Refused(f"its secret is longer than {LONGEST_SECRET} characters")
    if foreign.secret is not None and is_digest(foreign.secret):
        raise _Refused("its secret looks like a stored digest")
    has_secret = foreign.secret is not None or foreign.stored is not None
    if not has_secret and client.allows_method(*SECRET_METHODS):
        foreign.notes.append("its secret is not in the export: oauth2-m2m secrets add ID")


def _rows(
    export: object, names: Sequence[str], id_of: Callable[[Members], object], read: _Read
) -> _Rows:
    """The clients of a list that stands in the export, or is it."""
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
    raise _Refused("it has no id")


# Hydra


def _hydra(export: object) -> _Rows:
    return _rows(
        export, ("items", "clients"), lambda m: m.get("client_id") or m.get("id"), _of_hydra
    )


def _of_hydra(client_id: str, members: Members) -> Foreign:
    _check_grant(_words(members, "grant_types"))
    method = members.get("token_endpoint_auth_method") or SECRET_METHODS[0]
    _check_method(method)
    lifespan = members.get("client_credentials_grant_access_token_lifespan")
    foreign = Foreign(
        client_id=client_id,
        fields={
            "name": members.get("client_name") or None,
            "scopes": sorted(set(_words(members, "scope"))),
            "audience": _words(members, "audience") or None,
            "token_endpoint_auth_methods": [PRIVATE_KEY_JWT] if method == PRIVATE_KEY_JWT else None,
            "access_token_expire_minutes": _minutes(lifespan),
            "created_at": as_utc(members.get("created_at")),
        },
    )
    if method == PRIVATE_KEY_JWT:
        foreign.fields |= _keys(_json(members, "jwks"), members.get("jwks_uri") or None)
    elif members.get("client_secret"):
        _hashed(foreign, str(members["client_secret"]))
    expires = members.get("client_secret_expires_at")
    if isinstance(expires, int) and expires > 0:
        ends = datetime.fromtimestamp(expires, UTC)
        foreign.notes.append(f"its secret was to end on {ends:%Y-%m-%d}: it does not here")
    return foreign


# Keycloak


def _keycloak(export: object) -> _Rows:
    return _rows(export, ("clients",), lambda m: m.get("clientId"), _of_keycloak)


def _of_keycloak(client_id: str, members: Members) -> Foreign:
    if members.get("protocol", "openid-connect") != "openid-connect":
        raise _Refused(f"it speaks {members['protocol']}")
    if members.get("bearerOnly"):
        raise _Refused("it takes tokens and asks for none (bearer only)")
    if members.get("publicClient") or not members.get("serviceAccountsEnabled"):
        raise _Refused("it is for people: it has no service account")
    kind = members.get("clientAuthenticatorType", "client-secret")
    attributes = members.get("attributes") or {}
    offered = [
        *(members.get("defaultClientScopes") or []),
        *(members.get("optionalClientScopes") or []),
    ]
    lifespan = attributes.get("access.token.lifespan")
    foreign = Foreign(
        client_id=client_id,
        fields={
            "name": members.get("name") or None,
            "scopes": sorted(set(offered) - _SCOPES_OF_PEOPLE),
            "disabled": True if members.get("enabled") is False else None,
            "access_token_expire_minutes": _minutes(f"{lifespan}s" if lifespan else None),
        },
    )
    if kind == "client-jwt":
        uri = attributes.get("jwks.url") if attributes.get("use.jwks.url") == "true" else None
        foreign.fields |= _keys(_json(attributes, "jwks.string") if not uri else None, uri)
    elif kind == "client-secret":
        secret = members.get("secret")
        if secret and not _MASKED.fullmatch(str(secret)):
            foreign.secret = str(secret)
    else:
        raise _Refused(f"it proves itself by {kind}, which is not offered here")
    foreign.notes.append("roles of its service account are not carried over: update --role")
    return foreign


# django-oauth-toolkit


def _django(export: object) -> _Rows:
    if not isinstance(export, list):
        raise ValueError("the export holds no list of applications (dumpdata)")
    models = [row for row in export if isinstance(row, Mapping) and "fields" in row]
    applications = [
        {**row["fields"], "model": row.get("model")}
        for row in models
        if isinstance(row["fields"], Mapping) and "client_id" in row["fields"]
    ]
    if export and not applications:
        raise ValueError("the export holds no application (oauth2_provider.application)")
    return _rows(applications, (), lambda m: m.get("client_id"), _of_django)


def _of_django(client_id: str, members: Members) -> Foreign:
    if members.get("authorization_grant_type") != "client-credentials":
        raise _Refused("it is for people: its grant is not client-credentials")
    if members.get("client_type") != "confidential":
        raise _Refused("it is public: it has no secret")
    foreign = Foreign(
        client_id=client_id,
        fields={
            "name": members.get("name") or None,
            "created_at": as_utc(members.get("created")),
        },
    )
    secret = str(members.get("client_secret") or "")
    # Before version 2 secrets were kept in the clear, and there was no such field.
    looks_hashed = re.match(r"[a-z0-9_]+\$.+\$", secret) is not None
    if members.get("hash_client_secret", looks_hashed) and looks_hashed:
        _hashed(foreign, secret)
    elif secret:
        foreign.secret = secret
    return foreign


# Auth0


def _auth0(export: object) -> _Rows:
    grants: Sequence[Any] = []
    if isinstance(export, Mapping):
        grants = export.get("client_grants") or export.get("clientGrants") or []

    def read(client_id: str, members: Members) -> Foreign:
        return _of_auth0(client_id, members, grants)

    # What the Deploy CLI writes has no ids: there clients are called by their names.
    return _rows(export, ("clients",), lambda m: m.get("client_id") or m.get("name"), read)


def _of_auth0(client_id: str, members: Members, grants: Sequence[Any]) -> Foreign:
    if members.get("global"):
        raise _Refused("it stands for the whole tenant")
    granted = members.get("grant_types")
    if granted is None and members.get("app_type") != "non_interactive":
        raise _Refused("it is for people: it is no machine-to-machine application")
    if granted is not None:
        _check_grant(granted)
    if "client_id" not in members:
        raise _Refused("the export has no ids: export it with AUTH0_EXPORT_IDENTIFIERS")
    _check_method(members.get("token_endpoint_auth_method") or SECRET_METHODS[1])
    own = [
        grant
        for grant in grants
        if isinstance(grant, Mapping)
        and grant.get("client_id") in (client_id, members.get("name", client_id))
    ]
    audiences = sorted({str(grant["audience"]) for grant in own if grant.get("audience")})
    foreign = Foreign(
        client_id=client_id,
        fields={
            "name": members.get("name") or None,
            "scopes": sorted({scope for grant in own for scope in grant.get("scope") or []}),
            "audience": [name for name in audiences if _is_uri(name)] or None,
        },
    )
    for name in audiences:
        if not _is_uri(name):
            foreign.notes.append(f"audience {name} is no absolute URI: it cannot ask for it here")
    if (members.get("client_authentication_methods") or {}).get(PRIVATE_KEY_JWT):
        raise _Refused("it signs, and its keys are not in the export: register it with --jwks")
    secret = members.get("client_secret")
    if secret and not _MASKED.fullmatch(str(secret)):
        foreign.secret = str(secret)
    return foreign


_READERS: Mapping[Source, Callable[[object], _Rows]] = {
    Source.HYDRA: _hydra,
    Source.KEYCLOAK: _keycloak,
    Source.DJANGO: _django,
    Source.AUTH0: _auth0,
}


# What they share


def _hashed(foreign: Foreign, text: str) -> None:
    """Take over a hash; one that cannot be verified leaves the client without a secret."""
    try:
        foreign.stored = imported(text)
    except ValueError as fault:
        foreign.notes.append(f"its secret cannot be carried over, for {fault}")


def _check_grant(grants: Collection[str]) -> None:
    if _CLIENT_CREDENTIALS not in grants:
        raise _Refused("it is for people: client_credentials is not among its grants")


def _check_method(method: str) -> None:
    if method not in (*SECRET_METHODS, PRIVATE_KEY_JWT):
        raise _Refused(f"it proves itself by {method}, which is not offered here")


def _keys(jwks: object, uri: str | None) -> Document:
    if uri is None and not jwks:
        raise _Refused("it signs, and its keys are not in the export")
    return {"jwks_uri": uri} if uri is not None else {"jwks": jwks}


def _json(members: Members, name: str) -> Any:
    """A member that may be JSON in a text, as in a column of a table."""
    value = members.get(name)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value or "null")
    except ValueError:
        raise _Refused(f"{name} is no JSON") from None


def _words(members: Members, name: str) -> list[str]:
    """A member that is a list, or one in a text: as JSON, or parted by `|` or spaces."""
    value = members.get(name) or []
    if isinstance(value, str):
        value = json.loads(value) if value.startswith("[") else re.split(r"[|\s]+", value.strip())
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise _Refused(f"{name} is no list of words")
    return [word for word in value if word]


def _minutes(lifespan: object) -> int | None:
    """A lifetime such as `1h0m0s` in whole minutes, at least one."""
    found = _DURATION.fullmatch(lifespan) if isinstance(lifespan, str) and lifespan else None
    if found is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return max(1, (hours * 3600 + minutes * 60 + seconds) // 60)


def _is_uri(name: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*:[^#\s]+$", name) is not None
