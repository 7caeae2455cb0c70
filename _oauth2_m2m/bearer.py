"""Protected routes: the dependency that turns a bearer token into an `AccessToken`. RFC 6750."""

# No `from __future__ import annotations` here: FastAPI reads a guard's annotations as values.

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import HTTPException, Request, Security
from fastapi.openapi.models import OAuth2, OAuthFlowClientCredentials, OAuthFlows
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.responses import Response

from _oauth2_m2m.access_tokens import AccessToken
from _oauth2_m2m.admission import Attempt, attempt_at_route
from _oauth2_m2m.config import Settings
from _oauth2_m2m.errors import (
    InsufficientScope,
    InvalidToken,
    MissingToken,
    OAuth2Error,
    TemporarilyUnavailable,
)
from _oauth2_m2m.responses import caller_of, error_response
from _oauth2_m2m.revocation import Question, epoch_mark, family_mark
from _oauth2_m2m.scopes import is_scope_token
from _oauth2_m2m.services import REQUEST_DEADLINE, Services

_CHECKED = "oauth2_m2m.checked"


class Refused(HTTPException):
    """A guard refuses a request; `cause` is the OAuth error that says why.

    Without further ado it is answered as RFC 6750 section 3 asks. An app that wants another form
    registers an exception handler for it.
    """

    def __init__(self, cause: OAuth2Error) -> None:
        super().__init__(cause.status_code, cause.description, cause.headers())
        self.cause = cause


class AccessTokenGuard(SecurityBase):
    """The dependency `Security(m2m.access_token, scopes=[...])`.

    Args:
        services: the rooms that the checks need.
        scopes: the scopes to offer in the OpenAPI document, with what each allows.
    """

    def __init__(self, services: Services, scopes: Mapping[str, str]) -> None:
        self._services = services
        self.scheme_name = "oauth2_m2m"
        flow = OAuthFlowClientCredentials(tokenUrl="token", scopes=dict(scopes))
        self.model = OAuth2(flows=OAuthFlows(clientCredentials=flow))

    async def __call__(self, request: Request, security_scopes: SecurityScopes) -> AccessToken:
        """Check the request's token, consult the database, and compare the scopes.

        Raises:
            Refused: 401, 403, 429 or 503.
        """

        async def check(attempt: Attempt, settings: Settings) -> AccessToken:
            token = await self._checked(request, attempt, settings)
            if not token.scopes.issuperset(security_scopes.scopes):
                raise InsufficientScope(security_scopes.scope_str)
            return token

        return await self._settled(request, check)

    def requires(
        self, *scopes: str, role: str | None = None
    ) -> Callable[..., Awaitable[AccessToken]]:
        """A dependency for `Depends`: all of these scopes and, if named, this role.

        Raises:
            ValueError: a scope or the role is no single word.
        """
        for word in (*scopes, *([] if role is None else [role])):
            if not is_scope_token(word):
                raise ValueError(f"{word!r} is no scope or role: use one word without quotes")

        async def guard(
            request: Request, token: AccessToken = Security(self, scopes=list(scopes))
        ) -> AccessToken:
            if role is None or role in token.roles:
                return token

            async def refuse(attempt: Attempt, settings: Settings) -> AccessToken:
                attempt.proves(token.client_id, token.jti)
                raise InsufficientScope(" ".join(scopes), role)

            return await self._settled(request, refuse)

        return guard

    async def _settled(
        self,
        request: Request,
        check: Callable[[Attempt, Settings], Awaitable[AccessToken]],
    ) -> AccessToken:
        """Run a check within the time of a request, and settle whatever it refuses."""
        services = self._services
        try:
            with REQUEST_DEADLINE():
                settings = await services.ready()
                attempt = attempt_at_route(caller_of(request), settings)
                try:
                    return await check(attempt, settings)
                except OAuth2Error as error:
                    cause = await services.admission.settle(attempt, error)
        except OAuth2Error as error:
            cause = error
        except TimeoutError:
            cause = TemporarilyUnavailable(detail="the database was too slow")
        _answer_in_full(request)
        raise Refused(cause)

    async def _checked(self, request: Request, attempt: Attempt, settings: Settings) -> AccessToken:
        """The request's token, checked and charged once, however many guards a route has."""
        guard, token = request.scope.get(_CHECKED, (None, None))
        if guard is not self or not isinstance(token, AccessToken):
            token = await self._check(_bearer_token(request), attempt, settings)
            request.scope[_CHECKED] = (self, token)
        attempt.proves(token.client_id, token.jti)
        return token

    async def _check(self, text: str, attempt: Attempt, settings: Settings) -> AccessToken:
        services = self._services
        token = await services.read_access_token(text, settings, attempt.now)
        attempt.client_id, attempt.jti = token.client_id, token.jti
        client = await services.clients.holder(token.client_id, token.epoch)
        if client is None:
            raise InvalidToken(detail="the client is disabled, removed or made anew")
        question = _marks(token, text, settings)
        if await services.admission.check(attempt, question, client, client.limit(settings)):
            services.reader.note_revoked(text)
            raise InvalidToken(detail="revoked")
        return token


def _bearer_token(request: Request) -> str:
    """The token of the header `Authorization: Bearer`, the one place that is read.

    Raises:
        MissingToken: there is none. RFC 6750 section 3.1.
        InvalidToken: the header is repeated.
    """
    headers = [value for name, value in request.scope["headers"] if name == b"authorization"]
    if len(headers) > 1:
        raise InvalidToken(detail="the header Authorization is repeated")
    scheme, _, token = (headers[0] if headers else b"").decode("latin-1").partition(" ")
    if scheme.lower() != "bearer":
        raise MissingToken
    return token.strip(" ")


def _marks(token: AccessToken, text: str, settings: Settings) -> Question:
    marks = [token.jti, epoch_mark(token.client_id, token.epoch)]
    if token.family_id is not None:
        marks.append(family_mark(token.family_id))
    return Question(tuple(marks), text, settings.linearizable)


def _answer_in_full(request: Request) -> None:
    """Have the refusal answered with `error` and `error_description` beside FastAPI's `detail`.

    A dependency cannot register an exception handler before the app has started, so the one for
    `Refused` joins the app's handlers at the first refusal; one that the app registered stays.
    Where Starlette keeps none, FastAPI's own answer has the same status, headers and `detail`.
    """
    handlers: tuple[dict[Any, Any], ...] = request.scope.get("starlette.exception_handlers", ())
    if handlers:
        handlers[0].setdefault(Refused, _answer)


async def _answer(request: Request, refused: Exception) -> Response:
    assert isinstance(refused, Refused)  # noqa: S101
    return error_response(refused.cause)
