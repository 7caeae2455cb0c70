"""Keycloak: a realm, as `kc.sh export` writes it. The admin console masks the secrets."""

from __future__ import annotations

from _oauth2_m2m.client_import.foreign import (
    MASKED,
    Foreign,
    Members,
    Refused,
    Rows,
    json_member,
    keys_of,
    minutes_of,
    rows_of,
)

#: What Keycloak gives every client, and what means nothing without people.
_SCOPES_OF_PEOPLE = frozenset({
    "acr", "address", "basic", "email", "microprofile-jwt", "offline_access", "openid",
    "organization", "phone", "profile", "role_list", "roles", "saml_organization",
    "service_account", "web-origins",
})  # fmt: skip


def clients_of(export: object) -> Rows:
    """The clients of an export, those that are no machines included."""
    return rows_of(export, ("clients",), lambda m: m.get("clientId"), _of_keycloak)


def _of_keycloak(client_id: str, members: Members) -> Foreign:
    if members.get("protocol", "openid-connect") != "openid-connect":
        raise Refused(f"it speaks {members['protocol']}")
    if members.get("bearerOnly"):
        raise Refused("it takes tokens and asks for none (bearer only)")
    if members.get("publicClient") or not members.get("serviceAccountsEnabled"):
        raise Refused("it is for people: it has no service account")
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
            "access_token_expire_minutes": minutes_of(f"{lifespan}s" if lifespan else None),
        },
    )
    if kind == "client-jwt":
        uri = attributes.get("jwks.url") if attributes.get("use.jwks.url") == "true" else None
        foreign.fields |= keys_of(json_member(attributes, "jwks.string") if not uri else None, uri)
    elif kind == "client-secret":
        secret = members.get("secret")
        if secret and not MASKED.fullmatch(str(secret)):
            foreign.secret = str(secret)
    else:
        raise Refused(f"it proves itself by {kind}, which is not offered here")
    foreign.notes.append("roles of its service account are not carried over: update --role")
    return foreign
