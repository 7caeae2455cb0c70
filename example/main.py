"""The example app: `uvicorn example.main:app`, or `make serve` for everything at once.

It serves on the MongoDB at `MONGODB_URL` (else localhost) in the database `MONGODB_DB`.
`ENVIRONMENT=production` refuses to start with a weak configuration; `CORS_ORIGINS` names the web
origins, parted by commas, that browsers may call from (none unless set).
"""

import base64
import gc
import hashlib
import logging
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import fastapi_offline
from fastapi import Depends, FastAPI, Request, Security
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from pymongo import AsyncMongoClient
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oauth2_m2m import AccessToken, ConfigurationError, OAuth2M2M, PoolListener

mongo: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
    os.environ.get("MONGODB_URL", "mongodb://localhost:27017"),
    event_listeners=[PoolListener()],  # GET /metrics, where it is on, tells of the connections
)
m2m = OAuth2M2M(
    mongo[os.environ.get("MONGODB_DB", "oauth2_m2m")],
    scopes={"read": "Read", "write": "Write", "admin": "Administer"},
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Prepare the database at the start, close the connections at the end."""
    try:
        async with m2m.lifespan(app):
            # What is loaded by now stays: no need for the collector to look at it again and again.
            gc.freeze()
            yield
    except ConfigurationError:
        sys.tracebacklimit = 0  # the process ends here: its last words are the one line that helps
        raise
    finally:
        await mongo.close()


app = FastAPI(
    title="oauth2_m2m example",
    lifespan=lifespan,
    redirect_slashes=False,
    docs_url=None,  # both are served below, without a CDN
    redoc_url=None,
)
app.include_router(m2m.router)


@app.get("/protected")
async def protected(
    token: Annotated[AccessToken, Security(m2m.access_token, scopes=["read"])],
) -> dict[str, str]:
    """Needs the scope `read`."""
    return {"message": f"Hello {token.client_id}, you have accessed a protected route!"}


@app.get("/admin-only")
async def admin_only(
    token: Annotated[AccessToken, Depends(m2m.requires("admin", role="admin"))],
) -> dict[str, str]:
    """Needs the scope `admin` and the role `admin`."""
    return {"message": f"Welcome Admin {token.client_id}!"}


# --- The API's documentation, from a package instead of a CDN ---------------------------------

ASSETS = "/docs/assets"
app.mount(ASSETS, StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static"))


@app.get("/docs", include_in_schema=False, dependencies=[Depends(m2m.public)])
async def swagger_ui(request: Request) -> HTMLResponse:
    """Swagger UI; its "Authorize" gets a token by client credentials."""
    root = request.scope.get("root_path", "").rstrip("/")
    return with_its_scripts(
        get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=app.title,
            swagger_js_url=f"{root}{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{root}{ASSETS}/favicon.png",
        )
    )


@app.get("/redoc", include_in_schema=False, dependencies=[Depends(m2m.public)])
async def redoc(request: Request) -> HTMLResponse:
    """ReDoc."""
    root = request.scope.get("root_path", "").rstrip("/")
    return with_its_scripts(
        get_redoc_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=app.title,
            redoc_js_url=f"{root}{ASSETS}/redoc.standalone.js",
            redoc_favicon_url=f"{root}{ASSETS}/favicon.png",
            with_google_fonts=False,
        )
    )


def with_its_scripts(page: HTMLResponse) -> HTMLResponse:
    """Allow a page the scripts of this app and its own inline ones, by their digests (CSP 3)."""
    inline = re.findall(rb"<script>(.*?)</script>", bytes(page.body), re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in inline]
    scripts = " ".join(["'self'", *(f"'sha256-{digest}'" for digest in digests)])
    page.headers["Content-Security-Policy"] = (
        f"default-src 'self'; script-src {scripts}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; worker-src blob:; frame-ancestors 'none'; base-uri 'none'"
    )
    return page


# --- The access log, which is uvicorn's ---------------------------------------------------------

#: What is a secret by its shape, and what stands in a query where a secret is expected.
SECRETS = re.compile(
    r"m2m[a-z]_[0-9A-Za-z]{8,}|eyJ[\w-]+\.[\w-]+\.[\w-]*"
    r"|(?<=secret=)[^&]+|(?<=password=)[^&]+|(?<=token=)[^&]+|(?<=assertion=)[^&]+"
)


class WithoutSecrets(logging.Filter):
    """Leaves out of the addresses in a log what belongs into bodies and headers."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Log every record, but for the secrets in it."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                SECRETS.sub("...", value) if isinstance(value, str) else value
                for value in record.args
            )
        return True


logging.getLogger("uvicorn.access").addFilter(WithoutSecrets())


# --- Headers that every answer carries ---------------------------------------------------------

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
if os.environ.get("ENVIRONMENT") == "production":
    SECURITY_HEADERS["Strict-Transport-Security"] = "max-age=63072000; includeSubDomains"


class SecurityHeaders:
    """Adds the security headers that an answer does not have already."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and complete the headers of its answer."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)


app.add_middleware(SecurityHeaders)
if origins := [o.strip() for o in os.environ.get("CORS_ORIGINS", "").split(",") if o.strip()]:
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "DPoP"],
        expose_headers=["DPoP-Nonce", "Retry-After", "WWW-Authenticate", "X-Error-ID"],
    )
