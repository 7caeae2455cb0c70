"""The way in that endpoints for authenticated clients share. RFC 6749 section 2.3."""

from __future__ import annotations

from fastapi import Request

from _oauth2_m2m.admission import Attempt
from _oauth2_m2m.bearer import path_of
from _oauth2_m2m.client_authentication import (
    PLAIN_METHOD,
    Presented,
    present_plain,
    present_standard,
)
from _oauth2_m2m.client_documents import Client
from _oauth2_m2m.config import Settings
from _oauth2_m2m.errors import OAuth2Error
from _oauth2_m2m.forms import Form
from _oauth2_m2m.services import Services


async def authenticated_client(
    services: Services,
    request: Request,
    attempt: Attempt,
    settings: Settings,
    form: Form,
    *,
    plain: bool = False,
) -> Client:
    """The client that a request comes from, proved and charged.

    Args:
        services: the rooms.
        request: the request, for its headers.
        attempt: the same request, for its limits.
        settings: the settings of this moment.
        form: its parameters.
        plain: whether it speaks the plain dialect.

    Raises:
        InvalidClient, InvalidRequest, Unprocessable: it is not proved.
        RateLimitExceeded: too many failures, or the client's budget is used up.
    """
    presented = _presented(request, form, plain)
    attempt.presents(presented.client_id, presented.client_id)
    attempt.method = PLAIN_METHOD if plain else presented.methods[0]
    authentication, admission = services.authentication, services.admission
    expected = authentication.expects(presented)
    document, places = await admission.open(attempt, presented.client_id, expected=expected)
    try:
        proved = await authentication.authenticate(
            presented,
            document,
            attempt.caller,
            attempt.now,
            settings,
            path_of(request).rpartition("/")[2],
        )
    except OAuth2Error:
        if expected:
            authentication.expect(presented, None)
            await admission.give_back(attempt.budget(presented.client_id, expected))
        raise
    client, caller, attempt.secret = proved.client, attempt.caller, proved.secret
    limits = client.limits(settings)
    wanted = limits if limits.counts else None  # nothing is taken ahead for who has no limits
    if wanted != expected:  # seen for the first time, or its limits were changed meanwhile
        authentication.expect(presented, wanted)
        if expected:
            places = None
            await admission.give_back(attempt.budget(client.client_id, expected))
    services.clients.used.note_login(
        client.client_id, attempt.now, caller.ip, proved.secret.id if proved.secret else None
    )
    await admission.charge(attempt, client, settings, places)
    return client


def _presented(request: Request, form: Form, plain: bool) -> Presented:
    authorization = request.headers.getlist("authorization")
    return (present_plain if plain else present_standard)(form, authorization)
