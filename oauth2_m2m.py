"""An OAuth 2.0 authorization server for machines, mounted on any FastAPI app, kept in MongoDB.

    m2m = OAuth2M2M(AsyncMongoClient("mongodb://localhost:27017").oauth2_m2m)
    app = FastAPI(lifespan=m2m.lifespan)
    app.include_router(m2m.router)

    @app.get("/reports")
    async def reports(token: Annotated[AccessToken, Security(m2m.access_token, scopes=["read"])]):
        return {"reports_of": token.client_id}

This is the door. What lies behind it is in `_oauth2_m2m`, one room per concept.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI

from _oauth2_m2m.access_tokens import AccessToken
from _oauth2_m2m.app_routes import RouteAccess, RouteInfo, routes_of
from _oauth2_m2m.audit_reading import AuditReading
from _oauth2_m2m.audit_search import AuditQuery
from _oauth2_m2m.audit_verification import AuditReport
from _oauth2_m2m.bearer import AccessTokenGuard, Refused, public
from _oauth2_m2m.client_changes import ClientChange, ClientFields
from _oauth2_m2m.client_documents import Client, RegisteredClient
from _oauth2_m2m.client_secrets import SecretInfo
from _oauth2_m2m.clients import Clients
from _oauth2_m2m.config import Environment, Settings, environment_from
from _oauth2_m2m.config_management import ConfigChange, ConfigField, ConfigManagement, FieldChange
from _oauth2_m2m.doctor import Examination, Finding, Severity
from _oauth2_m2m.endpoints import endpoint_router
from _oauth2_m2m.errors import (
    BearerError,
    ClientChanged,
    ClientExists,
    ClientNotFound,
    ConfigChanged,
    ConfigurationError,
    InsufficientScope,
    InvalidClient,
    InvalidDPoPProof,
    InvalidGrant,
    InvalidRequest,
    InvalidScope,
    InvalidTarget,
    InvalidToken,
    KeyNotFound,
    LastSecret,
    MissingToken,
    OAuth2Error,
    OAuth2M2MError,
    ProofRefused,
    RateLimitExceeded,
    RefusalNotFound,
    SecretNotFound,
    TemporarilyUnavailable,
    TokenNotFound,
    TooManyKeys,
    UnauthorizedClient,
    UnsupportedGrantType,
)
from _oauth2_m2m.explaining import Explanation, explain
from _oauth2_m2m.hooks import EventHook, ExtraClaims
from _oauth2_m2m.key_management import KeyInfo, KeyManagement
from _oauth2_m2m.key_sealing import VARIABLE as KEY_ENCRYPTION_KEY
from _oauth2_m2m.key_sealing import sealer_from
from _oauth2_m2m.logs import JsonFormatter
from _oauth2_m2m.metrics import Metrics, new_metrics
from _oauth2_m2m.openapi import describe
from _oauth2_m2m.protected_requests import ServerJudge
from _oauth2_m2m.remote_introspection import IntrospectionCredentials
from _oauth2_m2m.resource_server import ResourceServer, ResourceServerHealth
from _oauth2_m2m.scopes import OfferedScopes, offered_scopes
from _oauth2_m2m.services import Services
from _oauth2_m2m.storage import AnyDatabase, PoolListener
from _oauth2_m2m.token_management import TokenManagement, TokenReport

__all__ = [
    "AccessToken",
    "AuditQuery",
    "AuditReading",
    "AuditReport",
    "BearerError",
    "Client",
    "ClientChange",
    "ClientChanged",
    "ClientExists",
    "ClientFields",
    "ClientNotFound",
    "Clients",
    "ConfigChange",
    "ConfigChanged",
    "ConfigField",
    "ConfigManagement",
    "ConfigurationError",
    "Environment",
    "Explanation",
    "FieldChange",
    "Finding",
    "InsufficientScope",
    "IntrospectionCredentials",
    "InvalidClient",
    "InvalidDPoPProof",
    "InvalidGrant",
    "InvalidRequest",
    "InvalidScope",
    "InvalidTarget",
    "InvalidToken",
    "JsonFormatter",
    "KeyInfo",
    "KeyManagement",
    "KeyNotFound",
    "LastSecret",
    "Metrics",
    "MissingToken",
    "OAuth2Error",
    "OAuth2M2M",
    "OAuth2M2MError",
    "PoolListener",
    "ProofRefused",
    "RateLimitExceeded",
    "RefusalNotFound",
    "Refused",
    "RegisteredClient",
    "ResourceServer",
    "ResourceServerHealth",
    "RouteAccess",
    "RouteInfo",
    "SecretInfo",
    "SecretNotFound",
    "Settings",
    "Severity",
    "TemporarilyUnavailable",
    "TokenManagement",
    "TokenNotFound",
    "TokenReport",
    "TooManyKeys",
    "UnauthorizedClient",
    "UnsupportedGrantType",
]


ExtraClaimsHook = Callable[
    [Client, frozenset[str]], Mapping[str, Any] | Awaitable[Mapping[str, Any]]
]

OnEvent = Callable[[Mapping[str, Any]], object]


class OAuth2M2M:
    """An OAuth 2.0 authorization server for machine clients.

    Args:
        database: a PyMongo `Database` or `AsyncDatabase`. The latter is faster; the former is
            used from threads and works in any event loop. Nothing is sent before the first use.
        environment: `development` or `production`; else the variable `ENVIRONMENT` says, and
            without it `development`. In production a weak configuration stops the start.
        scopes: the scopes to offer in the OpenAPI document: a `StrEnum`, or a mapping that says
            what each allows. Those that guarded routes ask for are added by themselves.
        extra_claims: what access tokens say besides: called with a client and the scope that it is
            granted, returns claims that are JSON values, 1024 bytes in all, none of ours. It may be
            a coroutine function; any other is called in a thread. When it fails, or takes longer
            than a second, there is no token but a 503.
        on_event: called with each record of the audit log, once it is durable, behind the requests.
            It may be a coroutine function; any other is called in a thread.

    Attributes:
        router: every endpoint; `app.include_router(m2m.router)`.
        access_token: the guard; `Security(m2m.access_token, scopes=["read"])`.
        public: says of a route that it is open to everybody on purpose; `Depends(m2m.public)`.
        clients: register, disable, enable, remove and list clients, and their secrets.
        keys: rotate, burn and list the keys that sign access tokens.
        metrics: what was counted and timed, as a Prometheus collector.
        tokens: inspect and revoke tokens.
        configuration: read and change the config.
        audit: search, follow, export and verify the audit log.
        environment: where it runs.

    Raises:
        ConfigurationError: the database is no PyMongo database, the environment is unknown, or
            `OAUTH2_M2M_KEY_ENCRYPTION_KEY` holds no key.
    """

    def __init__(
        self,
        database: AnyDatabase,
        *,
        environment: str | None = None,
        scopes: OfferedScopes | None = None,
        extra_claims: ExtraClaimsHook | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self.metrics: Metrics = new_metrics()
        self.environment = environment_from(environment or os.environ.get("ENVIRONMENT"))
        self._services = Services(
            database,
            self.environment,
            sealer_from(os.environ.get(KEY_ENCRYPTION_KEY)),
            metrics=self.metrics,
            extra_claims=ExtraClaims(extra_claims) if extra_claims else None,
            on_event=EventHook(on_event) if on_event else None,
        )
        self.access_token = AccessTokenGuard(
            ServerJudge(self._services), offered_scopes(scopes), self.metrics
        )
        self.public = public
        self.clients: Clients = self._services.clients
        self.keys = KeyManagement(self._services)
        self.router: APIRouter = endpoint_router(self._services, self.metrics, self._describing)
        self.tokens = TokenManagement(self._services)
        self.configuration = ConfigManagement(self._services)
        self.audit = AuditReading(self._services)

    def requires(
        self, *scopes: str, role: str | None = None
    ) -> Callable[..., Awaitable[AccessToken]]:
        """A dependency that asks for scopes and a role.

        As in `Depends(m2m.requires("admin", role="admin"))`.

        Args:
            scopes: the scopes that the token must have, all of them.
            role: the role that it must carry, if any.

        Raises:
            ValueError: a scope or the role is no single word.
        """
        return self.access_token.requires(*scopes, role=role)

    def routes(self, app: FastAPI) -> list[RouteInfo]:
        """Every route of an app with what it asks for, as `oauth2-m2m routes` lists them.

        For a test of yours: that no route is `RouteAccess.OPEN`.
        """
        return routes_of(app)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Check and prepare everything at the start, and finish what was begun at the end.

        Without it the first request prepares the database, and a weak configuration in production
        is answered with 503 instead of stopping the start.

        Raises:
            ConfigurationError: the start must not go on; the message is one line that says what
                to do.
        """
        async with self.access_token.running(), self._describing(app):
            yield

    async def revoke(self, token: str) -> None:
        """Revoke an access token, or a refresh token with its whole family.

        When this returns, every request that starts later sees it, on every worker and host.

        Raises:
            InvalidToken: it is no token of this server, or has expired.
            TemporarilyUnavailable: the database does not answer.
        """
        await self.tokens.revoke(token)

    async def doctor(self, app: FastAPI | None = None) -> Sequence[Finding]:
        """What is unsafe or will fail, the worst first. Nothing is written.

        Args:
            app: the app that is guarded, if it is to be looked at too.

        Raises:
            TemporarilyUnavailable: the database does not answer.
        """
        return await Examination(self._services).findings(app)

    async def explain(self, error_id: str) -> Explanation:
        """How a refusal came about: which rules held, which did not, what would have passed.

        Args:
            error_id: what the refusal called itself, in its body and in the header `X-Error-ID`.

        Raises:
            RefusalNotFound: the audit log has no record of it.
            TemporarilyUnavailable: the database does not answer.
        """
        await self._services.ready()
        return await explain(self._services, error_id)

    @asynccontextmanager
    async def _describing(self, app: FastAPI) -> AsyncIterator[None]:
        """The router's own lifespan: apps that start without ours have their documents too."""
        describe(app, self.access_token.scheme_name)
        yield


if TYPE_CHECKING:
    from _oauth2_m2m import testing as testing
else:

    def __getattr__(name: str) -> object:
        """Load `testing` when it is asked for: an app that serves never does."""
        if name == "testing":
            return import_module("_oauth2_m2m.testing")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "__main__":  # python -m oauth2_m2m
    from _oauth2_m2m.cli import main

    main()
