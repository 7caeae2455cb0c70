"""RFC 8707: a token is asked for a resource, and is worth nothing at any other."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from pymongo.database import Database

from tests.conformance.conftest import Start
from tests.expectations import Log, expect_error, wording
from tests.machine import Machine, Tokens, basic, claims_of, new_machine, type_client
from tests.server import Server

FORM = "application/x-www-form-urlencoded"

#: What the client may ask for, besides the guarded routes of the server itself.
PHOTOS, MAIL, QUEUE = "https://photos.example/api", "https://mail.example/?box=1", "urn:queue:a%20b"
OWN = "http://localhost:8000"


@pytest.fixture
async def machine(server: Server) -> Machine:
    """A client that may ask for three resources."""
    return await new_machine(server, audience=[PHOTOS, MAIL, QUEUE])


async def ask(machine: Machine, *resources: str, **fields: str) -> httpx.Response:
    """Ask for a token, for these resources in this order."""
    fields = {"grant_type": "client_credentials", **fields}
    body = urlencode([*fields.items(), *(("resource", name) for name in resources)])
    headers = {
        "Content-Type": FORM,
        "Authorization": basic(machine.client_id, machine.client_secret),
    }
    return await machine.http.post("/token", content=body, headers=headers)


async def ask_again(
    machine: Machine, tokens: Tokens, *resources: str, **fields: str
) -> httpx.Response:
    """Refresh, for these resources."""
    fields = {"grant_type": "refresh_token", "refresh_token": tokens.refresh, **fields}
    return await ask(machine, *resources, **fields)


def audience_of(response: httpx.Response) -> Any:
    """The claim `aud` of the access token that was had."""
    return claims_of(Tokens.of(response).access)["aud"]


# --- What is asked for --------------------------------------------------------------------------


async def test_one_resource_is_the_audience(machine: Machine) -> None:
    """Section 2: `aud` is the name of the one resource, as a string and as it was spelt."""
    for name in (PHOTOS, MAIL, QUEUE, OWN):
        assert audience_of(await ask(machine, name)) == name


async def test_several_resources_are_a_list(machine: Machine) -> None:
    """Section 2: `resource` may stand several times; `aud` names each once, in that order."""
    assert audience_of(await ask(machine, MAIL, PHOTOS)) == [MAIL, PHOTOS]
    assert audience_of(await ask(machine, QUEUE, OWN, MAIL)) == [QUEUE, OWN, MAIL]
    assert audience_of(await ask(machine, PHOTOS, MAIL, PHOTOS)) == [PHOTOS, MAIL]
    assert audience_of(await ask(machine, PHOTOS, PHOTOS)) == PHOTOS


async def test_without_a_resource_a_token_is_for_the_server_itself(machine: Machine) -> None:
    """Nothing asked for, or nothing in it: the audience of the settings."""
    for names in ([], [""], ["", ""]):
        tokens = Tokens.of(await ask(machine, *names))
        assert claims_of(tokens.access)["aud"] == OWN
        assert (await machine.call(tokens)).status_code == 200


async def test_the_settings_audience_may_be_asked_for_by_name(start: Start) -> None:
    """Every client may, even one without a list, even when it differs from the issuer."""
    server = await start(ISSUER="https://auth.example", AUDIENCE="https://api.example")
    machine = await new_machine(server)
    assert audience_of(await ask(machine)) == "https://api.example"
    assert audience_of(await ask(machine, "https://api.example")) == "https://api.example"
    expect_error(await ask(machine, "https://auth.example"), 400, "invalid_target")


async def test_the_parameter_audience_means_the_same(machine: Machine) -> None:
    """Some clients call it so; beside `resource` it is one more name."""
    assert audience_of(await ask(machine, audience=PHOTOS)) == PHOTOS
    assert audience_of(await ask(machine, MAIL, audience=PHOTOS)) == [MAIL, PHOTOS]
    assert audience_of(await ask(machine, PHOTOS, audience=PHOTOS)) == PHOTOS
    expect_error(await ask(machine, audience="https://other.example"), 400, "invalid_target")
    expect_error(await ask(machine, audience="photos"), 400, "invalid_target")


async def test_the_plain_dialect_can_ask_too(machine: Machine) -> None:
    """Both dialects are one server: `resource` beside username and password is heard."""
    plain = machine.using(method="plain")
    tokens = await plain.get_token(resource=PHOTOS)
    assert claims_of(tokens.access)["aud"] == PHOTOS
    expect_error(await plain.ask_token(resource=OWN + "/"), 400, "invalid_target")


async def test_a_client_typed_by_hand_can_ask(server: Server, database: Database[Any]) -> None:
    """An operator writes `audience` into the client's document, and that is all."""
    machine = type_client(server, database, "typed", "typed-secret", audience=[MAIL])
    assert audience_of(await ask(machine, MAIL)) == MAIL
    expect_error(await ask(machine, PHOTOS), 400, "invalid_target")


# --- What is refused ----------------------------------------------------------------------------


OTHERS = [
    "https://other.example/api",  # nobody's
    PHOTOS + "/", PHOTOS + "?a=b", PHOTOS + "/more", "https://photos.example",
    PHOTOS.upper(), PHOTOS.replace("https", "http"), "https://photos.example:443/api",
    "https://photos.example/%61pi", "urn:queue:a b", "urn:queue:a%20B",
    PHOTOS + "#", PHOTOS + "#part", "#", "/api", "api", "//photos.example/api", "photos",
    PHOTOS + " " + MAIL, PHOTOS + "," + MAIL, " " + PHOTOS, PHOTOS + "\n", PHOTOS + "\x00",
    "*", "https://*", "https://photos.example/*", "https://b\u00fccher.example", "x" * 5000,
    "https://x.example/" + "x" * 50_000, '["' + PHOTOS + '"]', "\U0001f511",
]  # fmt: skip


async def test_any_other_resource_is_refused(machine: Machine, log: Log) -> None:
    """Section 2: what is unknown, relative, or has a fragment is `invalid_target`, and recorded."""
    for name in OTHERS:
        for names in ([name], [PHOTOS, name]):
            log.new()
            expect_error(await ask(machine, *names), 400, "invalid_target")
            log.expect("access_denied", client_id=machine.client_id, reason="invalid_target")


async def test_another_clients_resource_is_unknown(server: Server, machine: Machine) -> None:
    """Which resources there are is nobody's business: the answer is that for any other name."""
    stranger = await new_machine(server, audience=["https://secret.example"])
    answers = [
        await ask(asker, name)
        for asker, name in (
            (machine, "https://secret.example"),
            (machine, "https://nobody.example"),
            (stranger, PHOTOS),
        )
    ]
    for answer in answers:
        expect_error(answer, 400, "invalid_target")
    assert len(set(map(wording, answers))) == 1


async def test_resources_have_a_bound(server: Server) -> None:
    """Ten may stand in one token, and eleven may not, though the client may have them all."""
    names = [f"https://api.example/{n}" for n in range(11)]
    machine = await new_machine(server, audience=names)
    assert audience_of(await ask(machine, *names[:10])) == names[:10]
    expect_error(await ask(machine, *names), 400, "invalid_target")
    expect_error(await ask(machine, *names[:10], audience=names[10]), 400, "invalid_target")
    response = await ask(machine, *names * 10)  # more than 100 fields are no form
    expect_error(response, 400, "invalid_request")


async def test_only_resource_may_be_repeated(machine: Machine) -> None:
    """RFC 6749 section 3.2 holds for every other parameter, `audience` included."""
    headers = {"Authorization": basic(machine.client_id, machine.client_secret)}
    for body in (
        f"grant_type=client_credentials&audience={PHOTOS}&audience={PHOTOS}",
        f"grant_type=client_credentials&grant_type=client_credentials&resource={PHOTOS}",
        f"grant_type=client_credentials&scope=read&scope=read&resource={PHOTOS}",
    ):
        response = await machine.http.post(
            "/token", content=body, headers={"Content-Type": FORM, **headers}
        )
        expect_error(response, 400, "invalid_request")


async def test_who_is_not_authenticated_learns_nothing_of_resources(machine: Machine) -> None:
    """A wrong secret is `invalid_client`, whatever is asked for."""
    guesser = machine.using(client_secret="wrong")
    for name in (PHOTOS, "https://other.example", "#"):
        expect_error(await ask(guesser, name), 401, "invalid_client")


# --- Where it is good ---------------------------------------------------------------------------


async def test_a_token_for_another_resource_is_refused_here(machine: Machine, log: Log) -> None:
    """RFC 9068 section 4: our own guard takes no token that is not meant for it."""
    for names in ([PHOTOS], [MAIL, PHOTOS]):
        tokens = Tokens.of(await ask(machine, *names))
        log.new()
        response = await machine.call(tokens)
        expect_error(response, 401, "invalid_token")
        assert response.headers["www-authenticate"].startswith('Bearer error="invalid_token"')
        record = log.expect("token_invalid", client_id=machine.client_id, reason="aud")
        assert record["jti"] == claims_of(tokens.access)["jti"]


async def test_a_token_for_us_among_others_is_taken(machine: Machine) -> None:
    """One name in the list that is ours is enough, wherever it stands."""
    for names in ([OWN], [OWN, PHOTOS], [PHOTOS, MAIL, OWN]):
        tokens = Tokens.of(await ask(machine, *names))
        assert (await machine.call(tokens)).status_code == 200


async def test_a_token_for_elsewhere_can_be_revoked_and_introspected(machine: Machine) -> None:
    """Whom a token is meant for does not matter to its owner's other business with us."""
    tokens = Tokens.of(await ask(machine, PHOTOS, MAIL))
    seen = (await machine.post("/introspect", token=tokens.access)).json()
    assert (seen["active"], seen["aud"]) == (True, [PHOTOS, MAIL])
    assert (await machine.revoke(tokens.access)).status_code == 200
    assert (await machine.post("/introspect", token=tokens.access)).json() == {"active": False}


# --- Refreshing ---------------------------------------------------------------------------------


async def test_a_refresh_keeps_the_resources(machine: Machine) -> None:
    """Section 2.2: nothing asked for, the new token is for what the first was for, and so on."""
    response = await ask(machine, PHOTOS, MAIL)
    for _ in range(3):
        response = await ask_again(machine, Tokens.of(response))
        assert audience_of(response) == [PHOTOS, MAIL]
    plainly = await machine.ask_refresh_plainly(Tokens.of(response))
    assert audience_of(plainly) == [PHOTOS, MAIL]


async def test_a_refresh_narrows_for_the_access_token_alone(machine: Machine) -> None:
    """Section 2.2: one resource of several may be asked for, and the next time another."""
    response = await ask(machine, PHOTOS, MAIL)
    for names, audience in (
        ([MAIL], MAIL),
        ([PHOTOS], PHOTOS),
        ([MAIL, PHOTOS], [MAIL, PHOTOS]),
        ([], [PHOTOS, MAIL]),
    ):
        response = await ask_again(machine, Tokens.of(response), *names)
        assert audience_of(response) == audience


async def test_a_refresh_never_widens(machine: Machine, log: Log) -> None:
    """What was not asked for at first is refused, though the client may have it; nothing is spent.

    The guarded routes of the server itself are no exception.
    """
    tokens = Tokens.of(await ask(machine, PHOTOS, MAIL))
    for names in ([QUEUE], [PHOTOS, QUEUE], [OWN], ["https://other.example"]):
        log.new()
        expect_error(await ask_again(machine, tokens, *names), 400, "invalid_target")
        log.expect("refresh_token_invalid", client_id=machine.client_id, reason="invalid_target")
    assert audience_of(await ask_again(machine, tokens)) == [PHOTOS, MAIL]


async def test_a_token_for_the_server_itself_is_refreshed_for_it_alone(machine: Machine) -> None:
    """No resource asked for at first means ours, and it stays so."""
    tokens = await machine.get_token()
    expect_error(await ask_again(machine, tokens, PHOTOS), 400, "invalid_target")
    response = await ask_again(machine, tokens, OWN)
    assert audience_of(response) == OWN
    assert audience_of(await ask_again(machine, Tokens.of(response))) == OWN


async def test_a_malformed_resource_spends_no_refresh_token(machine: Machine) -> None:
    """A mistake costs nothing: the token is good for the request that mends it."""
    tokens = Tokens.of(await ask(machine, PHOTOS))
    for name in (PHOTOS + "#x", "api"):
        expect_error(await ask_again(machine, tokens, name), 400, "invalid_target")
    assert audience_of(await ask_again(machine, tokens, PHOTOS)) == PHOTOS


async def test_what_the_client_has_lost_is_not_given_again(
    machine: Machine, database: Database[Any]
) -> None:
    """Taken off the client's list, a resource is refused at the next refresh; the rest is had."""
    tokens = Tokens.of(await ask(machine, PHOTOS, MAIL))
    database["clients"].update_one(
        {"client_id": machine.client_id}, {"$set": {"audience": [MAIL, QUEUE]}}
    )
    expect_error(await ask_again(machine, tokens), 400, "invalid_target")
    expect_error(await ask_again(machine, tokens, PHOTOS), 400, "invalid_target")
    expect_error(await ask_again(machine, tokens, QUEUE), 400, "invalid_target")
    assert audience_of(await ask_again(machine, tokens, MAIL)) == MAIL
    expect_error(await ask(machine, PHOTOS), 400, "invalid_target")


async def test_scope_and_resource_are_narrowed_together(machine: Machine) -> None:
    """A refresh for less of both gets less of both, and a fault in either gets nothing."""
    tokens = Tokens.of(await ask(machine, PHOTOS, MAIL, scope="read write"))
    expect_error(await ask_again(machine, tokens, MAIL, scope="admin"), 400, "invalid_scope")
    expect_error(await ask_again(machine, tokens, QUEUE, scope="read"), 400, "invalid_target")
    response = await ask_again(machine, tokens, MAIL, scope="read")
    assert audience_of(response) == MAIL
    assert Tokens.of(response).scope == "read"
    response = await ask_again(machine, Tokens.of(response))
    assert (audience_of(response), Tokens.of(response).scope) == ([PHOTOS, MAIL], "read write")
