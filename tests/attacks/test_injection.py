"""Words that are commands somewhere: to MongoDB, to a log, or in a header."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pymongo.database import Database

from tests.assertions import es256_key, fields, jwks
from tests.machine import Machine, audit, basic, resigned
from tests.server import Server

ISSUER = "http://localhost:8000"
GRANT = {"grant_type": "client_credentials"}
#: What matches anything, or runs, where it is taken for more than a word.
OPERATORS: list[Any] = [
    {"$ne": None}, {"$gt": ""}, {"$regex": ".*"}, {"$where": "sleep(5000)"}, {"$exists": True},
    {"$expr": {"$function": {"body": "sleep(5000)", "args": [], "lang": "js"}}}, ["$ne", ""],
    {"$oid": "0" * 24}, True, 0,
]  # fmt: skip
WORDS = ["$ne", "$where", "{$ne: null}", "' || 1==1 //", "admin'--", ".*", "a.b", "$", "\0", "a\0b"]
LINES = ["x\r\nSet-Cookie: a=b", "x\nINFO: forged", "x\u2028y", "x\x1b[2J", "x\x85y", "x\u202ey"]


async def test_an_operator_is_no_value(server: Server, machine: Machine) -> None:
    """Where a text belongs, an object finds nobody's token, in JSON and in a token's claims."""
    tokens = await machine.get_token()
    for operator in OPERATORS:
        begun = time.monotonic()
        for path in ("/refresh", "/revoke"):
            response = await machine.http.post(path, json={"refresh_token": operator})
            assert response.status_code == 422
        assert time.monotonic() - begun < 4
    assert (await machine.call(tokens)).status_code == 200
    assert (await machine.ask_refresh(tokens)).status_code == 200


async def test_an_operator_in_a_form_is_a_word(server: Server, machine: Machine) -> None:
    """`client_id[$ne]=` is a parameter that nobody knows, and `$ne` an id that nobody has."""
    for name in ("client_id[$ne]", "client_id.$ne", "client_secret[$gt]", "username[$regex]"):
        form = {**GRANT, name: "", "client_secret": machine.client_secret}
        assert (await machine.http.post("/token", data=form)).status_code == 401
    for word in WORDS:
        for given in ({"client_id": word}, {"client_secret": word}):
            assert (await machine.using(**given).ask_token()).status_code == 401
        assert (await machine.ask_refresh(word)).status_code == 400
        assert (await machine.ask_token(scope=word)).status_code == 400


async def test_an_operator_in_a_claim_is_no_client(
    server: Server, machine: Machine, database: Database[Any]
) -> None:
    """A token says who it is for in words: also one whose signature holds."""
    tokens = await machine.get_token()
    secret = (database.config.find_one({}) or {})["SECRET_KEY"]
    assert (await machine.call(resigned(tokens.access, secret))).status_code == 200
    for operator in OPERATORS:
        for claim in ("client_id", "sub", "jti", "iss", "aud", "scope"):
            forged = resigned(tokens.access, secret, **{claim: operator})
            assert (await machine.call(forged)).status_code == 401


async def test_an_operator_in_an_assertion_is_no_client(server: Server) -> None:
    """What a client signs about itself is words, too; good keys make no difference."""
    signer = es256_key("signer")
    await new_machine_with(server, signer)
    async with server.http() as http:
        for operator in OPERATORS:
            for changes in ({"iss": operator, "sub": operator}, {"jti": operator}):
                assertion = signer.assertion("signer", ISSUER, **changes)
                response = await http.post("/token", data=fields(assertion, **GRANT))
                assert response.status_code == 401


async def new_machine_with(server: Server, signer: Any) -> None:
    await server.m2m.clients.register("signer", scopes=["read"], jwks=jwks(signer))


@pytest.mark.parametrize("line", LINES, ids=ascii)
async def test_no_line_is_forged(
    server: Server, machine: Machine, database: Database[Any], line: str
) -> None:
    """What a caller writes begins no header of an answer, and stands in no record unescaped."""
    wrong = machine.using(client_id=line)
    responses = [
        await wrong.ask_token(),
        await wrong.using(method="plain").ask_token(),
        await machine.ask_token(scope=line),
        await machine.ask_token(grant_type=line),
        await machine.ask_refresh(line),
        await machine.http.get("/protected", params={"scope": line}),
        await machine.http.post("/token", data=GRANT, headers=_headers(line)),
    ]
    for response in responses:
        assert response.status_code in {400, 401}
        assert "set-cookie" not in response.headers
        for value in response.headers.values():
            assert value.isprintable()
        assert line not in response.text
    for record in audit(database):
        for name in ("reason", "user_agent", "request_id", "event_type", "client_id"):
            assert (record[name] or "").isprintable(), (name, record[name])


def _headers(line: str) -> dict[bytes, bytes]:
    """Headers as a careless gateway would pass them on."""
    raw = line.encode()
    credentials = basic(line, line).encode()
    return {b"User-Agent": raw, b"X-Request-ID": raw, b"Authorization": credentials}
