"""What the OpenAPI document says of the endpoints.

They read their bodies themselves, so FastAPI cannot know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response

from _oauth2_m2m.errors import ERROR_ID_HEADER

Operation = dict[str, Any]


class TokenResponse(BaseModel):
    """RFC 6749 section 5.1."""

    access_token: str
    refresh_token: str | None = None
    token_type: str = "bearer"
    expires_in: int
    scope: str


class ErrorResponse(BaseModel):
    """RFC 6749 section 5.2, with FastAPI's `detail`, and an id that the operator can look up."""

    error: str
    error_description: str
    detail: str | list[dict[str, Any]]
    error_id: str


class MessageResponse(BaseModel):
    """What a person reads."""

    message: str


class IntrospectionResponse(BaseModel):
    """RFC 7662 section 2.2; a token that is not alive has only the first member."""

    active: bool
    scope: str | None = None
    client_id: str | None = None
    token_type: str | None = None
    iss: str | None = None
    sub: str | None = None
    aud: str | list[str] | None = None
    exp: int | None = None
    iat: int | None = None
    jti: str | None = None
    roles: list[str] | None = None
    cnf: dict[str, str] | None = None


class RevocationsResponse(BaseModel):
    """A page of the revocation feed."""

    revoked: list[tuple[str, int]]
    cursor: str
    more: bool


class HealthResponse(BaseModel):
    """Which part works."""

    status: str
    checks: dict[str, str] = {}


def _error(description: str, **headers: dict[str, Any]) -> dict[str, Any]:
    """An error, and the headers that it has; in their names `_` stands for `-`."""
    named = {name.replace("_", "-"): header for name, header in headers.items()}
    every = {ERROR_ID_HEADER: _ERROR_ID, **named}
    return {"model": ErrorResponse, "description": description, "headers": every}


def _header(description: str, kind: str) -> dict[str, Any]:
    return {"description": description, "required": True, "schema": {"type": kind}}


_ERROR_ID = _header("What the operator can look this refusal up by", "string")
_RETRY_AFTER = _header("In so many seconds it is worth another try", "integer")
_CHALLENGE = _header("How the token must be presented, and what is wrong with it", "string")

#: What any guarded route may answer besides its own.
GUARDED_RESPONSES: dict[int | str, dict[str, Any]] = {
    401: _error(
        "No access token, or one that is invalid, expired or revoked", WWW_Authenticate=_CHALLENGE
    ),
    403: _error("The scope or the role is missing", WWW_Authenticate=_CHALLENGE),
    429: _error(
        "Too many requests",
        Retry_After=_RETRY_AFTER,
        RateLimit_Limit=_header("So many requests are let through in such a window", "integer"),
        RateLimit_Remaining=_header("So many are left in this window", "integer"),
        RateLimit_Reset=_header("Seconds until the next window", "integer"),
    ),
    503: _error("The database does not answer", Retry_After=_RETRY_AFTER),
}

_FAILURES: dict[int | str, dict[str, Any]] = {
    408: _error("The body did not arrive within 10 s"),
    413: _error("The body is larger than 64 KiB"),
    422: _error("A field is missing or of the wrong type"),
    429: GUARDED_RESPONSES[429],
    503: GUARDED_RESPONSES[503],
}


def _object(*required: str, **properties: str | dict[str, Any]) -> dict[str, Any]:
    """An object of texts, or of what has a schema of its own."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {
            name: meaning
            if isinstance(meaning, dict)
            else {"type": "string", "description": meaning}
            for name, meaning in properties.items()
        },
    }


def _operation(
    summary: str,
    bodies: Mapping[str, Mapping[str, Any]],
    success: type[BaseModel],
    failures: Mapping[int | str, dict[str, Any]],
    description: str = "Successful Response",
) -> Operation:
    content = {media_type: {"schema": schema} for media_type, schema in bodies.items()}
    return {
        "summary": summary,
        "responses": {
            200: {"model": success, "description": description},
            **failures,
            **_FAILURES,
        },
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
    }


_ASSERTION_TYPE = "For private_key_jwt: urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTION = "For private_key_jwt: a JWT signed with the client's key (RFC 7523)"
_RESOURCES = {
    "type": "array",
    "items": {"type": "string", "format": "uri"},
    "description": "The resources that the token is for, each a parameter of its own (RFC 8707)",
}
_SECRET = "The client's secret, when the header Authorization: Basic is not used"

#: The name under which an app finds the endpoint, wherever it included the router.
TOKEN_ROUTE = "oauth2_m2m:token"

TOKEN = _operation(
    "Get an access token",
    {
        "application/x-www-form-urlencoded": _object(
            grant_type="client_credentials, refresh_token, or left out with username and password",
            username="Plain dialect: the client's id",
            password="Plain dialect: the client's secret",
            scope="Scope names parted by spaces; left out, all that the client may have",
            refresh_token="For grant_type=refresh_token",
            client_id="The client's id, when the header Authorization: Basic is not used",
            client_secret=_SECRET,
            client_assertion_type=_ASSERTION_TYPE,
            client_assertion=_ASSERTION,
            resource=_RESOURCES,
            audience="The same under another name, once",
        )
    },
    TokenResponse,
    {400: _error("RFC 6749 section 5.2"), 401: _error("Client authentication failed")},
)

REFRESH = _operation(
    "Exchange a refresh token",
    {
        "application/json": _object(
            "refresh_token",
            refresh_token="The token",
            scope="To narrow the access token",
            client_id="With REFRESH_REQUIRES_CLIENT_AUTH, unless Authorization: Basic is used",
            client_secret="The same",
            client_assertion_type=_ASSERTION_TYPE,
            client_assertion=_ASSERTION,
        )
    },
    TokenResponse,
    {
        400: _error("The scope is malformed or too wide"),
        401: _error("The refresh token is unknown, expired, revoked, or was used before"),
    },
)

REVOKE = _operation(
    "Revoke a token",
    {
        "application/json": _object(access_token="Either this", refresh_token="or this"),
        "application/x-www-form-urlencoded": _object(
            "token",
            token="An access or refresh token of the client (RFC 7009)",
            token_type_hint="access_token or refresh_token; not needed",
            client_id="The client's id, when the header Authorization: Basic is not used",
            client_secret=_SECRET,
            client_assertion_type=_ASSERTION_TYPE,
            client_assertion=_ASSERTION,
        ),
    },
    MessageResponse,
    {400: _error("A malformed form"), 401: _error("The token, or the client, is not accepted")},
    "Revoked; a form is answered with an empty body, whatever the token was (RFC 7009 section 2.2)",
)

REVOCATIONS: Operation = {
    "summary": "What was revoked, for checks elsewhere",
    "responses": {
        200: {"model": RevocationsResponse},
        400: _error("The cursor is malformed"),
        503: GUARDED_RESPONSES[503],
    },
    "openapi_extra": {
        "parameters": [
            {
                "name": "after",
                "in": "query",
                "description": "The cursor of the page before; left out at the beginning",
                "schema": {"type": "string"},
            }
        ]
    },
}

INTROSPECT = _operation(
    "Ask whether a token is alive",
    {
        "application/x-www-form-urlencoded": _object(
            "token",
            token="An access or refresh token (RFC 7662)",
            token_type_hint="access_token or refresh_token; not needed",
            client_id="The client's id, when the header Authorization: Basic is not used",
            client_secret=_SECRET,
            client_assertion_type=_ASSERTION_TYPE,
            client_assertion=_ASSERTION,
        )
    },
    IntrospectionResponse,
    {
        400: _error("A malformed form"),
        401: _error("The client, or the access token, is not accepted"),
        403: _error("The access token lacks the scope introspect", WWW_Authenticate=_CHALLENGE),
    },
)


def _published(summary: str) -> Operation:
    return {
        "summary": summary,
        "responses": {
            200: {"content": {"application/json": {"schema": {"type": "object"}}}},
            304: {"description": "It has not changed since"},
            503: GUARDED_RESPONSES[503],
        },
    }


METADATA = _published("What this server offers (RFC 8414)")
JWKS = _published("The public keys that verify access tokens (RFC 7517)")
RESOURCE_METADATA = _published("How the guarded routes are to be called (RFC 9728)")

LIVE: Operation = {
    "summary": "Whether the process answers",
    "responses": {200: {"model": HealthResponse}},
}

METRICS: Operation = {
    "summary": "What was counted and timed, for Prometheus",
    "description": "Off unless METRICS is set in the config. It asks for the scope `metrics`, but "
    "not of programs on the same host.",
    "response_class": Response,  # which leaves open of which type a refusal is
    "responses": {
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **GUARDED_RESPONSES,
        404: _error("It is off"),
    },
}

READY: Operation = {
    "summary": "Whether tokens can be issued and checked",
    "responses": {
        200: {"model": HealthResponse},
        503: _error("The failing part is named", Retry_After=_RETRY_AFTER),
    },
}
