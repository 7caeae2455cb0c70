"""What all endpoints share: reading a body within bounds, and one place that answers errors."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from _oauth2_m2m.deadlines import Deadline
from _oauth2_m2m.errors import (
    BodyTooLarge,
    BodyTooSlow,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    OAuth2Error,
    TemporarilyUnavailable,
    Unprocessable,
)
from _oauth2_m2m.forms import LARGEST_BODY_BYTES, Form, parse_form, parse_json
from _oauth2_m2m.metrics import DISCONNECTED, Metrics, Observation
from _oauth2_m2m.responses import caller_of, error_response, note_refusal
from _oauth2_m2m.services import REQUEST_DEADLINE

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
BODY_SECONDS = 10
BODY_DEADLINE = Deadline(BODY_SECONDS)

_BODY = "oauth2_m2m.body"
_OBSERVATION = "oauth2_m2m.observation"


class OAuthRoute(APIRoute):
    """A route whose endpoint takes the request and returns a response.

    It counts what comes of the request, under the name of the endpoint's function. It turns an
    OAuth error into its response, bounds the time that the endpoint may take, and leaves out
    FastAPI's parsing, which knows nothing of the RFCs' rules for parameters.
    """

    metrics: ClassVar[Metrics]

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's hook: what to call for a request."""
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint

        async def answer(request: Request, seen: Observation) -> Response:
            try:
                await _read_body(request)
                with REQUEST_DEADLINE():
                    return await endpoint(request)
            except TimeoutError:
                error: OAuth2Error = TemporarilyUnavailable(detail="the database was too slow")
            except OAuth2Error as refusal:
                error = refusal
            seen.refused(error)
            return _refused(request, error)

        async def handle(request: Request) -> Response:
            caller_of(request)  # log lines of the request name it from here on
            with self.metrics.endpoint(endpoint.__name__) as seen:
                request.scope[_OBSERVATION] = seen
                try:
                    response = await answer(request, seen)
                except ClientDisconnect:
                    seen.outcome = DISCONNECTED
                    return Response(status_code=InvalidRequest.status_code)
                if response.status_code == TemporarilyUnavailable.status_code:  # as health says it
                    seen.outcome = TemporarilyUnavailable.error
                return response

        return handle

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Claim the path with trailing slashes too, to refuse it.

        Left to itself an app would redirect to an address that it builds from the `Host` header,
        and the client would follow with its secret.
        """
        path = scope.get("path", "").rstrip("/")
        if not path.endswith(self.path):  # every other request of the app comes by here too
            return Match.NONE, {}
        if path == scope["path"]:
            return super().matches(scope)
        match, child_scope = super().matches({**scope, "path": path})
        return (Match.FULL if match is Match.PARTIAL else match), child_scope

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a wrong path or method like any other error, with a body that says so."""
        if scope["path"].endswith("/"):
            await _refused(Request(scope), NotFound())(scope, receive, send)
        elif self.methods and scope["method"] not in self.methods:
            wrong = MethodNotAllowed(", ".join(sorted(self.methods)))
            await _refused(Request(scope), wrong)(scope, receive, send)
        else:
            await super().handle(scope, receive, send)


def route_class(metrics: Metrics) -> type[OAuthRoute]:
    """The class of the routes whose requests are counted there."""
    return type(OAuthRoute.__name__, (OAuthRoute,), {"metrics": metrics})


def note_grant(request: Request, grant: str) -> None:
    """Note by which grant a request asks for tokens, in a word that is known beforehand."""
    request.scope[_OBSERVATION].grant = grant


class OAuthRouter(APIRouter):
    """The router of the endpoints, which all other requests of the app pass quickly."""

    _seen = 0
    _ours: frozenset[str] | None = None

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """FastAPI's hook: whether one of the routes may be meant, whatever the router's prefix."""
        if self._seen != len(self.routes):
            self._seen, self._ours = len(self.routes), _last_segments(self.routes)
        if self._ours and _last_segment(scope.get("path", "").rstrip("/")) not in self._ours:
            return Match.NONE, {}
        return super().matches(scope)


def _last_segments(routes: Sequence[BaseRoute]) -> frozenset[str] | None:
    """How the paths of these routes end; nothing when somebody added a route of another kind."""
    ours = [route for route in routes if isinstance(route, OAuthRoute)]
    return frozenset(_last_segment(r.path) for r in ours) if len(ours) == len(routes) else None


def _last_segment(path: str) -> str:
    return path.rpartition("/")[2]


def _refused(request: Request, error: OAuth2Error) -> Response:
    note_refusal(request, error)
    return error_response(error)


async def _read_body(request: Request) -> None:
    """Read a body into the request's scope, or what is wrong with it.

    The endpoint meets the fault when it asks for the body, so that it is counted and recorded.
    """
    body = bytearray()
    try:
        with BODY_DEADLINE():
            async for chunk in request.stream():
                body += chunk
                if len(body) > LARGEST_BODY_BYTES:
                    request.scope[_BODY] = BodyTooLarge(LARGEST_BODY_BYTES)
                    return
    except TimeoutError:
        request.scope[_BODY] = BodyTooSlow(BODY_SECONDS)
    else:
        request.scope[_BODY] = bytes(body)


def form_of(request: Request) -> Form:
    """The form that a request carries.

    Raises:
        InvalidRequest: it carries none, or a malformed, oversized or slow one.
    """
    body = _body_of(request)
    if media_type(request) != FORM:
        raise InvalidRequest(f"Send the parameters as {FORM}")
    return parse_form(body)


def json_object_of(request: Request) -> dict[str, Any]:
    """The JSON object that a request carries.

    Raises:
        Unprocessable: it carries none, or a malformed one.
        InvalidRequest: it is oversized or slow.
    """
    body = _body_of(request)
    if media_type(request) != JSON:
        raise Unprocessable(f"Send a JSON object with Content-Type: {JSON}")
    try:
        value = parse_json(body)
    except ValueError as fault:
        raise Unprocessable(f"The body is {fault}", kind="json_invalid") from None
    if not isinstance(value, dict):
        raise Unprocessable("The body must be a JSON object", kind="dict_type")
    return value


def text_member(members: dict[str, Any], name: str) -> str:
    """A member of a JSON object that must be a text and not empty.

    Raises:
        Unprocessable: it is missing or something else.
    """
    if members.get(name) is None:
        raise Unprocessable(f"Field required: {name}", field=name, kind="missing")
    return optional_text_member(members, name)


def optional_text_member(members: dict[str, Any], name: str) -> str:
    """A member of a JSON object that is a text; missing, it is the empty text.

    Raises:
        Unprocessable: it is something else.
    """
    value = members.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Unprocessable(f"{name} must be a string", field=name, kind="string_type")
    return value


def media_type(request: Request) -> str:
    """The media type of the body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _body_of(request: Request) -> bytes:
    body: bytes | InvalidRequest = request.scope[_BODY]
    if isinstance(body, InvalidRequest):
        raise body
    return body
