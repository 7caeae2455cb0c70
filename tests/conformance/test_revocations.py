"""GET /revocations: what was revoked, for whoever checks tokens elsewhere."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections import Counter
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.database import Database

from oauth2_m2m import OAuth2M2M
from tests.expectations import Log, expect_error, expect_no_store
from tests.machine import Machine, claims_of, new_machine
from tests.server import Server, guarded_app


def published(mark: str) -> str:
    """A mark as the feed names it."""
    digest = hashlib.sha256(mark.encode()).digest()[:16]
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


async def test_the_feed_names_what_was_revoked_by_its_hash(
    server: Server, machine: Machine, log: Log
) -> None:
    """Without credentials, and without a word of which token or client it was."""
    kept, ended = await machine.get_token(), await machine.get_token()
    await machine.revoke(ended.access)
    log.new()
    async with server.http() as http:
        response = await http.get("/revocations")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    expect_no_store(response)
    body = response.json()
    assert body.keys() == {"revoked", "cursor", "more"}
    claims = claims_of(ended.access)
    ((name, end),) = body["revoked"]
    assert name == published(claims["jti"])
    assert claims["exp"] <= end <= claims["exp"] + 600
    assert body["more"] is False
    for text in (claims["jti"], claims["client_id"], claims_of(kept.access)["jti"]):
        assert text not in response.text
    log.expect_nothing()


async def test_a_cursor_brings_what_came_later(server: Server, machine: Machine) -> None:
    """Marks that were given already may be repeated; those that are new are there."""
    async with server.http() as http:
        seen: Counter[str] = Counter()
        cursor: dict[str, str] = {}
        for number in range(1, 4):
            tokens = await machine.get_token()
            await machine.revoke(tokens.access)
            body = (await http.get("/revocations", params=cursor)).json()
            seen.update(name for name, _ in body["revoked"])
            assert published(claims_of(tokens.access)["jti"]) in seen
            assert len(seen) == number
            cursor = {"after": body["cursor"]}


async def test_every_kind_of_end_is_one_mark(server: Server, machine: Machine) -> None:
    """A family, a client and a token: one mark each, however many tokens they end."""
    tokens = [await machine.get_token() for _ in range(3)]
    await machine.revoke(tokens[0].refresh)
    family = claims_of(tokens[0].access)["family_id"]
    await server.m2m.clients.disable(machine.client_id)
    epoch = claims_of(tokens[1].access)["epoch"]
    async with server.http() as http:
        body = (await http.get("/revocations")).json()
    assert {name for name, _ in body["revoked"]} == {
        published(f"family:{family}"),
        published(f"client:{machine.client_id}:{epoch}"),
    }


@pytest.mark.parametrize(
    "query",
    ["after=", "after=x", "after=" + "A" * 21, "after=" + "A" * 23, "after=" + "A" * 21 + "B",
     "after=" + "%41" * 5000, "after=%00", "after=%ff", "after[]=" + "A" * 22 + "&after=0",
     "after=" + "A" * 22 + "&after=" + "A" * 22],
    ids=lambda query: query[:20],
)  # fmt: skip
async def test_a_malformed_cursor_is_refused(server: Server, query: str) -> None:
    """400, as any parameter that is malformed or repeated."""
    async with server.http() as http:
        expect_error(await http.get(f"/revocations?{query}"), 400, "invalid_request")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_the_feed_is_only_read(server: Server, method: str) -> None:
    """Another method is 405, and a trailing slash 404."""
    async with server.http() as http:
        expect_error(await http.request(method, "/revocations"), 405, "invalid_request")
        expect_error(await http.get("/revocations/"), 404, "invalid_request")


async def test_unknown_parameters_are_ignored(server: Server) -> None:
    """RFC 6749 section 3.2 says so of requests."""
    async with server.http() as http:
        assert (await http.get("/revocations?before=x")).status_code == 200


async def test_the_metadata_names_the_feed(server: Server) -> None:
    """So that services find it by the issuer's name."""
    async with server.http() as http:
        metadata = (await http.get("/.well-known/oauth-authorization-server")).json()
    assert metadata["revocations_endpoint"] == metadata["issuer"] + "/revocations"


async def test_two_workers_have_one_feed(
    server: Server, machine: Machine, database: Database[Any]
) -> None:
    """A cursor of one worker is good at another, and nothing falls between them."""
    other = OAuth2M2M(database)
    app = guarded_app(other)
    async with server.http() as one, Server(app, other).http() as two:
        cursor: dict[str, str] = {}
        known: set[str] = set()
        ended = set()
        for number in range(6):
            tokens = await machine.get_token()
            await machine.revoke(tokens.access)
            ended.add(published(claims_of(tokens.access)["jti"]))
            body = (await (one, two)[number % 2].get("/revocations", params=cursor)).json()
            known |= {name for name, _ in body["revoked"]}
            cursor = {"after": body["cursor"]}
            assert known == ended


async def test_a_crowd_is_answered(server: Server, machine: Machine) -> None:
    """Two hundred at once, with cursors and without, all get their page."""
    await machine.revoke((await machine.get_token()).access)
    async with server.http() as http:
        cursor = (await http.get("/revocations")).json()["cursor"]
        asked = [{}, {"after": cursor}] * 100
        answers = await asyncio.gather(*(http.get("/revocations", params=p) for p in asked))
    assert {answer.status_code for answer in answers} == {200}
    assert all(len(answer.json()["revoked"]) == 1 for answer in answers)


async def test_without_a_database_the_feed_is_unavailable() -> None:
    """503 in time, never an empty page that says nothing was revoked."""
    async with AsyncMongoClient[Any]("mongodb://127.0.0.1:9/?directConnection=true") as mongo:
        m2m = OAuth2M2M(mongo.nowhere)
        async with Server(guarded_app(m2m), m2m).http() as http:
            began = time.monotonic()
            response = await http.get("/revocations")
            expect_error(response, 503, "temporarily_unavailable")
            assert time.monotonic() - began < 6


async def test_a_removed_client_is_in_the_feed(server: Server) -> None:
    """Removing a client ends its tokens elsewhere, too."""
    machine = await new_machine(server)
    epoch = claims_of((await machine.get_token()).access)["epoch"]
    await server.m2m.clients.remove(machine.client_id)
    async with server.http() as http:
        body = (await http.get("/revocations")).json()
    assert [name for name, _ in body["revoked"]] == [
        published(f"client:{machine.client_id}:{epoch}")
    ]
