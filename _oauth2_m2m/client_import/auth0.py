"""Auth0: `{"clients": [...], "client_grants": [...]}` of the Management API.

What the Deploy CLI exports is taken too; it has no secrets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from _oauth2_m2m.client_documents import PRIVATE_KEY_JWT, SECRET_METHODS
from _oauth2_m2m.client_import.foreign import (
    MASKED,
    Foreign,
    Members,
    Refused,
    Rows,
    check_grant,
    check_method,
    is_uri,
    rows_of,
)


def clients_of(export: object) -> Rows:
    """The clients of an export, those that are no machines included."""
    grants: Sequence[Any] = []
    if isinstance(export, Mapping):
        grants = export.get("client_grants") or export.get("clientGrants") or []

    def read(client_id: str, members: Members) -> Foreign:
        return _of_auth0(client_id, members, grants)

    # What the Deploy CLI writes has no ids: there clients are called by their names.
    return rows_of(export, ("clients",), lambda m: m.get("client_id") or m.get("name"), read)


def _of_auth0(client_id: str, members: Members, grants: Sequence[Any]) -> Foreign:
    if members.get("global"):
        raise Refused("it stands for the whole tenant")
    granted = members.get("grant_types")
    if granted is None and members.get("app_type") != "non_interactive":
        raise Refused("it is for people: it is no machine-to-machine application")
    if granted is not None:
        check_grant(granted)
    if "client_id" not in members:
        raise Refused("the export has no ids: export it with AUTH0_EXPORT_IDENTIFIERS")
    check_method(members.get("token_endpoint_auth_method") or SECRET_METHODS[1])
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
            "audience": [name for name in audiences if is_uri(name)] or None,
        },
    )
    for name in audiences:
        if not is_uri(name):
            foreign.notes.append(f"audience {name} is no absolute URI: it cannot ask for it here")
    if (members.get("client_authentication_methods") or {}).get(PRIVATE_KEY_JWT):
        raise Refused("it signs, and its keys are not in the export: register it with --jwks")
    secret = members.get("client_secret")
    if secret and not MASKED.fullmatch(str(secret)):
        foreign.secret = str(secret)
    return foreign
