"""GET /revocations: what was revoked, for whoever checks tokens elsewhere. It is public."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from _oauth2_m2m.endpoints import documentation
from _oauth2_m2m.endpoints.route import JSON
from _oauth2_m2m.errors import InvalidRequest
from _oauth2_m2m.responses import NO_STORE
from _oauth2_m2m.revocation_feed import Cursor, RevocationFeed, cursor_from
from _oauth2_m2m.services import Services


def add_to(router: APIRouter, services: Services) -> None:
    """Add the endpoint to a router."""
    feed = RevocationFeed(services.storage)

    @router.get("/revocations", **documentation.REVOCATIONS)
    async def revocations(request: Request) -> Response:
        cursor = _cursor(request)
        await services.ready()
        page = await feed.page(cursor, datetime.now(UTC))
        return Response(page.as_json(), media_type=JSON, headers=NO_STORE)


def _cursor(request: Request) -> Cursor:
    given = request.query_params.getlist("after")
    if len(given) > 1:
        raise InvalidRequest("after is repeated")
    return cursor_from(given[0]) if given else Cursor()
