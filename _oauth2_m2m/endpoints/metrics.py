"""GET /metrics: for Prometheus. Off unless `METRICS` is set in the config."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response

from _oauth2_m2m.endpoints import documentation
from _oauth2_m2m.errors import NotFound
from _oauth2_m2m.group_commit import MOST_WAITING, GroupCommit
from _oauth2_m2m.metrics import CONTENT_TYPE, Metrics
from _oauth2_m2m.protected_requests import ServerJudge
from _oauth2_m2m.responses import NO_STORE, caller_of
from _oauth2_m2m.services import Services

METRICS_SCOPE = "metrics"

#: A proxy on this host is a neighbour on loopback, too, but these say for whom it asks.
_FORWARDING = frozenset({
    "forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip",
    "cf-connecting-ip", "fastly-client-ip", "x-original-host", "x-original-url",
})  # fmt: skip
_FORWARDING_PREFIX = "x-forwarded"


def add_to(router: APIRouter, services: Services, counted: Metrics) -> None:
    """Add the endpoint to a router."""
    judge = ServerJudge(services, lambda settings: [settings.issuer])

    async def show(askers: Sequence[None]) -> Sequence[bytes]:
        return [await asyncio.to_thread(counted.text)] * len(askers)

    # However many ask, one showing answers all who wait for one.
    showings = GroupCommit(show, largest_batch=MOST_WAITING)

    @router.get("/metrics", name="oauth2_m2m:metrics", **documentation.METRICS)
    async def metrics(request: Request) -> Response:
        if not (await services.ready()).metrics:
            raise NotFound("Not found")
        if not is_from_this_host(caller_of(request).ip, request.headers):
            await judge.admit(request, [METRICS_SCOPE])
        return Response(await showings.ask(None), media_type=CONTENT_TYPE, headers=NO_STORE)


def is_from_this_host(ip: str, headers: Mapping[str, str]) -> bool:
    """Whether a request comes from a program on this host, and not by way of one.

    The address must be loopback, no proxy may have left its traces, and the host that is asked for
    must be this one too: a page in a browser here that names a host of its own stays outside.

    Args:
        ip: the address of the peer.
        headers: the headers of the request, their names in lower case.
    """
    names = {name.lower() for name in headers}
    if not names.isdisjoint(_FORWARDING) or any(n.startswith(_FORWARDING_PREFIX) for n in names):
        return False
    return _is_loopback(ip) and _names_this_host(headers.get("host", ""))


def _names_this_host(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or _is_loopback(name)


def _is_loopback(ip: str) -> bool:
    try:
        return ip_address(ip).is_loopback
    except ValueError:
        return False
