"""Requests to guarded routes of the server's own app, judged with the database at hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from starlette.requests import HTTPConnection

from _oauth2_m2m import tracing
from _oauth2_m2m.access_tokens import AccessToken, check_audience
from _oauth2_m2m.admission import Attempt, attempt_at_route
from _oauth2_m2m.bearer import Credentials, check_scopes, method_of, path_of, presented
from _oauth2_m2m.client_documents import Client
from _oauth2_m2m.config import Settings
from _oauth2_m2m.dpop import Proof, own_urls
from _oauth2_m2m.errors import (
    BEARER,
    DPOP,
    BearerError,
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
from _oauth2_m2m.roles import has_role
from _oauth2_m2m.rules import Rule
from _oauth2_m2m.services import REQUEST_DEADLINE, Services
from _oauth2_m2m.windows import Window

_CHECKED = "oauth2_m2m.checked"

Check = Callable[[Attempt, Settings], Awaitable[AccessToken]]


def _of_app(settings: Settings) -> tuple[str, ...]:
    return (settings.resource_url, settings.issuer)


class ServerJudge:
    """Consults revocation, the client and its budget for each request, and records refusals.

    Args:
        services: the rooms.
        addresses: where the routes that it guards may be, for DPoP proofs: an app's own are where
            the resource is, or where the endpoints are.
    """

    def __init__(
        self, services: Services, addresses: Callable[[Settings], Iterable[str]] = _of_app
    ) -> None:
        self._services = services
        self._addresses = addresses

    async def admit(self, request: HTTPConnection, scopes: Sequence[str]) -> AccessToken:
        """The token of a request, checked in full; it has all of these scopes.

        Raises:
            OAuth2Error: 401, 403, 429 or 503.
        """

        async def check(attempt: Attempt, settings: Settings) -> AccessToken:
            token = await self._checked(request, attempt, settings)
            check_scopes(token, scopes)
            used, caller = self._services.clients.used, attempt.caller
            used.note_call(token.client_id, attempt.now, caller.ip, scopes)
            return token

        return await self._settled(request, check)

    async def refuse(
        self, request: HTTPConnection, token: AccessToken, error: OAuth2Error
    ) -> OAuth2Error:
        """Record that a request with a good token is refused after all."""

        async def check(attempt: Attempt, settings: Settings) -> AccessToken:
            attempt.proves(token.client_id, token.jti)
            raise error

        try:
            await self._settled(request, check)
        except OAuth2Error as settled:
            return settled
        return error

    def has_role(self, token: AccessToken, role: str) -> bool:
        """Whether a token has a role, or one above it in `ROLE_ORDER`. Its use is noted."""
        settings = self._services.settings.last_good
        if not has_role(token.roles, role, settings.role_order if settings else ()):
            return False
        self._services.clients.used.note_call(token.client_id, datetime.now(UTC), None, (), role)
        return True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Check and prepare everything at the start, and finish what was begun at the end.

        Raises:
            ConfigurationError: the start must not go on; the message says what to do.
        """
        await self._services.prepare()
        try:
            yield
        finally:
            await self._services.drain()

    async def _settled(self, request: HTTPConnection, check: Check) -> AccessToken:
        """Run a check within the time of a request, and settle whatever it refuses."""
        services = self._services
        try:
            with REQUEST_DEADLINE():
                settings = await services.ready()
                attempt = attempt_at_route(caller_of(request), settings)
                try:
                    return await check(attempt, settings)
                except OAuth2Error as error:
                    attempt.route = _route_of(request)
                    _fit_challenge(error, settings)
                    raise await services.admission.settle(attempt, error) from None
        except TimeoutError:
            raise TemporarilyUnavailable(detail="the database was too slow") from None

    async def _checked(
        self, request: HTTPConnection, attempt: Attempt, settings: Settings
    ) -> AccessToken:
        """The request's token, checked and charged once, however many guards a route has."""
        judge, token = request.scope.get(_CHECKED, (None, None))
        if judge is not self or not isinstance(token, AccessToken):
            token = await self._check(request, attempt, settings)
            request.scope[_CHECKED] = (self, token)
        attempt.proves(token.client_id, token.jti)
        tracing.note(client_id=token.client_id)
        return token

    async def _check(
        self, request: HTTPConnection, attempt: Attempt, settings: Settings
    ) -> AccessToken:
        services, credentials = self._services, presented(request)
        token = await services.read_access_token(credentials.token, settings, attempt.now)
        attempt.client_id, attempt.jti = token.client_id, token.jti
        client = await holder_of(services, settings, credentials, token)
        proof = None
        if token.jkt is not None:
            proof = self._read_proof(request, credentials, token.jkt, attempt, settings)
        windows = attempt.budget(client.client_id, client.limits(settings))
        question = Question(token.marks(), credentials.token, settings.linearizable)
        if await services.admission.check(attempt, question, client, windows):
            services.reader.note_revoked(credentials.token)
            raise InvalidToken(detail="revoked").breaking(Rule.TOKEN_NOT_REVOKED)
        if proof is not None:
            await self._use_proof(proof, token, attempt, settings, windows)
        return token

    def _read_proof(
        self,
        request: HTTPConnection,
        credentials: Credentials,
        jkt: str,
        attempt: Attempt,
        settings: Settings,
    ) -> Proof:
        """The proof that the request was sent by the holder of the token's key.

        Raises:
            ProofRefused: it proves no such thing. RFC 9449 section 7.1.
        """
        path = path_of(request)
        urls = [own_urls(address, path) for address in self._addresses(settings)]
        try:
            return self._services.proofs.read(
                credentials.proof,
                method=method_of(request),
                urls=frozenset().union(*urls),
                now=attempt.now,
                settings=settings,
                access_token=credentials.token,
                jkt=jkt,
            )
        except InvalidDPoPProof as fault:
            raise ProofRefused(fault) from None

    async def _use_proof(
        self,
        proof: Proof,
        token: AccessToken,
        attempt: Attempt,
        settings: Settings,
        windows: Sequence[Window],
    ) -> None:
        """Use the proof up, once the request has its place: who is over the limit writes nothing.

        Raises:
            ProofRefused: it was used before, or lacks a fresh nonce.
        """
        try:
            await self._services.proofs.use(proof, attempt.now, settings)
        except UseDPoPNonce as wanted:
            # Whoever holds the key made no mistake: it was charged, and no failure is counted that
            # would let others at the same address keep it from its nonce.
            attempt.proves(token.client_id, token.jti)
            raise ProofRefused(wanted) from None
        except InvalidDPoPProof as fault:
            await self._services.admission.give_back(windows)
            raise ProofRefused(fault) from None


async def holder_of(
    services: Services, settings: Settings, credentials: Credentials, token: AccessToken
) -> Client:
    """The client that a token is good for here, as far as neither place nor proof is asked for.

    Raises:
        InvalidToken: it is good for nobody.
    """
    check_audience(token, settings.audience)
    credentials.check_scheme(token)
    if settings.is_fapi2 and token.jkt is None:  # of before the profile was chosen
        unbound = InvalidToken(detail="the profile takes bound tokens only")
        unbound.breaking(Rule.TOKEN_SCHEME, had=BEARER, wanted=DPOP)
        raise unbound.asking_for(DPOP)
    return await services.clients.holder(token.client_id, token.epoch)


def _route_of(request: HTTPConnection) -> str | None:
    """The route that a request asks for, as its app wrote it: no id and no secret is in it."""
    path = getattr(request.scope.get("route"), "path", None)
    return f"{request.scope.get('method', 'GET')} {path}" if isinstance(path, str) else None


def _fit_challenge(error: OAuth2Error, settings: Settings) -> None:
    """Have a challenge name what the profile takes."""
    if isinstance(error, BearerError):
        error.algorithms = " ".join(settings.foreign_algorithms)
        if settings.is_fapi2 and isinstance(error, MissingToken):
            error.scheme = DPOP
