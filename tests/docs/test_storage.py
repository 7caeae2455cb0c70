"""docs/storage.md against what really lies in the database."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from tests.assertions import es256_key, fields, jwks
from tests.machine import Machine, secret_of
from tests.papers import codes, paper, section, table
from tests.server import Server, configure, running

STORAGE = paper("docs/storage.md")
COLLECTIONS = [codes(row[0])[0] for row in table(STORAGE, "collection")]
#: The fields of the config are in the README, where a test holds them against the code.
ELSEWHERE = {"config"}


@pytest.fixture
async def used_database(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> Database[Any]:
    """A database in which everything has happened that writes a document."""
    configure(database, MAX_REQUESTS_PER_MINUTE=3)
    async with running(async_database) as server:
        registered = await server.m2m.clients.register(
            "billing",
            scopes=["read"],
            name="Billing",
            access_token_expire_minutes=5,
            max_requests_per_minute=1000,
            allowed_networks=["192.0.2.0/24"],
            grant_types=["client_credentials", "refresh_token"],
            issue_refresh_tokens=True,
        )
        async with server.http() as http:
            machine = Machine(http, "billing", secret_of(registered))
            tokens = await machine.refresh(await machine.get_token())
            await prove_by_key(server, http)
            await machine.revoke(tokens.access)
            for _ in range(10):  # more than the limit, whether or not a minute ends meanwhile
                await machine.using(client_secret="wrong").ask_token()
        await server.m2m.clients.rotate_secret("billing", overlap=timedelta(days=1))
        await server.m2m.clients.disable("billing")
        await server.m2m.clients.enable("billing")
        database["config"].update_one({}, {"$set": {"ALGORITHM": "ES256"}})
        (signing,) = [key.kid for key in await server.m2m.keys.list() if key.signs]
        await server.m2m.keys.burn(signing)
    return database


async def prove_by_key(server: Server, http: httpx.AsyncClient) -> None:
    """Let a client sign who it is, and that it holds the key that its token is bound to."""
    signer = es256_key("signer")
    await server.m2m.clients.register(
        "signer",
        scopes=["read"],
        jwks=jwks(signer),
        audience=["https://api.example/"],
        token_endpoint_auth_methods=["private_key_jwt"],
        dpop_bound_access_tokens=True,
    )
    issuer = "http://localhost:8000"
    form = fields(signer.assertion("signer", issuer), grant_type="client_credentials")
    proof = signer.pair.proof("POST", f"{issuer}/token")
    response = await http.post("/token", data=form, headers={"DPoP": proof})
    assert response.status_code == 200, response.text


async def test_every_collection_and_index_is_named(used_database: Database[Any]) -> None:
    """The page has a section for each collection, which names its indexes and no others."""
    assert sorted(used_database.list_collection_names()) == sorted(COLLECTIONS)
    for name in COLLECTIONS:
        indexes = used_database[name].index_information()
        del indexes["_id_"]
        (sentence,) = re.findall(r"^Index(?:es)?: (.+?)\n\n", section(STORAGE, name), re.M | re.S)
        named = [code for code in codes(sentence) if re.search(r"_1$", code)]
        assert sorted(named) == sorted(indexes)
        parts = {codes(part)[0]: part for part in re.split(r";\s", sentence) if codes(part)}
        for index, details in indexes.items():
            assert ("unique" in parts[index]) == ("unique" in details), index
            assert ("TTL" in parts[index]) == ("expireAfterSeconds" in details), index
            assert ("partial" in parts[index]) == ("partialFilterExpression" in details), index


@pytest.mark.parametrize("name", [name for name in COLLECTIONS if name not in ELSEWHERE])
async def test_every_field_is_named(used_database: Database[Any], name: str) -> None:
    """Whatever stands in a document is explained in the section of its collection."""
    documents = list(used_database[name].find())
    assert documents
    written = {field for document in documents for field in document}
    if name == "clients":
        written |= {f for d in documents for secret in d.get("secrets", []) for f in secret}
    explained = set(re.findall(r"\w+", " ".join(codes(section(STORAGE, name)))))
    assert written - {"_id"} <= explained


async def test_no_credential_lies_in_the_clear(used_database: Database[Any]) -> None:
    """What the page says is hashed is hashed, everywhere but in the config."""
    for name in set(COLLECTIONS) - ELSEWHERE:
        for document in used_database[name].find():
            assert not re.search(r"m2m[sr]_[0-9A-Za-z]{49}|eyJ[\w-]+\.", str(document)), name
