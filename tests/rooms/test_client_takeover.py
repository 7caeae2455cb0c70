"""Registering the clients of another server's export."""

from __future__ import annotations

import json
from typing import Any

import bcrypt
import pytest
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from _oauth2_m2m.client_import import Source, read_export
from _oauth2_m2m.client_takeover import take_over
from _oauth2_m2m.config import Environment
from _oauth2_m2m.errors import OAuth2M2MError
from _oauth2_m2m.key_sealing import KeySealer
from _oauth2_m2m.services import Services

ROW = {
    "client_secret": bcrypt.hashpw(b"a secret of old", bcrypt.gensalt(4)).decode(),
    "grant_types": "client_credentials",
    "scope": "read",
    "token_endpoint_auth_method": "client_secret_basic",
}
FOUND, _ = read_export(
    Source.HYDRA, json.dumps([{**ROW, "id": name} for name in ("one", "two", "three")])
)


@pytest.fixture
async def services(async_database: AsyncDatabase[Any]) -> Services:
    """The rooms, prepared."""
    services = Services(async_database, Environment.DEVELOPMENT, KeySealer())
    await services.prepare()
    return services


async def test_who_is_here_already_stays(services: Services, database: Database[Any]) -> None:
    """The others are registered; a dry run says the same and writes nothing."""
    await services.clients.register("two", scopes=["mine"])
    planned = await take_over(services, Source.HYDRA, FOUND, dry_run=True)
    assert database.clients.count_documents({}) == 1
    assert "IMPORTED_SECRETS" not in (database.config.find_one() or {})
    done = await take_over(services, Source.HYDRA, FOUND)
    assert done == planned
    assert [each.client_id for each in done.taken] == ["one", "three"]
    assert [each.client_id for each in done.left] == ["two"]
    assert (await services.clients.get("two")).scopes == {"mine"}
    assert (await services.clients.get("three")).scopes == {"read"}


async def test_no_hashed_secret_is_here_before_it_is_taken(
    services: Services, database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting comes first: whoever finds the clients finds it too, wherever it stopped."""

    async def fail(*_: object, **__: object) -> None:
        raise OAuth2M2MError("stopped")

    monkeypatch.setattr(services.clients, "take_over", fail)
    with pytest.raises(OAuth2M2MError, match="stopped"):
        await take_over(services, Source.HYDRA, FOUND)
    assert (database.config.find_one() or {})["IMPORTED_SECRETS"] is True
