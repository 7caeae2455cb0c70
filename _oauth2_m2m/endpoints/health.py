"""GET /health/live, /health/ready, /health: for load balancers and people."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from _oauth2_m2m.endpoints import documentation
from _oauth2_m2m.errors import OAuth2Error, TemporarilyUnavailable
from _oauth2_m2m.group_commit import MOST_WAITING, GroupCommit
from _oauth2_m2m.responses import error_members, json_response, note_refusal
from _oauth2_m2m.services import Services

PING_SECONDS = 1.0


def add_to(router: APIRouter, services: Services) -> None:
    """Add the endpoints to a router."""

    async def ping(askers: Sequence[None]) -> Sequence[None]:
        await services.storage.ping(PING_SECONDS)
        return askers

    # Anybody may ask, however often: one ping answers all who wait for one.
    pings = GroupCommit(ping, largest_batch=MOST_WAITING)

    @router.get("/health/live", **documentation.LIVE)
    async def live(request: Request) -> Response:
        return json_response({"status": "ok"})

    @router.get("/health/ready", **documentation.READY)
    @router.get("/health", **documentation.READY)
    async def ready(request: Request) -> Response:
        return await _readiness(request, services, pings)


async def _readiness(
    request: Request, services: Services, pings: GroupCommit[None, None]
) -> Response:
    checks = {"mongodb": "ok", "signing_key": "ok"}
    try:
        await pings.ask(None)
    except OAuth2Error:
        checks["mongodb"] = f"no answer to a ping within {PING_SECONDS:.0f} s"
    if not await _has_signing_key(services, may_ask=checks["mongodb"] == "ok"):
        checks["signing_key"] = "the config in MongoDB was never read, or cannot be used"
    failing = [f"{part}: {state}" for part, state in checks.items() if state != "ok"]
    if not failing:
        return json_response({"status": "ok", "checks": checks})
    error = TemporarilyUnavailable("; ".join(failing))
    note_refusal(request, error)
    members = {"status": "unavailable", "checks": checks, **error_members(error)}
    return json_response(members, error.status_code, error.headers())


async def _has_signing_key(services: Services, *, may_ask: bool) -> bool:
    if services.settings.last_good is None and may_ask:
        try:
            await services.ready()
        except OAuth2Error:
            return False
    return services.settings.last_good is not None
