"""How one secret takes over from another: rules of values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _oauth2_m2m.client_documents import LONGEST_IDLE, StoredSecret, client_from
from _oauth2_m2m.client_secrets import (
    LONGEST_LABEL,
    SHORTEST_IDLE,
    entries_of,
    fields_of,
    new_entry,
    outgoing,
    renewal,
    slack,
    stored_kind,
    without,
)
from _oauth2_m2m.credentials import fingerprint
from _oauth2_m2m.errors import LastSecret, SecretNotFound

NOW = datetime(2030, 1, 2, tzinfo=UTC)
HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(days=7)
FIRST, SECOND = fingerprint("first"), fingerprint("second")


def entries(**document: Any) -> list[dict[str, Any]]:
    document = {"client_id": "a", "scopes": [], **document}
    return entries_of(document, client_from(document), NOW)


def test_a_document_and_its_entries_are_the_same_secrets() -> None:
    """Whatever is taken apart and put together again is what it was."""
    secrets = [
        new_entry("new", FIRST, NOW, label="one", expires_in=DAY),
        *outgoing([new_entry("old", SECOND, NOW - DAY)], NOW, until=NOW + WEEK, idle=HOUR),
    ]
    assert entries(**fields_of(secrets)) == secrets
    assert entries(**fields_of([])) == []


def test_a_secret_without_an_id_is_called_by_its_digest_or_its_place() -> None:
    """A digest has the same id wherever it stands; of a plain text nothing is told."""
    (typed,) = entries(client_secret="plain")
    (named,) = entries(client_secret=FIRST)
    (moved,) = entries(secrets=[{"secret": FIRST}])
    assert typed["id"] == "typed-0"
    assert named["id"] == moved["id"] != entries(client_secret=SECOND)[0]["id"]


def test_what_was_typed_over_a_secret_has_none_of_its_details() -> None:
    """Else a secret that somebody typed would end with the one before it."""
    details = {"id": "gone", "expires_at": NOW - DAY}
    assert entries(client_secret="plain", client_secret_details=details) == [
        {"id": "typed-0", "secret": "plain"}
    ]
    assert entries(client_secret=FIRST, client_secret_details=details) == []


@pytest.mark.parametrize(
    ("before", "until", "end"),
    [(None, WEEK, WEEK), (DAY, WEEK, DAY), (WEEK, DAY, DAY), (DAY, None, DAY), (None, None, None)],
)
def test_an_overlap_ends_secrets_and_prolongs_none(
    before: timedelta | None, until: timedelta | None, end: timedelta | None
) -> None:
    """What ends earlier by itself still does."""
    (entry,) = outgoing(
        [new_entry("old", FIRST, NOW, expires_in=before)],
        NOW,
        until=None if until is None else NOW + until,
    )
    assert entry.get("expires_at") == (None if end is None else NOW + end)


def test_a_second_idle_time_prolongs_no_first_one() -> None:
    """Two rotations in a row leave the oldest secret the shortest of what was said."""
    once = outgoing([new_entry("old", FIRST, NOW)], NOW, idle=HOUR)
    (twice,) = outgoing(once, NOW + timedelta(minutes=5), idle=WEEK)
    assert twice["retire_when_idle_seconds"] == 3600
    assert twice["idle_until"] == once[0]["idle_until"] == NOW + HOUR + slack(HOUR)


@pytest.mark.parametrize("idle", [SHORTEST_IDLE, LONGEST_IDLE])
def test_an_idle_time_has_bounds(idle: timedelta) -> None:
    """Its ends are taken, and what lies beyond them is not."""
    assert outgoing([], NOW, idle=idle) == []
    beyond = idle + timedelta(seconds=1 if idle == LONGEST_IDLE else -1)
    with pytest.raises(ValueError, match="idle"):
        outgoing([], NOW, idle=beyond)


@given(
    st.integers(60, LONGEST_IDLE // timedelta(seconds=1)),
    st.lists(st.floats(0, 0.999999), max_size=40),
)
def test_no_secret_in_use_is_ever_retired(seconds: int, gaps: list[float]) -> None:
    """Used again before it was idle for that long it lives, and left alone it ends soon after."""
    idle = timedelta(seconds=seconds)
    (entry,) = outgoing([new_entry("old", FIRST, NOW)], NOW, idle=idle)
    secret = StoredSecret(FIRST, retire_when_idle=idle, idle_until=entry["idle_until"])
    now, writes = NOW, 0
    for gap in gaps:
        now += idle * gap
        assert secret.is_live(now)
        until = renewal(secret, now)
        if until is not None:
            secret = StoredSecret(FIRST, retire_when_idle=idle, idle_until=until)
            writes += 1
    assert secret.is_live(now + idle - timedelta(seconds=1))
    assert not secret.is_live(now + idle + slack(idle))
    assert writes <= (now - NOW) / slack(idle) + 1


def test_a_use_is_written_down_once_in_a_while() -> None:
    """A busy secret is no write for each request: once an hour for one that may rest a week."""
    assert slack(WEEK) == HOUR
    secret = StoredSecret(FIRST, retire_when_idle=WEEK, idle_until=NOW + WEEK + HOUR)
    assert renewal(secret, NOW + HOUR) is None
    assert renewal(secret, NOW + HOUR + timedelta(seconds=1)) is not None
    assert renewal(StoredSecret(FIRST), NOW) is None


def test_an_idle_time_that_was_typed_begins_with_the_first_use() -> None:
    """Without a moment to count from nothing ends."""
    secret = StoredSecret(FIRST, retire_when_idle=WEEK)
    assert secret.is_live(NOW + 1000 * WEEK)
    assert renewal(secret, NOW) == NOW + WEEK + HOUR


def test_an_idle_time_without_end_is_a_year() -> None:
    """A number of seconds that no calendar holds is cut to the longest there is."""
    typed = {"secret": FIRST, "retire_when_idle_seconds": 10**18}
    client = client_from({"client_id": "a", "scopes": [], "secrets": [typed]})
    assert client.secrets[0].retire_when_idle == LONGEST_IDLE
    assert renewal(client.secrets[0], NOW) == NOW + LONGEST_IDLE + HOUR


def test_a_secret_is_retired_by_its_id_and_never_the_last_one() -> None:
    """Unless the client has keys to prove itself with."""
    both = [new_entry("new", FIRST, NOW), new_entry("old", SECOND, NOW)]
    client = client_from({"client_id": "a", "scopes": []})
    assert without(both, "old", client) == both[:1]
    with pytest.raises(SecretNotFound, match="nobody"):
        without(both, "nobody", client)
    with pytest.raises(LastSecret, match="disable"):
        without(both[:1], "new", client)
    signer = client_from({"client_id": "a", "scopes": [], "jwks_uri": "https://a.example/keys"})
    assert without(both[:1], "new", signer) == []


@pytest.mark.parametrize("label", ["", "two\nlines", "x" * (LONGEST_LABEL + 1)])
def test_a_label_is_a_short_line(label: str) -> None:
    """What would break a listing is refused."""
    assert new_entry("a", FIRST, NOW, label="x" * LONGEST_LABEL)["label"]
    with pytest.raises(ValueError, match="label"):
        new_entry("a", FIRST, NOW, label=label)


def test_a_secret_that_is_made_ends_later() -> None:
    """One that had ended already would be of no use to anybody."""
    for past in (timedelta(0), -DAY):
        with pytest.raises(ValueError, match="expires_in"):
            new_entry("a", FIRST, NOW, expires_in=past)


@pytest.mark.parametrize(
    ("stored", "kind"),
    [(FIRST, "made"), ("scrypt$x", "typed"), ("a secret", "plain"), ("sha256$x", "plain")],
)
def test_how_a_secret_is_stored_is_told(stored: str, kind: str) -> None:
    """An operator sees which ones still need care."""
    assert stored_kind(stored) == kind


@pytest.mark.parametrize(
    "details",
    [
        {"client_secret_details": "x"},
        {"client_secret_details": {"id": 7}},
        {"client_secret_details": {"expires_at": "soon"}},
        {"secrets": [{"secret": "x", "idle_until": 7}]},
        {"secrets": [{"secret": "x", "retire_when_idle_seconds": 0}]},
        {"secrets": [{"secret": "x", "retire_when_idle_seconds": "7d"}]},
        {"secrets": [{"secret": "x", "label": 7}]},
    ],
    ids=repr,
)
def test_malformed_details_make_a_malformed_client(details: dict[str, Any]) -> None:
    """It fails closed: an end that cannot be read is not taken for none."""
    with pytest.raises(ValueError, match=r"details|secrets|id|label|idle"):
        client_from({"client_id": "a", "scopes": [], "client_secret": FIRST, **details})
