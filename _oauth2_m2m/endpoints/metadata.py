"""What others need to know of this server: RFC 8414, RFC 7517, RFC 9728.

Addresses are made from `ISSUER`, never from the header `Host`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from _oauth2_m2m.client_documents import PRIVATE_KEY_JWT, SECRET_METHODS
from _oauth2_m2m.config import Settings
from _oauth2_m2m.endpoints import documentation
from _oauth2_m2m.endpoints.route import JSON
from _oauth2_m2m.errors import NotFound
from _oauth2_m2m.grants import offered_grants
from _oauth2_m2m.services import Services

JWKS_PATH = "/.well-known/jwks.json"
#: A key is announced for a day before it signs, so everybody looks again in time.
FRESH_SECONDS = 300


def add_to(router: APIRouter, services: Services) -> None:
    """Add the endpoints to a router."""

    @router.get("/.well-known/oauth-authorization-server", **documentation.METADATA)
    async def metadata(request: Request) -> Response:
        return _published(request, server_metadata(await services.ready()))

    @router.get(JWKS_PATH, **documentation.JWKS)
    async def jwks(request: Request) -> Response:
        await services.ready()
        return _published(request, {"keys": services.keys.ring.published()})

    @router.get("/.well-known/oauth-protected-resource", **documentation.RESOURCE_METADATA)
    async def protected_resource(request: Request) -> Response:
        settings = await services.ready()
        if settings.audience != settings.resource_url:
            raise NotFound("AUDIENCE is no address, so there is nothing to say of it")
        return _published(request, resource_metadata(settings))


def server_metadata(settings: Settings) -> dict[str, Any]:
    """Exactly what works. RFC 8414 section 2."""
    base = settings.issuer.rstrip("/")
    methods = [PRIVATE_KEY_JWT] if settings.is_fapi2 else [*SECRET_METHODS, PRIVATE_KEY_JWT]
    members: dict[str, Any] = {
        "issuer": settings.issuer,
        "jwks_uri": base + JWKS_PATH,
        "response_types_supported": [],  # there is no authorization endpoint, and no way to say so
        "grant_types_supported": offered_grants(settings),
        "dpop_signing_alg_values_supported": list(settings.foreign_algorithms),
        "revocations_endpoint": f"{base}/revocations",
    }
    for name, path in {
        "token": "token",
        "revocation": "revoke",
        "introspection": "introspect",
    }.items():
        members[f"{name}_endpoint"] = f"{base}/{path}"
        members[f"{name}_endpoint_auth_methods_supported"] = methods
        members[f"{name}_endpoint_auth_signing_alg_values_supported"] = list(
            settings.foreign_algorithms
        )
    if settings.audience == settings.resource_url:
        members["protected_resources"] = [settings.audience]
    return members


def resource_metadata(settings: Settings) -> dict[str, Any]:
    """How the guarded routes of this app are to be called. RFC 9728 section 2."""
    return {
        "resource": settings.audience,
        "authorization_servers": [settings.issuer],
        "bearer_methods_supported": [] if settings.is_fapi2 else ["header"],
        "dpop_signing_alg_values_supported": list(settings.foreign_algorithms),
        "dpop_bound_access_tokens_required": settings.is_fapi2,
    }


def _published(request: Request, members: Mapping[str, Any]) -> Response:
    """A document that may be kept for a while, or the word that it has not changed."""
    body = json.dumps(members, separators=(",", ":")).encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"Cache-Control": f"public, max-age={FRESH_SECONDS}", "ETag": etag}
    known = [
        tag.strip().removeprefix("W/")
        for tag in request.headers.get("if-none-match", "").split(",")
    ]
    if etag in known or "*" in known:  # RFC 9110 section 13.1.2
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=JSON, headers=headers)
