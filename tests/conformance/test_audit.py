"""The audit log: every event is recorded, and what cannot be recorded does not happen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from pymongo.database import Database

from oauth2_m2m import TemporarilyUnavailable
from tests.clocks import hasten
from tests.conformance.conftest import Start
from tests.machine import Document, Machine, Tokens, audit, events, new_machine
from tests.server import HOME, Server

FIELDS = {
    "_id",
    "event_type",
    "client_id",
    "ip",
    "reason",
    "timestamp",
    "jti",
    "request_id",
    "user_agent",
    "previous",
    "hash",
}
#: What the records of refusals hold besides.
EXPLAINING = {"error_id", "flow", "rule", "facts"}
REFUSALS = {
    "login_failure",
    "access_denied",
    "refresh_token_invalid",
    "refresh_token_reuse",
    "token_invalid",
}


def jti(tokens: Tokens) -> str:
    found: str = jwt.decode(tokens.access, options={"verify_signature": False})["jti"]
    return found


async def log_in(machine: Machine) -> str | None:
    return jti(await machine.get_token())


async def log_in_plainly(machine: Machine) -> str | None:
    return jti(await machine.using(method="plain").get_token())


async def log_in_wrongly(machine: Machine) -> str | None:
    assert (await machine.using(client_secret="wrong").ask_token()).status_code == 401
    return None


async def log_in_malformed(machine: Machine) -> str | None:
    response = await machine.http.post("/token", data={"username": machine.client_id})
    assert response.status_code == 422
    return None


async def refresh(machine: Machine) -> str | None:
    return jti(await machine.refresh(await machine.get_token()))


async def refresh_plainly(machine: Machine) -> str | None:
    return jti(await machine.refresh_plainly(await machine.get_token()))


async def refresh_unknown(machine: Machine) -> str | None:
    assert (await machine.ask_refresh("m2mr_unknown")).status_code == 400
    return None


async def refresh_unknown_plainly(machine: Machine) -> str | None:
    assert (await machine.ask_refresh_plainly("m2mr_unknown")).status_code == 401
    return None


async def reuse(machine: Machine) -> str | None:
    tokens = await machine.get_token()
    await machine.refresh(tokens)
    assert (await machine.ask_refresh(tokens)).status_code == 400
    return None


async def reuse_plainly(machine: Machine) -> str | None:
    tokens = await machine.get_token()
    await machine.refresh_plainly(tokens)
    assert (await machine.ask_refresh_plainly(tokens)).status_code == 401
    return None


async def revoke(machine: Machine) -> str | None:
    tokens = await machine.get_token()
    assert (await machine.revoke(tokens.access)).status_code == 200
    return jti(tokens)


async def revoke_plainly(machine: Machine) -> str | None:
    tokens = await machine.get_token()
    assert (await machine.revoke_plainly(access_token=tokens.access)).status_code == 200
    return jti(tokens)


async def revoke_family(machine: Machine) -> str | None:
    tokens = await machine.get_token()
    assert (await machine.revoke_plainly(refresh_token=tokens.refresh)).status_code == 200
    return None


async def revoke_garbage(machine: Machine) -> str | None:
    assert (await machine.revoke_plainly(access_token="garbage")).status_code == 401
    return None


async def revoke_garbage_by_form(machine: Machine) -> str | None:
    assert (await machine.revoke("garbage")).status_code == 200
    return None


async def call_without_token(machine: Machine) -> str | None:
    assert (await machine.http.get("/protected")).status_code == 401
    return None


async def call_with_garbage(machine: Machine) -> str | None:
    assert (await machine.call("garbage")).status_code == 401
    return None


async def call_with_revoked(machine: Machine) -> str | None:
    tokens = await machine.get_token()
    await machine.revoke(tokens.access)
    assert (await machine.call(tokens)).status_code == 401
    return jti(tokens)


async def call_without_scope(machine: Machine) -> str | None:
    tokens = await machine.get_token("write")
    assert (await machine.call(tokens)).status_code == 403
    return jti(tokens)


async def call_without_role(machine: Machine) -> str | None:
    tokens = await machine.get_token("admin")
    assert (await machine.call(tokens, "/admin-only")).status_code == 403
    return jti(tokens)


async def ask_too_much(machine: Machine) -> str | None:
    assert (await machine.ask_token("sudo")).status_code == 400
    return None


async def ask_for_unknown_grant(machine: Machine) -> str | None:
    assert (await machine.post("/token", grant_type="implicit")).status_code == 400
    return None


Deed = Callable[[Machine], Awaitable[str | None]]

#: What is done, the record that it leaves last, whether that names the client, and its reason.
DEEDS: list[tuple[Deed, str, bool, str | None]] = [
    (log_in, "login_success", True, "read"),
    (log_in_plainly, "login_success", True, "read"),
    (log_in_wrongly, "login_failure", True, "secret"),
    (log_in_malformed, "login_failure", False, "password"),
    (refresh, "token_refreshed", True, "read"),
    (refresh_plainly, "token_refreshed", True, "read"),
    (refresh_unknown, "refresh_token_invalid", True, "unknown"),
    (refresh_unknown_plainly, "refresh_token_invalid", False, "unknown"),
    (reuse, "refresh_token_reuse", True, "again"),
    (reuse_plainly, "refresh_token_reuse", True, "again"),
    (revoke, "token_revoked", True, None),
    (revoke_plainly, "token_revoked", True, None),
    (revoke_family, "token_revoked", True, None),
    (revoke_garbage, "token_invalid", False, "JWT"),
    (revoke_garbage_by_form, "token_invalid", True, "nothing to revoke"),
    (call_without_token, "token_invalid", False, "Not authenticated"),
    (call_with_garbage, "token_invalid", False, "JWT"),
    (call_with_revoked, "token_invalid", True, "revoked"),
    (call_without_scope, "access_denied", True, "scope read"),
    (call_without_role, "access_denied", True, "role admin"),
    (ask_too_much, "access_denied", True, "sudo"),
    (ask_for_unknown_grant, "access_denied", True, "grant"),
]


@pytest.fixture
async def observed(server: Server) -> Machine:
    """A machine whose requests can be told apart in the log."""
    machine = await new_machine(server, scopes=["read", "write", "admin"])
    machine.http.headers.update({"X-Request-ID": "the-request-7", "User-Agent": "machine/1.0"})
    return machine


#: RFC 7009 section 2.2: what cannot be revoked is no error.
ANSWERED_200 = {revoke_garbage_by_form}


@pytest.mark.parametrize(
    ("deed", "event_type", "names_client", "reason"), DEEDS, ids=[d[0].__name__ for d in DEEDS]
)
async def test_a_deed_leaves_its_record(
    observed: Machine,
    database: Database[Any],
    deed: Deed,
    event_type: str,
    names_client: bool,
    reason: str | None,
) -> None:
    """Exactly one record of it, with all the fields that the contract names.

    That of a refusal holds what explains it besides.
    """
    before = datetime.now(UTC) - timedelta(milliseconds=1)  # BSON dates count milliseconds
    about = await deed(observed)
    *_, record = audit(database)
    assert events(database).count(event_type) == 1
    assert record.keys() == FIELDS | (EXPLAINING if "error_id" in record else set())
    assert ("error_id" in record) is (event_type in REFUSALS and deed not in ANSWERED_200)
    assert record["event_type"] == event_type
    assert record["client_id"] == (observed.client_id if names_client else None)
    assert record["ip"] == HOME
    assert record["jti"] == about
    assert record["request_id"] == "the-request-7"
    assert record["user_agent"] == "machine/1.0"
    assert before <= record["timestamp"] <= datetime.now(UTC)
    assert reason is None or reason in record["reason"]


async def test_what_is_good_leaves_no_record_of_a_call(
    observed: Machine, database: Database[Any]
) -> None:
    """An accepted token is no event: the log grows with what is issued and refused."""
    tokens = await observed.get_token()
    for _ in range(3):
        assert (await observed.call(tokens)).status_code == 200
    assert events(database) == ["login_success"]


async def test_the_operators_own_deeds_are_recorded(
    server: Server, database: Database[Any]
) -> None:
    """What `m2m.clients` and `m2m.revoke` do stands in the log too, without an address."""
    clients = server.m2m.clients
    machine = await new_machine(server, client_id="the-client")
    await clients.rotate_secret("the-client", overlap=timedelta(hours=1))
    await server.m2m.revoke((await machine.get_token()).access)
    await clients.revoke_tokens("the-client")
    await clients.disable("the-client")
    await clients.enable("the-client")
    await clients.remove("the-client")
    records = list(database["audit_logs"].find({"ip": None}, sort=[("timestamp", 1), ("_id", 1)]))
    assert [record["event_type"] for record in records] == [
        "client_created",
        "secret_rotated",
        "token_revoked",
        "token_revoked",
        "client_disabled",
        "client_updated",
        "client_disabled",
    ]
    for record in records:
        assert record.keys() == FIELDS
        assert record["client_id"] == "the-client"
        assert record["request_id"] is record["user_agent"] is None


async def test_a_change_of_the_config_is_recorded_with_its_fields(
    server: Server, machine: Machine, database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of what changed, and not what it was changed to: that may be a key."""
    hasten(monkeypatch, "settings")
    await machine.get_token()
    assert events(database, event_type="config_changed") == []
    key = "another-key-for-HS256-with-more-than-32-bytes"
    changes = {"SECRET_KEY": key, "MAX_REQUESTS_PER_MINUTE": 77}
    database["config"].update_one({"_id": "jwt_config"}, {"$set": changes})
    await machine.get_token()
    await machine.get_token()
    (record,) = audit(database, event_type="config_changed")
    assert "SECRET_KEY" in record["reason"]
    assert "MAX_REQUESTS_PER_MINUTE" in record["reason"]
    assert "ALGORITHM" not in record["reason"]
    assert key not in str(record)


async def test_no_record_holds_a_secret(server: Server, database: Database[Any]) -> None:
    """Neither secrets nor tokens, not even one that was pasted into the wrong field."""
    machine = await new_machine(server, scopes=["read", "admin"])
    tokens = await machine.get_token()
    renewed = await machine.refresh(tokens)
    made = [machine.client_secret, tokens.refresh, renewed.refresh]
    for secret in [*made, tokens.access, renewed.access]:
        await machine.using(client_secret=secret + "x").ask_token()
        await machine.using(client_id=secret).ask_token()
        await machine.using(client_id=secret, method="plain").ask_token()
        await machine.ask_token(secret)
        await machine.post("/token", grant_type=secret)
        await machine.ask_refresh(secret)
        await machine.ask_refresh_plainly(secret)
        await machine.revoke(secret)
        await machine.revoke_plainly(access_token=secret)
        await machine.call(secret)
        await machine.call(secret, f"/protected?token={secret}")
    log = json.dumps(list(database["audit_logs"].find()), default=str)
    for secret in made:
        assert secret not in log
    # A whole access token is never there, and its signature neither, however it got in.
    for access in (tokens.access, renewed.access):
        assert access not in log
        assert access.rpartition(".")[2] not in log
    assert signing_key(database) not in log


def signing_key(database: Database[Any]) -> str:
    config = database["config"].find_one({"_id": "jwt_config"})
    assert config is not None
    return str(config["SECRET_KEY"])


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Request-ID": "a" * 65},
        {"X-Request-ID": "two words"},
        {"X-Request-ID": 'a"b'},
        {"X-Request-ID": "<script>"},
        {"X-Request-ID": ""},
        {},
    ],
    ids=str,
)
async def test_a_request_without_a_harmless_id_gets_one(
    machine: Machine, database: Database[Any], headers: dict[str, str]
) -> None:
    """What is recorded can disturb no log line, and tells every request from the next."""
    machine.http.headers.update(headers)
    machine.http.headers["User-Agent"] = "agent " + "x" * 1000
    await machine.get_token()
    await machine.get_token()
    first, second = audit(database, event_type="login_success")
    assert first["request_id"] != second["request_id"]
    for record in (first, second):
        assert record["request_id"].isalnum()
        assert len(record["request_id"]) == 32
        assert len(record["user_agent"]) == 200


async def test_a_record_is_there_before_the_answer_leaves(
    server: Server, database: Database[Any]
) -> None:
    """Of many requests at once, each finds its own record when its answer arrives."""
    machine = await new_machine(server)

    async def once() -> bool:
        wanted = jti(await machine.get_token())
        found = await asyncio.to_thread(database["audit_logs"].find_one, {"jti": wanted})
        return found is not None

    assert all(await asyncio.gather(*(once() for _ in range(40))))


# --- No record, no token ------------------------------------------------------------------------


@contextmanager
def refusing_records(database: Database[Any]) -> Iterator[None]:
    """Make the database refuse whatever is written to the audit log."""

    def validate(validator: Document) -> None:
        database.command("collMod", "audit_logs", validator=validator)

    validate({"never": {"$exists": True}})
    try:
        yield
    finally:
        validate({})


async def test_without_a_record_no_request_succeeds(
    server: Server, machine: Machine, database: Database[Any]
) -> None:
    """Each request that leaves a record is answered 503, gives nothing away and can be repeated."""
    tokens = await machine.get_token()
    narrow = await machine.get_token("write")
    with refusing_records(database):
        answers = {
            "token": await machine.ask_token(),
            "plain": await machine.using(method="plain").ask_token(),
            "wrong secret": await machine.using(client_secret="wrong").ask_token(),
            "too much": await machine.ask_token("sudo"),
            "revoke": await machine.revoke_plainly(access_token=narrow.access),
            "no token": await machine.http.get("/protected"),
            "bad token": await machine.call("garbage"),
            "forbidden": await machine.call(narrow),
            "refresh": await machine.ask_refresh(tokens),
        }
        assert (await machine.call(tokens)).status_code == 200  # leaves no record, so it may pass
    for name, response in answers.items():
        assert response.status_code == 503, name
        body = response.json()
        assert body["error"] == "temporarily_unavailable", name
        assert int(response.headers["retry-after"]) >= 1, name
        assert body.keys() == {"error", "error_description", "detail", "error_id"}, name
        assert "audit" not in response.text, name
    assert (await machine.ask_token()).status_code == 200


async def test_without_a_record_no_refusal_is_counted_away(
    start: Start, database: Database[Any]
) -> None:
    """Over the limit too: the one record of the minute's refusals must be written."""
    server = await start(MAX_REQUESTS_PER_MINUTE=1)
    machine = await new_machine(server)
    responses = [await machine.ask_token() for _ in range(4)]  # whatever the minute, one is refused
    assert 429 in [response.status_code for response in responses]
    with refusing_records(database):
        assert (await machine.ask_token()).status_code == 503


async def test_without_a_record_no_client_is_left_changed_in_silence(
    server: Server, machine: Machine, database: Database[Any]
) -> None:
    """The operator's call fails, so that it is repeated."""
    with refusing_records(database):
        for deed in (
            server.m2m.clients.disable(machine.client_id),
            server.m2m.clients.register("another", scopes=["read"]),
        ):
            with pytest.raises(TemporarilyUnavailable):
                await deed
    await server.m2m.clients.enable(machine.client_id)
    await server.m2m.clients.disable(machine.client_id)
    assert events(database)[-1] == "client_disabled"


async def test_with_a_grace_a_refresh_that_left_no_record_is_repeated_without_loss(
    start: Start, database: Database[Any]
) -> None:
    """The claim was made and the answer lost: the same holder gets the successor after all."""
    server = await start(REFRESH_GRACE_SECONDS=60)
    machine = await new_machine(server)
    tokens = await machine.get_token()
    with refusing_records(database):
        assert (await machine.ask_refresh(tokens)).status_code == 503
        assert (await machine.ask_refresh(tokens)).status_code == 503
    renewed = await machine.refresh(tokens)
    assert (await machine.refresh(renewed)).access
