"""Whether a guarded route would let a token through: asked without a request, and nothing is noted.

The same rules are asked in the same order as for a request. What only a request has, its place in
the budget and its DPoP proof, stays unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.routing import compile_path

from _oauth2_m2m.access_tokens import AccessToken
from _oauth2_m2m.app_routes import RouteAccess, RouteInfo
from _oauth2_m2m.bearer import Credentials, check_scopes
from _oauth2_m2m.client_documents import Client
from _oauth2_m2m.config import Settings
from _oauth2_m2m.errors import (
    BEARER,
    DPOP,
    InsufficientScope,
    InvalidToken,
    OAuth2Error,
    TemporarilyUnavailable,
)
from _oauth2_m2m.explaining import Outcome, Step, standing_of, steps_of
from _oauth2_m2m.protected_requests import holder_of
from _oauth2_m2m.revocation import Question
from _oauth2_m2m.roles import has_role
from _oauth2_m2m.rule_words import SAYS, remedy_of
from _oauth2_m2m.rules import Facts, Flow, Rule, rules_of
from _oauth2_m2m.services import Services
from _oauth2_m2m.windows import Limits

_ANYTHING_BELOW = "/*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a route would say to a token.

    Attributes:
        admitted: whether it would let it through, as far as that can be known.
        route: the route, as its app wrote it.
        client_id: the client that the token was issued to, once its signature has proved to hold.
        steps: the decision.
        remedy: what would be let through, when this is not.
        now: how it stands with the client.
    """

    admitted: bool
    route: str
    client_id: str | None
    steps: tuple[Step, ...]
    remedy: str | None
    now: tuple[str, ...]


def route_for(routes: Sequence[RouteInfo], method: str, path: str) -> RouteInfo | None:
    """The route that a request would come to: the first whose path matches, as it is or filled in.

    Args:
        routes: the routes of an app, in its order.
        method: the method of the request.
        path: its path, such as `/reports/7` or `/reports/{id}`.
    """
    for route in routes:
        if (not route.methods or method in route.methods) and _matches(route.path, path):
            return route
    return None


def _matches(template: str, path: str) -> bool:
    if template.endswith(_ANYTHING_BELOW):
        return f"{path}/".startswith(template.removesuffix("*"))
    return template == path or compile_path(template)[0].match(path) is not None


async def predict(services: Services, text: str, route: RouteInfo) -> Prediction:
    """What a route would say to an access token now.

    Args:
        services: the rooms.
        text: the token.
        route: what is asked for, from `app_routes.routes_of`.

    Raises:
        TemporarilyUnavailable: the database does not answer.
    """
    name = " ".join([*route.methods[:1], route.path])
    if route.access is not RouteAccess.GUARDED:
        open_to_all = Step(Rule.TOKEN_SENT, Outcome.UNKNOWN, "no guard asks for a token here")
        return Prediction(
            admitted=True, route=name, client_id=None, steps=(open_to_all,), remedy=None, now=()
        )
    settings, now = await services.ready(), datetime.now(UTC)
    seen, failed = _Seen(), None
    facts: Facts = {}
    try:
        await _judge(services, settings, text, route, now, seen)
    except TemporarilyUnavailable:
        raise
    except OAuth2Error as error:
        failed, facts = error.rule, error.facts
    client_id = seen.token.client_id if seen.token else None
    document = await services.clients.find(client_id) if client_id else None
    steps = steps_of(rules_of(Flow.ROUTE), failed, facts)
    return Prediction(
        admitted=failed is None,
        route=name,
        client_id=client_id,
        steps=_with_unknowns(steps, seen, settings),
        remedy=remedy_of(failed, Flow.ROUTE, facts) if failed else None,
        now=standing_of(failed or Rule.TOKEN_CLIENT, facts, document, now) if client_id else (),
    )


@dataclass(slots=True)
class _Seen:
    """What became known on the way."""

    token: AccessToken | None = None
    client: Client | None = None


async def _judge(
    services: Services,
    settings: Settings,
    text: str,
    route: RouteInfo,
    now: datetime,
    seen: _Seen,
) -> None:
    token = seen.token = await services.read_access_token(text, settings, now)
    credentials = Credentials(BEARER if token.jkt is None else DPOP, text)
    seen.client = await holder_of(services, settings, credentials, token)
    if await services.revocation.is_revoked(Question(token.marks(), text, settings.linearizable)):
        raise InvalidToken(detail="revoked").breaking(Rule.TOKEN_NOT_REVOKED)
    check_scopes(token, route.scopes)
    for role in route.roles:
        if not has_role(token.roles, role, settings.role_order):
            missing = InsufficientScope(" ".join(route.scopes), role)
            raise missing.breaking(Rule.ROLE, had=token.roles, wanted=role)


def _with_unknowns(steps: Sequence[Step], seen: _Seen, settings: Settings) -> tuple[Step, ...]:
    """The steps, where what only a request has is open."""
    if seen.token is None or seen.client is None:
        return tuple(steps)
    limits, told = seen.client.limits(settings), list(steps)
    for place, step in enumerate(told):
        if step.rule is Rule.BUDGET and step.outcome is Outcome.PASSED:
            found = _in_words(limits)
            told[place] = Step(Rule.BUDGET, Outcome.UNKNOWN, step.says, found)
            if seen.token.jkt is not None:
                bound = f"each request needs one, by the key {seen.token.jkt}"
                proof = Step(Rule.PROOF_GOOD, Outcome.UNKNOWN, SAYS[Rule.PROOF_GOOD], bound)
                told.insert(place, proof)
            break
    return tuple(told)


def _in_words(limits: Limits) -> str:
    numbers = (
        (limits.minute, "a minute and address"),
        (limits.hour, "an hour"),
        (limits.day, "a day"),
    )
    words = [f"{number} {each}" for number, each in numbers if number]
    return f"{', '.join(words)}; nothing was counted" if words else "no limit"
