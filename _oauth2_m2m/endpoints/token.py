"""POST /token: an access token for client credentials or a refresh token. RFC 6749 section 5."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from _oauth2_m2m.admission import Attempt, attempt_at_endpoint
from _oauth2_m2m.audit import Event
from _oauth2_m2m.client_authentication import is_plain
from _oauth2_m2m.config import Settings
from _oauth2_m2m.endpoints import documentation
from _oauth2_m2m.endpoints.authenticating import authenticated_client
from _oauth2_m2m.endpoints.proving import nonce_header, proved_key
from _oauth2_m2m.endpoints.route import form_of, note_grant
from _oauth2_m2m.errors import PlainDialectOff, UnauthorizedClient, UnsupportedGrantType
from _oauth2_m2m.forms import Form
from _oauth2_m2m.grants import find_grant, grant_word, offered_grants
from _oauth2_m2m.grants.client_credentials import GRANT_TYPE, PLAIN_GRANT_TYPE
from _oauth2_m2m.grants.refresh_token import GRANT_TYPE as REFRESH_GRANT_TYPE
from _oauth2_m2m.grants.request import GrantRequest
from _oauth2_m2m.issuing import IssuedTokens
from _oauth2_m2m.responses import caller_of, json_response
from _oauth2_m2m.rules import Flow, Rule
from _oauth2_m2m.services import Services


def add_to(router: APIRouter, services: Services) -> None:
    """Add the endpoint to a router."""

    @router.post("/token", name=documentation.TOKEN_ROUTE, **documentation.TOKEN)
    async def token(request: Request) -> Response:
        settings = await services.ready()
        attempt = attempt_at_endpoint(caller_of(request), settings, Event.LOGIN_FAILURE, Flow.TOKEN)
        async with services.admission.settling(attempt):
            tokens = await _issue(services, request, attempt, settings, form_of(request))
        return json_response(tokens.as_json(), headers=nonce_header(settings, attempt))


async def _issue(
    services: Services, request: Request, attempt: Attempt, settings: Settings, form: Form
) -> IssuedTokens:
    plain = is_plain(form)
    if plain and settings.is_fapi2:
        raise PlainDialectOff
    grant_type = form.get("grant_type", PLAIN_GRANT_TYPE)
    note_grant(request, grant_word(grant_type))
    if grant_type == REFRESH_GRANT_TYPE:
        attempt.flow = Flow.EXCHANGE
    client = await authenticated_client(services, request, attempt, settings, form, plain=plain)
    attempt.event = Event.ACCESS_DENIED
    jkt = await proved_key(services, request, attempt, settings, client)
    grant = find_grant(grant_type, settings)
    if grant is None:
        offered = offered_grants(settings)
        raise UnsupportedGrantType().breaking(Rule.GRANT_OFFERED, had=grant_type, wanted=offered)
    # The plain dialect is the client credentials grant in other words, so either word allows it.
    if not client.allows_grant(grant_type, *([GRANT_TYPE] if plain else [])):
        refused = UnauthorizedClient(detail=f"grant {grant_type} is not among the client's")
        raise refused.breaking(Rule.GRANT_ALLOWED, had=grant_type, wanted=client.grant_types)
    return await grant(GrantRequest(form, client, attempt, settings, services, jkt))
