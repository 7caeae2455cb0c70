"""The refresh token grant: rotation with reuse detection.

RFC 6749 section 6, RFC 9700 section 4.14.

Everything that can be refused is refused before the token is claimed, so that a mistaken request
spends nothing.
"""

from __future__ import annotations

from typing import NoReturn

from _oauth2_m2m.audit import Event
from _oauth2_m2m.errors import InvalidGrant, InvalidRequest
from _oauth2_m2m.grants.request import GrantRequest
from _oauth2_m2m.issuing import IssuedTokens
from _oauth2_m2m.refresh_tokens import RefreshToken, new_token
from _oauth2_m2m.resources import requested_resources, target
from _oauth2_m2m.revocation import family_mark
from _oauth2_m2m.revoking import family_end
from _oauth2_m2m.rules import Rule
from _oauth2_m2m.scopes import narrow, parse_scope

GRANT_TYPE = "refresh_token"


async def grant(request: GrantRequest) -> IssuedTokens:
    """Exchange a refresh token of the client's own for an access token and its successor.

    Raises:
        InvalidRequest: there is no `refresh_token`.
        InvalidGrant: it is unknown, expired, revoked, somebody else's, or was spent before; then
            its whole family is revoked.
        InvalidScope: more is asked for than the token may be exchanged for.
        InvalidTarget: so with its resources.
    """
    text = request.form.get("refresh_token")
    if text is None:
        raise InvalidRequest("refresh_token is missing").breaking(Rule.PARAMETERS)
    request.attempt.event = Event.REFRESH_TOKEN_INVALID
    token = await request.services.refresh_tokens.find(text)
    if token is None:
        raise InvalidGrant(detail="unknown refresh token")
    return await exchange(request, text, token)


async def exchange(
    request: GrantRequest, text: str, token: RefreshToken, *, charge: bool = False
) -> IssuedTokens:
    """Exchange a refresh token that was found.

    Args:
        request: the request, with the client that it comes from.
        text: the token as it was presented.
        token: what the database knows of it.
        charge: whether the token is the client's only credential, so that its budget is charged
            here, once the token has proved to be alive.
    """
    services, now = request.services, request.now
    # (1) The token is this client's, and may be exchanged.
    await _check(request, text, token)

    # (2) The scope may narrow, never widen: RFC 6749 section 6. What the client has lost since is
    #     not given again. So with resources: RFC 8707 section 2.2.
    allowed = request.client.scopes if token.scope is None else token.scope & request.client.scopes
    scope = narrow(parse_scope(request.form.get("scope", "")), allowed)
    default = request.settings.audience
    own = {*(token.audience or [default])} & {*request.client.audience, default}
    audience = target(requested_resources(request.form) or token.audience, own)
    if charge:
        await services.admission.charge(request.attempt, request.client, request.settings)
    extra = await services.issuer.extra_claims(request.client, scope)

    # (3) The commit point: exactly one request gets past it.
    grace = request.settings.refresh_grace
    claim = await services.refresh_tokens.claim(text, token, now, grace)
    if claim.successor is None:
        await _revoke_family(request, token)

    # (4) All of this can be done again from the claim, and comes out the same. The successor keeps
    #     the whole scope of its predecessor, its resources and its key.
    refresh = new_token(
        client_id=token.client_id,
        scope=allowed,
        epoch=token.epoch,
        now=claim.claimed_at,
        lifetime=request.settings.refresh_token_lifetime,
        text=claim.successor,
        family_id=token.family_id,
        audience=token.audience,
        jkt=token.jkt,
    )
    request.note_use(GRANT_TYPE)
    return await services.issuer.issue(
        Event.TOKEN_REFRESHED,
        request.client,
        scope,
        settings=request.settings,
        caller=request.attempt.caller,
        now=now,
        refresh=refresh,
        audience=audience,
        jkt=request.jkt,
        extra=extra,
    )


async def _check(request: GrantRequest, text: str, token: RefreshToken) -> None:
    """Whether a token is the client's, not spent before, alive, and of its present epoch.

    A stranger can neither spend it nor burn its family.

    Raises:
        InvalidGrant: it is not. One that was spent before has its family revoked.
    """
    if token.client_id != request.client.client_id:
        raise InvalidGrant(detail="another client's refresh token").breaking(
            Rule.REFRESH_OWN, had=request.client.client_id, wanted=token.client_id
        )
    question = token.question(text, linearizable=request.settings.linearizable)
    if await request.services.revocation.is_revoked(question):
        raise InvalidGrant(detail="revoked refresh token").breaking(
            Rule.REFRESH_NOT_REVOKED, family=token.family_id
        )
    if token.is_reused(request.now, request.settings.refresh_grace):
        await _revoke_family(request, token)
    if token.expires_at <= request.now:
        raise InvalidGrant(detail="expired refresh token").breaking(
            Rule.REFRESH_LIVE, expired_at=token.expires_at
        )
    if token.epoch != request.client.epoch:
        raise InvalidGrant(detail="issued before the client's tokens were revoked").breaking(
            Rule.REFRESH_EPOCH, issued_at=token.created_at
        )
    if token.jkt is not None and token.jkt != request.jkt:  # RFC 9449 section 5
        raise InvalidGrant(detail="bound to another key than the one of the DPoP proof").breaking(
            Rule.REFRESH_KEY, had=request.jkt, wanted=token.jkt
        )


async def _revoke_family(request: GrantRequest, token: RefreshToken) -> NoReturn:
    """A spent token came back: somebody stole it, so the whole family dies. One write."""
    request.attempt.event = Event.REFRESH_TOKEN_REUSE
    services, now = request.services, request.now
    until = await family_end(services, request.settings, token.family_id, now)
    await services.revocation.revoke(family_mark(token.family_id), now, until, token.digest)
    reused = InvalidGrant(detail="a spent refresh token was used again: its family is revoked")
    raise reused.breaking(Rule.REFRESH_UNSPENT, spent_at=token.spent_at, family=token.family_id)
