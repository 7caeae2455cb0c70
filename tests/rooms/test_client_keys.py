"""The keys of a client: in its document, or where it publishes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from _oauth2_m2m import client_keys
from _oauth2_m2m.client_documents import Client, client_from
from _oauth2_m2m.client_keys import COOL_DOWN_SECONDS, FRESH_SECONDS, ClientKeys
from _oauth2_m2m.config import Environment, settings_from
from _oauth2_m2m.errors import InvalidClient
from tests.assertions import es256_key, jwks
from tests.clocks import Clock
from tests.sites import Site, serving

CAUTIOUS = settings_from({"SECRET_KEY": "k" * 32})
SETTINGS = replace(CAUTIOUS, jwks_uri_private_addresses=True)
ONE, TWO, THREE = es256_key("one"), es256_key("two"), es256_key("three")


def client(**fields: Any) -> Client:
    return client_from({"client_id": "billing", "scopes": [], **fields})


def kids(keys: Sequence[Any]) -> list[str]:
    return [key.kid for key in keys]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch, "remote_documents")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with serving() as site:
        site.reply = site.document(jwks(ONE))
        yield site


@pytest.fixture
def keys() -> ClientKeys:
    return ClientKeys(Environment.DEVELOPMENT)


async def test_keys_in_the_document_are_at_hand(keys: ClientKeys) -> None:
    """There is nowhere else to look for newer ones."""
    owner = client(jwks=jwks(ONE, TWO))
    assert kids(await keys.known(owner, SETTINGS)) == ["one", "two"]
    assert await keys.newer(owner, SETTINGS) is await keys.known(owner, SETTINGS)


async def test_a_client_without_keys_has_none(keys: ClientKeys) -> None:
    """No key verifies anything, then."""
    assert await keys.known(client(), SETTINGS) == ()
    assert await keys.newer(client(), SETTINGS) == ()


async def test_published_keys_are_read_and_read_again(
    clock: Clock, site: Site, keys: ClientKeys
) -> None:
    """After 5 minutes at the latest, so a key that was removed is forgotten."""
    owner = client(jwks_uri=site.url)
    assert kids(await keys.known(owner, SETTINGS)) == ["one"]
    site.reply = site.document(jwks(TWO))
    clock.let_pass(FRESH_SECONDS - 1)
    assert kids(await keys.known(owner, SETTINGS)) == ["one"]
    clock.let_pass(1)
    assert kids(await keys.known(owner, SETTINGS)) == ["two"]
    assert len(site.requests) == 2


async def test_a_hundred_unknown_keys_are_one_look(
    clock: Clock, site: Site, keys: ClientKeys
) -> None:
    """And no other for 30 s, however many come: the client's server is not ours to flood."""
    owner = client(jwks_uri=site.url)
    await keys.known(owner, SETTINGS)
    site.reply = site.document(jwks(ONE, TWO))
    clock.let_pass(COOL_DOWN_SECONDS)
    found = await asyncio.gather(*[keys.newer(owner, SETTINGS) for _ in range(100)])
    assert {tuple(kids(each)) for each in found} == {("one", "two")}
    site.reply = site.document(jwks(THREE))
    clock.let_pass(COOL_DOWN_SECONDS - 1)
    await asyncio.gather(*[keys.newer(owner, SETTINGS) for _ in range(100)])
    assert len(site.requests) == 2


@pytest.mark.parametrize(
    "published",
    [{"keys": {}}, [], jwks(ONE.jwk(d="AQ")), jwks(TWO, TWO), {"keys": [TWO.jwk()] * 21}],
    ids=range(5),
)
async def test_keys_live_on_while_nonsense_is_published(
    clock: Clock, site: Site, keys: ClientKeys, published: Any
) -> None:
    """A slip of the client's server stops nobody; without any keys it is an invalid client."""
    owner = client(jwks_uri=site.url)
    await keys.known(owner, SETTINGS)
    site.reply = site.document(published)
    clock.let_pass(FRESH_SECONDS)
    assert kids(await keys.known(owner, SETTINGS)) == ["one"]
    assert len(site.requests) == 2
    with pytest.raises(InvalidClient, match=InvalidClient.default) as refusal:
        await ClientKeys(Environment.DEVELOPMENT).known(owner, SETTINGS)
    assert refusal.value.detail.startswith("jwks_uri: ")


async def test_only_development_fetches_http_and_only_leave_allows_private_addresses(
    site: Site, keys: ClientKeys
) -> None:
    """Nothing is sent without it; and a changed setting counts at once."""
    owner = client(jwks_uri=site.url)
    for room, settings, words in (
        (ClientKeys(Environment.PRODUCTION), SETTINGS, "not https"),
        (keys, CAUTIOUS, "not public"),
    ):
        with pytest.raises(InvalidClient) as refusal:
            await room.known(owner, settings)
        assert words in refusal.value.detail
    assert site.requests == []
    assert kids(await keys.known(owner, SETTINGS)) == ["one"]


async def test_what_is_remembered_is_bounded(
    clock: Clock, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The URL that was asked for longest ago goes first."""
    monkeypatch.setattr(client_keys, "_MOST_REMEMBERED", 2)
    keys = ClientKeys(Environment.DEVELOPMENT)
    owners = [client(jwks_uri=f"{site.url}?{n}") for n in range(3)]
    for number in (0, 1, 0, 2, 0, 1):
        await keys.known(owners[number], SETTINGS)
    asked = [head.split()[1][-1] for head in site.requests]
    assert asked == ["0", "1", "2", "1"]
