"""Which client is calling: Basic, post, username and password. RFC 6749 section 2.3."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from tests.expectations import Log, expect_error, expect_tokens, wording
from tests.machine import Machine, basic, new_machine, type_client
from tests.server import Server

METHODS = ("basic", "post", "plain")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
GRANT = {"grant_type": "client_credentials"}
TYPED = "correct horse battery staple"


def encoded(pair: bytes) -> str:
    """A Basic header's value for these bytes."""
    return "Basic " + base64.b64encode(pair).decode()


# --- What is accepted ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
async def test_each_way_of_authenticating_works(server: Server, log: Log, method: str) -> None:
    """A client with a secret may use Basic, post, and username and password alike."""
    machine = await new_machine(server, method=method)
    log.new()
    expect_tokens(await machine.ask_token())
    log.expect("login_success", client_id=machine.client_id)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("client_id", "secret"),
    [
        ("svc:north +1%/", "p:\u00e4 ss&=+%;"),
        ("a%20b", "%41"),
        ("\u4e2d\u6587", "\U0001f511 key"),
        ("x", "y"),
    ],
)
async def test_ids_and_secrets_with_any_character_work(
    server: Server, database: Database[Any], method: str, client_id: str, secret: str
) -> None:
    """What an operator typed authenticates in every way, once the halves are form-encoded."""
    machine = type_client(server, database, client_id, secret)
    await machine.using(method=method).get_token()


async def test_made_credentials_need_no_encoding(server: Server) -> None:
    """Clients that forget to form-encode the halves of Basic work with what we generate."""
    machine = await new_machine(server)
    pair = f"{machine.client_id}:{machine.client_secret}".encode()
    headers = {"Authorization": encoded(pair)}
    expect_tokens(await machine.http.post("/token", data=GRANT, headers=headers))


@pytest.mark.parametrize("scheme", ["basic ", "BASIC ", "Basic   "])
async def test_the_scheme_is_read_in_any_case(machine: Machine, scheme: str) -> None:
    """RFC 9110 section 11.1: the scheme's case does not matter, nor the number of spaces."""
    value = scheme + basic(machine.client_id, machine.client_secret).removeprefix("Basic ")
    expect_tokens(await machine.http.post("/token", data=GRANT, headers={"Authorization": value}))


async def test_the_id_may_stand_in_the_form_beside_basic(machine: Machine) -> None:
    """The same client_id in header and form is one way of authenticating, not two."""
    expect_tokens(await machine.ask_token(client_id=machine.client_id))


# --- What is refused: one answer ----------------------------------------------------------------

Prepare = Callable[[Server, Database[Any]], Awaitable[Machine]]


async def _unknown(server: Server, database: Database[Any]) -> Machine:
    return (await new_machine(server)).using(client_id="nobody-has-this-id")


async def _wrong(server: Server, database: Database[Any]) -> Machine:
    other = await new_machine(server)
    return (await new_machine(server)).using(client_secret=other.client_secret)


async def _wrong_typed(server: Server, database: Database[Any]) -> Machine:
    return (await new_machine(server)).using(client_secret="a guess")


async def _disabled(server: Server, database: Database[Any]) -> Machine:
    machine = await new_machine(server)
    await server.m2m.clients.disable(machine.client_id)
    return machine


async def _disabled_by_hand(server: Server, database: Database[Any]) -> Machine:
    return type_client(server, database, "typed-disabled", TYPED, disabled=True)


async def _expired(server: Server, database: Database[Any]) -> Machine:
    machine = await new_machine(server)
    stored = database["clients"].find_one({"client_id": machine.client_id}) or {}
    past = datetime.now(UTC) - timedelta(seconds=1)
    database["clients"].update_one(
        {"client_id": machine.client_id},
        {
            "$set": {
                "secrets": [{"id": "1", "secret": stored["client_secret"], "expires_at": past}]
            },
            "$unset": {"client_secret": ""},
        },
    )
    return machine


async def _rotated(server: Server, database: Database[Any]) -> Machine:
    machine = await new_machine(server)
    await server.m2m.clients.rotate_secret(machine.client_id)
    return machine


async def _elsewhere(server: Server, database: Database[Any]) -> Machine:
    return await new_machine(server, allowed_networks=["10.0.0.0/8", "2001:db8::/32"])


async def _malformed(server: Server, database: Database[Any]) -> Machine:
    return type_client(server, database, "typed-malformed", TYPED, scopes="read")


async def _without_a_secret(server: Server, database: Database[Any]) -> Machine:
    return type_client(server, database, "typed-bare", "").using(client_secret="any text at all")


async def _digest_of_a_made_secret(server: Server, database: Database[Any]) -> Machine:
    machine = await new_machine(server)
    stored = database["clients"].find_one({"client_id": machine.client_id}) or {}
    assert stored["client_secret"].startswith("sha256$")
    return machine.using(client_secret=stored["client_secret"])


async def _digest_of_a_typed_secret(server: Server, database: Database[Any]) -> Machine:
    machine = type_client(server, database, "typed-digest", TYPED)
    await machine.get_token()
    stored = database["clients"].find_one({"client_id": machine.client_id}) or {}
    assert stored["client_secret"].startswith("scrypt$")
    return machine.using(client_secret=stored["client_secret"])


async def _digest_typed_as_a_secret(server: Server, database: Database[Any]) -> Machine:
    digest = "sha256$" + hashlib.sha256(TYPED.encode()).hexdigest()
    return type_client(server, database, "typed-a-digest", digest)


async def _secret_beyond_all_bounds(server: Server, database: Database[Any]) -> Machine:
    return type_client(server, database, "typed-long", "x" * 5000)


async def _removed(server: Server, database: Database[Any]) -> Machine:
    machine = await new_machine(server)
    await server.m2m.clients.remove(machine.client_id)
    return machine


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (_unknown, "unknown client"),
        (_wrong, "secret"),
        (_wrong_typed, "secret"),
        (_disabled, "disabled"),
        (_disabled_by_hand, "disabled"),
        (_expired, "secret"),
        (_rotated, "secret"),
        (_elsewhere, "networks"),
        (_malformed, "malformed client document"),
        (_without_a_secret, "secret"),
        (_digest_of_a_made_secret, "secret"),
        (_digest_of_a_typed_secret, "secret"),
        (_digest_typed_as_a_secret, "secret"),
        (_secret_beyond_all_bounds, "secret"),
        (_removed, "unknown client"),
    ],
)
async def test_all_who_are_not_let_in_get_one_indistinguishable_answer(
    server: Server, database: Database[Any], log: Log, prepare: Prepare, reason: str
) -> None:
    """Whatever is wrong, the answer is the same but for a random id; the audit log tells why."""
    machine = await prepare(server, database)
    for method in METHODS:
        log.new()
        response = await machine.using(method=method).ask_token()
        expect_error(response, 401, "invalid_client")
        assert wording(response) == (
            b'{"error":"invalid_client","error_description":"Client authentication failed",'
            b'"detail":"Client authentication failed","error_id":"..."}'
        )
        names = {"cache-control", "pragma", "content-length", "content-type", "x-error-id"}
        if method == "basic":
            names.add("www-authenticate")
            assert response.headers["www-authenticate"].startswith("Basic realm=")
        assert set(response.headers) == names
        secrets = [machine.client_secret]
        log.expect("login_failure", client_id=machine.client_id, reason=reason, hiding=secrets)


@pytest.mark.parametrize(
    "value",
    [
        "Basic", "Basic ", "Basic :", "Basic !!!", "Basic YTpi!", "Basic YTpi YTpi", "Basic YTp",
        "Basic Y", "Basic ====", "Basic YTpi=", "Basic YTpi\u00e9",
        encoded(b""), encoded(b":"), encoded(b"no colon"), encoded(b":secret"), encoded(b"id:"),
        encoded(b"\xff\xfe:x"), encoded(b"a:\xed\xa0\x80"), encoded(b"%FF:x"), encoded(b"a:%C3"),
        encoded(b"a:%ED%A0%80"), encoded(b"\x00:\x00"), encoded(b"a" * 20_000 + b":b"),
    ],
)  # fmt: skip
async def test_a_malformed_basic_header_is_a_failed_authentication(
    machine: Machine, log: Log, value: str
) -> None:
    """Not base64, no colon, not UTF-8, empty: 401 with the Basic challenge, recorded."""
    for path, event in (("/token", "login_failure"), ("/revoke", "token_invalid")):
        log.new()
        form = {**GRANT, "token": "x"}
        headers = [(b"Authorization", value.encode("latin-1"))]
        response = await machine.http.post(path, data=form, headers=headers)
        expect_error(response, 401, "invalid_client")
        assert response.headers["www-authenticate"].startswith("Basic realm=")
        (record,) = log.new()
        assert record["event_type"] == event
        assert len(record["client_id"] or "") <= 128


@pytest.mark.parametrize(
    "value", ["", "Bearer abc", "Digest a=b", "Basicx YTpi", "YTpi", "Negotiate"]
)
async def test_another_scheme_is_no_client_authentication(
    machine: Machine, log: Log, value: str
) -> None:
    """Without credentials of a client: 401, and no Basic challenge for who did not try it."""
    log.new()
    response = await machine.http.post("/token", data=GRANT, headers={"Authorization": value})
    expect_error(response, 401, "invalid_client")
    assert "www-authenticate" not in response.headers
    log.expect("login_failure", client_id=None, reason="invalid_client")


@pytest.mark.parametrize("missing", ["client_id", "client_secret"])
async def test_half_of_the_credentials_is_none(machine: Machine, log: Log, missing: str) -> None:
    """client_secret_post without one of its two parameters: 401."""
    credentials = {"client_id": machine.client_id, "client_secret": machine.client_secret}
    for form in (
        {**credentials, missing: ""},
        {k: v for k, v in credentials.items() if k != missing},
    ):
        log.new()
        response = await machine.http.post("/token", data={**GRANT, **form})
        expect_error(response, 401, "invalid_client")
        log.expect("login_failure", client_id=None, hiding=[machine.client_secret])


# --- Two ways at once ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        {**GRANT, "client_id": "{id}", "client_secret": "{secret}"},
        {**GRANT, "client_secret": "{secret}"},
        {**GRANT, "client_id": "somebody-else"},
        {"username": "{id}", "password": "{secret}"},
        {"grant_type": "password", "username": "{id}", "password": "{secret}"},
    ],
)
async def test_two_ways_of_authenticating_at_once_are_refused(
    machine: Machine, log: Log, form: dict[str, str]
) -> None:
    """Basic beside other credentials is invalid_request, even when both are right."""
    log.new()
    filled = {
        name: value.format(id=machine.client_id, secret=machine.client_secret)
        for name, value in form.items()
    }
    expect_error(await machine.post("/token", **filled), 400, "invalid_request")
    log.expect("login_failure", client_id=None, hiding=[machine.client_secret])


@pytest.mark.parametrize("grant", [{}, {"grant_type": "password"}])
async def test_the_dialects_do_not_mix(machine: Machine, log: Log, grant: dict[str, str]) -> None:
    """A username and password beside client_secret are two ways at once."""
    log.new()
    form = {"username": machine.client_id, "client_secret": machine.client_secret, **grant}
    form["password"] = machine.client_secret
    expect_error(await machine.http.post("/token", data=form), 400, "invalid_request")
    log.expect("login_failure", client_id=None, hiding=[machine.client_secret])


async def test_username_and_password_are_no_credentials_of_the_standard_dialect(
    machine: Machine, log: Log
) -> None:
    """grant_type=client_credentials asks for client authentication, which these are not."""
    log.new()
    form = {**GRANT, "username": machine.client_id, "password": machine.client_secret}
    expect_error(await machine.http.post("/token", data=form), 401, "invalid_client")
    log.expect("login_failure", client_id=None, hiding=[machine.client_secret])


@pytest.mark.parametrize("dialect", [GRANT, {"username": "a", "password": "b"}])
async def test_a_repeated_authorization_header_is_refused(
    machine: Machine, log: Log, dialect: dict[str, str]
) -> None:
    """Two Authorization headers are invalid_request, even when they agree."""
    log.new()
    header = ("Authorization", basic(machine.client_id, machine.client_secret))
    response = await machine.http.post("/token", data=dialect, headers=[header, header])
    expect_error(response, 400, "invalid_request")
    log.expect("login_failure", client_id=None)


@pytest.mark.parametrize(
    "name", ["grant_type", "scope", "client_id", "client_secret", "refresh_token", "unheard-of"]
)
async def test_a_repeated_parameter_is_refused(machine: Machine, log: Log, name: str) -> None:
    """RFC 6749 section 3.2: no parameter stands twice, however it is spelled."""
    headers = {**FORM, "Authorization": basic(machine.client_id, machine.client_secret)}
    respelled = f"%{ord(name[0]):x}{name[1:]}"
    for body in (
        f"{name}=a&{name}=a", f"{name}=a&{name}=", f"{name}=&{name}=", f"{name}=a&{respelled}=b"
    ):  # fmt: skip
        log.new()
        if name != "grant_type":
            body += "&grant_type=client_credentials"
        response = await machine.http.post("/token", content=body, headers=headers)
        expect_error(response, 400, "invalid_request")
        log.expect("login_failure", client_id=None, reason="invalid_request")


@pytest.mark.parametrize("name", ["username", "password", "scope"])
async def test_a_repeated_parameter_of_the_plain_dialect_is_refused(
    machine: Machine, log: Log, name: str
) -> None:
    """The same holds for username and password."""
    log.new()
    body = f"username={machine.client_id}&password={machine.client_secret}&scope=read&{name}=read"
    response = await machine.http.post("/token", content=body, headers=FORM)
    expect_error(response, 400, "invalid_request")
    log.expect("login_failure", client_id=None, hiding=[machine.client_secret])


# --- Secrets as they are stored -----------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
async def test_a_secret_typed_by_hand_is_hashed_at_its_first_use(
    server: Server, database: Database[Any], method: str
) -> None:
    """Plain text works at once, is replaced by a digest, and goes on working."""
    machine = type_client(server, database, "typed", TYPED).using(method=method)
    await machine.using(client_secret="a wrong guess").ask_token()
    assert _stored(database, "typed")["client_secret"] == TYPED
    await machine.get_token()
    first = _stored(database, "typed")["client_secret"]
    assert first.startswith("scrypt$")
    await machine.get_token()
    assert _stored(database, "typed")["client_secret"] == first
    assert (await machine.using(client_secret="a wrong guess").ask_token()).status_code == 401


async def test_a_made_secret_typed_by_hand_is_hashed_too(
    server: Server, database: Database[Any]
) -> None:
    """An operator may paste a secret that we made; it is stored as its SHA-256."""
    made = (await new_machine(server)).client_secret
    machine = type_client(server, database, "typed", made)
    await machine.get_token()
    digest = hashlib.sha256(made.encode()).hexdigest()
    assert _stored(database, "typed")["client_secret"] == f"sha256${digest}"
    await machine.get_token()


async def test_a_client_has_several_secrets(server: Server, database: Database[Any]) -> None:
    """Every live secret works, an expired one does not, and plain text among them is hashed."""
    soon, past = datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) - timedelta(seconds=1)
    others = [
        {"id": "1", "secret": "second, for ever"},
        {"id": "2", "secret": "third, for an hour", "expires_at": soon},
        {"id": "3", "secret": "fourth, expired", "expires_at": past},
    ]
    machine = type_client(server, database, "typed", "first", secrets=others)
    for secret in ("first", "second, for ever", "third, for an hour"):
        await machine.using(client_secret=secret).get_token()
        await machine.using(client_secret=secret).get_token()
    expired = machine.using(client_secret="fourth, expired")
    expect_error(await expired.ask_token(), 401, "invalid_client")
    stored = _stored(database, "typed")
    values = [stored["client_secret"], *(other["secret"] for other in stored["secrets"])]
    assert [value.partition("$")[0] for value in values] == ["scrypt"] * 3 + ["fourth, expired"]


async def test_an_overlap_keeps_the_old_secret_beside_the_new(server: Server) -> None:
    """Rotating with an overlap interrupts nobody: both secrets and the live tokens work."""
    machine = await new_machine(server)
    tokens = await machine.get_token()
    rotated = await server.m2m.clients.rotate_secret(
        machine.client_id, overlap=timedelta(minutes=5)
    )
    await machine.get_token()
    await machine.using(client_secret=rotated.client_secret).get_token()
    assert (await machine.call(tokens)).status_code == 200


async def test_a_client_may_come_from_its_own_networks(server: Server) -> None:
    """allowed_networks lets a client in from there, IPv4 and IPv6 alike."""
    networks = ["192.0.2.0/25", "2001:db8::/32"]
    machine = await new_machine(server, allowed_networks=networks)
    for ip, status in (("192.0.2.127", 200), ("192.0.2.128", 401), ("2001:db8::1", 200)):
        assert (await machine.using(http=server.http(ip)).ask_token()).status_code == status


async def test_a_client_that_is_enabled_again_works_at_once(server: Server) -> None:
    """Disabling ends the live tokens for good, enabling lets new ones be had."""
    machine = await new_machine(server)
    before = await machine.get_token()
    await server.m2m.clients.disable(machine.client_id)
    assert (await machine.call(before)).status_code == 401
    await server.m2m.clients.enable(machine.client_id)
    assert (await machine.call(await machine.get_token())).status_code == 200
    assert (await machine.call(before)).status_code == 401
    expect_error(await machine.ask_refresh(before), 400, "invalid_grant")


def _stored(database: Database[Any], client_id: str) -> dict[str, Any]:
    document: dict[str, Any] | None = database["clients"].find_one({"client_id": client_id})
    assert document is not None
    return document
