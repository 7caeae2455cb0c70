"""django-oauth-toolkit: what `manage.py dumpdata oauth2_provider.application` prints."""

from __future__ import annotations

import re
from collections.abc import Mapping

from _oauth2_m2m.client_import.foreign import Foreign, Members, Refused, Rows, rows_of, take_hash
from _oauth2_m2m.storage import as_utc


def clients_of(export: object) -> Rows:
    """The applications of an export, those that are no machines included."""
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
    return rows_of(applications, (), lambda m: m.get("client_id"), _of_django)


def _of_django(client_id: str, members: Members) -> Foreign:
    if members.get("authorization_grant_type") != "client-credentials":
        raise Refused("it is for people: its grant is not client-credentials")
    if members.get("client_type") != "confidential":
        raise Refused("it is public: it has no secret")
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
        take_hash(foreign, secret)
    elif secret:
        foreign.secret = secret
    return foreign
