"""How answers look on the wire: JSON, never stored by anyone on the way."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.status import HTTP_200_OK

from _oauth2_m2m.audit import reason_for
from _oauth2_m2m.callers import CALLER, Caller
from _oauth2_m2m.credentials import without_secrets
from _oauth2_m2m.errors import OAuth2Error

#: RFC 6749 section 5.1; Pragma is for caches of HTTP/1.0.
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}

_CALLER = "oauth2_m2m.caller"
_FIRST_SERVER_ERROR = 500

_log = logging.getLogger("oauth2_m2m")


def caller_of(request: HTTPConnection) -> Caller:
    """The caller of a request, by the address that the server vouches for; one for all who ask."""
    caller: Caller | None = request.scope.get(_CALLER)
    if caller is None:
        peer = request.scope.get("client")
        caller = request.scope[_CALLER] = Caller(peer[0] if peer else None, request.headers)
        CALLER.set(caller)  # until the task of the request ends
    return caller


def note_refusal(request: HTTPConnection, error: OAuth2Error) -> None:
    """Say in one line of the log why a request is refused; by its ids the two find each other."""
    level = logging.WARNING if error.status_code >= _FIRST_SERVER_ERROR else logging.INFO
    if _log.isEnabledFor(level):
        request_id = without_secrets(caller_of(request).request_id)  # as its audit record has it
        ids = {"error_id": error.error_id, "request_id": request_id}
        words = "refused with %d %s, error_id %s, request_id %s"
        said = {**ids, "rule": error.rule.value}
        _log.log(level, words, error.status_code, reason_for(error), *ids.values(), extra=said)


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
        "error_id": error.error_id,
    }
