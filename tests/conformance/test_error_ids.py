"""Every refusal has an id: the caller may quote it, and the operator finds the refusal by it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Security
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from oauth2_m2m import ResourceServer
from tests.conformance.conftest import Start
from tests.conformance.test_audit import refusing_records
from tests.expectations import Log, early_in_the_minute
from tests.machine import Machine, new_machine
from tests.server import Server, running

Mishap = Callable[[Machine], Awaitable[httpx.Response]]


async def wrong_secret(machine: Machine) -> httpx.Response:
    return await machine.using(client_secret="wrong").ask_token()


async def too_much(machine: Machine) -> httpx.Response:
    return await machine.ask_token("sudo")


async def unknown_refresh_token(machine: Machine) -> httpx.Response:
    return await machine.ask_refresh_plainly("m2mr_unknown")


async def nothing_to_revoke(machine: Machine) -> httpx.Response:
    return await machine.http.post("/revoke", json={})


async def stranger_asks(machine: Machine) -> httpx.Response:
    return await machine.http.post("/introspect", data={"token": "x"})


async def no_token(machine: Machine) -> httpx.Response:
    return await machine.http.get("/protected")


async def garbage(machine: Machine) -> httpx.Response:
    return await machine.call("garbage")


async def no_scope(machine: Machine) -> httpx.Response:
    return await machine.call(await machine.get_token("write"))


async def no_role(machine: Machine) -> httpx.Response:
    return await machine.call(await machine.get_token("admin"), "/admin-only")


async def too_large(machine: Machine) -> httpx.Response:
    return await machine.post("/token", padding="x" * 70_000)


async def trailing_slash(machine: Machine) -> httpx.Response:
    return await machine.http.post("/token/")


async def wrong_method(machine: Machine) -> httpx.Response:
    return await machine.http.get("/token")


async def wrong_cursor(machine: Machine) -> httpx.Response:
    return await machine.http.get("/revocations", params={"after": "x"})


RECORDED: dict[Mishap, int] = {
    wrong_secret: 401, too_much: 400, unknown_refresh_token: 401, nothing_to_revoke: 422,
    stranger_asks: 401, no_token: 401, garbage: 401, no_scope: 403, no_role: 403, too_large: 413,
}  # fmt: skip
UNRECORDED: dict[Mishap, int] = {trailing_slash: 404, wrong_method: 405, wrong_cursor: 400}


def error_id_of(response: httpx.Response) -> str:
    """The id of a refusal, which stands in its body and in a header."""
    error_id = response.json()["error_id"]
    assert response.headers.get_list("x-error-id") == [error_id]
    return str(error_id)


def logged(caplog: pytest.LogCaptureFixture) -> list[Any]:
    """The lines of the log that speak of refusals."""
    return [record for record in caplog.records if hasattr(record, "error_id")]


@pytest.mark.parametrize("mishap", [*RECORDED, *UNRECORDED], ids=lambda mishap: mishap.__name__)
async def test_a_refusal_is_found_by_its_id(
    server: Server, log: Log, caplog: pytest.LogCaptureFixture, mishap: Mishap
) -> None:
    """In the body, in the header, in one line of the log and in one audit record; never twice."""
    caplog.set_level(logging.INFO, "oauth2_m2m")
    machine = await new_machine(server, scopes=["read", "write", "admin"])
    machine.http.headers["X-Request-ID"] = "ours"
    statuses = RECORDED | UNRECORDED
    seen = set()
    for _ in range(2):
        caplog.clear()
        log.new()
        response = await mishap(machine)
        assert response.status_code == statuses[mishap]
        error_id = error_id_of(response)
        seen.add(error_id)
        (line,) = logged(caplog)
        assert (line.error_id, line.request_id) == (error_id, "ours")
        assert error_id in line.getMessage()
        assert "request_id ours" in line.getMessage()
        refusals = [record for record in log.new() if "error_id" in record]
        expected = [(error_id, "ours")] if mishap in RECORDED else []
        assert [(r["error_id"], r["request_id"]) for r in refusals] == expected
    assert len(seen) == 2


async def test_what_is_granted_has_no_id(machine: Machine, log: Log) -> None:
    """Neither the answer nor the record."""
    answers = [await machine.ask_token(), await machine.call(await machine.get_token())]
    for response in answers:
        assert response.status_code == 200
        assert "x-error-id" not in response.headers
    assert [record for record in log.new() if "error_id" in record] == []


async def test_the_refusals_of_a_full_window_share_one_id(
    start: Start, async_database: AsyncDatabase[Any], log: Log
) -> None:
    """On every worker, for they are one record; another window has another."""
    server = await start(MAX_REQUESTS_PER_MINUTE=1)
    machine = await new_machine(server)
    await early_in_the_minute()
    async with running(async_database) as second, second.http() as elsewhere:
        workers = [machine, machine.using(http=elsewhere)]
        own = [await worker.ask_token() for worker in workers * 3]
        failed = [await wrong_secret(worker) for worker in workers * 3]
    assert [response.status_code for response in own] == [200] + [429] * 5
    assert [response.status_code for response in failed] == [401] + [429] * 5
    ids = [{error_id_of(response) for response in answers[1:]} for answers in (own, failed)]
    assert [len(each) for each in ids] == [1, 1]
    assert ids[0] != ids[1]
    records = [r for r in log.new() if r["event_type"] == "rate_limit_exceeded"]
    assert [{record["error_id"]} for record in records] == ids
    assert [record["count"] for record in records] == [5, 5]


async def test_without_a_record_the_log_has_the_id(
    machine: Machine, database: Database[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A 503 has no audit record, so its line is a warning, which is seen in every app's log."""
    caplog.set_level(logging.WARNING, "oauth2_m2m")
    with refusing_records(database):
        answers = [await machine.ask_token(), await no_token(machine)]
    assert [response.status_code for response in answers] == [503, 503]
    assert [line.error_id for line in logged(caplog)] == list(map(error_id_of, answers))
    assert "MongoDB" in logged(caplog)[0].getMessage()


async def test_a_line_of_the_log_holds_no_secret_and_is_one_line(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is presented, nobody writes lines of their own into the log."""
    caplog.set_level(logging.INFO, "oauth2_m2m")
    fields = {"grant_type": f"{machine.client_secret}\nrefused with"}
    response = await machine.ask_token(**fields)
    assert response.status_code == 400
    (line,) = logged(caplog)
    assert "unsupported_grant_type" in line.getMessage()
    assert "\n" not in line.getMessage()
    assert machine.client_secret not in line.getMessage()


async def test_a_service_elsewhere_names_its_refusals_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It has no audit log, so its own log has the id."""
    caplog.set_level(logging.INFO, "oauth2_m2m")
    api = ResourceServer("http://127.0.0.1:9", audience="https://api.example.com")
    app = FastAPI()
    app.get("/orders", dependencies=[Security(api.access_token)])(lambda: {})
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as http:
        response = await http.get("/orders")
    assert response.status_code == 401
    assert [line.error_id for line in logged(caplog)] == [error_id_of(response)]
