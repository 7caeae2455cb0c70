"""Exports of other servers, read in full before anything is written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from _oauth2_m2m import client_import
from _oauth2_m2m.client_import import Foreign, Source, read_export
from tests.assertions import es256_key, jwks

BCRYPT = "$2a$12$GJ7rMTyCQOMIXGK/A0GwE.3HIRLEFIjZoPgjnYIQkuXkWAXzgTX0G"
KEYS = jwks(es256_key("one"))


def hydra_row(**members: Any) -> dict[str, Any]:
    """A row of the table `hydra_client`, in the columns that matter and some that do not."""
    return {
        "pk": "b6c0c3b8-4e6e-4a0c-a3f3-0f3a7b1c2d3e",
        "nid": "24704dcb-0ab9-4bfa-a84c-405932ae53fe",
        "id": "billing",
        "client_name": "Billing",
        "client_secret": BCRYPT,
        "redirect_uris": "",
        "grant_types": "client_credentials|refresh_token",
        "response_types": "token",
        "scope": "read write",
        "owner": "",
        "audience": "https://api.example/|https://b.example/",
        "token_endpoint_auth_method": "client_secret_post",
        "jwks": "{}",
        "jwks_uri": "",
        "client_secret_expires_at": 0,
        "client_credentials_grant_access_token_lifespan": None,
        "created_at": "2023-04-05T06:07:08",
        **members,
    }


def keycloak_client(**members: Any) -> dict[str, Any]:
    """A client of a realm's export."""
    return {
        "id": "6d4cc13e-1d8e-4bd6-a5a3-7dd0d1fb3f4a",
        "clientId": "billing",
        "name": "Billing",
        "surrogateAuthRequired": False,
        "enabled": True,
        "clientAuthenticatorType": "client-secret",
        "secret": "9s8xMTyCQOMIXGKaA0GwEb3HIRLEFIjZ",
        "redirectUris": [],
        "bearerOnly": False,
        "standardFlowEnabled": False,
        "directAccessGrantsEnabled": False,
        "serviceAccountsEnabled": True,
        "publicClient": False,
        "protocol": "openid-connect",
        "attributes": {"access.token.lifespan": "300", "client.secret.creation.time": "1700000000"},
        "fullScopeAllowed": True,
        "defaultClientScopes": ["web-origins", "acr", "roles", "profile", "email", "read"],
        "optionalClientScopes": ["address", "phone", "offline_access", "write"],
        **members,
    }


def django_row(**fields: Any) -> dict[str, Any]:
    """What `dumpdata oauth2_provider.application` says of an application."""
    return {
        "model": "oauth2_provider.application",
        "pk": 1,
        "fields": {
            "client_id": "billing",
            "user": 1,
            "redirect_uris": "",
            "post_logout_redirect_uris": "",
            "client_type": "confidential",
            "authorization_grant_type": "client-credentials",
            "client_secret": "pbkdf2_sha256$1000$somesalt12$6lSBMN2W35QvIsQoZb8hPugNDMuCXuH1"
            "PNepbu8eyfw=",
            "hash_client_secret": True,
            "name": "Billing",
            "skip_authorization": False,
            "created": "2023-04-05T06:07:08Z",
            "updated": "2023-04-05T06:07:08Z",
            "algorithm": "",
            "allowed_origins": "",
            **fields,
        },
    }


def auth0_client(**members: Any) -> dict[str, Any]:
    """A client as Auth0's Management API shows it."""
    return {
        "tenant": "example",
        "global": False,
        "client_id": "billing",
        "client_secret": "s3cr3t-of-auth0-with-sixty-four-characters-or-so",
        "name": "Billing",
        "app_type": "non_interactive",
        "grant_types": ["client_credentials"],
        "token_endpoint_auth_method": "client_secret_post",
        "is_first_party": True,
        "jwt_configuration": {"alg": "RS256", "lifetime_in_seconds": 36000},
        **members,
    }


GRANTS = [
    {"id": "cgr_1", "client_id": "billing", "audience": "https://api.example/", "scope": ["read"]},
    {"id": "cgr_2", "client_id": "billing", "audience": "orders", "scope": ["write", "read"]},
    {"id": "cgr_3", "client_id": "another", "audience": "https://b.example/", "scope": ["admin"]},
]


def one(source: Source, export: Any, **options: Any) -> Foreign:
    (foreign,), refused = read_export(source, json.dumps(export), **options)
    assert refused == []
    return foreign


def reason(source: Source, export: Any) -> str:
    found, (refused,) = read_export(source, json.dumps(export))
    assert found == []
    return refused.reason


def test_a_client_of_hydra_is_read() -> None:
    """From a row of its table, lists in either of the shapes that its versions use."""
    for row in (
        hydra_row(),
        hydra_row(
            grant_types='["client_credentials","refresh_token"]',
            audience='["https://api.example/","https://b.example/"]',
        ),
    ):
        foreign = one(Source.HYDRA, [row])
        assert foreign.client_id == "billing"
        assert foreign.stored == "imported$" + BCRYPT
        assert foreign.fields["scopes"] == ["read", "write"]
        assert foreign.fields["audience"] == ["https://api.example/", "https://b.example/"]
        assert foreign.fields["name"] == "Billing"
        assert foreign.fields["created_at"].year == 2023
        assert foreign.notes == []
        assert BCRYPT not in repr(foreign)


def test_what_hydras_command_line_lists_is_read_without_secrets() -> None:
    """It shows none, which is said."""
    row = hydra_row(client_id="billing", grant_types=["client_credentials"], audience=[])
    del row["client_secret"], row["id"]
    foreign = one(Source.HYDRA, {"items": [row], "next_page_token": ""})
    assert foreign.stored is foreign.secret is None
    assert "secrets add" in foreign.notes[0]


def test_a_client_of_hydra_that_signs_is_read_with_its_keys() -> None:
    """And without the secret that it has beside them."""
    signing = {"token_endpoint_auth_method": "private_key_jwt", "jwks": json.dumps(KEYS)}
    foreign = one(Source.HYDRA, [hydra_row(**signing)])
    assert foreign.fields["jwks"] == KEYS
    assert foreign.stored is None
    assert foreign.notes == []
    lifespan = {"client_credentials_grant_access_token_lifespan": "1h30m0s"}
    assert one(Source.HYDRA, [hydra_row(**lifespan)]).fields["access_token_expire_minutes"] == 90


def test_a_client_of_keycloak_is_read() -> None:
    """Its scopes are those that mean something without people; its secret is in the clear."""
    foreign = one(Source.KEYCLOAK, {"realm": "main", "clients": [keycloak_client()]})
    assert foreign.fields["scopes"] == ["read", "write"]
    assert foreign.fields["access_token_expire_minutes"] == 5
    assert foreign.secret == "9s8xMTyCQOMIXGKaA0GwEb3HIRLEFIjZ"
    assert foreign.secret not in repr(foreign)
    assert any("roles" in note for note in foreign.notes)
    masked = one(
        Source.KEYCLOAK, {"clients": [keycloak_client(secret="**********", enabled=False)]}
    )
    assert masked.secret is None
    assert masked.fields["disabled"] is True
    assert any("secrets add" in note for note in masked.notes)


def test_a_client_of_keycloak_that_signs_is_read_with_its_keys() -> None:
    """Where they are in the export, or by where it publishes them."""
    uri = {"use.jwks.url": "true", "jwks.url": "https://billing.example/keys"}
    signer = keycloak_client(clientAuthenticatorType="client-jwt", attributes=uri)
    assert one(Source.KEYCLOAK, {"clients": [signer]}).fields["jwks_uri"] == uri["jwks.url"]
    signer["attributes"] = {"use.jwks.string": "true", "jwks.string": json.dumps(KEYS)}
    assert one(Source.KEYCLOAK, {"clients": [signer]}).fields["jwks"] == KEYS


def test_an_application_of_django_is_read() -> None:
    """Its secret by its hash, or as it stands where hashing was off or not known yet."""
    foreign = one(Source.DJANGO, [django_row()], scopes=["read"])
    assert foreign.stored is not None
    assert foreign.fields["scopes"] == ["read"]
    assert foreign.notes == []
    clear = one(Source.DJANGO, [django_row(client_secret="in$the$clear", hash_client_secret=False)])
    assert (clear.secret, clear.stored) == ("in$the$clear", None)
    assert any("--scope" in note for note in clear.notes)
    old = django_row(client_secret="jxhfVXRb4HVeoY0CwSoPeqgwaNMJbVzV")
    del old["fields"]["hash_client_secret"]
    assert one(Source.DJANGO, [old]).secret == "jxhfVXRb4HVeoY0CwSoPeqgwaNMJbVzV"


def test_a_client_of_auth0_is_read_with_its_grants() -> None:
    """Its scopes and audiences are those that it was granted; what is no URI is named."""
    export = {"clients": [auth0_client()], "client_grants": GRANTS}
    foreign = one(Source.AUTH0, export)
    assert foreign.fields["scopes"] == ["read", "write"]
    assert foreign.fields["audience"] == ["https://api.example/"]
    assert foreign.secret is not None
    assert any("orders" in note for note in foreign.notes)


def test_what_auth0s_deploy_cli_writes_is_read() -> None:
    """YAML, where grants go by the clients' names."""
    text = """
clients:
  - name: Billing
    client_id: billing
    app_type: non_interactive
    grant_types: [client_credentials]
clientGrants:
  - client_id: Billing
    audience: https://api.example/
    scope: [read]
"""
    (foreign,), refused = read_export(Source.AUTH0, text)
    assert refused == []
    assert foreign.fields["scopes"] == ["read"]
    assert "secrets add" in foreign.notes[0]
    found, (nameless,) = read_export(Source.AUTH0, text.replace("    client_id: billing\n", ""))
    assert found == []
    assert "AUTH0_EXPORT_IDENTIFIERS" in nameless.reason


@pytest.mark.parametrize(
    ("source", "export", "word"),
    [
        (Source.HYDRA, [hydra_row(grant_types="authorization_code")], "for people"),
        (Source.HYDRA, [hydra_row(token_endpoint_auth_method="none")], "none"),
        (Source.HYDRA, [hydra_row(scope='a"b')], "scopes"),
        (Source.HYDRA, [hydra_row(id="~a")], "client_id"),
        (Source.HYDRA, [hydra_row(id=7)], "no id"),
        (Source.HYDRA, [hydra_row(token_endpoint_auth_method="private_key_jwt")], "keys"),
        (Source.HYDRA, ["nonsense"], "no id"),
        (Source.KEYCLOAK, {"clients": [keycloak_client(publicClient=True)]}, "for people"),
        (Source.KEYCLOAK, {"clients": [keycloak_client(serviceAccountsEnabled=False)]}, "people"),
        (Source.KEYCLOAK, {"clients": [keycloak_client(bearerOnly=True)]}, "bearer only"),
        (Source.KEYCLOAK, {"clients": [keycloak_client(protocol="saml")]}, "saml"),
        (
            Source.KEYCLOAK,
            {"clients": [keycloak_client(clientAuthenticatorType="client-x509")]},
            "client-x509",
        ),
        (Source.KEYCLOAK, {"clients": [keycloak_client(secret="x" * 1025)]}, "longer"),
        (Source.KEYCLOAK, {"clients": [keycloak_client(secret="sha256$" + "0" * 64)]}, "digest"),
        (Source.DJANGO, [django_row(client_type="public")], "public"),
        (Source.DJANGO, [django_row(authorization_grant_type="password")], "people"),
        (Source.AUTH0, {"clients": [auth0_client(grant_types=["implicit"])]}, "people"),
        (Source.AUTH0, {"clients": [auth0_client(**{"global": True})]}, "tenant"),
        (
            Source.AUTH0,
            {
                "clients": [
                    auth0_client(client_authentication_methods={"private_key_jwt": {"c": 1}})
                ]
            },
            "--jwks",
        ),
        (Source.HYDRA, [hydra_row(client_secret_expires_at=10**30)], "out of range"),
        (Source.KEYCLOAK, {"clients": [keycloak_client(attributes="x")]}, "another type"),
        (Source.AUTH0, {"clients": [auth0_client(grant_types=7)]}, "another type"),
    ],
)
def test_what_cannot_be_imported_is_named_with_its_reason(
    source: Source, export: Any, word: str
) -> None:
    """And no secret is in the reason."""
    text = reason(source, export)
    assert word in text
    assert BCRYPT not in text


def test_a_secret_that_cannot_be_verified_here_leaves_its_client() -> None:
    """The rest of the client is carried over, and what to do is said."""
    foreign = one(Source.DJANGO, [django_row(client_secret="md5$salt$5f4dcc3b5aa765d61d83")])
    assert foreign.stored is foreign.secret is None
    assert any("cannot be carried over" in note for note in foreign.notes)
    assert any("secrets add" in note for note in foreign.notes)


def test_one_bad_client_keeps_no_other_one_out() -> None:
    """Each is judged for itself, and of two with one id the first counts."""
    rows = [hydra_row(), hydra_row(id="bad", scope='a"b'), hydra_row(), hydra_row(id="good")]
    found, refused = read_export(Source.HYDRA, json.dumps(rows))
    assert [each.client_id for each in found] == ["billing", "good"]
    assert [each.client_id for each in refused] == ["bad", "billing"]
    assert "twice" in refused[1].reason


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("text", ["", "{", "7", '{"realm": 1}', '"x"', "[" * 3000])
def test_what_is_no_export_is_told(source: Source, text: str) -> None:
    """Before anything of it counts."""
    with pytest.raises(ValueError, match="export"):
        read_export(source, text)


def test_an_export_has_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is larger is not read."""
    monkeypatch.setattr(client_import, "LARGEST_EXPORT_BYTES", 2)
    assert read_export(Source.HYDRA, "[]") == ([], [])
    with pytest.raises(ValueError, match="larger"):
        read_export(Source.HYDRA, "[] ")
