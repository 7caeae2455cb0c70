"""Requests to guarded routes of the server's own app, judged with the database at hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request

from _oauth2_m2m.access_tokens import AccessToken, check_audience
from _oauth2_m2m.admission import Attempt, attempt_at_route
from _oauth2_m2m.bearer import Credentials, check_scopes, path_of, presented
from _oauth2_m2m.client_documents import Client
from _oauth2_m2m.config import Settings
from _oauth2_m2m.dpop import own_urls
from _oauth2_m2m.errors import (
    DPOP,
    InvalidDPoPProof,
    InvalidToken,
    MissingToken,
    OAuth2Error,
    ProofRefused,
    TemporarilyUnavailable,
    UseDPoPNonce,
)
from _oauth2_m2m.responses import caller_of
from _oauth2_m2m.revocation import Question
from _oauth2_m2m.services import REQUEST_DEADLINE, Services

_CHECKED = "oauth2_m2m.checked"

Check = Callable[[Attempt, Settings], Awaitable[AccessToken]]


def _resource_url(settings: Settings) -> str:
    return settings.resource_url


class ServerJudge:
    """Consults revocation, the client and its budget for each request, and records refusals.

    Args:
        services: the rooms.
        address: where the routes that it guards are, for DPoP proofs; those of an app belong to
            the resource, which need not live where the endpoints do.
    """

    def __init__(
        self, services: Services, address: Callable[[Settings], str] = _resource_url
    ) -> None:
        self._services = services
        self._address = address

    async def admit(self, request: Request, scopes: Sequence[str]) -> AccessToken:
        """The token of a request, checked in full; it has all of these scopes.

        Raises:
            OAuth2Error: 401, 403, 429 or 503.
        """

        async def check(attempt: Attempt, settings: Settings) -> AccessToken:
            token = await self._checked(request, attempt, settings)
            check_scopes(token, scopes)
            return token

        return await self._settled(request, check)

    async def refuse(self, request: Request, token: AccessToken, error: OAuth2Error) -> OAuth2Error:
        """Record that a request with a good token is refused after all."""

        async def check(attempt: Attempt, settings: Settings) -> AccessToken:
            attempt.proves(token.client_id, token.jti)
            raise error

        try:
            await self._settled(request, check)
        except OAuth2Error as settled:
            return settled
        return error

    async def _settled(self, request: Request, check: Check) -> AccessToken:
        """Run a check within the time of a request, and settle whatever it refuses."""
        services = self._services
        try:
            with REQUEST_DEADLINE():
                settings = await services.ready()
                attempt = attempt_at_route(caller_of(request), settings)
                try:
                    return await check(attempt, settings)
                except OAuth2Error as error:
                    if settings.is_fapi2 and isinstance(error, MissingToken):
                        error.scheme = DPOP
                    raise await services.admission.settle(attempt, error) from None
        except TimeoutError:
            raise TemporarilyUnavailable(detail="the database was too slow") from None

    async def _checked(self, request: Request, attempt: Attempt, settings: Settings) -> AccessToken:
        """The request's token, checked and charged once, however many guards a route has."""
        judge, token = request.scope.get(_CHECKED, (None, None))
        if judge is not self or not isinstance(token, AccessToken):
            token = await self._check(request, attempt, settings)
            request.scope[_CHECKED] = (self, token)
        attempt.proves(token.client_id, token.jti)
        return token

    async def _check(self, request: Request, attempt: Attempt, settings: Settings) -> AccessToken:
        services, credentials = self._services, presented(request)
        token = await services.read_access_token(credentials.token, settings, attempt.now)
        attempt.client_id, attempt.jti = token.client_id, token.jti
        check_audience(token, settings.audience)
        credentials.check_scheme(token)
        if settings.is_fapi2 and token.jkt is None:  # of before the profile was chosen
            unbound = InvalidToken(detail="the profile takes bound tokens only")
            unbound.scheme = DPOP
            raise unbound
        client = await services.clients.holder(token.client_id, token.epoch)
        if client is None:
            raise InvalidToken(detail="the client is disabled, removed or made anew")
        nonce_wanted = None
        if token.jkt is not None:
            nonce_wanted = await self._check_proof(
                request, credentials, token.jkt, attempt, settings
            )
        await self._check_database(credentials, token, client, attempt, settings)
        if nonce_wanted is not None:
            # Whoever holds the key made no mistake: it is charged, and no failure is counted that
            # would let others at the same address keep it from its nonce.
            attempt.proves(token.client_id, token.jti)
            raise ProofRefused(nonce_wanted)
        return token

    async def _check_database(
        self,
        credentials: Credentials,
        token: AccessToken,
        client: Client,
        attempt: Attempt,
        settings: Settings,
    ) -> None:
        services = self._services
        question = Question(token.marks(), credentials.token, settings.linearizable)
        if await services.admission.check(attempt, question, client, client.limit(settings)):
            services.reader.note_revoked(credentials.token)
            raise InvalidToken(detail="revoked")

    async def _check_proof(
        self,
        request: Request,
        credentials: Credentials,
        jkt: str,
        attempt: Attempt,
        settings: Settings,
    ) -> UseDPoPNonce | None:
        """Whether the request was sent by the holder of the token's key. RFC 9449 section 7.1.

        Returns:
            What is left to ask of the holder, if a fresh nonce is missing.

        Raises:
            ProofRefused: it was not.
        """
        try:
            await self._services.proofs.check(
                credentials.proof,
                method=request.method,
                urls=own_urls(self._address(settings), path_of(request)),
                now=attempt.now,
                settings=settings,
                access_token=credentials.token,
                jkt=jkt,
            )
        except UseDPoPNonce as wanted:
            return wanted
        except InvalidDPoPProof as fault:
            raise ProofRefused(fault) from None
        return None
