"""POST /introspect: what a token is worth now. RFC 7662."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from _oauth2_m2m.access_tokens import AccessToken
from _oauth2_m2m.admission import Attempt, attempt_at_endpoint
from _oauth2_m2m.audit import Event
from _oauth2_m2m.bearer import has_token
from _oauth2_m2m.config import Settings
from _oauth2_m2m.endpoints import documentation
from _oauth2_m2m.endpoints.authenticating import authenticated_client
from _oauth2_m2m.endpoints.route import form_of
from _oauth2_m2m.errors import BEARER, DPOP, InvalidRequest, InvalidToken
from _oauth2_m2m.forms import Form
from _oauth2_m2m.hooks import RESERVED_CLAIMS
from _oauth2_m2m.protected_requests import ServerJudge
from _oauth2_m2m.responses import caller_of, json_response
from _oauth2_m2m.revocation import Question
from _oauth2_m2m.roles import has_role
from _oauth2_m2m.rules import Flow, Rule
from _oauth2_m2m.scopes import format_scope
from _oauth2_m2m.services import Services

#: Who has this scope, or this role, may ask about everybody's tokens.
INTROSPECT_SCOPE, ADMIN_ROLE = "introspect", "admin"

Description = dict[str, Any]

#: Nothing more, so that nobody learns why. RFC 7662 section 2.2.
_NOT_ACTIVE: Description = {"active": False}


def add_to(router: APIRouter, services: Services) -> None:
    """Add the endpoint to a router."""
    judge = ServerJudge(services, lambda settings: [settings.issuer])

    @router.post("/introspect", **documentation.INTROSPECT)
    async def introspect(request: Request) -> Response:
        settings = await services.ready()
        event = Event.TOKEN_INVALID
        attempt = attempt_at_endpoint(caller_of(request), settings, event, Flow.INTROSPECT)
        if has_token(request):
            token = await judge.admit(request, [INTROSPECT_SCOPE])
            attempt.proves(token.client_id, token.jti)
        async with services.admission.settling(attempt):
            form, owner = form_of(request), None
            if attempt.authenticated:
                _check_one_way(form)
            else:
                client = await authenticated_client(services, request, attempt, settings, form)
                is_admin = has_role([client.role], ADMIN_ROLE, settings.role_order)
                if not is_admin and INTROSPECT_SCOPE not in client.scopes:
                    owner = client.client_id
            return json_response(await _description(services, settings, form, attempt, owner))


def _check_one_way(form: Form) -> None:
    """RFC 6749 section 2.3: an access token stands for a secret or an assertion, not beside one."""
    if not form.keys().isdisjoint(("client_secret", "client_assertion", "client_assertion_type")):
        twice = "Authenticate in one way only: by an access token or as a client"
        raise InvalidRequest(twice).breaking(Rule.CREDENTIALS)


async def _description(
    services: Services, settings: Settings, form: Form, attempt: Attempt, owner: str | None
) -> Description:
    """What the token is, if it is alive and, where an owner is named, this owner's."""
    text = form.get("token")
    if text is None:
        raise InvalidRequest("token is missing").breaking(Rule.PARAMETERS)
    found = await _access_token(services, settings, text, attempt)
    if found is None:
        found = await _refresh_token(services, settings, text, attempt)
    if found is None or owner not in (None, found["client_id"]):
        return _NOT_ACTIVE
    return {"active": True, **found}


async def _access_token(
    services: Services, settings: Settings, text: str, attempt: Attempt
) -> Description | None:
    try:
        token = await services.read_access_token(text, settings, attempt.now)
        await services.clients.holder(token.client_id, token.epoch)
    except InvalidToken:
        return None
    if settings.is_fapi2 and token.jkt is None:
        return None  # no guard takes it
    question = Question(token.marks(), text, settings.linearizable)
    if await services.revocation.is_revoked(question):
        return None
    return _described(token)


def _described(token: AccessToken) -> Description:
    """What an access token says, in the words of RFC 7662 section 2.2; and what hooks added."""
    public = ("iss", "sub", "aud", "exp", "iat", "jti", "cnf", "roles")
    return {
        **{name: claim for name, claim in token.claims.items() if name not in RESERVED_CLAIMS},
        "scope": format_scope(token.scopes),
        "client_id": token.client_id,
        "token_type": BEARER if token.jkt is None else DPOP,
        **{name: token.claims[name] for name in public if name in token.claims},
    }


async def _refresh_token(
    services: Services, settings: Settings, text: str, attempt: Attempt
) -> Description | None:
    token = await services.refresh_tokens.find(text)
    if token is None or token.spent_at is not None or token.expires_at <= attempt.now:
        return None
    try:
        client = await services.clients.holder(token.client_id, token.epoch)
    except InvalidToken:
        return None
    question = token.question(text, linearizable=settings.linearizable)
    if await services.revocation.is_revoked(question):
        return None
    # What its client has lost since would not be given any more.
    scope = client.scopes if token.scope is None else token.scope & client.scopes
    described: Description = {
        "scope": format_scope(scope),
        "client_id": token.client_id,
        "iss": settings.issuer,
        "sub": token.client_id,
        "exp": int(token.expires_at.timestamp()),
    }
    return described if token.jkt is None else {**described, "cnf": {"jkt": token.jkt}}
