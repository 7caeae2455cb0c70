"""Claims that an app's author adds, and events that they hear of, over HTTP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from oauth2_m2m import Client, OAuth2M2M
from tests.machine import audit, claims_of, new_machine
from tests.server import Server, configure, guarded_app

Claims = Mapping[str, Any]


@asynccontextmanager
async def hooked(database: AsyncDatabase[Any], **hooks: Any) -> AsyncIterator[Server]:
    """A server with hooks."""
    m2m = OAuth2M2M(database, **hooks)
    app = guarded_app(m2m)
    async with app.router.lifespan_context(app):
        yield Server(app, m2m)


# --- Claims -------------------------------------------------------------------------------------


async def test_a_hook_adds_claims_to_every_token(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """It is told the client and the scope that is granted, at both endpoints and for each grant."""
    configure(database)

    async def extra(client: Client, scope: frozenset[str]) -> Claims:
        return {"tenant": client.name, "granted": sorted(scope)}

    async with hooked(async_database, extra_claims=extra) as server:
        machine = await new_machine(server, name="acme")
        first = await machine.get_token("read")
        second = await machine.refresh(first)
        third = await machine.refresh_plainly(second)
        for tokens in (first, second, third):
            claims = claims_of(tokens.access)
            assert (claims["tenant"], claims["granted"]) == ("acme", ["read"])
            assert claims["sub"] == machine.client_id
            assert (await machine.call(tokens)).status_code == 200
            told = (await machine.post("/introspect", token=tokens.access)).json()
            assert (told["tenant"], told["granted"], told["active"]) == ("acme", ["read"], True)
            assert {"epoch", "family_id"}.isdisjoint(told)


@pytest.mark.parametrize(
    "result",
    [
        {"sub": "somebody else"},
        {"roles": ["admin"]},
        {"scope": "admin"},
        {"exp": 99999999999},
        {"cnf": {"jkt": "x"}},
        {"a": "x" * 1024},
        {"a": float("nan")},
        None,
        RuntimeError("the password is hunter2"),
        asyncio.sleep,
    ],
)
async def test_without_its_claims_there_is_no_token(
    async_database: AsyncDatabase[Any],
    database: Database[Any],
    result: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """503 in constant words, no token recorded, the reason in the log; and nothing was spent."""
    configure(database)
    broken = False

    async def extra(client: Client, scope: frozenset[str]) -> Any:
        if not broken:
            return {}
        if isinstance(result, Exception):
            raise result
        return await asyncio.sleep(30) if result is asyncio.sleep else result

    async with hooked(async_database, extra_claims=extra) as server:
        machine = await new_machine(server)
        tokens = await machine.get_token()
        broken = True
        for refused in (
            await machine.ask_token(),
            await machine.ask_refresh(tokens),
            await machine.ask_refresh_plainly(tokens),
        ):
            assert refused.status_code == 503
            assert refused.json()["error"] == "temporarily_unavailable"
            assert "claims" not in refused.text
        assert "a token was not issued, extra_claims" in caplog.text
        assert "hunter2" not in caplog.text
        assert len(audit(database, client_id=machine.client_id)) == 1
        broken = False
        assert (await machine.ask_refresh(tokens)).status_code == 200


async def test_a_hook_that_blocks_a_thread_delays_nobody_else(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """Guarded routes and health answer while it holds up the token requests."""
    configure(database)
    over = threading.Event()

    def extra(client: Client, scope: frozenset[str]) -> Claims:
        if client.name == "slow":
            over.wait(30)
        return {}

    async with hooked(async_database, extra_claims=extra) as server:
        quick, slow = await new_machine(server), await new_machine(server, name="slow")
        token = await quick.get_token()
        asked = asyncio.create_task(slow.ask_token())
        await asyncio.sleep(0.1)
        assert (await quick.call(token)).status_code == 200
        assert (await quick.ask_token()).status_code == 200
        assert not asked.done()
        over.set()
        assert (await asked).status_code == 200


# --- Events -------------------------------------------------------------------------------------


async def test_a_hook_hears_of_every_record(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """Of what is in the audit log at that moment, with the same members, and of nothing else."""
    configure(database)
    heard: list[Claims] = []
    durable: list[int] = []

    def hear(event: Claims) -> None:
        heard.append(event)
        durable.append(database["audit_logs"].count_documents({"_id": event["_id"]}))

    async with hooked(async_database, on_event=hear) as server:
        machine = await new_machine(server)
        tokens = await machine.get_token()
        await machine.refresh(tokens)
        assert (await machine.ask_refresh(tokens)).status_code == 400
        assert (await machine.call("nonsense")).status_code == 401
        assert (await machine.using(client_secret="wrong").ask_token()).status_code == 401
        assert (await machine.revoke_plainly(access_token=tokens.access)).status_code == 200
        await server.m2m.clients.disable(machine.client_id)
    records = list(database["audit_logs"].find())
    assert len(records) >= 8
    for name in ("event_type", "client_id", "ip", "reason", "jti", "request_id"):
        told = sorted((str(event["_id"]), event.get(name)) for event in heard)
        assert told == sorted((str(record["_id"]), record.get(name)) for record in records), name
    assert durable == [1] * len(heard)


async def test_a_hook_hears_of_refusals_over_a_limit_with_their_count(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """The counts of the events add up to that of the one record for a key and minute."""
    configure(database, MAX_REQUESTS_PER_MINUTE=2)
    heard: list[Claims] = []

    async def hear(event: Claims) -> None:
        heard.append(event)

    async with hooked(async_database, on_event=hear) as server:
        machine = (await new_machine(server)).using(client_secret="wrong")
        answers = await asyncio.gather(*(machine.ask_token() for _ in range(12)))
        answers += [await machine.ask_token() for _ in range(3)]
    refused = sum(answer.status_code == 429 for answer in answers)
    told = [event for event in heard if event["event_type"] == "rate_limit_exceeded"]
    recorded = audit(database, event_type="rate_limit_exceeded")
    assert sum(event["count"] for event in told) == refused > 3
    assert sum(record["count"] for record in recorded) == refused
    assert {event["_id"] for event in told} == {record["_id"] for record in recorded}


@pytest.mark.parametrize("is_async", [True, False])
async def test_no_request_waits_for_a_hook_or_fails_by_it(
    async_database: AsyncDatabase[Any], database: Database[Any], is_async: bool
) -> None:
    """Neither one that hangs nor one that raises is felt by anybody; all is recorded."""
    configure(database)
    over, over_async = threading.Event(), asyncio.Event()

    def hangs(event: Claims) -> None:
        over.wait(30)
        raise RuntimeError

    async def hangs_too(event: Claims) -> None:
        await over_async.wait()
        raise RuntimeError

    async with hooked(async_database, on_event=hangs_too if is_async else hangs) as server:
        machine = await new_machine(server)
        async with asyncio.timeout(10):
            for _ in range(5):
                tokens = await machine.get_token()
                assert (await machine.call(tokens)).status_code == 200
        over.set()
        over_async.set()
    assert len(audit(database, event_type="login_success")) == 5
