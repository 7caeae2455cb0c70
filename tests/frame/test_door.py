"""The door: what `import oauth2_m2m` gives a user, and what it refuses at once."""

from __future__ import annotations

import asyncio
import inspect
import socket
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient, MongoClient

import oauth2_m2m
from oauth2_m2m import ConfigurationError, OAuth2Error, OAuth2M2M, OAuth2M2MError

ROOT = Path(__file__).parents[2]

#: Nobody listens there: whatever sends something waits for it in vain.
NOWHERE = "mongodb://127.0.0.1:1"

EXPORTED = {
    "AccessToken",
    "AuditQuery",
    "AuditReading",
    "AuditReport",
    "BearerError",
    "Client",
    "ClientChange",
    "ClientChanged",
    "ClientExists",
    "ClientFields",
    "ClientNotFound",
    "Clients",
    "ConfigChange",
    "ConfigChanged",
    "ConfigField",
    "ConfigManagement",
    "ConfigurationError",
    "Environment",
    "Explanation",
    "FieldChange",
    "Finding",
    "InsufficientScope",
    "IntrospectionCredentials",
    "InvalidClient",
    "InvalidDPoPProof",
    "InvalidGrant",
    "InvalidRequest",
    "InvalidScope",
    "InvalidTarget",
    "InvalidToken",
    "JsonFormatter",
    "KeyInfo",
    "KeyManagement",
    "KeyNotFound",
    "LastSecret",
    "Metrics",
    "MissingToken",
    "OAuth2Error",
    "OAuth2M2M",
    "OAuth2M2MError",
    "PoolListener",
    "ProofRefused",
    "RateLimitExceeded",
    "Refused",
    "RefusalNotFound",
    "RegisteredClient",
    "ResourceServer",
    "ResourceServerHealth",
    "RouteAccess",
    "RouteInfo",
    "SecretInfo",
    "SecretNotFound",
    "Settings",
    "Severity",
    "TemporarilyUnavailable",
    "TokenManagement",
    "TokenNotFound",
    "TokenReport",
    "TooManyKeys",
    "UnauthorizedClient",
    "UnsupportedGrantType",
}


@pytest.fixture
def nowhere() -> Iterator[MongoClient[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](NOWHERE, connect=False) as client:
        yield client


def test_the_exports_are_the_promised_ones() -> None:
    """A name that users may rely on neither comes nor goes unnoticed."""
    assert set(oauth2_m2m.__all__) == EXPORTED
    assert list(oauth2_m2m.__all__) == sorted(oauth2_m2m.__all__)


def test_a_star_import_brings_classes_of_the_library_and_nothing_else() -> None:
    """Neither a module, nor a helper, nor anybody else's class comes with it."""
    program = (
        "before = set(globals()) | {'before'}\n"
        "from oauth2_m2m import *\n"
        "print(*sorted(set(globals()) - before))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(shown.stdout.split()) == EXPORTED
    for name in EXPORTED:
        exported = getattr(oauth2_m2m, name)
        assert isinstance(exported, type), name
        assert exported.__module__.split(".")[0] in {"oauth2_m2m", "_oauth2_m2m"}, name
        assert exported.__name__ == name


def test_the_errors_are_one_tree() -> None:
    """Whoever catches the root catches all; whoever catches `OAuth2Error` has a wire code."""
    errors = {
        exported
        for name in EXPORTED
        if issubclass(exported := getattr(oauth2_m2m, name), OAuth2M2MError)
    }
    operators = {
        oauth2_m2m.ClientChanged,
        oauth2_m2m.ClientExists,
        oauth2_m2m.ClientNotFound,
        oauth2_m2m.ConfigChanged,
        ConfigurationError,
        oauth2_m2m.KeyNotFound,
        oauth2_m2m.LastSecret,
        oauth2_m2m.SecretNotFound,
        oauth2_m2m.RefusalNotFound,
        oauth2_m2m.TokenNotFound,
        oauth2_m2m.TooManyKeys,
    }
    answers = errors - operators - {OAuth2M2MError}
    assert all(issubclass(error, OAuth2Error) for error in answers)
    assert not any(issubclass(error, OAuth2Error) for error in operators)
    assert len(answers) > 10


def types_in(annotation: object) -> Iterator[type]:
    """Every class that an annotation speaks of."""
    for argument in typing.get_args(annotation):
        yield from types_in(argument)
    origin = typing.get_origin(annotation) or annotation
    if isinstance(origin, type) and origin is not types.UnionType:
        yield origin


def test_what_the_door_takes_and_gives_is_exported() -> None:
    """Users can name, import and annotate everything that a public method asks for or returns."""
    public = [OAuth2M2M.__init__]
    for owner in (OAuth2M2M, oauth2_m2m.Clients):
        members = inspect.getmembers(owner, inspect.isfunction)
        public += [member for name, member in members if not name.startswith("_")]
    names = {function.__name__ for function in public}
    assert {"requires", "lifespan", "revoke", "register", "rotate_secret", "disable"} <= names
    assert {"enable", "remove", "list"} <= names
    for function in public:
        for annotation in typing.get_type_hints(inspect.unwrap(function)).values():
            for spoken_of in types_in(annotation):
                if spoken_of.__module__.startswith("_oauth2_m2m"):
                    assert spoken_of.__name__ in EXPORTED, (function, spoken_of)


@pytest.mark.parametrize("database", [None, "mongodb://localhost/oauth2_m2m", {}, object()])
def test_what_is_no_database_is_refused_with_a_remedy(database: object) -> None:
    """The message says what to hand over instead, and what was handed over."""
    with pytest.raises(ConfigurationError) as refused:
        OAuth2M2M(database)  # type: ignore[arg-type]
    assert "MongoClient(url).oauth2_m2m" in str(refused.value)
    assert type(database).__name__ in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_client_in_place_of_a_database_is_refused(
    nowhere: MongoClient[dict[str, Any]],
) -> None:
    """The likeliest mistake, handing over the client or a collection, is told at once."""
    for mistaken in (nowhere, nowhere.oauth2_m2m.clients):
        with pytest.raises(ConfigurationError, match=type(mistaken).__name__):
            OAuth2M2M(mistaken)  # type: ignore[arg-type]


def test_an_unknown_environment_is_refused(
    nowhere: MongoClient[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A typing mistake in `ENVIRONMENT` must not quietly mean development."""
    with pytest.raises(ConfigurationError, match=r"'prod'.*development or production"):
        OAuth2M2M(nowhere.oauth2_m2m, environment="prod")
    monkeypatch.setenv("ENVIRONMENT", "staging")
    with pytest.raises(ConfigurationError, match=r"'staging'.*development or production"):
        OAuth2M2M(nowhere.oauth2_m2m)


@pytest.mark.parametrize("word", ["", "two words", 'a"b', "back\\slash", "tab\t", "ä"])
def test_a_guard_for_what_is_no_scope_is_refused(
    nowhere: MongoClient[dict[str, Any]], word: str
) -> None:
    """A route that nobody could ever reach is a mistake at the start, not a 403 in production."""
    m2m = OAuth2M2M(nowhere.oauth2_m2m)
    with pytest.raises(ValueError, match="no scope or role"):
        m2m.requires(word)
    with pytest.raises(ValueError, match="no scope or role"):
        m2m.requires("read", word)
    with pytest.raises(ValueError, match="no scope or role"):
        m2m.requires("read", role=word)


async def test_the_constructor_sends_nothing() -> None:
    """Both kinds of database are taken without a word to the server that they name."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.3)
        url = f"mongodb://127.0.0.1:{listener.getsockname()[1]}"
        asynchronous = AsyncMongoClient[dict[str, Any]](url)
        with MongoClient[dict[str, Any]](url, connect=False) as synchronous:
            for database in (synchronous.oauth2_m2m, asynchronous.oauth2_m2m):
                m2m = OAuth2M2M(database)
                m2m.requires("read", role="admin")
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(listener.accept)
        await asynchronous.close()
