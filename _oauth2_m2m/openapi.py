"""What an app's OpenAPI document says of guarded routes, without a word from their author."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fastapi import FastAPI
from starlette.routing import NoMatchFound

from _oauth2_m2m.endpoints.documentation import GUARDED_RESPONSES, TOKEN_ROUTE, ErrorResponse

_METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
# Written out: a reference could meet a model of the app's own with the same name.
_ERROR = ErrorResponse.model_json_schema()


def describe(app: FastAPI, scheme_name: str) -> None:
    """Have the app's document name the refusals of guarded routes, and offer their scopes.

    FastAPI lets a dependency name its security scheme, but neither its answers nor the list of
    all scopes, so both are added to the finished document (FastAPI's "Extending OpenAPI").

    Args:
        app: whose document.
        scheme_name: the security scheme that marks a route as guarded.
    """
    written: Callable[[], dict[str, Any]] = app.openapi
    if getattr(written, "describes", None) == scheme_name:
        return

    def openapi() -> dict[str, Any]:
        document = written()
        _complete(document, scheme_name, _token_url(app))
        return document

    openapi.describes = scheme_name  # type: ignore[attr-defined]
    app.openapi = openapi  # type: ignore[method-assign]


def _token_url(app: FastAPI) -> str | None:
    """Where the router was included, relative as FastAPI's own token URLs are."""
    try:
        return str(app.url_path_for(TOKEN_ROUTE)).lstrip("/")
    except NoMatchFound:  # guards alone: the tokens come from elsewhere
        return None


def _complete(document: dict[str, Any], scheme_name: str, token_url: str | None) -> None:
    scheme = document.get("components", {}).get("securitySchemes", {}).get(scheme_name)
    if scheme is None:
        return
    flow = scheme["flows"]["clientCredentials"]
    if token_url is not None:
        flow["tokenUrl"] = token_url
    for operation in _operations(document):
        for security in operation.get("security", []):
            if scheme_name not in security:
                continue
            responses = operation.setdefault("responses", {})
            for status_code, response in GUARDED_RESPONSES.items():
                responses.setdefault(str(status_code), _refusal(response))
            for scope in security[scheme_name]:
                flow["scopes"].setdefault(scope, "")


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document.get("paths", {}).values():
        yield from (operation for method, operation in path.items() if method in _METHODS)


def _refusal(response: dict[str, Any]) -> dict[str, Any]:
    """What is said of a refusal; without the model, whose name the app may use otherwise."""
    return {
        "description": response["description"],
        "headers": response["headers"],
        "content": {"application/json": {"schema": _ERROR}},
    }
