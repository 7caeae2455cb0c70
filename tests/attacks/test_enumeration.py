"""Who exists is told to nobody: not by words, not by headers, and not by what an answer costs.

Time itself is measured in `bench/timing.py`. Here it is what takes the time: the commands that
MongoDB gets, the slow hashes and the signatures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from pymongo import AsyncMongoClient
from pymongo.database import Database
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent

from _oauth2_m2m import credentials
from _oauth2_m2m.credentials import make_client_secret
from _oauth2_m2m.signatures import VerifyingKey
from tests.assertions import es256_key, fields, jwks
from tests.expectations import wording
from tests.machine import basic
from tests.server import Server, configure, running

ISSUER = "http://localhost:8000"
TYPED = "typed by a person"
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
GRANT = {"grant_type": "client_credentials"}
#: Read now and then, whoever asks.
SETTINGS = {"config", "keys"}
#: What was used is written down now and then, whoever asks.
BEHIND = {"update client_usage", "update clients"}
#: What may differ between two refusals that are alike: the id of an error is random.
VOLATILE = {"date", "ratelimit-remaining", "ratelimit-reset", "retry-after", "x-error-id"}


class Work(CommandListener):
    """Counts what requests cost: commands by collection, slow hashes, signatures."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()

    def started(self, event: CommandStartedEvent) -> None:
        """Note a command that is about a collection of ours."""
        collection = event.command.get(event.command_name)
        command = f"{event.command_name} {collection}"
        if isinstance(collection, str) and collection not in SETTINGS and command not in BEHIND:
            self.done[command] += 1

    def succeeded(self, event: Any) -> None:
        """Its start was noted."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Its start was noted."""

    def counting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that counts its calls."""

        def counted(*args: Any) -> Any:
            self.done[name] += 1
            return function(*args)

        return counted


@dataclass(slots=True)
class World:
    """A server with clients of every sort, all of them known to this process a moment ago."""

    server: Server
    work: Work
    http: httpx.AsyncClient
    ids: dict[str, str] = field(default_factory=dict)
    rights: dict[str, str] = field(default_factory=dict)

    async def cost(self, send: Awaitable[httpx.Response]) -> tuple[Counter[str], Any]:
        """What a refusal cost, and what it said."""
        self.work.done.clear()
        response = await send
        assert response.status_code == 401
        headers = [item for item in response.headers.items() if item[0] not in VOLATILE]
        return Counter(self.work.done), (headers, wording(response))


@pytest.fixture
async def world(
    mongo_url: str,
    database: Database[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[World]:
    """Every sort of client, each of which has had a token until it was stopped."""
    work = Work()
    configure(database)
    slow = work.counting("slow hash", credentials._scrypt)
    monkeypatch.setattr(credentials, "_scrypt", slow)
    verify = VerifyingKey.verify

    def verified(self: VerifyingKey, message: bytes, signature: bytes) -> bool:
        work.done["signature"] += 1
        return verify(self, message, signature)

    monkeypatch.setattr(VerifyingKey, "verify", verified)
    async with (
        AsyncMongoClient[dict[str, Any]](mongo_url, event_listeners=[work]) as mongo,
        running(mongo[database.name]) as server,
        server.http() as http,
    ):
        made = World(server, work, http)
        await _fill(made, database)
        yield made


async def _fill(world: World, database: Database[Any]) -> None:
    networks = {"allowed_networks": ["203.0.113.0/24"]}
    registrations: dict[str, dict[str, Any]] = {
        "known": {},
        "disabled": {},
        "rotated": {},
        "moved away": {},
        "typed": {"client_secret": TYPED},
        "typed, disabled": {"client_secret": TYPED},
        "ended": {},
        "typed, ended": {"client_secret": TYPED},
        "keys": {"jwks": jwks(es256_key("signer"))},
        "keys, disabled": {"jwks": jwks(es256_key("signer"))},
    }
    for sort, registration in registrations.items():
        registered = await world.server.m2m.clients.register(scopes=["read"], **registration)
        client_id = registered.client.client_id
        world.ids[sort], world.rights[sort] = client_id, registered.client_secret or ""
        # Twice, so that this process has seen it, and expects it to be good again.
        for _ in range(2):
            assert (await good(world, sort)).status_code == 200
    world.ids["unknown"] = "nobody"
    for sort in ("disabled", "typed, disabled", "keys, disabled"):
        await world.server.m2m.clients.disable(world.ids[sort])
    await world.server.m2m.clients.rotate_secret(world.ids["rotated"])
    for sort in ("ended", "typed, ended"):
        end_secret(database, world.ids[sort])
    moved = {"client_id": world.ids["moved away"]}
    database["clients"].update_one(moved, {"$set": networks})


def end_secret(database: Database[Any], client_id: str) -> None:
    """Let a client's only secret be one that has ended."""
    mine = {"client_id": client_id}
    document = database["clients"].find_one(mine)
    assert document is not None
    ended = {"id": "ended", "secret": document["client_secret"], "expires_at": LONG_AGO}
    update = {"$set": {"secrets": [ended]}, "$unset": {"client_secret": ""}}
    database["clients"].update_one(mine, update)


async def good(world: World, sort: str) -> httpx.Response:
    """The request of a client that is what it says."""
    client_id = world.ids[sort]
    if not world.rights[sort]:
        assertion = es256_key("signer").assertion(client_id, ISSUER)
        return await world.http.post("/token", data=fields(assertion, **GRANT))
    return await with_secret(world, client_id, world.rights[sort])


async def with_secret(world: World, client_id: str, secret: str) -> httpx.Response:
    headers = {"Authorization": basic(client_id, secret)}
    return await world.http.post("/token", data=GRANT, headers=headers)


@pytest.mark.parametrize("secret", [make_client_secret(), "a guess"], ids=["made", "typed"])
async def test_a_wrong_secret_costs_and_says_the_same_whoever_is_named(
    world: World, secret: str
) -> None:
    """Known, disabled, typed or made up: the same words, commands and slow hashes."""
    nobody, said = await world.cost(with_secret(world, "nobody", secret))
    assert nobody["slow hash"] == (secret == "a guess")
    for sort, client_id in world.ids.items():
        for _ in range(2):
            answer = await world.cost(with_secret(world, client_id, secret))
            assert answer == (nobody, said), sort


@pytest.mark.parametrize("header", [{}, {"kid": "another"}, {"kid": ...}], ids=str)
async def test_a_wrong_signature_costs_and_says_the_same_whoever_is_named(
    world: World, header: dict[str, Any]
) -> None:
    """Also of a client that was just here, whose next assertion is thought to be good."""
    stranger = es256_key("stranger")

    def forged(client_id: str) -> Awaitable[httpx.Response]:
        chosen = {"kid": "signer"} | header
        assertion = stranger.assertion(client_id, ISSUER, header=chosen)
        return world.http.post("/token", data=fields(assertion, **GRANT))

    nobody, said = await world.cost(forged("nobody"))
    assert nobody["signature"] == 1
    for sort, client_id in world.ids.items():
        assert await world.cost(forged(client_id)) == (nobody, said), sort


async def test_a_right_secret_that_is_dead_costs_and_says_the_same(world: World) -> None:
    """Who holds the secret of a client that was stopped is told no more than a guesser."""
    for sort in ("disabled", "rotated", "moved away", "typed, disabled", "ended", "typed, ended"):
        await good(world, sort)  # from now on this process expects it no more
        dead = await world.cost(good(world, sort))
        secret = TYPED if sort.startswith("typed") else make_client_secret()
        assert dead == await world.cost(with_secret(world, "nobody", secret)), sort
