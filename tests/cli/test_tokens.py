"""`oauth2-m2m tokens`, and the room behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from tests.command_line import CommandLine
from tests.machine import Machine, Tokens, audit, claims_of, new_machine, resigned
from tests.server import Server, configure, running

KEY = "a-secret-key-of-the-tests-with-more-than-32-bytes"


@pytest.fixture
async def server(
    async_database: AsyncDatabase[Any], database: Database[Any]
) -> AsyncIterator[Server]:
    """A running server beside which the commands are run."""
    configure(database, SECRET_KEY=KEY)
    async with running(async_database) as server:
        yield server


@pytest.fixture
async def machine(server: Server) -> Machine:
    """A client whose tokens are looked at."""
    return await new_machine(server, client_id="billing")


async def test_a_live_token_is_shown_with_its_claims(
    command_line: CommandLine, machine: Machine
) -> None:
    """What it says and that it is live, but never the token itself."""
    tokens = await machine.get_token("read")
    report = command_line.json("tokens", "inspect", tokens.access)
    assert report["kind"] == "access_token"
    assert (report["live"], report["genuine"], report["why_not"]) == (True, True, [])
    assert report["claims"] == claims_of(tokens.access)
    report = command_line.json("tokens", "inspect", "-", answer=f"{tokens.refresh}\n")
    assert report["kind"] == "refresh_token"
    assert report["live"] is True
    assert (report["claims"]["client_id"], report["claims"]["scope"]) == ("billing", ["read"])
    for token in (tokens.access, tokens.refresh):
        for options in ([], ["--json"]):
            result = command_line("tokens", "inspect", token, *options)
            assert token not in result.output
            assert token.split(".")[-1] not in result.output
            assert "sha256$" not in result.output


Harm = Callable[[Server, Machine, Tokens, Database[Any]], Awaitable[Any]]


async def expire_refresh_token(
    server: Server, machine: Machine, tokens: Tokens, database: Database[Any]
) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    database["tokens"].update_many({}, {"$set": {"expires_at": past}})


#: What is done, whether the access or the refresh token is looked at, and why it is not live.
ENDS: dict[str, tuple[Harm, str, str]] = {
    "revoked": (
        lambda server, machine, tokens, database: server.m2m.revoke(tokens.access),
        "access",
        "it was revoked",
    ),
    "family revoked": (
        lambda server, machine, tokens, database: server.m2m.revoke(tokens.refresh),
        "access",
        "its family was revoked",
    ),
    "family revoked, refresh token": (
        lambda server, machine, tokens, database: server.m2m.revoke(tokens.refresh),
        "refresh",
        "its family was revoked",
    ),
    "key burned": (
        lambda server, machine, tokens, database: burn(server),
        "access",
        "the key that signed it was burned",
    ),
    "client disabled": (
        lambda server, machine, tokens, database: server.m2m.clients.disable("billing"),
        "access",
        "its client is disabled",
    ),
    "client removed": (
        lambda server, machine, tokens, database: server.m2m.clients.remove("billing"),
        "refresh",
        "its client is not registered",
    ),
    "tokens of the client ended": (
        lambda server, machine, tokens, database: server.m2m.clients.revoke_tokens("billing"),
        "access",
        "the tokens of its client were revoked, or its client was disabled",
    ),
    "exchanged": (
        lambda server, machine, tokens, database: machine.refresh(tokens),
        "refresh",
        "it was exchanged already: presenting it again is reuse, and ends its family",
    ),
    "expired": (expire_refresh_token, "refresh", "it expired at "),
}


async def burn(server: Server) -> None:
    (signing,) = [key.kid for key in await server.m2m.keys.list() if key.signs]
    await server.m2m.keys.burn(signing)


@pytest.mark.parametrize("case", ENDS)
async def test_it_is_said_why_a_token_is_not_live(
    command_line: CommandLine, server: Server, machine: Machine, database: Database[Any], case: str
) -> None:
    """Each way in which a token can end has its own words, and the exit code is 1."""
    harm, kind, reason = ENDS[case]
    configure(database, SECRET_KEY=KEY, ALGORITHM="ES256")
    await server.m2m.keys.list()  # reads the config anew
    tokens = await machine.get_token()
    await harm(server, machine, tokens, database)
    token = tokens.access if kind == "access" else tokens.refresh
    report = command_line.json("tokens", "inspect", token, code=1)
    assert report["live"] is False
    assert any(why.startswith(reason) for why in report["why_not"]), report["why_not"]
    result = command_line("tokens", "inspect", token, code=1)
    assert f"not live: {reason}" in result.stdout


async def test_an_expired_token_is_judged_in_every_other_way_too(
    command_line: CommandLine, server: Server, machine: Machine
) -> None:
    """Its expiry hides neither its claims nor that it was revoked before."""
    token = (await machine.get_token()).access
    await server.m2m.revoke(token)
    old = resigned(token, KEY, exp=claims_of(token)["iat"] - 60)
    report = command_line.json("tokens", "inspect", old, code=1)
    assert report["genuine"] is True
    expired, revoked = report["why_not"]
    assert expired.startswith("it expired at ")
    assert revoked == "it was revoked"


async def test_what_was_not_made_here_proves_nothing(
    command_line: CommandLine, machine: Machine
) -> None:
    """A forgery's claims are shown as such; nonsense is no token; neither steers the terminal."""
    token = (await machine.get_token()).access
    forged = resigned(token, "another key" * 5, client_id="\x1b[2Jevil", exp=10**30)
    report = command_line.json("tokens", "inspect", forged, code=1)
    assert (report["genuine"], report["why_not"]) == (False, ["the signature does not verify"])
    result = command_line("tokens", "inspect", forged, code=1)
    assert "proves nothing" in result.stdout
    assert "\x1b" not in result.output
    for nonsense in ("nonsense", "a.b.c", "m2mr_" + "x" * 49):
        report = command_line.json("tokens", "inspect", nonsense, code=1)
        assert (report["kind"], report["claims"]) == ("unknown", {})


async def test_notes_say_what_limits_a_live_token(
    command_line: CommandLine, server: Server, machine: Machine
) -> None:
    """A token for another resource is live, and not good for the routes here."""
    token = (await machine.get_token()).access
    other = resigned(token, KEY, aud="https://api.example")
    report = command_line.json("tokens", "inspect", other)
    assert "https://api.example" in report["notes"][0]


async def test_each_way_to_revoke_ends_what_it_names(
    command_line: CommandLine, machine: Machine, database: Database[Any]
) -> None:
    """By the token, its id, its family, or its client: the running server refuses it at once."""
    one, two, three, four, five = [await machine.get_token() for _ in range(5)]
    command_line("tokens", "revoke", "-", answer=f"{one.access}\n")
    command_line("tokens", "revoke", two.refresh)
    command_line("tokens", "revoke", "--jti", claims_of(three.access)["jti"])
    family = claims_of(four.access)["family_id"]
    command_line("tokens", "revoke", "--family", family, "--yes")
    answers = [await machine.call(tokens) for tokens in (one, two, three, four, five)]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 401, 200]
    assert (await machine.ask_refresh(four)).status_code == 400
    command_line("tokens", "revoke", "--client", "billing", "--yes")
    assert (await machine.call(five)).status_code == 401
    assert (await machine.get_token()).access
    assert len(audit(database, event_type="token_revoked")) == 5


async def test_many_tokens_are_not_ended_by_mistake(
    command_line: CommandLine, machine: Machine
) -> None:
    """Whoever does not say yes has changed nothing."""
    tokens = await machine.get_token()
    family = claims_of(tokens.access)["family_id"]
    for option in (["--client", "billing"], ["--family", family]):
        command_line("tokens", "revoke", *option, answer="n\n", code=1)
        command_line("tokens", "revoke", *option, code=1)
    assert (await machine.call(tokens)).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["one", "--jti", "two"], 2),
        (["-"], 2),
        (["--jti", "family:all"], 2),
        (["--jti", "x" * 256], 2),
        (["--family", "unknown", "--yes"], 1),
        (["--client", "unknown", "--yes"], 1),
        (["nonsense"], 1),
    ],
)
async def test_what_cannot_be_revoked_is_said(
    command_line: CommandLine, server: Server, arguments: list[str], code: int
) -> None:
    """A mistyped name is an error, and no success that ended nothing."""
    result = command_line("tokens", "revoke", *arguments, code=code)
    assert result.stdout == ""
    assert result.stderr
