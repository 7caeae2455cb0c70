"""Clients' documents, by whomever they were written: read with care, refused by their field."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from bson.int64 import Int64
from hypothesis import example, given, settings
from hypothesis import strategies as st

from _oauth2_m2m.client_documents import (
    MOST_AUDIENCES,
    MOST_SCOPES,
    MOST_SECRETS,
    PRIVATE_KEY_JWT,
    SECRET_METHODS,
    client_from,
)
from _oauth2_m2m.config import Settings
from tests.assertions import es256_key, jwks

NOW = datetime(2030, 1, 2, tzinfo=UTC)
ONE, TWO = es256_key("one"), es256_key("two")
TYPED = {"client_id": "test_client", "client_secret": "test_secret", "scopes": ["read", "write"]}


def test_a_document_as_operators_type_it_is_read() -> None:
    """The four fields of the contract are enough."""
    client = client_from({"_id": 1, **TYPED, "role": "admin"})
    assert client.client_id == "test_client"
    assert client.scopes == {"read", "write"}
    assert client.role == "admin"
    assert client.live_secrets(NOW) == ["test_secret"]
    assert not client.disabled
    assert client.allows_address("192.0.2.7")
    assert client.allows_grant("client_credentials")
    assert client.epoch == ""


def test_no_secret_is_shown() -> None:
    """A log line with a client in it gives no secret away, a plain-text one included."""
    secrets = [{"secret": "another_secret"}]
    shown = repr(client_from({**TYPED, "secrets": secrets}))
    assert "test_secret" not in shown
    assert "another_secret" not in shown


@pytest.mark.parametrize(
    ("changes", "attribute", "expected"),
    [
        ({}, "role", "user"),
        ({"role": None}, "role", "user"),
        ({"name": "The reporter"}, "name", "The reporter"),
        ({"disabled": True}, "disabled", True),
        ({"disabled": None}, "disabled", False),
        ({"scopes": None}, "scopes", frozenset()),
        ({"access_token_expire_minutes": 5}, "access_token_lifetime", timedelta(minutes=5)),
        ({"access_token_expire_minutes": 5.0}, "access_token_lifetime", timedelta(minutes=5)),
        ({"access_token_expire_minutes": Int64(5)}, "access_token_lifetime", timedelta(minutes=5)),
        ({"access_token_expire_minutes": 10**6}, "access_token_lifetime", timedelta(hours=24)),
        ({"max_requests_per_minute": 0}, "max_requests_per_minute", 0),
        ({"max_requests_per_minute": 7.0}, "max_requests_per_minute", 7),
        ({"max_requests_per_hour": 7.0}, "max_requests_per_hour", 7),
        ({"max_requests_per_day": Int64(7)}, "max_requests_per_day", 7),
        ({}, "max_requests_per_day", None),
        ({"allowed_networks": []}, "allowed_networks", ()),
        ({"allowed_networks": ["10.0.0.0/8"]}, "allowed_networks", (ip_network("10.0.0.0/8"),)),
        ({"grant_types": ["refresh_token"]}, "grant_types", frozenset({"refresh_token"})),
        ({"grant_types": []}, "grant_types", frozenset()),
        ({"issue_refresh_tokens": False}, "issue_refresh_tokens", False),
        ({"created_at": NOW}, "created_at", NOW),
        ({"created_at": "2030-01-02T00:00:00"}, "created_at", NOW),
        ({"created_at": "2030-01-02T01:00:00+01:00"}, "created_at", NOW),
        ({"created_at": "yesterday"}, "created_at", None),
        ({"epoch": "abcdefgh"}, "epoch", "abcdefgh"),
        ({}, "audience", ()),
        ({"audience": ["urn:a:b", "https://a/"]}, "audience", ("urn:a:b", "https://a/")),
        ({"audience": ["https://a/", "https://a/"]}, "audience", ("https://a/",)),
        ({}, "dpop_bound_access_tokens", False),
        ({"dpop_bound_access_tokens": True}, "dpop_bound_access_tokens", True),
        ({"jwks_uri": "https://a/keys"}, "jwks_uri", "https://a/keys"),
        ({"jwks_uri": "http://localhost:9000/keys"}, "jwks_uri", "http://localhost:9000/keys"),
        ({"jwks_uri": None}, "jwks_uri", None),
        (
            {"token_endpoint_auth_methods": ["private_key_jwt"]},
            "token_endpoint_auth_methods",
            frozenset({"private_key_jwt"}),
        ),
        ({"a_field_of_a_newer_version": {}}, "disabled", False),
    ],
)
def test_a_field_is_honoured(changes: dict[str, Any], attribute: str, expected: object) -> None:
    """What an operator typed counts."""
    assert getattr(client_from({**TYPED, **changes}), attribute) == expected


NO_MOMENTS: list[Any] = [7, "soon", False, {}]
MALFORMED: dict[str, list[Any]] = {
    "client_id": [None, "", 7, ["a"], "a\nb", "\0", "x" * 256, "~a", "\u202e"],
    "client_secret": [7, ["a"], {"$ne": None}, True, b"a"],
    "scopes": ["read", [7], [None], ["a b"], [""], ['"'], {}, 7, ["a"] * (MOST_SCOPES + 1)],
    "role": [7, ["admin"], "a b", 'a"', True],
    "name": [7, []],
    "disabled": [0, 1, "true", "false", []],
    "access_token_expire_minutes": [0, -1, 1.5, "5", True, float("nan"), float("inf"), []],
    "max_requests_per_minute": [-1, 0.5, "5", False, float("nan"), []],
    "max_requests_per_hour": [-1, 0.5, "5", False, float("nan"), []],
    "max_requests_per_day": [-1, 0.5, "5", False, float("nan"), []],
    "allowed_networks": ["10.0.0.0/8", ["10.0.0.1/8"], ["x"], [7], [""], {}],
    "grant_types": ["refresh_token", [7], {}],
    "issue_refresh_tokens": [0, "no", []],
    "epoch": [7, []],
    "audience": [
        *["https://a/", ["a"], ["https://a/#b"], ["https://a b/"], [""], [7], {}],
        *[["https://a/" + "x" * 2048], ["https://a/"] * (MOST_AUDIENCES + 1)],
    ],
    "dpop_bound_access_tokens": [0, "yes", []],
    "token_endpoint_auth_methods": [
        *["private_key_jwt", [], ["none"], ["client_secret_jwt"], ["private_key_jwt", 7], {}],
    ],
    "jwks": [
        *["", "{}", 7, [], {}, True, {"keys": []}, {"keys": {}}, {"keys": [{"kty": "OKP"}]}],
        *[jwks(ONE.jwk(d="AQ")), jwks(ONE, ONE), ONE.jwk(), {"keys": [{"kty": b"EC"}]}],
        {"keys": [ONE.jwk()] * 21},
    ],
    "jwks_uri": [7, "keys", "ftp://a/keys", "https://a/#b", "https://u:p@a/", ["https://a/"]],
    "secrets": [
        *["x", ["x"], {"secret": "x"}, [[]], 7, [{"secret": 7}], [{"secret": ["x"]}]],
        *[[{"secret": "x", "expires_at": moment}] for moment in NO_MOMENTS],
        [{"secret": "x"}] * (MOST_SECRETS + 1),
    ],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in MALFORMED.items() for value in values],
    ids=lambda value: repr(value)[:30],
)
def test_a_malformed_document_is_refused_by_its_field(field: str, value: object) -> None:
    """It fails closed, and the message names the field and quotes nothing."""
    with pytest.raises(ValueError, match=f"^{field.removesuffix('s')}") as fault:
        client_from({**TYPED, field: value})
    assert "test_secret" not in str(fault.value)


def test_scopes_are_bounded_together_too() -> None:
    """4,096 characters with their spaces are the scopes of a client, one more are malformed."""
    words = [f"{n:03}".ljust(19, "x") for n in range(MOST_SCOPES)]
    words[0] = "y" * (4096 - len(" ".join(words[1:])) - 1)
    assert client_from({**TYPED, "scopes": words}).scopes == frozenset(words)
    for longer in ([words[0] + "y", *words[1:]], [f"{n:03}".ljust(60, "x") for n in range(100)]):
        with pytest.raises(ValueError, match=r"^scopes .*4096 characters"):
            client_from({**TYPED, "scopes": longer})


@pytest.mark.parametrize("minutes", [10**10, 10**13, 2**63 - 1, 1e15], ids=repr)
def test_a_lifetime_without_end_is_a_day(minutes: float) -> None:
    """A number of minutes that no calendar holds is cut to the longest lifetime there is."""
    client = client_from({**TYPED, "access_token_expire_minutes": minutes})
    assert client.access_token_lifetime == timedelta(hours=24)


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-05:00", "0001-01-01T00:00:00+05:00"])
def test_a_moment_beyond_the_calendar_is_no_stumbling_block(text: str) -> None:
    """A date that falls out of the calendar in UTC stops nothing."""
    assert client_from({**TYPED, "created_at": text}).client_id == "test_client"


ANY_VALUE = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.text(st.characters(codec="utf-8"), max_size=10),
        st.datetimes(timezones=st.just(UTC)),
        st.binary(max_size=4),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["secret", "expires_at", "id"]), inner, max_size=3),
    ),
    max_leaves=6,
)
FIELDS = [
    "client_id", "client_secret", "scopes", "role", "name", "disabled", "secrets",
    "access_token_expire_minutes", "max_requests_per_minute", "allowed_networks", "grant_types",
    "issue_refresh_tokens", "created_at", "last_used_at", "epoch", "audience", "jwks", "jwks_uri",
    "token_endpoint_auth_methods", "dpop_bound_access_tokens",
]  # fmt: skip


@given(st.dictionaries(st.sampled_from(FIELDS), ANY_VALUE, max_size=5))
@example({"access_token_expire_minutes": 10**13})
@settings(max_examples=300)
def test_any_document_is_a_client_or_a_value_error(changes: dict[str, Any]) -> None:
    """Whatever somebody writes into `clients`, nothing else is ever raised."""
    try:
        client = client_from({**TYPED, **changes})
    except ValueError:
        return
    assert client.client_id.isprintable()
    assert all(isinstance(secret, str) for secret in client.live_secrets(NOW))
    assert isinstance(client.allows_address("192.0.2.7"), bool)


def test_a_secret_lives_until_its_expiry() -> None:
    """Several secrets work side by side, each up to its own moment and not in it."""
    client = client_from({
        **TYPED,
        "secrets": [
            {"secret": "for ever"},
            {"secret": "until now", "expires_at": NOW},
            {"secret": "until then", "expires_at": "2030-01-02T00:00:00.001"},
            {"secret": None},
        ],
    })  # fmt: skip
    assert client.live_secrets(NOW) == ["test_secret", "for ever", "until then"]
    assert client.live_secrets(NOW + timedelta(days=1)) == ["test_secret", "for ever"]


@pytest.mark.parametrize(
    ("networks", "ip", "allowed"),
    [
        ([], "unknown", True),
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "11.1.2.3", False),
        (["10.0.0.0/8"], "unknown", False),
        (["10.0.0.0/8"], "2001:db8::1", False),
        (["10.0.0.0/8", "2001:db8::/32"], "2001:db8::1", True),
        (["192.0.2.7"], "192.0.2.7", True),
    ],
)
def test_networks_say_where_a_client_may_come_from(
    networks: list[str], ip: str, allowed: bool
) -> None:
    """An address outside them, or none at all, is refused."""
    assert client_from({**TYPED, "allowed_networks": networks}).allows_address(ip) is allowed


@pytest.mark.parametrize(
    ("grants", "asked", "allowed"),
    [
        (None, ["refresh_token"], True),
        ([], ["refresh_token"], False),
        (["client_credentials"], ["refresh_token"], False),
        (["client_credentials"], ["password", "client_credentials"], True),
    ],
)
def test_grant_types_say_what_a_client_may_use(
    grants: list[str] | None, asked: list[str], allowed: bool
) -> None:
    """No list allows all, an empty list none."""
    assert client_from({**TYPED, "grant_types": grants}).allows_grant(*asked) is allowed


def test_the_keys_of_a_client_are_read() -> None:
    """In their order, as they verify; a changed document has changed keys at once."""
    client = client_from({**TYPED, "jwks": jwks(ONE, TWO)})
    assert [key.kid for key in client.jwks] == ["one", "two"]
    assert client.jwks[0].verify(b"message", ONE.sign(b"message"))
    assert client_from({**TYPED, "jwks": jwks(ONE, TWO)}).jwks == client.jwks
    assert [key.kid for key in client_from({**TYPED, "jwks": jwks(TWO)}).jwks] == ["two"]
    assert client_from(TYPED).jwks == ()


def test_keys_stand_in_one_place() -> None:
    """In the document or at a URL: which would count otherwise? RFC 7591 section 2."""
    with pytest.raises(ValueError, match=r"^jwks and jwks_uri exclude each other"):
        client_from({**TYPED, "jwks": jwks(ONE), "jwks_uri": "https://a/keys"})


SECRETS, KEYS = set(SECRET_METHODS), {PRIVATE_KEY_JWT}
BASIC, POST = SECRET_METHODS


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({}, SECRETS),
        ({"jwks": jwks(ONE)}, KEYS),
        ({"jwks_uri": "https://a/keys"}, KEYS),
        ({"jwks": jwks(ONE), "token_endpoint_auth_methods": [BASIC]}, {BASIC}),
        ({"jwks": jwks(ONE), "token_endpoint_auth_methods": [POST, *KEYS]}, {POST, *KEYS}),
        ({"token_endpoint_auth_methods": [*SECRETS, *KEYS]}, SECRETS | KEYS),
        ({"token_endpoint_auth_methods": [*KEYS]}, KEYS),
    ],
)
def test_a_client_proves_itself_in_the_ways_that_its_document_allows(
    fields: dict[str, Any], allowed: set[str]
) -> None:
    """Without a word about it by its keys alone if it has any, and else by its secret."""
    client = client_from({**TYPED, **fields})
    assert {method for method in SECRETS | KEYS if client.allows_method(method)} == allowed
    assert client.allows_method(*SECRETS) is bool(allowed & SECRETS)
    assert not client.allows_method("none")


@pytest.mark.parametrize("own", [None, 0, 7])
@pytest.mark.parametrize(("period", "setting"), [("minute", 60), ("hour", 100), ("day", 0)])
def test_a_clients_own_limit_comes_first(
    own: int | None, period: str, setting: int, room_settings: Settings
) -> None:
    """Its own limit counts, 0 for none included; without one the setting's does."""
    settings = replace(room_settings, max_requests_per_hour=100, quota_mode="observe")
    limits = client_from({**TYPED, f"max_requests_per_{period}": own}).limits(settings)
    expected = {"minute": 60, "hour": 100, "day": 0, period: setting if own is None else own}
    assert limits._asdict() == {**expected, "observes": True}
    assert limits.counts
    assert not client_from({**TYPED, "max_requests_per_minute": 0}).limits(room_settings).counts
