"""POST /refresh: the plain dialect's rotation. The refresh token alone is enough."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from _oauth2_m2m.admission import Attempt, attempt_at_endpoint
from _oauth2_m2m.audit import Event
from _oauth2_m2m.client_authentication import known_client
from _oauth2_m2m.client_documents import Client
from _oauth2_m2m.config import Settings
from _oauth2_m2m.credentials import fingerprint
from _oauth2_m2m.endpoints import documentation
from _oauth2_m2m.endpoints.authenticating import authenticated_client
from _oauth2_m2m.endpoints.proving import nonce_header, proved_key
from _oauth2_m2m.endpoints.route import (
    json_object_of,
    note_grant,
    optional_text_member,
    text_member,
)
from _oauth2_m2m.errors import InvalidGrant, InvalidRefreshToken, PlainDialectOff
from _oauth2_m2m.forms import Form
from _oauth2_m2m.grants.refresh_token import GRANT_TYPE, exchange
from _oauth2_m2m.grants.request import GrantRequest
from _oauth2_m2m.issuing import IssuedTokens
from _oauth2_m2m.refresh_tokens import RefreshToken
from _oauth2_m2m.responses import caller_of, json_response
from _oauth2_m2m.rules import Flow, Rule
from _oauth2_m2m.services import Services

_MEMBERS = (
    "refresh_token",
    "scope",
    "client_id",
    "client_secret",
    "client_assertion_type",
    "client_assertion",
)


def add_to(router: APIRouter, services: Services) -> None:
    """Add the endpoint to a router."""

    @router.post("/refresh", **documentation.REFRESH)
    async def refresh(request: Request) -> Response:
        note_grant(request, GRANT_TYPE)
        settings = await services.ready()
        event = Event.REFRESH_TOKEN_INVALID
        attempt = attempt_at_endpoint(caller_of(request), settings, event, Flow.REFRESH)
        async with services.admission.settling(attempt):
            try:
                tokens = await _rotate(services, request, attempt, settings)
            except InvalidGrant as error:
                raise InvalidRefreshToken(detail=error.detail).because(error) from None
        return json_response(tokens.as_json(), headers=nonce_header(settings, attempt))


async def _rotate(
    services: Services, request: Request, attempt: Attempt, settings: Settings
) -> IssuedTokens:
    if settings.is_fapi2:
        raise PlainDialectOff
    members = json_object_of(request)
    text = text_member(members, "refresh_token")
    texts = {name: optional_text_member(members, name) for name in _MEMBERS}
    form = Form({name: value for name, value in texts.items() if value})
    if settings.refresh_requires_client_auth:
        client = await authenticated_client(services, request, attempt, settings, form)
        token = await _found(services, text)
    else:
        # Without an id, the token itself chooses the bucket: one machine's mistakes do not lock
        # out the others behind its address.
        attempt.presents(fingerprint(text))
        await services.admission.check_failures(attempt)
        token = await _found(services, text)
        client = await _owner(services, attempt, token)
    if not client.allows_grant(GRANT_TYPE):
        refused = InvalidGrant(detail="grant refresh_token is not among the client's")
        raise refused.breaking(Rule.GRANT_ALLOWED, had=GRANT_TYPE, wanted=client.grant_types)
    jkt = await proved_key(services, request, attempt, settings, client)
    request_of_client = GrantRequest(form, client, attempt, settings, services, jkt)
    charge = not settings.refresh_requires_client_auth  # else it was charged when it was proved
    return await exchange(request_of_client, text, token, charge=charge)


async def _found(services: Services, text: str) -> RefreshToken:
    token = await services.refresh_tokens.find(text)
    if token is None:
        raise InvalidGrant(detail="unknown refresh token")
    return token


async def _owner(services: Services, attempt: Attempt, token: RefreshToken) -> Client:
    attempt.client_id = token.client_id
    document = await services.clients.find(token.client_id)
    client, fault = known_client(document, attempt.caller.ip)
    if client is None:
        raise InvalidGrant(detail=str(fault)).because(fault)
    return client
