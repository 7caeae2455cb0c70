"""The client credentials grant. RFC 6749 section 4.4.

The plain dialect comes here too: its `username` and `password` are a client's id and secret.
"""

from __future__ import annotations

from collections.abc import Sequence

from _oauth2_m2m.audit import Event
from _oauth2_m2m.grants.refresh_token import GRANT_TYPE as REFRESH
from _oauth2_m2m.grants.request import GrantRequest
from _oauth2_m2m.issuing import IssuedTokens
from _oauth2_m2m.refresh_tokens import RefreshToken, new_token
from _oauth2_m2m.resources import requested_resources, target
from _oauth2_m2m.scopes import Scope, narrow, parse_scope

GRANT_TYPE = "client_credentials"
PLAIN_GRANT_TYPE = "password"


async def grant(request: GrantRequest) -> IssuedTokens:
    """Issue an access token and, where they are on, a refresh token that begins a family.

    Raises:
        InvalidScope: the scope is malformed, or more than the client may have.
        InvalidTarget: the resources are malformed, or more than the client may ask for.
    """
    own = (*request.client.audience, request.settings.audience)
    audience = target(requested_resources(request.form), own)
    scope = narrow(parse_scope(request.form.get("scope", "")), request.client.scopes)
    issuer = request.services.issuer
    extra = await issuer.extra_claims(request.client, scope)
    request.note_use(GRANT_TYPE)
    return await issuer.issue(
        Event.LOGIN_SUCCESS,
        request.client,
        scope,
        settings=request.settings,
        caller=request.attempt.caller,
        now=request.now,
        refresh=_refresh_token(request, scope, audience),
        audience=audience,
        jkt=request.jkt,
        extra=extra,
    )


def _refresh_token(
    request: GrantRequest, scope: Scope, audience: Sequence[str]
) -> tuple[str, RefreshToken] | None:
    # RFC 6749 section 4.4.3 advises against them here, so they can be switched off. In FAPI 2.0
    # there is no grant for them.
    client, wanted = request.client, request.client.issue_refresh_tokens
    if wanted is None:
        wanted = request.settings.issue_refresh_tokens
    if not wanted or not client.allows_grant(REFRESH) or request.settings.is_fapi2:
        return None
    return new_token(
        client_id=client.client_id,
        scope=scope,
        epoch=client.epoch,
        now=request.now,
        lifetime=request.settings.refresh_token_lifetime,
        audience=audience,
        jkt=request.jkt,
    )
