"""Protected routes: the dependency that turns a token into an `AccessToken`.

RFC 6750; RFC 9449 section 7 for tokens that are bound to a key. Here stands what FastAPI sees. Who
judges the token is handed in: the server itself (`protected_requests`), or a service elsewhere.
"""

# No `from __future__ import annotations` here: FastAPI reads a guard's annotations as values.

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import HTTPException, Security
from fastapi.openapi.models import OAuth2, OAuthFlowClientCredentials, OAuthFlows
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection
from starlette.responses import Response

from _oauth2_m2m.access_tokens import AccessToken
from _oauth2_m2m.dpop import proof_header
from _oauth2_m2m.errors import (
    BEARER,
    DPOP,
    BearerError,
    InsufficientScope,
    InvalidDPoPProof,
    InvalidToken,
    MissingToken,
    OAuth2Error,
    ProofRefused,
)
from _oauth2_m2m.metrics import Metrics
from _oauth2_m2m.responses import caller_of, error_response, note_refusal
from _oauth2_m2m.rules import Rule
from _oauth2_m2m.scopes import is_scope_token, plain

_SCHEMES = {BEARER.lower(): BEARER, DPOP.lower(): DPOP}
_ROLE = "oauth2_m2m_role"


class Refused(HTTPException):
    """A guard refuses a request; `cause` is the OAuth error that says why.

    Without further ado it is answered as RFC 6750 section 3 asks. An app that wants another form
    registers an exception handler for it.
    """

    def __init__(self, cause: OAuth2Error) -> None:
        super().__init__(cause.status_code, cause.description, cause.headers())
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request presents.

    Attributes:
        scheme: `Bearer` or `DPoP`.
        token: the access token.
        proof: the DPoP proof; always there when the scheme is `DPoP`.
    """

    scheme: str
    token: str = field(repr=False)
    proof: str = field(default="", repr=False)

    def check_scheme(self, token: AccessToken) -> None:
        """Whether a token was presented as what it is. RFC 9449 sections 7.1, 7.2.

        Raises:
            InvalidToken: a bound token without its proof, or a bearer token as if it were bound.
        """
        if (token.jkt is None) == (self.scheme == DPOP):
            error = InvalidToken(detail="a bound token needs its DPoP proof, any other has none")
            error.breaking(Rule.TOKEN_SCHEME, had=self.scheme, wanted=_scheme_for(token))
            raise error.asking_for(_scheme_for(token))


class Judge(Protocol):
    """Decides which requests are let through. Whatever it raises is an `OAuth2Error`."""

    async def admit(self, request: HTTPConnection, scopes: Sequence[str]) -> AccessToken:
        """The token of a request, checked in full; it has all of these scopes."""

    async def refuse(
        self, request: HTTPConnection, token: AccessToken, error: OAuth2Error
    ) -> OAuth2Error:
        """Note that a request with a good token is refused after all; the error to answer with."""

    def has_role(self, token: AccessToken, role: str) -> bool:
        """Whether a token that was admitted may do what asks for a role."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """All that judging needs, from the start of an app to its end."""


class AccessTokenGuard(SecurityBase):
    """The dependency `Security(m2m.access_token, scopes=[...])`.

    Args:
        judge: who decides.
        scopes: the scopes to offer in the OpenAPI document, with what each allows.
        metrics: where checks are counted.
        token_url: where tokens are had, for the OpenAPI document.
    """

    def __init__(
        self,
        judge: Judge,
        scopes: Mapping[str, str],
        metrics: Metrics,
        *,
        token_url: str = "token",
    ) -> None:
        self._judge = judge
        self._metrics = metrics
        self.offered = frozenset(scopes)
        self.scheme_name = "oauth2_m2m"
        flow = OAuthFlowClientCredentials(tokenUrl=token_url, scopes=dict(scopes))
        self.model = OAuth2(flows=OAuthFlows(clientCredentials=flow))

    def running(self) -> AbstractAsyncContextManager[None]:
        """All that judging needs, from the start of an app to its end."""
        return self._judge.running()

    @contextmanager
    def judged_by(self, judge: Judge) -> Iterator[None]:
        """Have somebody else decide meanwhile; for tests."""
        before, self._judge = self._judge, judge
        try:
            yield
        finally:
            self._judge = before

    async def __call__(
        self, request: HTTPConnection, security_scopes: SecurityScopes
    ) -> AccessToken:
        """Check the request's token, ask whether it was revoked, and compare the scopes.

        Raises:
            Refused: 401, 403, 429 or 503.
        """
        caller_of(request)  # log lines of the request name it from here on
        with self._metrics.guard() as seen:
            try:
                return await self._judge.admit(request, security_scopes.scopes)
            except OAuth2Error as error:
                seen.refused(error)
                refused = _refused(request, error)
        raise refused from None

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
        scopes, role = plain(scopes), None if role is None else str.__str__(role)

        async def guard(
            request: HTTPConnection, token: AccessToken = Security(self, scopes=list(scopes))
        ) -> AccessToken:
            if role is None or self._judge.has_role(token, role):
                return token
            missing = InsufficientScope(" ".join(scopes), role)
            missing.breaking(Rule.ROLE, had=token.roles, wanted=role)
            with self._metrics.guard() as seen:
                try:
                    cause = await self._judge.refuse(request, token, missing)
                except OAuth2Error as error:
                    cause = error
                seen.refused(cause)
            raise _refused(request, cause)

        setattr(guard, _ROLE, role)
        return guard


async def public() -> None:
    """A dependency that says of a route that it is open to everybody on purpose."""


def role_asked_for(dependency: object) -> str | None:
    """The role that a dependency of `requires` asks for; `None` of any other."""
    return getattr(dependency, _ROLE, None)


def has_token(request: HTTPConnection) -> bool:
    """Whether a request presents an access token, good or bad."""
    return _scheme_of(request) is not None


def presented(request: HTTPConnection) -> Credentials:
    """The token of the header `Authorization`, the one place that is read, and its proof.

    Raises:
        MissingToken: there is none. RFC 6750 section 3.1.
        InvalidToken: the header is repeated.
        ProofRefused: the scheme is `DPoP`, but there is not exactly one proof.
    """
    values = [value for name, value in request.scope["headers"] if name == b"authorization"]
    if len(values) > 1:
        raise InvalidToken(detail="the header Authorization is repeated").breaking(Rule.TOKEN_SENT)
    word, _, token = (values[0] if values else b"").decode("latin-1").partition(" ")
    scheme = _SCHEMES.get(word.lower())
    if scheme is None:
        raise MissingToken
    if scheme == BEARER:
        return Credentials(BEARER, token.strip(" "))
    try:
        proof = proof_header(request.headers.getlist("dpop"))
    except InvalidDPoPProof as fault:
        raise ProofRefused(fault) from None
    if proof is None:
        missing = InvalidDPoPProof("The header DPoP is missing: send a proof")
        raise ProofRefused(missing.breaking(Rule.PROOF_SENT))
    return Credentials(DPOP, token.strip(" "), proof)


def check_scopes(token: AccessToken, scopes: Sequence[str]) -> None:
    """Whether a token has all of these scopes.

    Raises:
        InsufficientScope: it has not. RFC 6750 section 3.1.
    """
    if not token.scopes.issuperset(scopes):
        missing = InsufficientScope(" ".join(scopes)).asking_for(_scheme_for(token))
        raise missing.breaking(Rule.SCOPE, had=sorted(token.scopes), wanted=scopes)


def _scheme_for(token: AccessToken) -> str:
    """How a token must be presented. RFC 9449 section 7.1."""
    return BEARER if token.jkt is None else DPOP


def path_of(request: HTTPConnection) -> str:
    """The path of a request as it was sent, percent-encoded; DPoP proofs name it."""
    raw: bytes | None = request.scope.get("raw_path")
    return request.scope["path"] if raw is None else raw.partition(b"?")[0].decode("latin-1")


def method_of(request: HTTPConnection) -> str:
    """The method of a request; DPoP proofs name it. A WebSocket is opened by GET (RFC 6455)."""
    return str(request.scope.get("method", "GET"))


def _scheme_of(request: HTTPConnection) -> str | None:
    word = request.headers.get("authorization", "").partition(" ")[0]
    return _SCHEMES.get(word.lower())


def _refused(request: HTTPConnection, cause: OAuth2Error) -> Refused:
    """The refusal, answered with `error` and `error_description` beside FastAPI's `detail`.

    A dependency cannot register an exception handler before the app has started, so the one for
    `Refused` joins the app's handlers at the first refusal; one that the app registered stays.
    Where Starlette keeps none, FastAPI's own answer has the same status, headers and `detail`.
    """
    if isinstance(cause, BearerError) and _scheme_of(request) == DPOP:
        cause.scheme = DPOP
    note_refusal(request, cause)
    handlers: tuple[dict[Any, Any], ...] = request.scope.get("starlette.exception_handlers", ())
    if handlers:
        handlers[0].setdefault(Refused, _answer)
    return Refused(cause)


async def _answer(request: HTTPConnection, refused: Exception) -> Response:
    assert isinstance(refused, Refused)  # noqa: S101
    return error_response(refused.cause)
