"""Which client is calling: what is presented, and whether it is true."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo.database import Database

from _oauth2_m2m import credentials
from _oauth2_m2m.audit import AuditLog
from _oauth2_m2m.callers import Caller
from _oauth2_m2m.client_assertions import ASSERTION_TYPE
from _oauth2_m2m.client_authentication import (
    ClientAuthentication,
    Presented,
    is_plain,
    present_plain,
    present_standard,
)
from _oauth2_m2m.client_documents import BASIC, POST, PRIVATE_KEY_JWT, client_from
from _oauth2_m2m.client_keys import ClientKeys
from _oauth2_m2m.clients import Clients
from _oauth2_m2m.config import Environment, Settings, settings_from
from _oauth2_m2m.credentials import SecretChecker, fingerprint, make_client_secret
from _oauth2_m2m.errors import InvalidClient, InvalidRequest, Unprocessable
from _oauth2_m2m.forms import Form
from _oauth2_m2m.revocation import Revocation
from _oauth2_m2m.signatures import VerifyingKey
from _oauth2_m2m.storage import Storage
from _oauth2_m2m.windows import Limits
from tests.assertions import ClientKey, es256_key, fields, jwks
from tests.clocks import Clock
from tests.sites import serving

NOW = datetime(2030, 1, 2, tzinfo=UTC)
ISSUER = "https://auth.example.com"
SETTINGS = settings_from({"SECRET_KEY": "k" * 32, "ISSUER": ISSUER})
FAPI2 = settings_from({"SECRET_KEY": "k" * 32, "ISSUER": ISSUER, "PROFILE": "fapi2"})
CALLER = Caller("192.0.2.7", {"x-request-id": "a-request"})


def basic(pair: str | bytes) -> str:
    data = pair if isinstance(pair, bytes) else pair.encode()
    return f"Basic {base64.b64encode(data).decode()}"


# What is presented


@pytest.mark.parametrize(
    ("form", "plain"),
    [
        ({"username": "a", "password": "b"}, True),
        ({"username": "a"}, True),
        ({"password": "b"}, True),
        ({"grant_type": "password"}, True),
        ({"grant_type": "client_credentials", "username": "a"}, False),
        ({"grant_type": "anything"}, False),
        ({}, None),
        ({"client_id": "a", "client_secret": "b"}, None),
    ],
)
def test_the_dialect_is_known_by_its_words(form: dict[str, str], plain: bool | None) -> None:
    """`username` or `password` without a grant is plain; neither is no request at all."""
    if plain is None:
        with pytest.raises(InvalidRequest):
            is_plain(Form(form))
    else:
        assert is_plain(Form(form)) is plain


def test_plain_credentials_are_read() -> None:
    """The client's id and secret, as people type them."""
    presented = present_plain(Form({"username": "a", "password": "b"}), [])
    assert presented == Presented("a", "b")
    assert "password" not in repr(Presented("a", "the-password"))


@pytest.mark.parametrize("field", ["username", "password"])
def test_a_missing_plain_field_is_named(field: str) -> None:
    """422 with the field's name, as FastAPI's own clients expect it."""
    form = {"username": "a", "password": "b"}
    del form[field]
    with pytest.raises(Unprocessable) as refusal:
        present_plain(Form(form), [])
    assert [error["loc"] for error in refusal.value.field_errors()] == [["body", field]]


@pytest.mark.parametrize(
    ("extra", "authorization"),
    [({"client_secret": "c"}, []), ({}, [basic("a:b")]), ({}, ["Bearer x"]), ({}, ["", ""])],
)
def test_a_plain_request_authenticates_in_one_way(
    extra: dict[str, str], authorization: list[str]
) -> None:
    """Two ways at once are refused before either is looked at."""
    with pytest.raises(InvalidRequest):
        present_plain(Form({"username": "a", "password": "b", **extra}), authorization)


@pytest.mark.parametrize(
    ("header", "client_id", "secret"),
    [
        (basic("a:b"), "a", "b"),
        (basic("a:b:c"), "a", "b:c"),
        (basic("a:b").replace("Basic", "bASIC"), "a", "b"),
        (basic("a:b").replace("Basic ", "Basic   "), "a", "b"),
        (basic("a%3Ab:c%25d"), "a:b", "c%d"),
        (basic("a+b:c+d"), "a b", "c d"),
        (basic("a%2Bb:c"), "a+b", "c"),
        (basic("caf%C3%A9:s"), "caf\u00e9", "s"),
        (basic("caf\u00e9:s\u00e9"), "caf\u00e9", "s\u00e9"),
        (basic("a:%zz"), "a", "%zz"),
        (basic("a.-_~:b.-_~"), "a.-_~", "b.-_~"),
    ],
)
def test_basic_credentials_are_read(header: str, client_id: str, secret: str) -> None:
    """Base64 of id and secret, each form-encoded as RFC 6749 section 2.3.1 asks."""
    assert present_standard(Form({}), [header]) == Presented(client_id, secret, (BASIC,))
    assert present_standard(Form({"client_id": client_id}), [header]).client_id == client_id


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic ",
        "Basic !",
        "Basic YTpi\u00e9",
        "Basic YTp",
        "Basic YTpi YTpi",
        "Basic a:b",
        basic(""),
        basic(":"),
        basic("a:"),
        basic(":b"),
        basic("ab"),
        basic(b"\xff:b"),
        basic(b"a:\xff"),
        basic("a:%ff"),
        basic("%ed%a0%80:b"),
        basic("a:bc").replace("=", ""),
    ],
    ids=ascii,
)
def test_a_malformed_basic_header_is_an_invalid_client(header: str) -> None:
    """401 with the Basic challenge, whatever is wrong with it. RFC 6749 section 5.2."""
    with pytest.raises(InvalidClient) as refusal:
        present_standard(Form({"client_id": "a", "client_secret": "b"}), [header])
    assert refusal.value.headers()["WWW-Authenticate"].startswith("Basic ")


@given(st.one_of(st.text(), st.binary().map(lambda b: base64.b64encode(b).decode())))
def test_any_basic_header_is_read_or_an_invalid_client(text: str) -> None:
    """Nothing else is ever raised, and neither half is empty or undecodable."""
    try:
        presented = present_standard(Form({}), [f"Basic {text}"])
    except InvalidClient:
        return
    assert presented.client_id.encode()
    assert presented.secret.encode()


@given(
    st.text(st.characters(codec="utf-8"), min_size=1), st.text(min_size=1, alphabet="a:%+ \u00e9")
)
def test_encoded_basic_credentials_are_read_as_they_were(client_id: str, secret: str) -> None:
    """Whatever characters an id and a secret have, form-encoding carries them."""
    header = basic(f"{quote_plus(client_id)}:{quote_plus(secret)}")
    assert present_standard(Form({}), [header]) == Presented(client_id, secret, (BASIC,))


def test_post_credentials_are_read() -> None:
    """`client_secret_post`, with no challenge to come."""
    form = {"client_id": "a", "client_secret": "b"}
    assert present_standard(Form(form), []) == Presented("a", "b", (POST,))


@pytest.mark.parametrize("form", [{}, {"client_id": "a"}, {"client_secret": "b"}], ids=repr)
@pytest.mark.parametrize("authorization", [[], ["Bearer x"], ["Negotiate"]], ids=repr)
def test_no_credentials_are_an_invalid_client(
    form: dict[str, str], authorization: list[str]
) -> None:
    """Without both halves there is no client, and no challenge that was not asked for."""
    with pytest.raises(InvalidClient) as refusal:
        present_standard(Form(form), authorization)
    assert "WWW-Authenticate" not in refusal.value.headers()


@pytest.mark.parametrize(
    ("form", "authorization"),
    [
        ({"client_secret": "b"}, [basic("a:b")]),
        ({"client_id": "a", "client_secret": "b"}, [basic("a:b")]),
        ({"client_id": "other"}, [basic("a:b")]),
        ({}, [basic("a:b"), basic("a:b")]),
        ({"client_id": "a", "client_secret": "b"}, ["Bearer x", "Bearer y"]),
    ],
    ids=repr,
)
def test_two_ways_at_once_are_an_invalid_request(
    form: dict[str, str], authorization: list[str]
) -> None:
    """RFC 6749 section 2.3: one method a request."""
    with pytest.raises(InvalidRequest):
        present_standard(Form(form), authorization)


# Whether it is true


@pytest.fixture
def authentication(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> ClientAuthentication:
    """The room, with a scrypt that costs nothing."""
    monkeypatch.setattr(credentials, "_SCRYPT_N", 16)
    checker = SecretChecker()
    clients = Clients(storage, AuditLog(storage), Revocation(storage), checker)
    keys = ClientKeys(Environment.DEVELOPMENT)
    return ClientAuthentication(storage, clients, checker, keys)


MADE, OTHER = make_client_secret(), make_client_secret()
DOCUMENT = {"client_id": "a", "client_secret": fingerprint(MADE), "scopes": ["read"]}
TYPED = {"client_id": "a", "client_secret": "test_secret", "scopes": ["read"]}


@pytest.mark.parametrize(
    ("secret", "document"),
    [
        (MADE, DOCUMENT),
        ("test_secret", TYPED),
        (OTHER, {**DOCUMENT, "secrets": [{"secret": fingerprint(OTHER)}]}),
        (MADE, {**DOCUMENT, "allowed_networks": ["192.0.2.0/24"]}),
        (MADE, {**DOCUMENT, "disabled": False}),
    ],
    ids=range(5),
)
async def test_the_right_secret_is_the_client(
    authentication: ClientAuthentication,
    database: Database[Any],
    secret: str,
    document: dict[str, Any],
) -> None:
    """Any live secret, from where the client may come from."""
    database.clients.insert_one(dict(document))
    presented = Presented("a", secret)
    proved = await authentication.authenticate(presented, document, CALLER, NOW, SETTINGS)
    assert proved.client.client_id == "a"


REFUSED: list[tuple[str, dict[str, Any] | None, str]] = [
    (MADE, None, "unknown"),
    ("typed", None, "unknown"),
    (OTHER, DOCUMENT, "wrong"),
    ("typed", TYPED, "wrong"),
    ("", {**TYPED, "client_secret": ""}, "wrong"),
    (MADE, {**DOCUMENT, "client_secret": None}, "wrong"),
    (fingerprint(MADE), DOCUMENT, "wrong"),
    ("scrypt$x", {**TYPED, "client_secret": "scrypt$x"}, "wrong"),
    ("x" * 1025, {**TYPED, "client_secret": "x" * 1025}, "wrong"),
    ("x" * 32, {**TYPED, "client_secret": "another"}, "wrong"),
    (
        OTHER,
        {**DOCUMENT, "secrets": [{"secret": fingerprint(OTHER), "expires_at": NOW}]},
        "expired",
    ),
    (MADE, {**DOCUMENT, "disabled": True}, "disabled"),
    ("test_secret", {**TYPED, "disabled": True}, "disabled"),
    (MADE, {**DOCUMENT, "allowed_networks": ["10.0.0.0/8"]}, "address"),
    (MADE, {**DOCUMENT, "scopes": "read"}, "malformed"),
    (MADE, {**DOCUMENT, "disabled": "no"}, "malformed"),
    (MADE, {**DOCUMENT, "secrets": "x"}, "malformed"),
]


@pytest.mark.parametrize("by_basic", [True, False])
@pytest.mark.parametrize(("secret", "document", "word"), REFUSED, ids=range(len(REFUSED)))
async def test_every_refusal_looks_the_same(
    authentication: ClientAuthentication,
    secret: str,
    document: dict[str, Any] | None,
    word: str,
    by_basic: bool,
) -> None:
    """Unknown, wrong, expired, disabled, misplaced or malformed: only the audit log knows."""
    presented = Presented("a", secret, (BASIC,) if by_basic else (POST,))
    with pytest.raises(InvalidClient) as refusal:
        await authentication.authenticate(presented, document, CALLER, NOW, SETTINGS)
    assert refusal.value.description == InvalidClient.default
    assert ("WWW-Authenticate" in refusal.value.headers()) is by_basic
    assert word in refusal.value.detail
    assert len(secret) < 2 or secret not in refusal.value.detail


@pytest.mark.parametrize(("secret", "document", "word"), REFUSED, ids=range(len(REFUSED)))
async def test_every_refusal_costs_the_same(
    authentication: ClientAuthentication,
    monkeypatch: pytest.MonkeyPatch,
    secret: str,
    document: dict[str, Any] | None,
    word: str,
) -> None:
    """One slow digest for a secret that has not the made shape, none for one that has."""
    computed = 0
    slow = hashlib.scrypt

    def counting(*args: Any, **options: Any) -> bytes:
        nonlocal computed
        computed += 1
        return slow(*args, **options)

    monkeypatch.setattr(hashlib, "scrypt", counting)
    with pytest.raises(InvalidClient):
        await authentication.authenticate(Presented("a", secret), document, CALLER, NOW, SETTINGS)
    assert computed == (0 if secret in (MADE, OTHER) else 1)


@pytest.mark.parametrize(
    "stop",
    [{"disabled": True}, {"allowed_networks": ["10.0.0.0/8"]}, {"scopes": "malformed"}],
    ids=["disabled", "elsewhere", "malformed"],
)
async def test_a_refused_clients_right_secret_is_compared_slowly_again(
    authentication: ClientAuthentication,
    database: Database[Any],
    monkeypatch: pytest.MonkeyPatch,
    stop: dict[str, Any],
) -> None:
    """That a secret was right a moment ago must not show once its client is refused."""
    computed, slow = 0, credentials._scrypt

    def counting(secret: bytes, salt: bytes) -> bytes:
        nonlocal computed
        computed += 1
        return slow(secret, salt)

    monkeypatch.setattr(credentials, "_scrypt", counting)
    database.clients.insert_one(dict(TYPED))
    presented = Presented("a", "test_secret")
    for _ in range(2):  # the second time is remembered
        document = database.clients.find_one({})
        await authentication.authenticate(presented, document, CALLER, NOW, SETTINGS)
    assert computed == 1
    stopped = {**(database.clients.find_one({}) or {}), **stop}
    for number, secret in enumerate(["test_secret", "wrong", "test_secret"], start=2):
        with pytest.raises(InvalidClient):
            await authentication.authenticate(
                Presented("a", secret), stopped, CALLER, NOW, SETTINGS
            )
        assert computed == number


async def test_a_typed_secret_is_hashed_in_place_at_its_first_use(
    authentication: ClientAuthentication, database: Database[Any]
) -> None:
    """The plain text is gone after the first success, and the secret still works."""
    typed = {**TYPED, "secrets": [{"secret": "second", "expires_at": NOW + timedelta(days=1)}]}
    database.clients.insert_one(dict(typed))
    for secret in ("wrong", "test_secret", "test_secret", "second", "second"):
        document = database.clients.find_one({}, {"_id": 0})
        presented = Presented("a", secret)
        if secret == "wrong":
            with pytest.raises(InvalidClient):
                await authentication.authenticate(presented, document, CALLER, NOW, SETTINGS)
            assert database.clients.find_one({}, {"_id": 0}) == typed
        else:
            await authentication.authenticate(presented, document, CALLER, NOW, SETTINGS)
    found = database.clients.find_one({})
    assert found is not None
    assert found["client_secret"].startswith("scrypt$")
    assert found["secrets"][0]["secret"].startswith("scrypt$")
    assert found["secrets"][0]["expires_at"] == NOW + timedelta(days=1)


async def test_a_made_secret_typed_in_the_clear_becomes_its_fingerprint(
    authentication: ClientAuthentication, database: Database[Any]
) -> None:
    """A secret with 256 random bits needs no slow digest, wherever it was typed."""
    database.clients.insert_one({**TYPED, "client_secret": MADE})
    document = database.clients.find_one({})
    await authentication.authenticate(Presented("a", MADE), document, CALLER, NOW, SETTINGS)
    found = database.clients.find_one({})
    assert found is not None
    assert found["client_secret"] == fingerprint(MADE)


# Client assertions

KEY, OTHER_KEY = es256_key("one"), es256_key("two")
SIGNER = {"client_id": "a", "scopes": ["read"], "jwks": jwks(KEY)}


def signed(key: ClientKey = KEY, **changes: Any) -> str:
    """An assertion of the client `a` that is good at the moment of these tests."""
    seconds = int(NOW.timestamp())
    claims = {"iat": seconds, "exp": seconds + 60, **changes}
    return key.assertion("a", ISSUER, **claims)


def assertion_form(text: str, **more: str) -> Form:
    return Form(fields(text, **more))


@pytest.mark.parametrize("more", [{}, {"client_id": "a"}], ids=repr)
@pytest.mark.parametrize("authorization", [[], ["Bearer x"]], ids=repr)
def test_an_assertion_is_read(more: dict[str, str], authorization: list[str]) -> None:
    """It says itself which client it comes from; a `client_id` beside it may agree."""
    text = signed()
    presented = present_standard(assertion_form(text, **more), authorization)
    assert presented == Presented("a", "", (PRIVATE_KEY_JWT,), text)
    assert not presented.by_basic
    assert text not in repr(presented)


@pytest.mark.parametrize(
    "changes",
    [
        {"client_assertion": "x"},
        {"client_assertion": ""},
        {"client_assertion_type": ""},
        {"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"},
        {"client_assertion_type": ASSERTION_TYPE.upper()},
        {"client_id": "b"},
    ],
    ids=repr,
)
def test_half_an_assertion_is_an_invalid_client(changes: dict[str, str]) -> None:
    """Without its type, without itself, or for another client. RFC 7521 section 4.2.1."""
    parameters = {**fields(signed()), **changes}
    form = Form({name: value for name, value in parameters.items() if value})
    with pytest.raises(InvalidClient) as refusal:
        present_standard(form, [])
    assert refusal.value.description == InvalidClient.default
    assert "client assertion" in refusal.value.detail


@pytest.mark.parametrize(
    ("more", "authorization"),
    [
        ({"client_secret": "b"}, []),
        ({"client_id": "a", "client_secret": "b"}, []),
        ({}, [basic("a:b")]),
        ({}, ["Basic x"]),
    ],
    ids=repr,
)
def test_an_assertion_and_a_secret_are_two_ways(
    more: dict[str, str], authorization: list[str]
) -> None:
    """Refused before either is looked at, in the plain dialect too."""
    with pytest.raises(InvalidRequest):
        present_standard(assertion_form(signed(), **more), authorization)
    with pytest.raises(InvalidRequest):
        present_standard(Form({"client_assertion": "x", **more}), authorization or [basic("a:b")])
    for parameter in fields("x"):
        with pytest.raises(InvalidRequest):
            present_plain(Form({"username": "a", "password": "b", parameter: "x"}), [])


def presented_assertion(text: str) -> Presented:
    return Presented("a", "", (PRIVATE_KEY_JWT,), text)


@pytest.mark.parametrize("settings", [SETTINGS, FAPI2], ids=["default", "fapi2"])
async def test_a_client_is_known_by_its_signature(
    authentication: ClientAuthentication, settings: Settings
) -> None:
    """Made with the key that stands in its document."""
    presented = presented_assertion(signed())
    client = (await authentication.authenticate(presented, SIGNER, CALLER, NOW, settings)).client
    assert client.client_id == "a"


async def test_an_assertion_is_good_once(
    authentication: ClientAuthentication, database: Database[Any]
) -> None:
    """For all workers and ways of sending it; what refuses the second marks nothing more."""
    presented = presented_assertion(signed())

    async def outcome() -> str:
        try:
            await authentication.authenticate(presented, SIGNER, CALLER, NOW, SETTINGS)
        except InvalidClient as refusal:
            return refusal.detail
        return "good"

    outcomes = await asyncio.gather(*[outcome() for _ in range(20)])
    assert sorted(outcomes) == ["client assertion: used before"] * 19 + ["good"]
    assert database.used_assertions.count_documents({}) == 1


async def test_a_refused_assertion_is_not_used_up(
    authentication: ClientAuthentication, database: Database[Any]
) -> None:
    """Nobody but the client can spend an id of its, and nothing is written for anybody else."""
    forged = OTHER_KEY.token({"alg": "ES256", "kid": "one"}, claims := good_claims())
    for text in (forged, signed(exp=int(NOW.timestamp()))):
        with pytest.raises(InvalidClient):
            await authentication.authenticate(
                presented_assertion(text), SIGNER, CALLER, NOW, SETTINGS
            )
    assert database.used_assertions.count_documents({}) == 0
    good = presented_assertion(KEY.token({"alg": "ES256"}, claims))
    await authentication.authenticate(good, SIGNER, CALLER, NOW, SETTINGS)


def good_claims() -> dict[str, Any]:
    seconds = int(NOW.timestamp())
    return {"iss": "a", "sub": "a", "aud": ISSUER, "exp": seconds + 60, "jti": "an-id"}


BOTH = {**SIGNER, "client_secret": fingerprint(MADE)}
BY_KEY, BY_POST = presented_assertion(""), Presented("a", MADE, (POST,))
BY_BASIC, PLAINLY = Presented("a", MADE, (BASIC,)), Presented("a", MADE)
EVERY_WAY = (BY_KEY, BY_POST, BY_BASIC, PLAINLY)


@pytest.mark.parametrize(
    ("methods", "settings", "good"),
    [
        (None, SETTINGS, [BY_KEY]),
        ([BASIC], SETTINGS, [BY_BASIC, PLAINLY]),
        ([POST], SETTINGS, [BY_POST, PLAINLY]),
        ([PRIVATE_KEY_JWT], SETTINGS, [BY_KEY]),
        ([BASIC, POST, PRIVATE_KEY_JWT], SETTINGS, [*EVERY_WAY]),
        ([BASIC, POST, PRIVATE_KEY_JWT], FAPI2, [BY_KEY]),
        ([BASIC, POST], FAPI2, []),
    ],
    ids=range(7),
)
async def test_only_what_the_document_and_the_profile_allow_is_good(
    authentication: ClientAuthentication,
    methods: list[str] | None,
    settings: Settings,
    good: list[Presented],
) -> None:
    """A right secret or signature presented in another way is refused like a wrong one."""
    document = {**BOTH, **({} if methods is None else {"token_endpoint_auth_methods": methods})}
    for presented in EVERY_WAY:
        sent = presented_assertion(signed()) if presented is BY_KEY else presented
        if presented in good:
            await authentication.authenticate(sent, document, CALLER, NOW, settings)
            continue
        with pytest.raises(InvalidClient) as refusal:
            await authentication.authenticate(sent, document, CALLER, NOW, settings)
        assert refusal.value.detail == "a method that this client may not use"
        assert refusal.value.description == InvalidClient.default


UNPROVED: list[tuple[dict[str, Any] | None, str]] = [
    (None, "unknown"),
    ({**SIGNER, "disabled": True}, "disabled"),
    ({**SIGNER, "allowed_networks": ["10.0.0.0/8"]}, "address"),
    ({**SIGNER, "jwks": "x"}, "malformed"),
    ({**DOCUMENT}, "may not use"),
    ({**SIGNER, "jwks": jwks(OTHER_KEY)}, "none of the client's keys"),
    ({**SIGNER, "jwks": None, "jwks_uri": "http://127.0.0.1:9/"}, "jwks_uri: "),
    ({**SIGNER, "client_id": "b"}, "not the client"),
]


@pytest.mark.parametrize(("document", "words"), UNPROVED, ids=range(len(UNPROVED)))
async def test_every_refused_assertion_looks_and_costs_the_same(
    authentication: ClientAuthentication,
    monkeypatch: pytest.MonkeyPatch,
    document: dict[str, Any] | None,
    words: str,
) -> None:
    """One answer and one signature verified, whoever it is; only the audit log knows why."""
    verified = 0
    verify = VerifyingKey.verify

    def counting(key: VerifyingKey, message: bytes, signature: bytes) -> bool:
        nonlocal verified
        verified += 1
        return verify(key, message, signature)

    monkeypatch.setattr(VerifyingKey, "verify", counting)
    text = signed()
    with pytest.raises(InvalidClient) as refusal:
        await authentication.authenticate(
            presented_assertion(text), document, CALLER, NOW, SETTINGS
        )
    assert refusal.value.description == InvalidClient.default
    assert "WWW-Authenticate" not in refusal.value.headers()
    assert words in refusal.value.detail
    assert not any(part in refusal.value.detail for part in text.split("."))
    assert verified == 1


async def test_a_key_that_is_published_later_is_found(
    authentication: ClientAuthentication, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client may sign with a new key at once; a stranger's key is looked for in vain."""
    clock = Clock(monkeypatch, "remote_documents")
    allowing = replace(SETTINGS, jwks_uri_private_addresses=True)
    async with serving() as site:
        document = {**SIGNER, "jwks": None, "jwks_uri": site.url}
        for keys, key, good in (
            ([KEY], KEY, True),
            ([KEY, OTHER_KEY], OTHER_KEY, True),
            ([OTHER_KEY], es256_key("stranger"), False),
            ([OTHER_KEY], KEY, False),
        ):
            site.reply = site.document(jwks(*keys))
            presented = presented_assertion(signed(key))
            if good:
                await authentication.authenticate(presented, document, CALLER, NOW, allowing)
            else:
                with pytest.raises(InvalidClient):
                    await authentication.authenticate(presented, document, CALLER, NOW, allowing)
            clock.let_pass(31)
        assert len(site.requests) == 4


async def test_who_is_not_there_is_read_and_compared_as_who_is(
    authentication: ClientAuthentication, room_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work is that for a client with a secret, so its absence does not show in the time."""
    read: list[object] = []
    compared: list[int] = []
    of_secret = SecretChecker.match

    def reading(document: Any) -> Any:
        read.append(document)
        return client_from(document)

    async def match(
        self: SecretChecker, presented: str, stored: Any, *rest: Any, **more: Any
    ) -> Any:
        compared.append(len(stored))
        return await of_secret(self, presented, stored, *rest, **more)

    monkeypatch.setattr("_oauth2_m2m.client_authentication.client_from", reading)
    monkeypatch.setattr(SecretChecker, "match", match)
    there = {"client_id": "a", "scopes": [], "client_secret": fingerprint(make_client_secret())}
    for document in (None, there, {**there, "disabled": True}):
        presented = Presented("a", make_client_secret(), (POST,))
        with pytest.raises(InvalidClient):
            await authentication.authenticate(presented, document, CALLER, NOW, room_settings)
    assert (len(read), compared) == (3, [1, 1, 1])


async def test_what_was_good_is_expected_again(authentication: ClientAuthentication) -> None:
    """A secret is, and no assertion: what nobody has verified yet tells nothing."""
    # Nobody knows an assertion before it is verified: a guess would tell strangers who was here.
    authentication.expect(presented_assertion("one"), Limits(60))
    assert not authentication.expects(presented_assertion("two"))
    assert not authentication.expects(Presented("a", ""))
    authentication.expect(Presented("a", "s", (POST,)), Limits(60))
    assert authentication.expects(Presented("a", "s", (BASIC,))) == Limits(60)
    assert not authentication.expects(presented_assertion("s"))
    authentication.expect(Presented("a", "s", (POST,)), None)
    assert not authentication.expects(Presented("a", "s", (BASIC,)))
