"""The config document as operators write it, checked once into frozen `Settings`.

Plain functions of values: the room `settings` reads the database.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from _oauth2_m2m.errors import ConfigurationError
from _oauth2_m2m.roles import role_order_from

T = TypeVar("T")

#: The document's `_id` in the collection `config`.
CONFIG_ID = "jwt_config"

#: RFC 7518 section 3.2: an HS256 key has at least as many bits as the hash.
SHORTEST_HS256_KEY_BYTES = 32
#: Keys that stand in documentation: everybody knows them.
SAMPLE_KEYS = frozenset({
    "replace-this-with-32-or-more-random-bytes",
    "your-secret-key",
    "your-256-bit-secret",
})  # fmt: skip

FAPI2 = "fapi2"
OBSERVE = "observe"
_DEVELOPMENT_ISSUER = "http://localhost:8000"
#: Marks that end a client's tokens outlive them, whatever the settings said at their issue.
LONGEST_ACCESS_TOKEN_LIFETIME = timedelta(hours=24)
_LONGEST_LIFETIME_MINUTES = LONGEST_ACCESS_TOKEN_LIFETIME // timedelta(minutes=1)
LONGEST_REFRESH_TOKEN_LIFETIME = timedelta(days=366)
_LONGEST_RETENTION_DAYS = 3650
_MOST_REQUESTS = 1_000_000_000
_LONGEST_GRACE_SECONDS = 3600
MOST_PREVIOUS_KEYS = 10


class Environment(StrEnum):
    """Where the service runs: in production a weak setting stops the start."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The configuration, checked. The names are those of the config document in lower case."""

    algorithm: str
    #: `default`, or `fapi2`: what the FAPI 2.0 Security Profile asks of machines.
    profile: str
    issuer: str
    audience: str
    access_token_lifetime: timedelta
    refresh_token_lifetime: timedelta
    #: How long the same client may repeat a lost refresh and get the same successor. 0 is off.
    refresh_grace: timedelta
    refresh_requires_client_auth: bool
    #: RFC 6749 section 4.4.3 advises against refresh tokens for client credentials.
    issue_refresh_tokens: bool
    #: Per client and address; 0 switches limits off.
    max_requests_per_minute: int
    #: Quotas, per client over all addresses; 0 is no quota.
    max_requests_per_hour: int
    max_requests_per_day: int
    #: `enforce`, or `observe`: a quota that is used up is noted, and refuses nothing.
    quota_mode: str
    audit_retention: timedelta
    #: How callers' addresses are kept in the audit log: `whole`, `truncated` or `hashed`.
    audit_addresses: str
    #: How far the clocks of other hosts may disagree with ours when a token is judged.
    leeway: timedelta
    #: `majority`, or `linearizable`: no stale answer even from a primary that was cut off.
    revocation_read_concern: str
    #: Whether DPoP proofs must hold a nonce of ours. RFC 9449 section 8.
    dpop_require_nonce: bool
    #: Whether a client's `jwks_uri` may lead to an address inside our own network.
    jwks_uri_private_addresses: bool
    #: The highest first: each may do what those after it may.
    role_order: tuple[str, ...]
    #: Whether `GET /metrics` is there.
    metrics: bool
    #: Whether secrets that were imported from other servers are taken.
    imported_secrets: bool
    #: Key material; never shown by `repr`.
    secret_key: Secret
    previous_secret_keys: tuple[Secret, ...]

    @property
    def is_fapi2(self) -> bool:
        """Whether the profile is `fapi2`."""
        return self.profile == FAPI2

    @property
    def observes_quotas(self) -> bool:
        """Whether quotas refuse nothing yet."""
        return self.quota_mode == OBSERVE

    @property
    def foreign_algorithms(self) -> tuple[str, ...]:
        """What clients may sign assertions and proofs with. FAPI 2.0 allows no RS256."""
        return ("ES256",) if self.is_fapi2 else ("ES256", "RS256")

    @property
    def resource_url(self) -> str:
        """The address of the guarded routes: the audience if it is one, else the issuer."""
        return self.audience if is_address(self.audience) else self.issuer

    @property
    def linearizable(self) -> bool:
        """Whether revocation asks even a primary that was cut off to prove itself first."""
        return self.revocation_read_concern == "linearizable"


@dataclass(frozen=True, slots=True)
class Secret:
    """Text that must not end up in a log: `str` and `repr` hide it."""

    value: str

    def __repr__(self) -> str:
        return "Secret('...')"

    __str__ = __repr__


def new_config() -> dict[str, Any]:
    """A config document for a database that has none, with a random 256-bit key."""
    return {
        "SECRET_KEY": new_secret_key(),
        "ALGORITHM": "HS256",
        "ACCESS_TOKEN_EXPIRE_MINUTES": 15,
        "MAX_REQUESTS_PER_MINUTE": 60,
    }


def new_secret_key() -> str:
    """256 random bits as text, for HS256."""
    return secrets.token_urlsafe(32)


def environment_from(value: str | None) -> Environment:
    """Read the variable `ENVIRONMENT`; unset means development.

    Raises:
        ConfigurationError: it is neither `development` nor `production`.
    """
    try:
        return Environment((value or Environment.DEVELOPMENT).strip().lower())
    except ValueError:
        raise ConfigurationError(
            f"ENVIRONMENT is {value!r}: set it to development or production"
        ) from None


def settings_from(document: Mapping[str, Any]) -> Settings:
    """Check a config document as it lies in MongoDB.

    Unknown fields are left alone, so that a newer version's document does not stop an older one.

    Raises:
        ConfigurationError: a field is missing, of the wrong type or out of range; the message
            names it.
    """
    return _settings(_Fields(document))


@dataclass(frozen=True, slots=True)
class Reading:
    """A config document, field by field, whether or not it can be used.

    Attributes:
        values: what each known field comes to, by its name; its default where it is not set.
        mistakes: what is wrong with those that cannot be used, by their names; it quotes nothing.
        secret: the names of the fields that are never shown.
        unknown: the names that mean nothing to this version.
    """

    values: Mapping[str, Any]
    mistakes: Mapping[str, str]
    secret: frozenset[str]
    unknown: tuple[str, ...]

    @property
    def known(self) -> tuple[str, ...]:
        """The names of all fields that a config may have."""
        return (*self.values, *self.mistakes)


def reading_of(document: Mapping[str, Any]) -> Reading:
    """Read a config document for people: every field, and every mistake instead of the first."""
    field = _Fields(document, lenient=True)
    _settings(field)
    known = {"_id", *field.values, *field.mistakes}
    unknown = tuple(sorted(name for name in document if name not in known))
    return Reading(field.values, field.mistakes, frozenset(field.secret), unknown)


def _settings(field: _Fields) -> Settings:
    issuer = field.read("ISSUER", _issuer, _DEVELOPMENT_ISSUER)
    profile = field.read("PROFILE", _one_of("default", FAPI2), "default")
    return Settings(
        algorithm=field.read(
            "ALGORITHM", _algorithm_for(profile), "ES256" if profile == FAPI2 else "HS256"
        ),
        profile=profile,
        issuer=issuer,
        audience=field.read("AUDIENCE", audience_from, issuer),
        access_token_lifetime=timedelta(
            minutes=field.read(
                "ACCESS_TOKEN_EXPIRE_MINUTES", _number(1, _LONGEST_LIFETIME_MINUTES), 15
            )
        ),
        refresh_token_lifetime=timedelta(
            days=field.read(
                "REFRESH_TOKEN_EXPIRE_DAYS", _number(1, LONGEST_REFRESH_TOKEN_LIFETIME.days), 30
            )
        ),
        refresh_grace=timedelta(
            seconds=field.read("REFRESH_GRACE_SECONDS", _number(0, _LONGEST_GRACE_SECONDS), 0)
        ),
        refresh_requires_client_auth=field.read("REFRESH_REQUIRES_CLIENT_AUTH", _boolean, False),
        issue_refresh_tokens=field.read("ISSUE_REFRESH_TOKENS", _boolean, True),
        max_requests_per_minute=field.read(
            "MAX_REQUESTS_PER_MINUTE", _number(0, _MOST_REQUESTS), 60
        ),
        max_requests_per_hour=field.read("MAX_REQUESTS_PER_HOUR", _number(0, _MOST_REQUESTS), 0),
        max_requests_per_day=field.read("MAX_REQUESTS_PER_DAY", _number(0, _MOST_REQUESTS), 0),
        quota_mode=field.read("QUOTA_MODE", _one_of("enforce", OBSERVE), "enforce"),
        audit_retention=timedelta(
            days=field.read("AUDIT_RETENTION_DAYS", _number(1, _LONGEST_RETENTION_DAYS), 90)
        ),
        audit_addresses=field.read(
            "AUDIT_ADDRESSES", _one_of("whole", "truncated", "hashed"), "whole"
        ),
        leeway=timedelta(seconds=field.read("LEEWAY_SECONDS", _number(0, 300), 0)),
        revocation_read_concern=field.read(
            "REVOCATION_READ_CONCERN", _one_of("majority", "linearizable"), "majority"
        ),
        dpop_require_nonce=field.read("DPOP_REQUIRE_NONCE", _boolean, False),
        jwks_uri_private_addresses=field.read("JWKS_URI_PRIVATE_ADDRESSES", _boolean, False),
        role_order=field.read("ROLE_ORDER", role_order_from, ()),
        metrics=field.read("METRICS", _boolean, False),
        imported_secrets=field.read("IMPORTED_SECRETS", _boolean, False),
        secret_key=field.read("SECRET_KEY", _secret, None),
        previous_secret_keys=field.read("PREVIOUS_SECRET_KEYS", _secrets, ()),
    )


def weaknesses(settings: Settings) -> list[str]:
    """What is unsafe about these settings, one line each, saying what to do.

    In production each stops the start; in development each is a warning.
    """
    found = []
    for secret in (settings.secret_key, *settings.previous_secret_keys):
        if secret.value in SAMPLE_KEYS:
            found.append("SECRET_KEY is the sample from the documentation: use 32 random bytes")
        elif len(secret.value.encode()) < SHORTEST_HS256_KEY_BYTES:
            found.append(
                f"SECRET_KEY is shorter than {SHORTEST_HS256_KEY_BYTES} bytes: "
                "use 32 random bytes (python -c 'import secrets; print(secrets.token_urlsafe(32))')"
            )
    if urlsplit(settings.issuer).scheme != "https":
        found.append(f"ISSUER is {settings.issuer}: set it to the https address of this service")
    return found


class _Fields:
    """Reads one field after another, so that every mistake is told with the field's name.

    Args:
        document: the config document.
        lenient: note mistakes, and go on with the default, instead of raising the first.
    """

    def __init__(self, document: Mapping[str, Any], *, lenient: bool = False) -> None:
        self._document = document
        self._lenient = lenient
        self.values: dict[str, Any] = {}
        self.mistakes: dict[str, str] = {}
        self.secret: set[str] = set()

    def read(self, name: str, check: Callable[[Any], T], default: T | None) -> T:
        if check in (_secret, _secrets):
            self.secret.add(name)
        try:
            value = self.values[name] = self._checked(name, check, default)
        except ValueError as mistake:
            if not self._lenient:
                raise ConfigurationError(
                    f"config.{CONFIG_ID}.{name} {mistake}: mend it in the collection config"
                ) from None
            self.mistakes[name] = str(mistake)
            return cast("T", default)
        return value

    def _checked(self, name: str, check: Callable[[Any], T], default: T | None) -> T:
        value = self._document.get(name)
        if value is not None:
            return check(value)
        if default is None:
            raise ValueError("is missing")
        return default


def _number(smallest: int, largest: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        # Older shells write every number as a double; a boolean is an int to Python, not to us.
        if isinstance(value, float) and math.isfinite(value) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("must be a whole number")
        if not smallest <= value <= largest:
            raise ValueError(f"must be from {smallest} to {largest}")
        return int(value)  # an Int64 of BSON becomes a plain int

    return check


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text that is not empty")
    return value


def _one_of(*choices: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return str(value)

    return check


def _algorithm_for(profile: str) -> Callable[[Any], str]:
    def check_for_fapi2(value: Any) -> str:
        # FAPI 2.0 Security Profile section 5.4.1: PS256, ES256 or EdDSA, of which ES256 is ours.
        if value != "ES256":
            raise ValueError("must be ES256, since PROFILE is fapi2")
        return "ES256"

    return check_for_fapi2 if profile == FAPI2 else _one_of("HS256", "RS256", "ES256")


def _issuer(value: Any) -> str:
    url = urlsplit(_text(value))
    if url.scheme not in {"http", "https"} or not url.netloc or url.query or url.fragment:
        raise ValueError("must be an http(s) URL without query and fragment (RFC 8414 section 2)")
    if "@" in url.netloc:  # it is published, and stands in every token
        raise ValueError("must not hold a user or a password")
    return str(value)


def audience_from(value: Any) -> str:
    """Read whom tokens are for: an address, or a name of another kind.

    Raises:
        ValueError: it is neither.
    """
    text = _text(value)
    if is_address(text) and not urlsplit(text).netloc:  # which raises for other nonsense
        raise ValueError("must be a name, or an http(s) URL with a host")
    return text


def is_address(text: str) -> bool:
    """Whether an audience is an http(s) address, and no other name."""
    return text.partition(":")[0].lower() in {"http", "https"}


def _secret(value: Any) -> Secret:
    return Secret(_text(value))


def _secrets(value: Any) -> tuple[Secret, ...]:
    if not isinstance(value, list) or len(value) > MOST_PREVIOUS_KEYS:
        raise ValueError(f"must be a list of at most {MOST_PREVIOUS_KEYS} keys")
    return tuple(_secret(item) for item in value)
