"""Each bound of docs/bounds.md at its edge, where the rule is a function of values."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from _oauth2_m2m import credentials, remote_documents
from _oauth2_m2m.access_tokens import AccessToken, TokenReader
from _oauth2_m2m.audit import AuditLog, Event, _document
from _oauth2_m2m.callers import Caller, addresses
from _oauth2_m2m.client_authentication import ClientAuthentication, Presented
from _oauth2_m2m.client_documents import _keys_of, check_new_id, client_from
from _oauth2_m2m.client_keys import ClientKeys
from _oauth2_m2m.clients import Clients, _check_secret
from _oauth2_m2m.compact_tokens import audience_claim, text_claim
from _oauth2_m2m.config import Environment, settings_from
from _oauth2_m2m.credentials import SecretChecker
from _oauth2_m2m.dpop import Proof
from _oauth2_m2m.errors import ConfigurationError, OAuth2Error, TemporarilyUnavailable
from _oauth2_m2m.forms import Form, parse_form, parse_json
from _oauth2_m2m.issuer_calls import IssuerCalls
from _oauth2_m2m.key_sets import public_keys_from
from _oauth2_m2m.newest import Newest
from _oauth2_m2m.proofs import Proofs
from _oauth2_m2m.refresh_tokens import RefreshTokens
from _oauth2_m2m.remote_documents import Place, fetch_json, place_of
from _oauth2_m2m.remote_introspection import RemoteIntrospection
from _oauth2_m2m.remote_judge import UsedProofs
from _oauth2_m2m.resources import requested_resources
from _oauth2_m2m.revocation import Revocation
from _oauth2_m2m.revocation_follower import page_from
from _oauth2_m2m.scopes import parse_scope
from _oauth2_m2m.signatures import public_key_from_jwk
from _oauth2_m2m.storage import Storage
from _oauth2_m2m.windows import Limits
from oauth2_m2m import IntrospectionCredentials, ResourceServer
from tests.proofs import Key, key

ISSUER = "https://auth.example.com"
NOW = datetime(2030, 1, 2, tzinfo=UTC)
SECOND = timedelta(seconds=1)
EC = key("a-client").jwk

#: For each constant: what takes a value of that size, or refuses it.
EDGES: dict[str, Callable[[Any], object]] = {
    "forms.LARGEST_BODY_BYTES": lambda n: parse_form(b"a=".ljust(n, b"x")),
    "forms.MOST_FIELDS": lambda n: parse_form("&".join(f"a{i}=x" for i in range(n)).encode()),
    "forms._LONGEST_NUMBER": lambda n: parse_json(b"1" * n),
    "scopes.LONGEST_SCOPE": lambda n: parse_scope("a" * n),
    "credentials.LONGEST_SECRET": lambda n: _check_secret("x" * n),
    "compact_tokens._LONGEST_ID": lambda n: text_claim({"jti": "x" * n}, "jti"),
    "client_assertions.MOST_ASSERTION_AUDIENCES": lambda n: audience_claim({"aud": ["x"] * n}, 10),
    "remote_documents.LONGEST_URL": lambda n: place_of("https://keys.example/".ljust(n, "x")),
    "revocation_follower._LONGEST_CURSOR": lambda n: page_from(
        {"revoked": [], "cursor": "x" * n, "more": False}
    ),
    "resource_server.LONGEST_MAX_LAG": lambda span: service(max_lag=span),
    "resource_server.LONGEST_LEEWAY": lambda span: service(leeway=span),
    "remote_introspection.LONGEST_MAX_AGE": lambda span: service(
        introspection=IntrospectionCredentials(client_id="x", client_secret="y", max_age=span)
    ),
    "resources.MOST_RESOURCES": lambda n: requested_resources(
        Form({}, [f"https://{i}.example" for i in range(n)])
    ),
    "signatures.LONGEST_KID": lambda n: public_key_from_jwk({**EC, "kid": "x" * n}),
    "key_sets.MOST_KEYS": lambda n: public_keys_from({"keys": [{"kty": "other"}] * n}),
    "config.MOST_PREVIOUS_KEYS": lambda n: settings_from(
        {"SECRET_KEY": "k" * 32, "PREVIOUS_SECRET_KEYS": [f"{i:0>32}" for i in range(n)]}
    ),
    "client_documents.LONGEST_ID": lambda n: check_new_id("x" * n),
    "client_documents.LONGEST_TYPED_ID": lambda n: client_from({"client_id": "x" * n}),
    "client_documents.MOST_SECRETS": lambda n: client(secrets=[{"secret": "x"}] * n),
    "client_documents.MOST_SCOPES": lambda n: client(scopes=[f"s{i}" for i in range(n)]),
    "client_documents.MOST_NETWORKS": lambda n: client(allowed_networks=["192.0.2.0/24"] * n),
    "client_documents.MOST_AUDIENCES": lambda n: client(
        audience=[f"https://{i}.example" for i in range(n)]
    ),
    "client_documents._LONGEST_AUDIENCE": lambda n: client(audience=["https:".ljust(n, "x")]),
}


def client(**fields: Any) -> object:
    """A client whose document holds these fields."""
    return client_from({"client_id": "billing", **fields})


def service(**fields: Any) -> object:
    """A service that checks another issuer's tokens, by these rules."""
    return ResourceServer(ISSUER, audience="https://api.example", **fields)


def bound_of(constant: str) -> Any:
    """What the code says."""
    module, _, name = constant.rpartition(".")
    return getattr(importlib.import_module(f"_oauth2_m2m.{module}"), name)


@pytest.mark.parametrize("constant", EDGES)
def test_a_rule_ends_at_its_bound(constant: str) -> None:
    """What is as long as may be is taken, and one more is refused in words."""
    take, bound = EDGES[constant], bound_of(constant)
    take(bound)
    with pytest.raises((ValueError, ConfigurationError, OAuth2Error)) as refusal:
        take(bound + (SECOND if isinstance(bound, timedelta) else 1))
    assert len(str(refusal.value)) > 10


@pytest.mark.parametrize("bits", [2046, 2048, 4096, 4098])
def test_an_rsa_key_has_a_size(bits: int) -> None:
    """From 2,048 to 4,096 bits; smaller ones are weak, larger ones cost too much."""
    jwk = Key("RS256", bits=bits).jwk
    if 2048 <= bits <= 4096:
        assert public_key_from_jwk(jwk).algorithm == "RS256"
    else:
        with pytest.raises(ValueError, match="2048 to 4096 bits"):
            public_key_from_jwk(jwk)


def test_what_is_recorded_is_cut_at_its_bound() -> None:
    """An audit record holds so many characters and no more, and an id of one more is replaced."""
    long, longer = (
        Caller("192.0.2.7", {"user-agent": "x" * (200 + n), "x-request-id": "x" * (64 + n)})
        for n in (0, 1)
    )
    assert long.user_agent == longer.user_agent == "x" * 200
    assert long.request_id == "x" * 64
    assert len(longer.request_id) == 32
    for n in (0, 1):
        record = _document(Event.LOGIN_FAILURE, NOW, long, "y" * (128 + n), "z" * (300 + n), None)
        assert (record["client_id"], record["reason"]) == ("y" * 128, "z" * 300)


def test_a_service_remembers_so_many_proofs_and_refuses_others() -> None:
    """To forget one that is still good would be to take it twice."""
    used = UsedProofs()
    most = bound_of("remote_judge.MOST_PROOFS")
    for number in range(most):
        used.claim(Proof("a key", str(number), NOW + SECOND), NOW)
    with pytest.raises(TemporarilyUnavailable):
        used.claim(Proof("a key", "one more", NOW + SECOND), NOW)
    used.claim(Proof("a key", "one more", NOW + 3 * SECOND), NOW + 2 * SECOND)


async def test_so_many_credentials_are_expected(storage: Storage) -> None:
    """When one more was good, the first is expected no longer."""
    checker, keys = SecretChecker(), ClientKeys(Environment.PRODUCTION)
    authentication = ClientAuthentication(storage, _clients(storage), checker, keys)
    most = bound_of("client_authentication._MOST_EXPECTED")
    presented = [Presented(str(number), "x") for number in range(most + 1)]
    for each in presented:
        authentication.expect(each, Limits(60))
    assert [authentication.expects(each) for each in presented[:2]] == [None, Limits(60)]


async def _no_endpoint() -> str:
    return ""


@pytest.mark.parametrize(
    ("constant", "remembered"),
    [
        ("access_tokens._MOST_REMEMBERED", lambda _: TokenReader()._tokens),
        ("proofs._MOST_REMEMBERED", lambda storage: Proofs(storage)._seen),
        ("clients._MOST_REMEMBERED", lambda storage: _clients(storage)._remembered),
        ("client_usage._MOST_REMEMBERED", lambda storage: _clients(storage).used._noted),
        ("credentials._MOST_REMEMBERED", lambda _: SecretChecker()._remembered),
        ("client_keys._MOST_REMEMBERED", lambda _: ClientKeys(Environment.PRODUCTION)._published),
        (
            "remote_introspection.MOST_ANSWERS",
            lambda _: (
                RemoteIntrospection(
                    IntrospectionCredentials(client_id="x", client_secret="y"), _no_endpoint
                )._answers
            ),
        ),
    ],
)
async def test_a_memory_holds_what_the_table_says(
    storage: Storage, constant: str, remembered: Callable[[Storage], Newest[Any, Any]]
) -> None:
    """What is remembered of each kind is in a dictionary of that size; the oldest entry goes."""
    memory, most = remembered(storage), bound_of(constant)
    for number in range(most + 1):
        memory[number] = None
    assert len(memory) == most
    assert 0 not in memory


def _clients(storage: Storage) -> Clients:
    checker = SecretChecker()
    return Clients(storage, AuditLog(storage), Revocation(storage), checker)


@pytest.mark.parametrize(
    ("constant", "cached"),
    [
        ("callers._MOST_REMEMBERED", addresses),
        ("client_documents._MOST_REMEMBERED_KEY_SETS", _keys_of),
    ],
)
def test_a_cache_holds_what_the_table_says(constant: str, cached: Any) -> None:
    """The oldest entry goes from what a function remembers of its answers."""
    assert cached.cache_info().maxsize == bound_of(constant)


async def test_a_refresh_token_has_a_bound(storage: Storage, database: Database[Any]) -> None:
    """One of the older shape, typed by anybody, is looked for up to 4,096 characters."""
    tokens = RefreshTokens(storage)
    for length in (4096, 4097):
        document = {"client_id": "billing", "expires_at": NOW + SECOND}
        database["tokens"].insert_one({**document, "refresh_token": "x" * length})
    assert await tokens.find("x" * 4096) is not None
    assert await tokens.find("x" * 4097) is None


async def test_so_many_slow_hashes_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two, whoever guesses how much: the processors have other work."""
    running: list[int] = []
    most = 0

    def slow(secret: bytes, salt: bytes) -> bytes:
        nonlocal most
        running.append(1)
        most = max(most, len(running))
        time.sleep(0.05)
        running.pop()
        return b"x" * 32

    monkeypatch.setattr(credentials, "_scrypt", slow)
    checker = SecretChecker()
    await asyncio.gather(*(checker.match("typed", [], f"192.0.2.{n}") for n in range(8)))
    assert most == bound_of("credentials._SLOW_HASHES_AT_ONCE")


async def test_so_many_introspections_are_under_way_at_once() -> None:
    """One more token is refused at once, and the others have their answers."""
    may_answer = asyncio.Event()

    class Issuer(IssuerCalls):
        async def post(self, *_: Any) -> Any:
            await may_answer.wait()
            return {"active": True}

    asking = RemoteIntrospection(
        IntrospectionCredentials(client_id="x", client_secret="y"), _no_endpoint
    )
    token = AccessToken(
        client_id="x", scopes=frozenset(), roles=(), jti="x", issued_at=NOW,
        expires_at=NOW + SECOND, claims={},
    )  # fmt: skip
    most = bound_of("remote_introspection.MOST_CALLS_AT_ONCE")
    async with Issuer() as issuer:
        asked = [
            asyncio.ensure_future(asking.is_active(issuer, str(number), token, NOW))
            for number in range(most)
        ]
        await asyncio.sleep(0)
        with pytest.raises(TemporarilyUnavailable):
            await asking.is_active(issuer, "one more", token, NOW)
        may_answer.set()
        assert await asyncio.gather(*asked) == [True] * most


async def test_so_many_addresses_of_a_host_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with thousands of addresses does not have us knock at all of them."""
    tried: list[Sequence[str]] = []

    async def read(place: Place, addresses: Sequence[str]) -> bytes:
        tried.append(addresses)
        return b"{}"

    async def resolve(host: str, port: int) -> Sequence[str]:
        return [f"8.8.8.{n}" for n in range(100)]

    monkeypatch.setattr(remote_documents, "_read", read)
    await fetch_json("https://keys.example/", resolve=resolve)
    assert [len(addresses) for addresses in tried] == [16]
