"""What users test their apps with: made-up tokens, and real ones on a database of their own."""

# No `from __future__ import annotations`: FastAPI reads the routes' annotations as values.

import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Security
from pymongo import AsyncMongoClient, MongoClient
from pymongo.database import Database

from _oauth2_m2m.testing import FakeTokens, Machine, access_token, fresh_database, register
from oauth2_m2m import AccessToken, ConfigurationError, OAuth2M2M, ResourceServer
from tests.papers import ROOT
from tests.server import guarded_app

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would rather have another HTTP library beneath it
    from starlette.testclient import TestClient

#: Nobody listens there.
NOWHERE = "127.0.0.1:1"


def guards() -> dict[str, OAuth2M2M | ResourceServer]:
    """One of each, of which neither can do anything by itself."""
    database = AsyncMongoClient[Any](f"mongodb://{NOWHERE}").nowhere
    issuer = f"http://{NOWHERE}"
    return {
        "OAuth2M2M": OAuth2M2M(database, environment="development"),
        "ResourceServer": ResourceServer(issuer, audience=issuer, environment="development"),
    }


BOTH = pytest.mark.parametrize("kind", ["OAuth2M2M", "ResourceServer"])


def app_of(guard: OAuth2M2M | ResourceServer) -> FastAPI:
    app = FastAPI(lifespan=guard.lifespan)

    async def read(
        token: Annotated[AccessToken, Security(guard.access_token, scopes=["read"])],
    ) -> dict[str, Any]:
        return {"client_id": token.client_id, "claims": dict(token.claims)}

    app.get("/read")(read)
    app.get("/admin", dependencies=[Depends(guard.requires("admin", role="admin"))])(lambda: "done")
    return app


def http_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://testserver")


@BOTH
async def test_made_up_tokens_are_judged_by_scope_and_role(kind: str) -> None:
    """Whichever guard it is, nobody is asked, and every refusal is the one of always."""
    guard = guards()[kind]
    app = app_of(guard)
    with FakeTokens(guard) as tokens:
        async with app.router.lifespan_context(app), http_of(app) as http:

            async def answer(path: str, **headers: str) -> tuple[int, str]:
                response = await http.get(path, headers=headers)
                return response.status_code, response.headers.get("www-authenticate", "")

            assert await answer("/read", **tokens.headers("read", "write")) == (200, "")
            assert await answer("/admin", **tokens.headers("admin", role="admin")) == (200, "")
            assert await answer("/read") == (401, "Bearer")
            for bad in ("Bearer made.up.elsewhere", "Bearer ", "Bearer fake-0"):
                status, challenge = await answer("/read", Authorization=bad)
                assert (status, 'error="invalid_token"' in challenge) == (401, True)
            status, challenge = await answer("/read", **tokens.headers("write"))
            assert (status, 'scope="read"' in challenge) == (403, True)
            for lacking in (tokens.headers("admin"), tokens.headers("read", role="admin")):
                assert (await answer("/admin", **lacking))[0] == 403


@BOTH
async def test_a_higher_role_may_do_what_a_lower_one_may(kind: str) -> None:
    """Once the test says what the order is; by itself a role stands for itself alone."""
    guard = guards()[kind]
    for order, status in ((["owner", "admin"], 200), (["admin", "owner"], 403), ([], 403)):
        with FakeTokens(guard, role_order=order) as tokens:
            async with http_of(app_of(guard)) as http:
                headers = tokens.headers("admin", role="owner")
                assert (await http.get("/admin", headers=headers)).status_code == status


@BOTH
async def test_a_made_up_token_says_what_the_test_wants(kind: str) -> None:
    """Whose it is and what it says reaches the route; one that has expired does not."""
    guard = guards()[kind]
    with FakeTokens(guard) as tokens:
        async with http_of(app_of(guard)) as http:
            headers = tokens.headers("read", client_id="billing", claims={"department": "sales"})
            said = (await http.get("/read", headers=headers)).json()
            assert said["client_id"] == said["claims"]["sub"] == "billing"
            assert said["claims"]["department"] == "sales"
            headers = tokens.headers("read", lifetime=timedelta(seconds=-1))
            assert (await http.get("/read", headers=headers)).status_code == 401


@BOTH
async def test_made_up_tokens_end_with_their_block(kind: str) -> None:
    """Afterwards the guard judges as before, also when the test has failed; others do meanwhile."""
    guard, other = guards()[kind], guards()["ResourceServer"]
    with suppress(ZeroDivisionError), FakeTokens(guard) as tokens:
        headers = tokens.headers("read")
        async with http_of(app_of(other)) as http:
            assert (await http.get("/read", headers=headers)).status_code in {401, 503}
        raise ZeroDivisionError
    async with http_of(app_of(guard)) as http:
        assert (await http.get("/read", headers=headers)).status_code in {401, 503}
    with FakeTokens(guard):
        async with http_of(app_of(guard)) as http:
            assert (await http.get("/read", headers=headers)).status_code == 401


async def test_several_guards_take_the_same_tokens() -> None:
    """An app may guard some routes by its own server and some by another's."""
    both = guards()
    with FakeTokens(*both.values()) as tokens:
        for guard in both.values():
            async with http_of(app_of(guard)) as http:
                assert (await http.get("/read", headers=tokens.headers("read"))).status_code == 200


def test_a_made_up_access_token_is_like_a_real_one(server_token: AccessToken) -> None:
    """It has every field and claim of one that was issued, so that code under test finds them."""
    made = access_token("read", client_id="billing", role="admin")
    assert (made.client_id, made.scopes, made.roles) == (
        "billing",
        frozenset({"read"}),
        ("admin",),
    )
    assert made.expires_at - made.issued_at == timedelta(minutes=15)
    assert made.claims.keys() | {"epoch", "family_id"} >= server_token.claims.keys()
    for name, value in made.claims.items():
        assert type(server_token.claims[name]) is type(value), name


@pytest.fixture
def server_token(mongo_url: str) -> Iterator[AccessToken]:
    """What a route is given for a real token."""
    with fresh_database(mongo_url) as database:
        m2m = OAuth2M2M(database)
        seen: list[AccessToken] = []

        async def keep(
            token: Annotated[AccessToken, Security(m2m.access_token, scopes=["read"])],
        ) -> None:
            seen.append(token)

        app = FastAPI()
        app.include_router(m2m.router)
        app.get("/keep")(keep)
        with TestClient(app) as http:
            headers = register(m2m, scopes=["read"]).headers()
            assert http.get("/keep", headers=headers).status_code == 200
        yield seen[0]


# --- On a database ------------------------------------------------------------------------------


def test_a_fresh_database_is_new_and_goes_away(
    mongo_url: str, mongo_client: MongoClient[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at a time are two; both are dropped, also when the test has failed."""
    monkeypatch.setenv("MONGODB_URL", mongo_url)
    with fresh_database(ALGORITHM="ES256") as one, fresh_database() as other:
        assert one.name != other.name
        (document,) = one["config"].find()
        assert document == {"_id": "jwt_config", "ALGORITHM": "ES256"}
    names = {one.name, other.name}
    with suppress(ZeroDivisionError), fresh_database() as third:
        third["clients"].insert_one({})
        names.add(third.name)
        raise ZeroDivisionError
    assert names.isdisjoint(mongo_client.list_database_names())


@pytest.fixture
def m2m(database: Database[Any]) -> OAuth2M2M:
    """A server on a synchronous database, as `fresh_database` gives it."""
    return OAuth2M2M(database)


async def test_a_registered_machine_gets_the_tokens_of_its_choice(m2m: OAuth2M2M) -> None:
    """Real ones, which the app judges as it does in production, also in a test that is `async`."""
    machine = register(m2m, scopes=["read", "admin"], role="admin", client_id="billing")
    async with http_of(guarded_app(m2m)) as http:
        assert (await http.get("/protected", headers=machine.headers("read"))).status_code == 200
        assert (await http.get("/protected", headers=machine.headers("admin"))).status_code == 403
        assert (await http.get("/admin-only", headers=machine.headers())).status_code == 200
        await m2m.clients.disable("billing")
    with pytest.raises(RuntimeError, match=r"401 .*invalid_client"):
        machine.token()


def test_a_scope_that_the_machine_may_not_have_is_an_error(m2m: OAuth2M2M) -> None:
    """The test that asks for it is told what `/token` said."""
    with pytest.raises(RuntimeError, match=r"400 .*invalid_scope"):
        register(m2m, scopes=["read"]).token("write")


def test_no_secret_is_shown(m2m: OAuth2M2M) -> None:
    """Neither in the output of a failed test nor anywhere else that `repr` goes."""
    machine = register(m2m, scopes=["read"])
    assert machine.client_secret
    assert machine.client_secret not in repr(machine)
    assert isinstance(machine, Machine)


# --- Never in production ------------------------------------------------------------------------


def test_the_door_alone_loads_none_of_it() -> None:
    """An app that serves has no code in memory that takes made-up tokens, nor pytest."""
    program = (
        "import sys, oauth2_m2m\n"
        "assert '_oauth2_m2m.testing' not in sys.modules\n"
        "from oauth2_m2m import testing\n"
        "assert testing.FakeTokens and 'pytest' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_nothing_works_in_production(
    database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the guard says so or the environment."""
    issuer = "https://auth.example.com"
    for guard in (
        OAuth2M2M(database, environment="production"),
        ResourceServer(issuer, audience=issuer, environment="production"),
    ):
        with pytest.raises(ConfigurationError, match="production"):
            FakeTokens(guard)
    with pytest.raises(ConfigurationError, match="production"):
        register(OAuth2M2M(database, environment="production"), scopes=["read"])
    in_development = OAuth2M2M(database, environment="development")
    monkeypatch.setenv("ENVIRONMENT", "production")
    with pytest.raises(ConfigurationError, match="production"):
        FakeTokens(in_development)
    with pytest.raises(ConfigurationError, match="production"):
        register(in_development, scopes=["read"])
    with pytest.raises(ConfigurationError, match="production"), fresh_database():
        pass


def test_whoever_takes_made_up_tokens_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """In the log, so that nobody can overlook it where it does not belong."""
    with caplog.at_level(logging.WARNING, "oauth2_m2m"), FakeTokens(*guards().values()):
        assert [r.message for r in caplog.records] == [
            "made-up access tokens are taken: this is a test"
        ]
