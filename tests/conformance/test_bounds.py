"""The bounds of docs/operations.md at their edges: at the bound it works, one more is refused."""

from __future__ import annotations

import asyncio
import base64

import pytest

from tests.expectations import Log, expect_error, expect_tokens
from tests.machine import Machine

#: More than one MongoDB command may hold, when the ids of one batch come together.
CROWD, LONG_ID = 300, "x" * 60_000
LONGEST_BASIC = 20_480


async def test_ids_without_end_keep_nobody_from_a_token(machine: Machine) -> None:
    """Requests share commands with others, so an id that nobody can have is not asked for."""
    endless = [machine.using(client_id=f"{n}{LONG_ID}", method="post") for n in range(CROWD)]
    bad, good = await asyncio.gather(
        asyncio.gather(*(each.ask_token() for each in endless)),
        asyncio.gather(*(machine.ask_token() for _ in range(3))),
    )
    for response in bad:
        expect_error(response, 401, "invalid_client")
    for response in good:
        expect_tokens(response)


@pytest.mark.parametrize(
    ("length", "reason"),
    [
        (LONGEST_BASIC, "wrong or expired secret"),
        (LONGEST_BASIC + 4, "malformed Basic header: too long"),
        (30_000_000, "malformed Basic header: too long"),
    ],
)
async def test_a_basic_header_has_a_bound(
    machine: Machine, log: Log, length: int, reason: str
) -> None:
    """Credentials of 20,480 characters are read and refused, longer ones are refused unread."""
    log.new()
    pair = f"{machine.client_id}:".encode().ljust(length // 4 * 3, b"x")
    headers = {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
    form = {"grant_type": "client_credentials"}
    response = await machine.http.post("/token", data=form, headers=headers)
    expect_error(response, 401, "invalid_client")
    known = machine.client_id if length == LONGEST_BASIC else None
    log.expect("login_failure", client_id=known, reason=reason)
