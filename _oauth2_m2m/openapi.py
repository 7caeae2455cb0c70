"""What an app's OpenAPI document says of guarded routes, without a word from their author."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fastapi import FastAPI

from _oauth2_m2m.endpoints.documentation import GUARDED_RESPONSES

_METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
_ERROR = "#/components/schemas/ErrorResponse"


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
        _complete(document, scheme_name)
        return document

    openapi.describes = scheme_name  # type: ignore[attr-defined]
    app.openapi = openapi  # type: ignore[method-assign]


def _complete(document: dict[str, Any], scheme_name: str) -> None:
    schemes = document.get("components", {}).get("securitySchemes", {})
    scopes = (
        schemes.get(scheme_name, {}).get("flows", {}).get("clientCredentials", {}).get("scopes")
    )
    for operation in _operations(document):
        for security in operation.get("security", []):
            if scheme_name not in security:
                continue
            responses = operation.setdefault("responses", {})
            for status_code, response in GUARDED_RESPONSES.items():
                responses.setdefault(str(status_code), _response(response["description"]))
            for scope in security[scheme_name]:
                if scopes is not None:
                    scopes.setdefault(scope, "")


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document.get("paths", {}).values():
        yield from (operation for method, operation in path.items() if method in _METHODS)


def _response(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": _ERROR}}},
    }
