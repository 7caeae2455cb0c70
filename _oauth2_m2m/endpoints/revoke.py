"""POST /revoke: as JSON in the plain dialect, as a form by RFC 7009."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from _oauth2_m2m.admission import Attempt, attempt_at_endpoint
from _oauth2_m2m.audit import Event
from _oauth2_m2m.config import Settings
from _oauth2_m2m.credentials import fingerprint
from _oauth2_m2m.endpoints import documentation
from _oauth2_m2m.endpoints.authenticating import authenticated_client
from _oauth2_m2m.endpoints.route import FORM, form_of, json_object_of, media_type, text_member
from _oauth2_m2m.errors import InvalidRequest, InvalidToken, PlainDialectOff, Unprocessable
from _oauth2_m2m.responses import NO_STORE, caller_of, json_response
from _oauth2_m2m.revoking import (
    access_token_target,
    find_target,
    refresh_token_target,
    revoke_target,
)
from _oauth2_m2m.rules import Flow, Rule
from _oauth2_m2m.services import Services

_MEMBERS = ("access_token", "refresh_token")


def add_to(router: APIRouter, services: Services) -> None:
    """Add the endpoint to a router."""

    @router.post("/revoke", **documentation.REVOKE)
    async def revoke(request: Request) -> Response:
        settings = await services.ready()
        attempt = attempt_at_endpoint(
            caller_of(request), settings, Event.TOKEN_INVALID, Flow.REVOKE
        )
        async with services.admission.settling(attempt):
            if media_type(request) == FORM:
                await _revoke_own(services, request, attempt, settings)
                return Response(headers=NO_STORE)
            await _revoke_held(services, request, attempt, settings)
            return json_response({"message": "Token revoked successfully"})


async def _revoke_held(
    services: Services, request: Request, attempt: Attempt, settings: Settings
) -> None:
    """The plain dialect: who holds a token may end it."""
    attempt.flow = Flow.REVOKE_HELD
    if settings.is_fapi2:
        raise PlainDialectOff
    members = json_object_of(request)
    named = [name for name in _MEMBERS if members.get(name) is not None]
    if len(named) != 1:
        raise Unprocessable("Send either access_token or refresh_token", kind="missing")
    text = text_member(members, named[0])
    attempt.presents(fingerprint(text))
    await services.admission.check_failures(attempt)
    if named == ["access_token"]:
        target = await access_token_target(services, settings, text, attempt.now)
    else:
        attempt.flow = Flow.REVOKE_REFRESH
        target = await refresh_token_target(services, settings, text, attempt.now)
    await revoke_target(services, target, attempt.now, attempt.caller)


async def _revoke_own(
    services: Services, request: Request, attempt: Attempt, settings: Settings
) -> None:
    """RFC 7009: an authenticated client ends a token of its own.

    Whatever else it sends is no error, for that is of no use to it in any case (section 2.2); the
    audit log says what it was.
    """
    form = form_of(request)
    client = await authenticated_client(services, request, attempt, settings, form)
    text = form.get("token")
    if text is None:
        raise InvalidRequest("token is missing").breaking(Rule.PARAMETERS)
    try:
        target = await find_target(services, settings, text, attempt.now)
        if target.client_id != client.client_id:
            raise InvalidToken(detail="another client's token")
    except InvalidToken as fault:
        await services.audit.record(
            Event.TOKEN_INVALID,
            attempt.now,
            caller=attempt.caller,
            client_id=client.client_id,
            reason=f"nothing to revoke: {fault.detail}",
        )
        return
    await revoke_target(services, target, attempt.now, attempt.caller)
