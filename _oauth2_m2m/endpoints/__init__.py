"""The endpoints, one file each, and the router that gathers them."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from starlette.types import Lifespan

from _oauth2_m2m.endpoints import (
    health,
    introspect,
    metadata,
    refresh,
    revocations,
    revoke,
    token,
)
from _oauth2_m2m.endpoints import metrics as metrics_endpoint
from _oauth2_m2m.endpoints.route import OAuthRouter, route_class
from _oauth2_m2m.metrics import Metrics
from _oauth2_m2m.services import Services

_ENDPOINTS = (token, refresh, revoke, introspect, revocations, metadata, health)


def endpoint_router(services: Services, metrics: Metrics, lifespan: Lifespan[FastAPI]) -> APIRouter:
    """Every endpoint of the server, to be included in an app.

    Args:
        services: the rooms.
        metrics: where requests are counted.
        lifespan: what an app that includes the router runs at its start and end.
    """
    router = OAuthRouter(route_class=route_class(metrics), tags=["oauth2"], lifespan=lifespan)
    for endpoint in _ENDPOINTS:
        endpoint.add_to(router, services)
    metrics_endpoint.add_to(router, services, metrics)
    return router
