"""A recognisable value in the place of every secret: nothing that a run leaves behind holds one.

What a run leaves behind is all that it printed, every document, every answer that refuses, and what
was counted. What people type has no shape that gives it away, so in the place of an id or in an
address nothing can know it for a secret; everything that is made here is known wherever it is put.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import bson
import httpx
import pytest
from pymongo import AsyncMongoClient, MongoClient
from pymongo.database import Database

from _oauth2_m2m.credentials import make_client_secret
from example.mongodb import HOST, free_port
from tests.assertions import es256_key, fields, jwks
from tests.attacks.wire import Uvicorn, registered, uvicorn
from tests.faults.links import ALL, Links, Rule
from tests.machine import Machine, basic
from tests.proofs import key
from tests.server import configure
from tests.uvicorn_process import ROOT, clean_environment, logging_config

ISSUER = "http://localhost:8000"
SECRET_KEY = "canary-of-the-signing-key-0123456789-abcdef"
SEALING_KEY = "Y2FuYXJ5LW9mLXRoZS1zZWFsaW5nLWtleS0wMTIzNDU"
PASSWORD = "canary-of-the-database"
TYPED = "canary typed by a person"
FORM = "application/x-www-form-urlencoded"
MEMBERS = ("client_id", "username", "password", "client_secret", "scope", "grant_type", "resource",
           "audience", "refresh_token", "token", "token_type_hint", "client_assertion",
           "client_assertion_type", "anything")  # fmt: skip
HEADERS = ("User-Agent", "X-Request-ID", "Referer", "Cookie", "X-Forwarded-For", "Accept", "DPoP",
           "Origin", "If-None-Match")  # fmt: skip
ENDPOINTS = ("/token", "/refresh", "/revoke", "/introspect")
#: Of the shape that is compared quickly.
WRONG = make_client_secret()
#: More than a refusal may take; a busy machine is given time.
START_SECONDS = 90


def where_kept(database: Database[Any], canaries: Mapping[str, str]) -> set[str]:
    """Which canaries stand where, as `name in collection.field`."""
    return {
        f"{name} in {collection}.{member}"
        for collection in database.list_collection_names()
        for document in database[collection].find()
        for member, value in document.items()
        for name, secret in canaries.items()
        if secret.encode() in bson.encode({"": value})
    }


def in_text(text: str, canaries: Mapping[str, str]) -> set[str]:
    """Which canaries a text holds, as they are or percent-encoded."""
    spellings = {name: {s, quote(s), quote(s, safe="")} for name, s in canaries.items()}
    return {name for name, ways in spellings.items() if any(way in text for way in ways)}


@contextmanager
def link_to(client: MongoClient[dict[str, Any]]) -> Iterator[tuple[Links, int]]:
    """A way to the primary that can be cut, and the port where it begins."""
    assert client.address is not None
    host, port = client.address
    with Links() as links:
        yield links, links.add_target("mongodb", port, host)


@contextmanager
def user_of(database: Database[Any]) -> Iterator[str]:
    """A user of MongoDB whose password is a canary; what comes before the host in a URL."""
    database.command("createUser", "canary", pwd=PASSWORD, roles=["readWrite", "dbAdmin"])
    try:
        yield f"canary:{PASSWORD}"
    finally:
        database.command("dropUser", "canary")


async def everywhere(http: httpx.AsyncClient, canary: str, *, in_addresses: bool) -> list[str]:
    """Put a canary into every part of every request; what the refusals said."""
    one_line = canary.encode("ascii", "replace").decode()
    requests: list[dict[str, Any]] = []
    for path in ENDPOINTS:
        for member in MEMBERS if in_addresses else [m for m in MEMBERS if m not in _IDS]:
            grant = {} if member == "grant_type" else {"grant_type": "client_credentials"}
            form = {**grant, "client_id": "x", "client_secret": WRONG, member: canary}
            requests.append({"url": path, "data": form})
            requests.append({"url": path, "json": {member: canary, "refresh_token": [canary]}})
        for scheme in ("Bearer", "DPoP", "Basic", "Negotiate"):
            authorization = f"{scheme} {one_line}"
            requests.append({"url": path, "headers": {"Authorization": authorization}})
        pair = {"Authorization": basic("x", canary)}
        requests.append({"url": path, "headers": pair, "data": {"token": canary}})
        requests.append({"url": path, "content": canary, "headers": {"Content-Type": FORM}})
        requests.append({"url": path, "files": {"client_secret": canary.encode()}})
    for scheme in ("Bearer", "DPoP", "bearer", "Basic"):
        authorization = f"{scheme} {one_line}"
        requests.append({"url": "/protected", "headers": {"Authorization": authorization}})
    if in_addresses:
        for header in HEADERS:
            headers = {header: one_line}
            requests.append({"url": "/protected", "headers": headers})
            requests.append({"url": "/token", "headers": headers, "data": {"grant_type": "x"}})
        pair = {"Authorization": basic(canary, canary)}
        requests.append({"url": "/token", "headers": pair, "data": {"grant_type": "x"}})
        for member in ("access_token", "client_secret", "after", "x"):
            for path in (*ENDPOINTS, "/protected", "/revocations"):
                requests.append({"url": path, "params": {member: canary}})
        for path in (*ENDPOINTS, "", "/protected", "/docs", "/docs/assets"):
            requests.append({"url": f"{path}/{quote(canary, safe='')}"})
    gate, said = asyncio.Semaphore(20), []

    async def send(request: dict[str, Any]) -> None:
        async with gate:
            method = "POST" if {"data", "json", "content", "files"} & request.keys() else "GET"
            response = await http.request(method, **request)
            assert response.status_code != 500
            if response.is_error:
                said.append(f"{response.headers}{response.text}")

    await asyncio.gather(*map(send, requests))
    return said


#: Where nothing can tell what people type from what belongs there.
_IDS = {"client_id", "username"}


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("algorithm", "line"), [("HS256", "%(message)s"), ("ES256", None)])
async def test_no_canary_is_found_in_what_a_run_leaves_behind(
    mongo_client: MongoClient[dict[str, Any]],
    database: Database[Any],
    tmp_path: Path,
    algorithm: str,
    line: str | None,
) -> None:
    """Pasted into every part of every request, with MongoDB there and away: it is kept nowhere."""
    configure(database, SECRET_KEY=SECRET_KEY, ALGORITHM=algorithm, METRICS=True)
    logging = logging_config(tmp_path, line, oauth2_m2m="DEBUG")
    with link_to(mongo_client) as (links, port), user_of(database) as user:
        url = f"mongodb://{user}@{HOST}:{port}/?directConnection=true"
        url += f"&authSource={database.name}"
        options = ("--log-config", str(logging))
        sealed = {"OAUTH2_M2M_KEY_ENCRYPTION_KEY": SEALING_KEY}
        with uvicorn(url, database.name, tmp_path, *options, **sealed) as running:
            canaries, refusals = await _a_day(running, links, url, database, algorithm)
            async with running.http() as http:
                metrics = (await http.get("/metrics")).text
    canaries |= {"SECRET_KEY": SECRET_KEY, "sealing key": SEALING_KEY, "password": PASSWORD}
    printed = running.output.read_text()
    assert "GET /protected" in printed
    assert len(refusals) > 300
    assert in_text(printed, canaries) == set()
    assert "oauth2_m2m_batch_failures_total" in metrics
    assert in_text(metrics, canaries) == set()
    assert in_text("".join(refusals), canaries) == set()
    assert where_kept(database, canaries) == {"SECRET_KEY in config.SECRET_KEY"}


async def _a_day(
    running: Uvicorn, links: Links, url: str, database: Database[Any], algorithm: str
) -> tuple[dict[str, str], list[str]]:
    """All the misuse; the canaries that came up in it, and what the refusals said."""
    refusals: list[str] = []
    async with running.http() as http, AsyncMongoClient[dict[str, Any]](url) as mongo:
        made = await registered(mongo[database.name], http)
        typed = await registered(mongo[database.name], http, client_secret=TYPED)
        holder = es256_key("canary")
        signer = await registered(
            mongo[database.name], http, jwks=jwks(holder), client_secret=TYPED,
            token_endpoint_auth_methods=["private_key_jwt", "client_secret_basic"],
        )  # fmt: skip
        canaries = await _canaries(made, signer)
        await typed.get_token()
        for name, canary in canaries.items():
            if algorithm == "HS256" or name in {"made secret", "access token"}:
                refusals += await everywhere(http, canary, in_addresses=True)
        refusals += await everywhere(http, TYPED, in_addresses=False)
        links.set(ALL, "mongodb", Rule(cut=True))
        for canary in canaries.values():
            refusals += await _while_away(http, made, canary)
        links.heal()
        async with asyncio.timeout(30):
            while (await http.get("/health/ready")).status_code != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        # Of what is signed, the signature makes it worth something.
        signed = {name: c.rpartition(".")[2] for name, c in canaries.items() if "eyJ" in c}
        return {**canaries, **signed, "typed": TYPED}, refusals


async def _canaries(made: Machine, signer: Machine) -> dict[str, str]:
    tokens = await made.get_token()
    spent, following = tokens.refresh, await made.refresh(tokens)
    assertion = es256_key("canary").assertion(signer.client_id, ISSUER)
    form = fields(assertion, grant_type="client_credentials")
    assert (await signer.http.post("/token", data=form)).status_code == 200
    proof = key("canary").proof("POST", f"{ISSUER}/token")
    return {
        "made secret": made.client_secret,
        "access token": tokens.access,
        "spent refresh token": spent,
        "refresh token": following.refresh,
        "assertion": assertion,
        "proof": proof,
    }


async def _while_away(http: httpx.AsyncClient, machine: Machine, canary: str) -> list[str]:
    """The answers without a database, which are all 503."""
    responses = await asyncio.gather(
        machine.ask_token(scope=canary),
        machine.using(client_secret=canary).ask_token(),
        machine.ask_refresh(canary),
        machine.revoke_plainly(access_token=canary),
        machine.call(canary),
        http.get("/health/ready"),
        http.get("/revocations"),
    )
    assert {response.status_code for response in responses} <= {401, 503}
    return [f"{response.headers}{response.text}" for response in responses]


WEAK = "canary-weak"
AWAY = f"mongodb://user:{PASSWORD}@{HOST}:1/?serverSelectionTimeoutMS=500"
#: What is wrong, as (config, environment); each stops a start in production.
STARTS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "a weak key": ({"SECRET_KEY": WEAK}, {}),
    "a weak key of before": ({"SECRET_KEY": SECRET_KEY, "PREVIOUS_SECRET_KEYS": [WEAK]}, {}),
    "a key in a list": ({"SECRET_KEY": [SECRET_KEY]}, {}),
    "a key as a member": ({"SECRET_KEY": {SECRET_KEY: SECRET_KEY}}, {}),
    "a key in another field": ({"ALGORITHM": SECRET_KEY}, {}),
    "a key for a number": ({"MAX_REQUESTS_PER_MINUTE": SECRET_KEY}, {}),
    "a password in the issuer": ({"ISSUER": f"https://user:{PASSWORD}@example.com"}, {}),
    "a sealing key that is none": (
        {"ALGORITHM": "ES256"}, {"OAUTH2_M2M_KEY_ENCRYPTION_KEY": SECRET_KEY},
    ),
    "MongoDB away": ({}, {"MONGODB_URL": AWAY}),
    "a password that is not encoded": ({}, {"MONGODB_URL": AWAY.replace("@", "@@")}),
    "a slash in the password": ({}, {"MONGODB_URL": AWAY.replace(PASSWORD, f"/{PASSWORD}")}),
    "a colon in the password": ({}, {"MONGODB_URL": AWAY.replace(PASSWORD, f":{PASSWORD}")}),
    "a password without an at": ({}, {"MONGODB_URL": f"mongodb://user:{PASSWORD}"}),
    "another scheme": ({}, {"MONGODB_URL": AWAY.replace("mongodb", "mongo")}),
    "an unknown option": ({}, {"MONGODB_URL": f"{AWAY}&unknown={PASSWORD}"}),
}  # fmt: skip


@pytest.mark.parametrize("name", STARTS)
def test_a_start_that_fails_shows_no_canary(
    mongo_url: str, database: Database[Any], name: str
) -> None:
    """It says what to mend, in words that hold nothing of what was typed."""
    config, environment = STARTS[name]
    configure(database, **config)
    urls = {"MONGODB_URL": mongo_url, "MONGODB_DB": database.name, "ENVIRONMENT": "production"}
    ended = subprocess.run(
        [sys.executable, "-m", "uvicorn", "example.main:app", "--port", str(free_port())],
        cwd=ROOT,
        env={**clean_environment(), **urls, **environment},
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    printed = ended.stdout + ended.stderr
    assert ended.returncode != 0, printed
    assert "canary" not in printed
