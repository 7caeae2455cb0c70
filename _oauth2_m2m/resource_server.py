"""Guards for the routes of a service that is not the authorization server, and has no database."""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI, Request, Response

from _oauth2_m2m.access_tokens import AccessToken
from _oauth2_m2m.bearer import AccessTokenGuard, public
from _oauth2_m2m.config import Environment, audience_from, environment_from, is_address
from _oauth2_m2m.endpoints.route import route_class
from _oauth2_m2m.errors import ConfigurationError
from _oauth2_m2m.issuer_documents import IssuerDocuments
from _oauth2_m2m.metrics import Metrics, new_metrics
from _oauth2_m2m.openapi import describe
from _oauth2_m2m.remote_introspection import LONGEST_MAX_AGE, IntrospectionCredentials
from _oauth2_m2m.remote_judge import RemoteJudge, Rules
from _oauth2_m2m.responses import json_response
from _oauth2_m2m.roles import role_order_from
from _oauth2_m2m.scopes import OfferedScopes, offered_scopes
from _oauth2_m2m.signatures import ASYMMETRIC_ALGORITHMS

SHORTEST_MAX_LAG = timedelta(seconds=1)
LONGEST_MAX_LAG = timedelta(hours=1)
LONGEST_LEEWAY = timedelta(minutes=5)
_WELL_KNOWN = "/.well-known/oauth-protected-resource"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceServerHealth:
    """How a resource server is doing.

    Attributes:
        is_ready: whether good tokens are let through now.
        keys_age: how long ago the issuer's keys were last seen; `None` before.
        revocations_lag: how old the knowledge of revocations is; `None` while there is none, or
            when the feed is not followed.
        revocations: how many live revocations are kept.
        problems: what is wrong, in words.
    """

    is_ready: bool
    keys_age: timedelta | None
    revocations_lag: timedelta | None
    revocations: int
    problems: tuple[str, ...]


class ResourceServer:
    """Guards routes of a service by the name of its issuer alone.

        api = ResourceServer("https://auth.example.com", audience="https://api.example.com")
        app = FastAPI(lifespan=api.lifespan)

        @app.get("/reports", dependencies=[Security(api.access_token, scopes=["read"])])
        async def reports() -> dict[str, str]: ...

    Args:
        issuer: the `ISSUER` of the authorization server, exactly.
        audience: whom tokens must be meant for: the `AUDIENCE` there, or one of a client's.
        environment: `development` or `production`; else the variable `ENVIRONMENT` says, and
            without it `development`. In production everything is fetched by https.
        scopes: the scopes to offer in the OpenAPI document: a `StrEnum`, or a mapping that says
            what each allows.
        role_order: roles, the highest first, of which each may do what those after it may: the
            `ROLE_ORDER` of the authorization server. Without it, a role stands for itself alone.
        leeway: how long after its expiry a token is still taken; at most 5 minutes.
        revocations: whether to follow the issuer's revocation feed. Without it, tokens are good
            until they expire.
        max_lag: how old the knowledge of revocations may become; 1 second to 1 hour.
        when_lagging: beyond `max_lag`, `refuse` all with 503, or `accept` by what is known.
        introspection: to ask the issuer about every token, too.
        url: where this service is, for DPoP proofs; the audience, if it is an address.

    Attributes:
        access_token: the guard; `Security(api.access_token, scopes=["read"])`.
        public: says of a route that it is open to everybody on purpose; `Depends(api.public)`.
        metrics: what was counted and timed, as a Prometheus collector.
        router: `GET /.well-known/oauth-protected-resource` (RFC 9728), if you care to include it.
        environment: where it runs.

    Raises:
        ConfigurationError: an argument cannot be used; the message says which.
    """

    def __init__(
        self,
        issuer: str,
        *,
        audience: str,
        environment: str | None = None,
        scopes: OfferedScopes | None = None,
        role_order: Sequence[str] = (),
        leeway: timedelta = timedelta(0),
        revocations: bool = True,
        max_lag: timedelta = timedelta(seconds=5),
        when_lagging: Literal["refuse", "accept"] = "refuse",
        introspection: IntrospectionCredentials | None = None,
        url: str | None = None,
    ) -> None:
        self.environment = environment_from(environment or os.environ.get("ENVIRONMENT"))
        _check("leeway", leeway, timedelta(0), LONGEST_LEEWAY)
        _check("max_lag", max_lag, SHORTEST_MAX_LAG, LONGEST_MAX_LAG)
        if introspection is not None:
            _check("max_age", introspection.max_age, timedelta(0), LONGEST_MAX_AGE)
        if when_lagging not in ("refuse", "accept"):
            raise ConfigurationError(f"when_lagging is {when_lagging!r}: set refuse or accept")
        try:
            audience_from(audience)
        except ValueError as mistake:
            raise ConfigurationError(f"audience {mistake}") from None
        try:
            roles = role_order_from(list(role_order) if not isinstance(role_order, str) else None)
        except ValueError as mistake:
            raise ConfigurationError(f"role_order {mistake}") from None
        rules = Rules(
            issuer=issuer,
            audience=audience,
            url=url or (audience if is_address(audience) else ""),
            leeway=leeway,
            follows=revocations,
            max_lag=max_lag,
            accepts_when_lagging=when_lagging == "accept",
            role_order=roles,
        )
        documents = IssuerDocuments(issuer, allow_http=self.environment is Environment.DEVELOPMENT)
        self._rules = rules
        self._scopes = offered_scopes(scopes)
        self.metrics: Metrics = new_metrics()
        self._judge = RemoteJudge(rules, documents, introspection, self.metrics)
        self.access_token = AccessTokenGuard(
            self._judge, self._scopes, self.metrics, token_url=f"{issuer.rstrip('/')}/token"
        )
        self.public = public
        self.router: APIRouter = self._router()

    def requires(
        self, *scopes: str, role: str | None = None
    ) -> Callable[..., Awaitable[AccessToken]]:
        """A dependency that asks for scopes and a role.

        As in `Depends(api.requires("admin", role="admin"))`.

        Args:
            scopes: the scopes that the token must have, all of them.
            role: the role that it must carry, if any.

        Raises:
            ValueError: a scope or the role is no single word.
        """
        return self.access_token.requires(*scopes, role=role)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Meet the issuer at the start, follow its revocations, and stop at the end.

        An issuer that does not answer yet stops nothing: requests are answered 503 until it does.
        Without the lifespan, the first request starts everything.

        Raises:
            ConfigurationError: the issuer can never be worked with; the message says what to do.
        """
        async with self.access_token.running(), self._describing(app):
            yield

    def health(self) -> ResourceServerHealth:
        """How it is doing; nobody is asked."""
        follower, documents = self._judge.follower, self._judge.documents
        problems = [f"keys: {documents.fault}"] if documents.fault else []
        knows_keys = documents.knows_keys or (self._judge.introspects and documents.were_seen)
        if not knows_keys and not problems:
            problems.append("keys: none at hand")
        knows_revocations = True
        if follower is not None:
            may_lag = self._rules.accepts_when_lagging and not follower.has_overflowed
            knows_revocations = may_lag or not follower.is_lagging
            if follower.fault or follower.is_lagging:
                problems.append(f"revocations: {follower.fault or 'lagging'}")
        return ResourceServerHealth(
            is_ready=knows_keys and knows_revocations,
            keys_age=_duration(documents.keys_age),
            revocations_lag=None if follower is None else _duration(follower.lag),
            revocations=0 if follower is None else len(follower.marks),
            problems=tuple(problems),
        )

    def _router(self) -> APIRouter:
        router = APIRouter(
            route_class=route_class(self.metrics), tags=["oauth2"], lifespan=self._describing
        )
        if not is_address(self._rules.audience):
            return router  # there is nothing that could be looked up
        path = urlsplit(self._rules.audience).path.rstrip("/")
        # RFC 9728 section 3.1: the path of the resource stands behind the well-known one.
        for each in dict.fromkeys((_WELL_KNOWN, _WELL_KNOWN + path)):

            @router.get(each, summary="How this service is called", name=f"oauth2_m2m:{each}")
            async def protected_resource(request: Request) -> Response:
                return json_response(self._metadata())

        return router

    def _metadata(self) -> dict[str, Any]:
        """RFC 9728 section 2."""
        scopes = {"scopes_supported": sorted(self._scopes)} if self._scopes else {}
        return {
            "resource": self._rules.audience,
            "authorization_servers": [self._rules.issuer],
            **scopes,
            "bearer_methods_supported": ["header"],
            "dpop_signing_alg_values_supported": list(ASYMMETRIC_ALGORITHMS),
        }

    @asynccontextmanager
    async def _describing(self, app: FastAPI) -> AsyncIterator[None]:
        describe(app, self.access_token.scheme_name)
        yield


def _check(name: str, value: timedelta, least: timedelta, most: timedelta) -> None:
    if not isinstance(value, timedelta) or not least <= value <= most:
        raise ConfigurationError(f"{name} is {value!r}: set a timedelta from {least} to {most}")


def _duration(seconds: float) -> timedelta | None:
    return timedelta(seconds=seconds) if math.isfinite(seconds) else None
