"""No secret and no whole token is kept: not in the database, the log, or any error."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import bson
import httpx
import pytest
from pymongo.database import Database

from tests.conformance.conftest import Start
from tests.expectations import Log, early_in_the_minute
from tests.machine import Machine, Tokens, basic, new_machine, secret_of, type_client
from tests.server import Server


def where_kept(database: Database[Any], secrets: Iterable[str]) -> list[str]:
    """The collections that hold one of the secrets, in whatever field."""
    wanted = [secret.encode() for secret in secrets]
    return [
        f"{name}: {document['_id']}"
        for name in database.list_collection_names()
        for document in database[name].find()
        if any(secret in bson.encode(document) for secret in wanted)
    ]


class Witness:
    """Remembers every answer and every secret of a scenario."""

    def __init__(self, server: Server) -> None:
        self.secrets: set[str] = set()
        self.refusals: list[str] = []
        self.http = server.http()
        self.http.event_hooks["response"].append(self._see)

    async def _see(self, response: httpx.Response) -> None:
        await response.aread()
        if response.is_success and response.request.url.path in {"/token", "/refresh"}:
            tokens = Tokens.of(response)
            self.secrets.update({tokens.access, tokens.refresh})
        if response.is_error:
            self.refusals.append(response.text + str(response.headers))

    async def machine(self, server: Server, **registration: Any) -> Machine:
        """A new machine whose secret is known to the witness."""
        machine = (await new_machine(server, **registration)).using(http=self.http)
        self.secrets.add(machine.client_secret)
        return machine


async def test_after_a_long_day_no_secret_is_found_anywhere(
    start: Start, database: Database[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Every secret and token that a scenario saw is absent from collections, logs and errors."""
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, logger="oauth2_m2m")
    server = await start(REFRESH_GRACE_SECONDS=1, MAX_REQUESTS_PER_MINUTE=100_000)
    witness = Witness(server)
    machine, other = await witness.machine(server), await witness.machine(server)
    typed = type_client(server, database, "typed", "typed by hand, and long enough")
    typed = typed.using(http=witness.http)
    witness.secrets.add(typed.client_secret)

    for each in (machine, other, typed):
        for method in ("basic", "post", "plain"):
            tokens = await each.using(method=method).get_token()
            await each.call(tokens)
            await each.call(tokens, "/admin-only")
            following = await each.refresh(tokens)
            await each.refresh_plainly(following)
            database["used_refresh_tokens"].update_many({}, {"$unset": {"used_at": ""}})
            assert (await each.ask_refresh(tokens)).status_code == 400
            assert (await each.call(following)).status_code == 401
            tokens = await each.get_token("read")
            await each.ask_refresh(tokens, "read admin")
            await each.ask_token("admin")
            await (other if each is machine else machine).ask_refresh(tokens)
            await each.revoke(tokens.access)
            await each.revoke(tokens.refresh)
            await each.revoke_plainly(access_token=tokens.access)
            await each.revoke_plainly(refresh_token=tokens.refresh)
            await each.revoke_plainly(access_token=tokens.refresh)
            await each.call(tokens.access[:-1])
            await each.call(tokens.refresh)
    wrong = machine.using(client_secret=other.client_secret)
    for method in ("basic", "post", "plain"):
        await wrong.using(method=method).ask_token()
    rotated = await server.m2m.clients.rotate_secret(machine.client_id)
    witness.secrets.add(secret_of(rotated))
    await server.m2m.clients.disable(other.client_id)
    await other.ask_token()

    assert len(witness.secrets) > 60
    assert len(witness.refusals) > 60
    assert where_kept(database, witness.secrets) == []
    for secret in witness.secrets:
        assert secret not in caplog.text
        assert not [refusal for refusal in witness.refusals if secret in refusal]


async def test_the_signing_key_is_in_the_config_alone(
    server: Server, machine: Machine, database: Database[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The key that signs is nowhere but where the operator finds it."""
    caplog.set_level(logging.DEBUG, logger="oauth2_m2m")
    tokens = await machine.get_token()
    config = database["config"].find_one() or {}
    assert where_kept(database, [config["SECRET_KEY"]]) == ["config: jwt_config"]
    assert config["SECRET_KEY"] not in caplog.text + str(tokens.body) + repr(server.m2m)


_SECRET_FIELDS = [
    "username",
    "client_id",
    "Basic id",
    "scope",
    "grant_type",
    "refresh_token",
    "token",
    "X-Request-ID",
]


@pytest.mark.parametrize("field", _SECRET_FIELDS)
async def test_a_secret_in_the_wrong_field_is_not_kept(
    machine: Machine,
    database: Database[Any],
    log: Log,
    caplog: pytest.LogCaptureFixture,
    field: str,
) -> None:
    """People paste secrets where ids belong, with a line break or a word beside them."""
    caplog.set_level(logging.DEBUG, logger="oauth2_m2m")
    secret = machine.client_secret
    refused = 0
    for pasted in (secret, f"{secret}\n", f"client_secret={secret}", f" {secret}"):
        response = await _misuse(machine, field, pasted)
        refused += response.is_error
        assert secret not in response.text
    assert refused or field == "token"
    assert log.new()
    assert where_kept(database, [secret]) == []
    assert secret not in caplog.text


async def _misuse(machine: Machine, field: str, pasted: str) -> httpx.Response:
    nobody = machine.using(method="none")
    if field == "username":
        return await nobody.post("/token", username=pasted, password=pasted)
    if field == "client_id":
        return await nobody.ask_token(client_id=pasted, client_secret=pasted)
    if field == "Basic id":
        return await machine.using(client_id=pasted).ask_token()
    if field == "refresh_token":
        await machine.ask_refresh_plainly(pasted)
        return await machine.ask_refresh(pasted)
    if field == "token":
        return await machine.revoke(pasted)
    if field == "X-Request-ID":
        headers = {"X-Request-ID": pasted.replace("\n", "").replace("=", "-").strip()}
        return await machine.http.get("/protected", headers=headers)
    return await machine.ask_token(**{field: pasted})


async def test_a_refusal_over_the_limit_keeps_no_secret(
    start: Start, database: Database[Any]
) -> None:
    """Neither the counted key nor the record of a 429 holds what was presented."""
    server = await start(MAX_REQUESTS_PER_MINUTE=1)
    machine = await new_machine(server)
    await early_in_the_minute()
    headers = {"Authorization": basic(machine.client_secret, machine.client_secret)}
    grant = {"grant_type": "client_credentials"}
    for _ in range(3):
        last = await machine.http.post("/token", data=grant, headers=headers)
    assert last.status_code == 429
    assert where_kept(database, [machine.client_secret]) == []
