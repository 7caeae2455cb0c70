"""GET /metrics: who may see it, and what it tells of."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Security
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from _oauth2_m2m import tracing
from oauth2_m2m import JsonFormatter, OAuth2M2M, PoolListener
from tests.attacks.wire import uvicorn
from tests.conformance.conftest import Start
from tests.expectations import Log, early_in_the_minute, expect_error, expect_no_store
from tests.machine import new_machine
from tests.server import Server, configure, guarded_app, running


def local(server: Server) -> httpx.AsyncClient:
    """A program on the same host."""
    return server.http("127.0.0.1", base_url="http://localhost:8000")


def samples(response: httpx.Response) -> dict[tuple[str, ...], float]:
    """Every sample, by its name without the prefix and the values of its labels."""
    assert response.status_code == 200, response.text
    return {
        (each.name.removeprefix("oauth2_m2m_"), *each.labels.values()): each.value
        for family in text_string_to_metric_families(response.text)
        for each in family.samples
    }


async def scraped(server: Server) -> dict[tuple[str, ...], float]:
    """What a program on the same host is shown."""
    async with local(server) as http:
        return samples(await http.get("/metrics"))


async def test_it_is_not_there_unless_it_is_switched_on(server: Server, log: Log) -> None:
    """For nobody, not even on the same host; nothing is recorded."""
    machine = await new_machine(server, scopes=["metrics"])
    token = await machine.get_token()
    log.new()
    expect_error(await local(server).get("/metrics"), 404, "invalid_request")
    expect_error(await machine.call(token, "/metrics"), 404, "invalid_request")
    log.expect_nothing()


async def test_it_is_text_that_prometheus_reads(start: Start) -> None:
    """In the format that every version of it knows, and never kept."""
    server = await start(METRICS=True)
    response = await local(server).get("/metrics")
    assert response.status_code == 200
    expect_no_store(response)
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert list(text_string_to_metric_families(response.text))


async def test_a_token_of_scope_metrics_opens_it_from_anywhere(start: Start, log: Log) -> None:
    """Without a token, or with one of another scope, it is refused like any guarded route."""
    server = await start(METRICS=True)
    machine = await new_machine(server, scopes=["metrics", "read"])
    http = server.http()
    missing = await http.get("/metrics")
    expect_error(missing, 401, "invalid_token")
    assert missing.headers["www-authenticate"] == "Bearer"
    log.new()
    wrong = await machine.call(await machine.get_token("read"), "/metrics")
    assert (wrong.status_code, wrong.json()["error"]) == (403, "insufficient_scope")
    assert 'scope="metrics"' in wrong.headers["www-authenticate"]
    assert "access_denied" in [record["event_type"] for record in log.new()]
    assert samples(await machine.call(await machine.get_token("metrics"), "/metrics"))


#: Whether a request is taken for one of a program on the same host.
LOCAL_OR_NOT: dict[str, tuple[str, str, dict[str, str], bool]] = {
    "a program on the host": ("127.0.0.1", "http://localhost:8000", {}, True),
    "by its address": ("127.0.0.1", "http://127.0.0.1:8000", {}, True),
    "by IPv6": ("::1", "http://[::1]:8000", {}, True),
    "by IPv4 in IPv6": ("::ffff:127.0.0.1", "http://localhost", {}, True),
    "any other loopback address": ("127.8.9.1", "http://127.8.9.1", {}, True),
    "a neighbour": ("192.168.0.2", "http://localhost", {}, False),
    "a private address": ("10.0.0.1", "http://localhost", {}, False),
    "no address": ("", "http://localhost", {}, False),
    "a name of the host": ("127.0.0.1", "http://auth.example.com", {}, False),
    "a name that begins so": ("127.0.0.1", "http://localhost.example.com", {}, False),
    "a proxy on the host": (
        "127.0.0.1", "http://localhost", {"X-Forwarded-For": "192.0.2.9"}, False,
    ),
    "a proxy that says who it is": ("127.0.0.1", "http://localhost", {"Via": "1.1 p"}, False),
    "a forged loopback": (
        "127.0.0.1", "http://localhost", {"X-Forwarded-For": "127.0.0.1"}, False,
    ),
    "by the standard header": ("127.0.0.1", "http://localhost", {"Forwarded": "for=_x"}, False),
    "by nginx's header": ("127.0.0.1", "http://localhost", {"X-Real-IP": "127.0.0.1"}, False),
    "with an empty header": ("127.0.0.1", "http://localhost", {"X-Forwarded-Proto": ""}, False),
}  # fmt: skip


@pytest.mark.parametrize("name", LOCAL_OR_NOT)
async def test_loopback_is_a_program_on_this_host_and_nobody_behind_a_proxy(
    start: Start, name: str
) -> None:
    """The address and the host that is asked for are loopback, and no proxy left its traces."""
    ip, base_url, headers, is_let_in = LOCAL_OR_NOT[name]
    server = await start(METRICS=True)
    response = await server.http(ip, base_url=base_url).get("/metrics", headers=headers)
    assert response.status_code == (200 if is_let_in else 401)


async def test_it_follows_the_config(
    start: Start, async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """It is a field like any other: a worker that reads it anew has it, or has it no more."""
    configure(database, METRICS=True)
    async with running(async_database) as server:
        assert await scraped(server)
    configure(database, METRICS=False)
    async with running(async_database) as server:
        http = local(server)
        assert (await http.get("/metrics")).status_code == 404


async def test_token_requests_are_counted_by_grant_and_outcome(start: Start) -> None:
    """In both dialects, at both endpoints, good and bad; what callers make up is one word."""
    server = await start(METRICS=True)
    machine = await new_machine(server)
    tokens = await machine.get_token()
    await machine.using(method="plain").get_token()
    tokens = await machine.refresh(tokens)
    tokens = await machine.refresh_plainly(tokens)
    await machine.using(client_secret="wrong").ask_token()
    await machine.post("/token", grant_type="made up")
    await machine.post("/token", grant_type="made up again")
    await machine.ask_token(scope="too much")
    shown = await scraped(server)
    counted = {key[1:]: value for key, value in shown.items() if key[0] == "requests_total"}
    assert counted == {
        ("token", "client_credentials", "success"): 1,
        ("token", "password", "success"): 1,
        ("token", "refresh_token", "success"): 1,
        ("refresh", "refresh_token", "success"): 1,
        ("token", "client_credentials", "invalid_client"): 1,
        ("token", "unknown", "unsupported_grant_type"): 2,
        ("token", "client_credentials", "invalid_scope"): 1,
    }
    assert shown["request_seconds_count", "token", "success"] == 3
    assert shown["request_seconds_count", "token", "refused"] == 4
    assert shown["refusals_total", "login_failure"] == 1
    assert shown["refusals_total", "access_denied"] == 3


async def test_checks_of_guarded_routes_are_counted_by_outcome(start: Start) -> None:
    """One for each guard, and one more for a role that is missing."""
    server = await start(METRICS=True)
    machine = await new_machine(server, scopes=["read", "admin"])
    token = await machine.get_token()
    await machine.call(token)
    await machine.call("garbage")
    await machine.http.get("/protected")
    await machine.call(token, "/admin-only")
    shown = await scraped(server)
    counted = {key[1]: value for key, value in shown.items() if key[0] == "guard_checks_total"}
    assert counted == {"success": 2, "invalid_token": 2, "insufficient_scope": 1}
    assert shown["guard_seconds_count", "success"] == 2
    assert shown["guard_seconds_count", "refused"] == 3
    assert shown["refusals_total", "token_invalid"] == 2


async def test_reuse_and_limits_are_counted_as_the_audit_log_calls_them(start: Start) -> None:
    """Alerts go by them, so both are there from the beginning."""
    server = await start(METRICS=True, MAX_REQUESTS_PER_MINUTE=4)
    machine = await new_machine(server)
    before = await scraped(server)
    assert before["refusals_total", "refresh_token_reuse"] == 0
    assert before["refusals_total", "rate_limit_exceeded"] == 0
    await early_in_the_minute()
    tokens = await machine.get_token()
    await machine.refresh(tokens)
    await machine.ask_refresh(tokens)
    for _ in range(5):
        await machine.ask_token()
    after = await scraped(server)
    assert after["refusals_total", "refresh_token_reuse"] == 1
    assert after["refusals_total", "rate_limit_exceeded"] >= 3


async def test_batches_keys_and_health_are_told_of(start: Start) -> None:
    """What the database was asked, by queue; how old the signing key is; each endpoint's name."""
    server = await start(METRICS=True, ALGORITHM="ES256")
    machine = await new_machine(server)
    await machine.call(await machine.get_token())
    await machine.http.get("/health/ready")
    shown = await scraped(server)
    for queue in ("authentication", "audit", "refresh_tokens", "check"):
        assert shown["batch_size_sum", queue] >= 1, queue
        assert shown["batch_seconds_count", queue] == shown["batch_size_count", queue]
    assert shown["keys", "ES256"] == 1
    assert shown["signing_key_from_timestamp_seconds", "ES256"] > 1_600_000_000
    assert shown["requests_total", "ready", "none", "success"] == 1


async def test_of_a_shared_secret_no_age_is_known(start: Start) -> None:
    """No sample is better than one of the year 1970."""
    shown = await scraped(await start(METRICS=True))
    assert shown["keys", "HS256"] == 1
    assert not [key for key in shown if key[0] == "signing_key_from_timestamp_seconds"]


async def test_the_connections_of_the_database_are_told_of(
    mongo_url: str, database: Database[Any]
) -> None:
    """Once the client has a listener for it, which the door finds by itself."""
    configure(database, METRICS=True)
    options: dict[str, Any] = {"event_listeners": [PoolListener()]}
    async with (
        AsyncMongoClient[dict[str, Any]](mongo_url, **options) as client,
        running(client[database.name]) as server,
    ):
        shown = await scraped(server)
    assert shown["mongodb_connections", "open"] >= 1


async def test_any_of_several_workers_tells_of_all(
    mongo_url: str, database: Database[Any], tmp_path: Path
) -> None:
    """Whichever a scrape meets, once the variable names a folder for them to count in."""
    configure(database, METRICS=True)
    folder = tmp_path / "metrics"
    workers, options = {"PROMETHEUS_MULTIPROC_DIR": str(folder)}, ("--workers", "2")
    close, sent = {"Connection": "close"}, 0
    with uvicorn(mongo_url, database.name, tmp_path, *options, **workers) as service:
        async with service.http(headers=close) as http, asyncio.timeout(60):
            while len(list(folder.glob("histogram_*.db"))) < 2 or sent < 10:
                with suppress(httpx.TransportError):  # none has started yet
                    sent += (await http.get("/health/live")).is_success
            for _ in range(8):
                shown = samples(await http.get("/metrics"))
                assert shown["requests_total", "live", "none", "success"] == sent


async def test_no_id_and_no_secret_is_in_it(start: Start) -> None:
    """Whatever callers send: labels hold words of ours."""
    server = await start(METRICS=True)
    machine = await new_machine(server, client_id="billing-of-a-customer")
    tokens = await machine.get_token()
    await machine.call(tokens)
    secrets = [machine.client_secret, tokens.access, tokens.refresh, machine.client_id, "192.0.2.1"]
    for secret in secrets:
        await machine.post("/token", grant_type=secret, scope=secret)
        await machine.using(client_id=secret).ask_token()
        await machine.call(secret)
        await machine.http.get("/protected", headers={"X-Request-ID": secret[:60]})
    text = (await local(server).get("/metrics")).text
    assert [secret for secret in secrets if secret in text] == []


async def test_a_span_names_a_client_once_it_has_proved_who_it_is(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is merely presented may be a secret in the wrong field."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", lambda: provider.get_tracer("test"))
    machine = await new_machine(server)
    await machine.using(client_secret="wrong").ask_token()
    await machine.call(await machine.get_token())
    requests = [
        (span.name, (span.attributes or {}).get("oauth2_m2m.client_id"))
        for span in exporter.get_finished_spans()
        if span.name != "oauth2_m2m.batch"
    ]
    assert requests == [
        ("oauth2_m2m.token", None),
        ("oauth2_m2m.token", machine.client_id),
        ("oauth2_m2m.guard", machine.client_id),
    ]
    assert [s for s in exporter.get_finished_spans() if machine.client_secret in s.to_json()] == []


async def test_lines_of_a_route_name_the_request_as_its_records_do(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> None:
    """What an app logs while it serves a guarded route can be found beside the audit record."""
    configure(database)
    m2m, lines = OAuth2M2M(async_database), []
    app = guarded_app(m2m)

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Lines()
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("yourapp")
    logger.addHandler(handler)

    @app.get("/guarded-logs", dependencies=[Security(m2m.access_token, scopes=["read"])])
    def guarded_logs() -> None:  # in a thread of its own
        logger.warning("inside")

    server = Server(app, m2m)
    machine = await new_machine(server)
    token = await machine.get_token()
    machine.http.headers["X-Request-ID"] = "order-77"
    assert (await machine.call(token, "/guarded-logs")).status_code == 200
    assert '"message": "inside", "request_id": "order-77"' in lines[-1]
    logger.removeHandler(handler)
