"""Ory Hydra: the rows of the table `hydra_client` as JSON, for its API shows no hashes.

What `hydra list clients --format json` prints is taken too; it has no secrets.
"""

from __future__ import annotations

from datetime import UTC, datetime

from _oauth2_m2m.client_documents import PRIVATE_KEY_JWT, SECRET_METHODS
from _oauth2_m2m.client_import.foreign import (
    Foreign,
    Members,
    Rows,
    check_grant,
    check_method,
    json_member,
    keys_of,
    minutes_of,
    rows_of,
    take_hash,
    words_of,
)
from _oauth2_m2m.storage import as_utc


def clients_of(export: object) -> Rows:
    """The clients of an export, those that are no machines included."""
    return rows_of(
        export, ("items", "clients"), lambda m: m.get("client_id") or m.get("id"), _of_hydra
    )


def _of_hydra(client_id: str, members: Members) -> Foreign:
    check_grant(words_of(members, "grant_types"))
    method = members.get("token_endpoint_auth_method") or SECRET_METHODS[0]
    check_method(method)
    lifespan = members.get("client_credentials_grant_access_token_lifespan")
    foreign = Foreign(
        client_id=client_id,
        fields={
            "name": members.get("client_name") or None,
            "scopes": sorted(set(words_of(members, "scope"))),
            "audience": words_of(members, "audience") or None,
            "token_endpoint_auth_methods": [PRIVATE_KEY_JWT] if method == PRIVATE_KEY_JWT else None,
            "access_token_expire_minutes": minutes_of(lifespan),
            "created_at": as_utc(members.get("created_at")),
        },
    )
    if method == PRIVATE_KEY_JWT:
        foreign.fields |= keys_of(json_member(members, "jwks"), members.get("jwks_uri") or None)
    elif members.get("client_secret"):
        take_hash(foreign, str(members["client_secret"]))
    expires = members.get("client_secret_expires_at")
    if isinstance(expires, int) and expires > 0:
        ends = datetime.fromtimestamp(expires, UTC)
        foreign.notes.append(f"its secret was to end on {ends:%Y-%m-%d}: it does not here")
    return foreign
