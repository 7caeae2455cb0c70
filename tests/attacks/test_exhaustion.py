"""Thousands of made-up things from one address: what they leave behind has a bound."""

from __future__ import annotations

import asyncio
import gc
import uuid
from collections import Counter
from typing import Any

import httpx
from pymongo.database import Database

from _oauth2_m2m.credentials import make_client_secret, make_refresh_token
from _oauth2_m2m.newest import Newest
from _oauth2_m2m.rate_limits import FAILURE_BUCKETS
from tests.assertions import es256_key, fields
from tests.conformance.conftest import Start
from tests.machine import basic, new_machine, resigned
from tests.proofs import key

ISSUER = "http://localhost:8000"
GRANT = {"grant_type": "client_credentials"}
LIMIT = 2
ATTEMPTS = 400
AT_ONCE = 40


def documents(database: Database[Any]) -> Counter[str]:
    """How many documents each collection holds."""
    names = database.list_collection_names()
    return Counter({name: database[name].count_documents({}) for name in names})


async def test_what_is_made_up_leaves_a_bounded_number_of_documents(
    start: Start, database: Database[Any]
) -> None:
    """Ids, secrets, tokens, assertions, proofs and jtis: 64 windows and one, and their records."""
    server = await start(MAX_REQUESTS_PER_MINUTE=LIMIT)
    machine = await new_machine(server, max_requests_per_minute=0)
    token = (await machine.get_token()).access
    before, gate, holder = documents(database), asyncio.Semaphore(AT_ONCE), key("attacker")

    async def made_up() -> list[httpx.Response]:
        name, http = uuid.uuid4().hex, machine.http
        assertion = es256_key("attacker").assertion(name, ISSUER)
        proof = holder.proof("GET", f"{ISSUER}/protected")
        forged = resigned(token, name, jti=name, client_id=name)
        basic_header = {"Authorization": basic(name, make_client_secret())}
        dpop = {"Authorization": f"DPoP {forged}", "DPoP": proof}
        async with gate:
            return [
                await http.post("/token", data=GRANT, headers=basic_header),
                await http.post("/token", data=fields(assertion, **GRANT)),
                await http.post("/introspect", data={"token": name}, headers=basic_header),
                await http.post("/revoke", data={"token": name}, headers=basic_header),
                await http.post("/refresh", json={"refresh_token": make_refresh_token()}),
                await http.post("/revoke", json={"access_token": forged}),
                await http.get("/protected", headers={"Authorization": f"Bearer {forged}"}),
                await http.get("/protected", headers=dpop),
            ]

    turns = await asyncio.gather(*(made_up() for _ in range(ATTEMPTS)))
    answers = [response for turn in turns for response in turn]
    statuses = Counter(response.status_code for response in answers)
    assert statuses.keys() <= {401, 429, 503}  # 503: a machine too busy to answer in time
    grown = documents(database) - before
    windows = [d["_id"] for d in database["rate_limits"].find({"_id": {"$regex": "^~"}})]
    minutes = len({window.rpartition(":")[2] for window in windows})
    most = (FAILURE_BUCKETS + 1) * minutes
    assert grown["rate_limits"] <= most
    assert grown["audit_logs"] <= most * (LIMIT + 1)
    # Of the one client that is real: what it used; and of each minute that the server signed.
    assert grown.pop("client_usage", 0) <= 5
    assert grown.pop("audit_checkpoints", 0) <= minutes + grown["audit_logs"] / 1000 + 1
    assert grown.keys() <= {"rate_limits", "audit_logs", "audit_keys"}
    assert 0 < statuses[401] <= most * LIMIT
    assert statuses[429] > statuses[401]


async def test_what_is_made_up_is_remembered_by_nobody(start: Start) -> None:
    """The memory of a process holds what was good, and nothing that a stranger has sent."""
    server = await start()
    machine = await new_machine(server)
    tokens = await machine.get_token()
    await machine.call(tokens)
    before = remembered()
    assert before
    for _ in range(100):
        name = uuid.uuid4().hex
        await machine.using(client_id=name).ask_token()
        await machine.call(resigned(tokens.access, name, client_id=name, jti=name))
        await machine.ask_refresh_plainly(make_refresh_token())
    assert remembered() == before


def remembered() -> int:
    """How much stands in all the memories of this process: they are all of one class."""
    return sum(len(each) for each in gc.get_objects() if isinstance(each, Newest))
