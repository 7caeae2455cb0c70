"""How answers look on the wire: JSON, never stored by anyone on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.status import HTTP_200_OK

from _oauth2_m2m.callers import CALLER, Caller
from _oauth2_m2m.errors import OAuth2Error

#: RFC 6749 section 5.1; Pragma is for caches of HTTP/1.0.
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}

_CALLER = "oauth2_m2m.caller"


def caller_of(request: HTTPConnection) -> Caller:
    """The caller of a request, by the address that the server vouches for; one for all who ask."""
    caller: Caller | None = request.scope.get(_CALLER)
    if caller is None:
        peer = request.scope.get("client")
        caller = request.scope[_CALLER] = Caller(peer[0] if peer else None, request.headers)
        CALLER.set(caller)  # until the task of the request ends
    return caller


def json_response(
    members: Mapping[str, Any],
    status_code: int = HTTP_200_OK,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A JSON answer that nobody may store."""
    return JSONResponse(dict(members), status_code, {**NO_STORE, **(headers or {})})


def error_response(error: OAuth2Error) -> JSONResponse:
    """An error as RFC 6749 section 5.2 writes it, with FastAPI's `detail` beside it."""
    return json_response(error_members(error), error.status_code, error.headers())


def error_members(error: OAuth2Error) -> dict[str, Any]:
    """The members of an error's body."""
    return {
        "error": error.error,
        "error_description": error.description,
        "detail": error.field_errors() or error.description,
    }
