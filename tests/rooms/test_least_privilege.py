"""What could be taken away from a client: rules of values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from _oauth2_m2m.client_documents import client_from
from _oauth2_m2m.client_usage import MOST_ADDRESSES, Use, Used
from _oauth2_m2m.config import settings_from
from _oauth2_m2m.least_privilege import UNUSED_AFTER, superfluous

NOW = datetime(2030, 1, 2, tzinfo=UTC)
LONG_AGO, RECENTLY = NOW - 2 * UNUSED_AFTER, NOW - timedelta(days=1)
SETTINGS = settings_from({"SECRET_KEY": "k" * 32})
CLIENT = {
    "client_id": "billing",
    "scopes": ["read", "write"],
    "created_at": LONG_AGO,
    "issue_refresh_tokens": False,
    "allowed_networks": ["192.0.2.0/24"],
}


def used(kind: Used, name: str = "", when: datetime = RECENTLY, addresses: int = 1) -> Use:
    ips = {f"192.0.2.{number}": when for number in range(addresses)}
    return Use(kind=kind, name=name, first_used_at=when, last_used_at=when, addresses=ips)


HERE = used(Used.CLIENT)
BOTH = [HERE, used(Used.SCOPE, "read"), used(Used.SCOPE, "write")]


def found(*uses: Use, since: datetime = LONG_AGO, **fields: Any) -> list[tuple[str, str]]:
    client = client_from({**CLIENT, **fields})
    spare = superfluous(client, uses, SETTINGS, since=since, now=NOW)
    for each in spare:
        assert each.why
        assert each.how.startswith("oauth2-m2m ")
        assert "billing" in each.how
    return [(each.what, each.name) for each in spare]


@pytest.mark.parametrize(
    ("uses", "fields", "expected"),
    [
        (BOTH, {}, []),
        ([HERE, used(Used.SCOPE, "read")], {}, [("scope", "write")]),
        ([HERE, used(Used.SCOPE, "read"), used(Used.ASKED_SCOPE, "write")], {}, []),
        (
            [HERE, used(Used.SCOPE, "read"), used(Used.SCOPE, "write", LONG_AGO)],
            {},
            [("scope", "write")],
        ),
        ([used(Used.CLIENT, when=LONG_AGO)], {}, [("client", "billing")]),
        ([], {}, [("client", "billing")]),
        ([], {"disabled": True}, []),
        (BOTH, {"role": "admin"}, [("role", "admin")]),
        ([*BOTH, used(Used.ROLE, "admin")], {"role": "admin"}, []),
        ([*BOTH, used(Used.ROLE, "admin")], {"role": "owner"}, []),
        ([*BOTH, used(Used.ROLE, "user")], {"role": "owner"}, [("role", "owner")]),
        (BOTH, {"issue_refresh_tokens": None}, [("refresh tokens", "")]),
        (BOTH, {"issue_refresh_tokens": True, "grant_types": ["client_credentials"]}, []),
        ([*BOTH, used(Used.GRANT, "refresh_token")], {"issue_refresh_tokens": None}, []),
        (BOTH, {"allowed_networks": []}, [("networks", "")]),
        (
            [used(Used.CLIENT, addresses=MOST_ADDRESSES), *BOTH[1:]],
            {"allowed_networks": []},
            [],
        ),
    ],
)
def test_what_is_not_used_could_go(
    uses: list[Use], fields: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    """And what was used lately, by route or by name, may stay."""
    assert found(*uses, **fields) == expected


def test_a_secret_that_others_took_over_from_could_go() -> None:
    """But not one that is young, nor the only one that is seen, nor one when none is seen."""
    old = {"id": "old", "secret": "a", "created_at": LONG_AGO}
    young = {"id": "young", "secret": "b", "created_at": RECENTLY}
    new = {"id": "new", "secret": "c", "created_at": LONG_AGO}
    secrets = [old, young, new]
    assert found(*BOTH, used(Used.SECRET, "new"), secrets=secrets) == [("secret", "old")]
    assert found(*BOTH, secrets=secrets) == []
    ended = {**old, "expires_at": RECENTLY}
    assert found(*BOTH, used(Used.SECRET, "new"), secrets=[ended, new]) == []


@pytest.mark.parametrize(
    ("address", "proposed"),
    [("192.0.2.7", True), ("192.0.2.0/24", True), ("hmac:x", False), ("unknown", False)],
)
def test_only_what_is_a_network_is_proposed_as_one(address: str, proposed: bool) -> None:
    """By setting, addresses are kept as networks or as hashes of them."""
    here = Use(
        kind=Used.CLIENT,
        name="",
        first_used_at=RECENTLY,
        last_used_at=RECENTLY,
        addresses={address: RECENTLY},
    )
    found_networks = [("networks", "")] if proposed else []
    assert found(here, *BOTH[1:], allowed_networks=[]) == found_networks


def test_nothing_is_said_before_it_was_watched_long_enough() -> None:
    """What runs once a quarter is not unused: neither a young client nor a young log is judged."""
    assert found(since=RECENTLY) == []
    assert found(created_at=RECENTLY) == []
    assert found(created_at=None) == [("client", "billing")]
    edge = NOW - UNUSED_AFTER
    assert found(since=edge) == [("client", "billing")]
    assert found(since=edge + timedelta(seconds=1)) == []
