"""The config document: every mistake is told by its field's name, and a good one is honoured."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from bson.int64 import Int64
from hypothesis import given, settings
from hypothesis import strategies as st

from _oauth2_m2m.config import (
    SAMPLE_KEYS,
    Environment,
    Secret,
    environment_from,
    new_config,
    settings_from,
    weaknesses,
)
from _oauth2_m2m.errors import ConfigurationError

KEY = "k" * 32
FIELDS = [
    "SECRET_KEY",
    "ALGORITHM",
    "ISSUER",
    "AUDIENCE",
    "ACCESS_TOKEN_EXPIRE_MINUTES",
    "MAX_REQUESTS_PER_MINUTE",
    "MAX_REQUESTS_PER_HOUR",
    "MAX_REQUESTS_PER_DAY",
    "QUOTA_MODE",
    "REFRESH_TOKEN_EXPIRE_DAYS",
    "REFRESH_GRACE_SECONDS",
    "REFRESH_REQUIRES_CLIENT_AUTH",
    "ISSUE_REFRESH_TOKENS",
    "AUDIT_RETENTION_DAYS",
    "LEEWAY_SECONDS",
    "REVOCATION_READ_CONCERN",
    "PREVIOUS_SECRET_KEYS",
]


def test_the_smallest_document_gets_the_promised_defaults() -> None:
    """A document that holds a key alone means what the contract's table says."""
    found = settings_from({"_id": "jwt_config", "SECRET_KEY": KEY})
    assert found.algorithm == "HS256"
    assert found.issuer == found.audience == "http://localhost:8000"
    assert found.access_token_lifetime == timedelta(minutes=15)
    assert found.refresh_token_lifetime == timedelta(days=30)
    assert found.refresh_grace == found.leeway == timedelta(0)
    assert found.refresh_requires_client_auth is False
    assert found.issue_refresh_tokens is True
    assert found.max_requests_per_minute == 60
    assert found.max_requests_per_hour == found.max_requests_per_day == 0
    assert found.observes_quotas is False
    assert found.audit_retention == timedelta(days=90)
    assert found.revocation_read_concern == "majority"
    assert found.secret_key == Secret(KEY)
    assert found.previous_secret_keys == ()


def test_a_new_document_is_good_and_its_key_random() -> None:
    """What is made for an empty database is read without complaint, and never twice the same."""
    first, second = new_config(), new_config()
    assert first["SECRET_KEY"] != second["SECRET_KEY"]
    assert len(first["SECRET_KEY"]) >= 43
    assert settings_from(first).max_requests_per_minute == 60
    assert {name: first[name] for name in first if name != "SECRET_KEY"} == {
        "ALGORITHM": "HS256",
        "ACCESS_TOKEN_EXPIRE_MINUTES": 15,
        "MAX_REQUESTS_PER_MINUTE": 60,
    }


@pytest.mark.parametrize(
    ("field", "value", "attribute", "expected"),
    [
        ("ISSUER", "https://auth.example.com/a", "issuer", "https://auth.example.com/a"),
        ("ISSUER", "https://auth.example.com", "audience", "https://auth.example.com"),
        ("AUDIENCE", "any text", "audience", "any text"),
        ("ACCESS_TOKEN_EXPIRE_MINUTES", 1, "access_token_lifetime", timedelta(minutes=1)),
        ("ACCESS_TOKEN_EXPIRE_MINUTES", 5.0, "access_token_lifetime", timedelta(minutes=5)),
        ("ACCESS_TOKEN_EXPIRE_MINUTES", 1440, "access_token_lifetime", timedelta(hours=24)),
        ("MAX_REQUESTS_PER_MINUTE", 0, "max_requests_per_minute", 0),
        ("MAX_REQUESTS_PER_MINUTE", Int64(7), "max_requests_per_minute", 7),
        ("MAX_REQUESTS_PER_HOUR", 500.0, "max_requests_per_hour", 500),
        ("MAX_REQUESTS_PER_DAY", Int64(10**9), "max_requests_per_day", 10**9),
        ("QUOTA_MODE", "observe", "observes_quotas", True),
        ("QUOTA_MODE", "enforce", "observes_quotas", False),
        ("REFRESH_TOKEN_EXPIRE_DAYS", 1, "refresh_token_lifetime", timedelta(days=1)),
        ("REFRESH_GRACE_SECONDS", 30, "refresh_grace", timedelta(seconds=30)),
        ("REFRESH_REQUIRES_CLIENT_AUTH", True, "refresh_requires_client_auth", True),
        ("ISSUE_REFRESH_TOKENS", False, "issue_refresh_tokens", False),
        ("AUDIT_RETENTION_DAYS", 1, "audit_retention", timedelta(days=1)),
        ("LEEWAY_SECONDS", 2, "leeway", timedelta(seconds=2)),
        ("REVOCATION_READ_CONCERN", "linearizable", "revocation_read_concern", "linearizable"),
        ("PREVIOUS_SECRET_KEYS", ["old"], "previous_secret_keys", (Secret("old"),)),
        ("PREVIOUS_SECRET_KEYS", [], "previous_secret_keys", ()),
        ("ROLE_ORDER", ["admin", "user"], "role_order", ("admin", "user")),
        ("A_FIELD_OF_A_NEWER_VERSION", {"any": "thing"}, "algorithm", "HS256"),
        ("ALGORITHM", None, "algorithm", "HS256"),
    ],
)
def test_a_field_is_honoured(field: str, value: object, attribute: str, expected: object) -> None:
    """What an operator typed counts, a double or an Int64 of their shell included."""
    found = getattr(settings_from({"SECRET_KEY": KEY, field: value}), attribute)
    assert found == expected
    assert type(found) is type(expected)


NUMBERS = [
    "ACCESS_TOKEN_EXPIRE_MINUTES",
    "MAX_REQUESTS_PER_MINUTE",
    "MAX_REQUESTS_PER_HOUR",
    "MAX_REQUESTS_PER_DAY",
    "REFRESH_TOKEN_EXPIRE_DAYS",
    "REFRESH_GRACE_SECONDS",
    "AUDIT_RETENTION_DAYS",
    "LEEWAY_SECONDS",
]
NO_NUMBERS: list[object] = [
    "15", 1.5, True, [], {}, float("nan"), float("inf"), -float("inf"), 2**63, 1e300,
]  # fmt: skip


MISTAKES: dict[str, list[Any]] = {
    **{field: [*NO_NUMBERS, -1] for field in NUMBERS},
    "SECRET_KEY": [None, "", 7, b"k" * 32, ["k" * 32]],
    "ALGORITHM": ["none", "hs256", "HS512", "", 7, ["HS256"]],
    "ISSUER": [
        "https://user:password@auth.example.com",
        *["", "auth.example.com", "ftp://example.com", 7, "https://", "https://a?b=c"],
        *["https://a#b", "https://[", "https://[::1"],
    ],
    "AUDIENCE": ["", 7, ["https://api.example.com"], "http://[x", "http:foo", "https://"],
    "REFRESH_REQUIRES_CLIENT_AUTH": [0, 1, "true", "", []],
    "ISSUE_REFRESH_TOKENS": [0, 1, "true", "", []],
    "QUOTA_MODE": ["off", "", "Observe", True, 7, ["observe"]],
    "REVOCATION_READ_CONCERN": ["local", "", 7, ["majority"], {}],
    "ROLE_ORDER": ["admin", ["a", "a"], ["two words"], [7], [""], {}],
    "PREVIOUS_SECRET_KEYS": ["old", [""], [7], ["a"] * 11, {}],
}
OUT_OF_RANGE = [
    ("ACCESS_TOKEN_EXPIRE_MINUTES", 0),
    ("ACCESS_TOKEN_EXPIRE_MINUTES", 1441),
    ("REFRESH_TOKEN_EXPIRE_DAYS", 0),
    ("AUDIT_RETENTION_DAYS", 0),
    ("REFRESH_GRACE_SECONDS", 3601),
]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(field, value) for field, values in MISTAKES.items() for value in values],
        *OUT_OF_RANGE,
    ],
    ids=repr,
)
def test_a_mistake_is_told_by_its_fields_name(field: str, value: object) -> None:
    """Wrong types, negative numbers and unknown words are one line that names the field."""
    with pytest.raises(ConfigurationError, match=rf"config\.jwt_config\.{field} ") as mistake:
        settings_from({"SECRET_KEY": KEY, field: value})
    assert "\n" not in str(mistake.value)
    assert KEY not in str(mistake.value)


ANY_VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner)),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(FIELDS), ANY_VALUE, max_size=4))
@settings(max_examples=200)
def test_any_document_is_settings_or_a_configuration_error(changes: dict[str, Any]) -> None:
    """Whatever somebody writes into `config`, nothing else is ever raised."""
    try:
        found = settings_from({"SECRET_KEY": KEY, **changes})
    except ConfigurationError:
        return
    assert timedelta(0) < found.access_token_lifetime <= timedelta(hours=24)
    assert found.refresh_token_lifetime > timedelta(0)
    assert found.max_requests_per_minute >= 0
    assert found.secret_key.value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"SECRET_KEY": "k" * 31}, ["shorter than 32 bytes"]),
        ({"SECRET_KEY": "\u00e9" * 16}, []),
        ({"SECRET_KEY": min(SAMPLE_KEYS, key=len)}, ["sample"]),
        ({"SECRET_KEY": max(SAMPLE_KEYS, key=len)}, ["sample"]),
        ({"PREVIOUS_SECRET_KEYS": ["short", KEY]}, ["shorter"]),
        ({"ISSUER": "http://auth.example.com"}, ["ISSUER"]),
        ({"ISSUER": None}, ["ISSUER"]),
        ({"ISSUER": "http://localhost", "SECRET_KEY": "k"}, ["shorter", "ISSUER"]),
    ],
)
def test_weaknesses_are_told(changes: dict[str, Any], words: list[str]) -> None:
    """What is unsafe in production is told in one line each, which shows no key."""
    document = {"SECRET_KEY": KEY, "ISSUER": "https://auth.example.com", **changes}
    found = weaknesses(settings_from(document))
    assert len(found) == len(words)
    assert all(re.search(word, line) for word, line in zip(words, found, strict=True))
    assert not [line for line in found if KEY in line or "\n" in line]


def test_key_material_is_never_shown() -> None:
    """A log line with the settings in it gives no key away."""
    found = settings_from({"SECRET_KEY": KEY, "PREVIOUS_SECRET_KEYS": ["old-key"]})
    for shown in (repr(found), str(found), f"{found.secret_key}", f"{found.secret_key!r}"):
        assert KEY not in shown
        assert "old-key" not in shown


@pytest.mark.parametrize(
    ("value", "environment"),
    [
        (None, Environment.DEVELOPMENT),
        ("", Environment.DEVELOPMENT),
        ("development", Environment.DEVELOPMENT),
        ("production", Environment.PRODUCTION),
        (" Production ", Environment.PRODUCTION),
    ],
)
def test_the_environment_is_read(value: str | None, environment: Environment) -> None:
    """Unset means development."""
    assert environment_from(value) is environment


@pytest.mark.parametrize("value", ["prod", "staging", "1", "production!"])
def test_an_unknown_environment_is_refused(value: str) -> None:
    """A misspelt `production` must not be taken for development."""
    with pytest.raises(ConfigurationError, match="ENVIRONMENT"):
        environment_from(value)
