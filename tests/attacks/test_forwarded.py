"""Made-up addresses, sent to a real uvicorn: who believes them is for its options to say."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from httpx import AsyncClient
from pymongo import AsyncMongoClient
from pymongo.database import Database

from example.mongodb import HOST
from tests.attacks.wire import Uvicorn, registered, uvicorn
from tests.expectations import early_in_the_minute
from tests.machine import Machine, audit, basic
from tests.server import configure

LIMIT = 3
#: Another caller each time, if anybody believed it.
MADE_UP = [
    {"X-Forwarded-For": "203.0.113.{}"},
    {"X-Forwarded-For": "2001:db8:{}::1"},
    {"X-Forwarded-For": "203.0.113.{}, 127.0.0.1"},
    {"X-Forwarded-For": "127.0.0.1, 203.0.113.{}"},
    {"Forwarded": "for=203.0.113.{};proto=https"},
    {"X-Real-IP": "203.0.113.{}"},
    {"True-Client-IP": "203.0.113.{}"},
    {"X-Cluster-Client-IP": "203.0.113.{}"},
    {"X_Forwarded_For": "203.0.113.{}"},
    {"Via": "1.1 203.0.113.{}"},
]
#: One /64, however it is written; a trusted proxy may write it as it likes.
SPELLINGS = [
    "2001:db8::1", "2001:DB8::1", "2001:0db8:0:0:0:0:0:1", "[2001:db8::1]", "[2001:db8::1]:4711",
    "2001:db8::ffff", "2001:db8:0:0:1::", "2001:db8::192.0.2.1",
]  # fmt: skip


@pytest.fixture
async def machine(mongo_url: str, database: Database[Any]) -> AsyncIterator[Machine]:
    """A client whose limit is `LIMIT`, as are failures."""
    configure(database, MAX_REQUESTS_PER_MINUTE=LIMIT)
    async with AsyncMongoClient[dict[str, Any]](mongo_url) as mongo, AsyncClient() as nowhere:
        yield await registered(mongo[database.name], nowhere)


async def ask(
    running: Uvicorn, machine: Machine, headers: list[dict[str, str]], secret: str = ""
) -> Counter[int]:
    """The statuses of a token request with each of these headers."""
    right = {"Authorization": basic(machine.client_id, secret or machine.client_secret)}
    form = {"grant_type": "client_credentials"}
    async with running.http() as http:
        return Counter([
            (await http.post("/token", data=form, headers=right | each)).status_code
            for each in headers
        ])  # fmt: skip


async def test_without_a_trusted_proxy_no_header_makes_a_new_caller(
    mongo_url: str, database: Database[Any], machine: Machine, tmp_path: Path
) -> None:
    """Budget, failures, limits and records go by the peer, whatever it says that it forwards."""
    options = ("--forwarded-allow-ips", "192.0.2.1")
    with uvicorn(mongo_url, database.name, tmp_path, *options) as running:
        await early_in_the_minute(40)
        headers = [{k: v.format(n) for k, v in h.items()} for n, h in enumerate(MADE_UP * 2)]
        assert await ask(running, machine, headers) == {200: LIMIT, 429: len(headers) - LIMIT}
        wrong = f"m2ms_{uuid.uuid4().hex}"
        answers = await ask(running, machine, headers[:8], wrong)
        assert answers == {401: LIMIT, 429: 8 - LIMIT}
    assert {record["ip"] for record in audit(database)} == {HOST}
    assert all(f":{HOST}:" in d["_id"] for d in database["rate_limits"].find())


async def test_behind_a_trusted_proxy_only_what_it_added_counts(
    mongo_url: str, database: Database[Any], machine: Machine, tmp_path: Path
) -> None:
    """The last address that is no proxy of ours: what a caller wrote before it is hearsay."""
    with uvicorn(mongo_url, database.name, tmp_path) as running:  # which trusts 127.0.0.1
        await early_in_the_minute(40)
        hearsay = [{"X-Forwarded-For": f"203.0.113.{n}, 198.51.100.7"} for n in range(8)]
        assert await ask(running, machine, hearsay) == {200: LIMIT, 429: 8 - LIMIT}
        others = [
            {"X-Forwarded-For": "198.51.100.8", name: "203.0.113.9"}
            for name in ("X-Real-IP", "Forwarded", "True-Client-IP")
        ]
        assert await ask(running, machine, others) == {200: LIMIT}
    assert {record["ip"] for record in audit(database)} == {"198.51.100.7", "198.51.100.8"}


async def test_a_network_has_one_budget_however_a_proxy_spells_it(
    mongo_url: str, database: Database[Any], machine: Machine, tmp_path: Path
) -> None:
    """All of a /64 share it, with a port or brackets or without; so does what is no address."""
    with uvicorn(mongo_url, database.name, tmp_path) as running:
        await early_in_the_minute(40)
        spelled = [{"X-Forwarded-For": spelling} for spelling in SPELLINGS]
        answers = await ask(running, machine, spelled)
        assert answers == {200: LIMIT, 429: len(SPELLINGS) - LIMIT}
        nonsense = [{"X-Forwarded-For": n} for n in ("unknown", "_x", "1.2.3", "a b", "-", "%00")]
        answers = await ask(running, machine, nonsense)
        assert answers == {200: LIMIT, 429: len(nonsense) - LIMIT}
    assert {d["_id"].rpartition(":")[0] for d in database["rate_limits"].find()} == {
        f"{machine.client_id}:2001:db8::",
        f"{machine.client_id}:unknown",
    }
