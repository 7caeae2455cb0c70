"""For the test suites of apps that are guarded by this library: `from oauth2_m2m import testing`.

Two ways. `FakeTokens` needs no database: guards take tokens that a test makes up, and go on
comparing scopes and roles. `fresh_database` and `register` are the real thing, on a MongoDB.

Neither works in production: what says that it is production is refused. And neither can be switched
on from outside, by a setting, a variable or a request: only by code that calls it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType, TracebackType
from typing import Any, Protocol, Self, TypedDict, TypeVar, Unpack

import httpx
from fastapi import APIRouter, FastAPI
from pymongo import MongoClient
from pymongo.synchronous.database import Database
from starlette.requests import HTTPConnection

from _oauth2_m2m.access_tokens import AccessToken
from _oauth2_m2m.bearer import AccessTokenGuard, check_scopes, presented
from _oauth2_m2m.clients import Clients
from _oauth2_m2m.config import CONFIG_ID, Environment, environment_from
from _oauth2_m2m.credentials import make_id
from _oauth2_m2m.errors import ConfigurationError, InvalidToken, OAuth2Error
from _oauth2_m2m.roles import has_role, role_order_from
from _oauth2_m2m.scopes import format_scope, plain

T = TypeVar("T")

_LIFETIME = timedelta(minutes=15)
_ISSUER = "http://localhost:8000"

_log = logging.getLogger("oauth2_m2m")


class Guarding(Protocol):
    """What guards routes: an `OAuth2M2M` or a `ResourceServer`."""

    access_token: AccessTokenGuard
    environment: Environment


class Serving(Guarding, Protocol):
    """What hands out tokens: an `OAuth2M2M`."""

    clients: Clients
    router: APIRouter


class Members(TypedDict, total=False):
    """What can be said of a made-up token besides its scopes; see `access_token`."""

    client_id: str
    role: str
    lifetime: timedelta
    claims: Mapping[str, Any] | None


def access_token(
    *scopes: str,
    client_id: str = "test-client",
    role: str = "user",
    lifetime: timedelta = _LIFETIME,
    claims: Mapping[str, Any] | None = None,
) -> AccessToken:
    """An access token as a route is given it, made up.

    Args:
        scopes: what it allows.
        client_id: whose it is.
        role: the role of that client.
        lifetime: how long it is good for; a negative one has expired.
        claims: what else it says, or says otherwise.
    """
    now, jti = datetime.now(UTC).replace(microsecond=0), make_id()
    expires_at = now + lifetime
    said = {
        "iss": _ISSUER,
        "aud": _ISSUER,
        "sub": client_id,
        "client_id": client_id,
        "iat": int(now.timestamp()),
        "exp": int(expires_at.timestamp()),
        "jti": jti,
        "scope": format_scope(scopes),
        "roles": [role],
        **(claims or {}),
    }
    return AccessToken(
        client_id=client_id,
        scopes=frozenset(plain(scopes)),
        roles=(role,),
        jti=jti,
        issued_at=now,
        expires_at=expires_at,
        claims=MappingProxyType(said),
        audience=(_ISSUER,),
    )


class FakeTokens:
    """Has guards take made-up tokens, and no others, without a database or an issuer.

        with FakeTokens(m2m) as tokens:
            http = TestClient(app)
            headers = tokens.headers("read", role="admin")
            assert http.get("/reports", headers=headers).status_code == 200

    Everything else is as ever: no token is 401, one that nobody made is 401, and a scope or role
    that is missing is 403. Nothing is counted, so nothing is 429. The lifespan of a guard asks for
    nothing either. Endpoints such as `/token` are not faked.

    Args:
        guards: every `OAuth2M2M` and `ResourceServer` whose guards shall take them.
        role_order: what `ROLE_ORDER` says where the app runs, if anything.

    Raises:
        ConfigurationError: one of them runs in production.
        ValueError: the order of roles cannot be one.
    """

    def __init__(self, *guards: Guarding, role_order: Sequence[str] = ()) -> None:
        _check_environment(guards)
        self._guards = guards
        self._judge = _FakeJudge(role_order_from(role_order))
        self._until_exit = ExitStack()

    def __enter__(self) -> Self:
        _log.warning("made-up access tokens are taken: this is a test")
        for guard in self._guards:
            self._until_exit.enter_context(guard.access_token.judged_by(self._judge))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._until_exit.close()
        self._judge.tokens.clear()

    def token(self, *scopes: str, **members: Unpack[Members]) -> str:
        """A bearer token that the guards take until the end; the arguments of `access_token`."""
        text = f"fake-{secrets.token_urlsafe(16)}"
        self._judge.tokens[text] = access_token(*scopes, **members)
        return text

    def headers(self, *scopes: str, **members: Unpack[Members]) -> dict[str, str]:
        """The header of a request that presents such a token."""
        return _bearer(self.token(*scopes, **members))


class _FakeJudge:
    """Knows the tokens that a test made, and nothing else."""

    def __init__(self, role_order: Sequence[str]) -> None:
        self.tokens: dict[str, AccessToken] = {}
        self._role_order = role_order

    async def admit(self, request: HTTPConnection, scopes: Sequence[str]) -> AccessToken:
        credentials = presented(request)
        token = self.tokens.get(credentials.token)
        if token is None:
            raise InvalidToken(detail="not a token of this test")
        if token.expires_at <= datetime.now(UTC):
            raise InvalidToken(detail="expired")
        credentials.check_scheme(token)
        check_scopes(token, scopes)
        return token

    async def refuse(
        self, request: HTTPConnection, token: AccessToken, error: OAuth2Error
    ) -> OAuth2Error:
        return error

    def has_role(self, token: AccessToken, role: str) -> bool:
        return has_role(token.roles, role, self._role_order)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield


@contextmanager
def fresh_database(url: str | None = None, **config: Any) -> Iterator[Database[Any]]:
    """A database of its own on a real MongoDB, dropped in the end.

    It is a synchronous one, which works in whatever event loop a test runs its app.

    Args:
        url: of the MongoDB; else `MONGODB_URL`, and without that localhost.
        config: fields of the config document, such as `MAX_REQUESTS_PER_MINUTE=0`.

    Raises:
        ConfigurationError: `ENVIRONMENT` is `production`.
    """
    _check_environment(())
    url = url or os.environ.get("MONGODB_URL", "mongodb://localhost:27017")
    name = f"oauth2_m2m_test_{secrets.token_hex(16)}"
    with MongoClient[Any](url) as client:
        try:
            if config:
                client[name]["config"].insert_one({"_id": CONFIG_ID, **config})
            yield client[name]
        finally:
            client.drop_database(name)


@dataclass(frozen=True, slots=True)
class Machine:
    """A registered client that gets real tokens.

    Attributes:
        client_id: its id.
        client_secret: its secret.
    """

    client_id: str
    client_secret: str = field(repr=False)
    _server: Serving = field(repr=False)

    def token(self, *scopes: str) -> str:
        """An access token from `/token`.

        Args:
            scopes: what it shall allow; else all that the client may have.

        Raises:
            RuntimeError: there is none to be had; the message is the answer.
        """
        return _finished(self._token(scopes))

    def headers(self, *scopes: str) -> dict[str, str]:
        """The header of a request that presents such a token."""
        return _bearer(self.token(*scopes))

    async def _token(self, scopes: Sequence[str]) -> str:
        app = FastAPI(openapi_url=None)
        app.include_router(self._server.router)
        transport = httpx.ASGITransport(app)
        form = {
            "grant_type": "client_credentials",
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            **({"scope": format_scope(scopes)} if scopes else {}),
        }
        async with httpx.AsyncClient(transport=transport, base_url=_ISSUER) as http:
            answer = await http.post("/token", data=form)
        if answer.status_code != httpx.codes.OK:
            raise RuntimeError(f"no token: {answer.status_code} {answer.text}")
        return str(answer.json()["access_token"])


def register(server: Serving, *, scopes: Collection[str], **registration: Any) -> Machine:
    """Register a client, on the database that the server was made with.

    That database must be a synchronous one, as `fresh_database` gives it: an asynchronous one works
    in one event loop only, which is the app's.

    Args:
        server: the `OAuth2M2M`.
        scopes: the scopes that it may ask for.
        registration: what else `m2m.clients.register` takes, such as `role`.

    Raises:
        ConfigurationError: the server runs in production.
        ClientExists, ValueError: as `m2m.clients.register` raises them.
    """
    _check_environment([server])
    registered = _finished(server.clients.register(scopes=scopes, **registration))
    return Machine(registered.client.client_id, registered.client_secret or "", server)


def _check_environment(guards: Collection[Guarding]) -> None:
    environments = {
        environment_from(os.environ.get("ENVIRONMENT")),
        *(g.environment for g in guards),
    }
    if Environment.PRODUCTION in environments:
        raise ConfigurationError("oauth2_m2m.testing is for tests, and ENVIRONMENT is production")


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _finished(work: Coroutine[Any, Any, T]) -> T:
    """What comes of it, in an event loop of its own: a test may be running in one itself."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()
