"""The rules of the doctor, each at its edge."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from _oauth2_m2m.client_usage import Use, Used
from _oauth2_m2m.config import SAMPLE_KEYS, Environment, Secret, settings_from
from _oauth2_m2m.credentials import fingerprint
from _oauth2_m2m.doctor.configs import config_findings, key_weakness
from _oauth2_m2m.doctor.databases import DatabaseFacts, database_findings
from _oauth2_m2m.doctor.findings import (
    ADVICE,
    Finding,
    Severity,
    found,
    sorted_findings,
    worst,
)
from _oauth2_m2m.doctor.indexes import index_findings
from _oauth2_m2m.doctor.registrations import (
    Remarks,
    client_remarks,
    import_findings,
    unused_remarks,
)
from _oauth2_m2m.doctor.signing_keys import key_findings, revocation_findings
from _oauth2_m2m.foreign_hashes import imported
from _oauth2_m2m.key_ring import StoredKey
from _oauth2_m2m.key_sealing import KeySealer
from _oauth2_m2m.signatures import hs256_key
from _oauth2_m2m.storage import DeclaredIndex

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
GOOD = {"SECRET_KEY": secrets.token_urlsafe(32), "ISSUER": "https://auth.example.com"}
DEVELOPMENT, PRODUCTION = Environment.DEVELOPMENT, Environment.PRODUCTION
KEYS = [secrets.token_urlsafe(32) for _ in range(10)]


def of_config(stored: list[StoredKey] | None = None, **fields: Any) -> list[str]:
    findings = config_findings({**GOOD, **fields}, PRODUCTION, stored or [], NOW)
    return [f"{each.severity} {each.id}" for each in findings]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"ISSUER": "http://auth.example.com"}, ["error plain-http-issuer"]),
        ({"SECRET_KEY": min(SAMPLE_KEYS)}, ["error weak-secret-key"]),
        ({"SECRET_KEY": "k" * 31}, ["error weak-secret-key"]),
        ({"SECRET_KEY": "password" * 4}, ["error weak-secret-key"]),
        ({"SECRET_KEY": 5}, ["error config-unusable"]),
        ({"LEEWAY_SECONDS": -1, "ISSUER": 5}, ["error config-unusable"] * 2),
        ({"SECRETKEY": "x"}, ["warning config-unknown-field"]),
        ({"MAX_REQUESTS_PER_MINUTE": 0}, ["warning limits-off"]),
        ({"AUDIT_RETENTION_DAYS": 29}, ["warning audit-retention-short"]),
        ({"AUDIT_RETENTION_DAYS": 30}, []),
        ({"PREVIOUS_SECRET_KEYS": KEYS[:7]}, ["info previous-keys-idle"]),
        (
            {"PREVIOUS_SECRET_KEYS": KEYS[:8]},
            ["warning previous-keys-many", "info previous-keys-idle"],
        ),
        (
            {"PREVIOUS_SECRET_KEYS": ["short"]},
            ["error weak-secret-key", "info previous-keys-idle"],
        ),
    ],
)
def test_what_is_found_of_a_config(fields: dict[str, Any], expected: list[str]) -> None:
    """Each field at the edge from which on it is worth a word."""
    assert of_config(**fields) == expected


def test_what_no_production_may_have_is_a_warning_in_development() -> None:
    """A newcomer's config is no error."""
    findings = config_findings({**GOOD, "ISSUER": "http://localhost:8000"}, DEVELOPMENT, [], NOW)
    assert [each.severity for each in findings] == [Severity.WARNING]


def test_a_previous_key_is_idle_when_no_token_needs_it() -> None:
    """As long as one may be alive that it signed, nobody is told to take it out."""
    kid = hs256_key(Secret(KEYS[0])).kid
    needed = StoredKey(kid=kid, algorithm="HS256", last_expiry=NOW)
    ended = StoredKey(kid=kid, algorithm="HS256", last_expiry=NOW - DAY)
    assert of_config([needed], PREVIOUS_SECRET_KEYS=KEYS[:1]) == []
    assert of_config([ended], PREVIOUS_SECRET_KEYS=KEYS[:1]) == ["info previous-keys-idle"]


def test_a_random_key_is_never_weak() -> None:
    """Whatever alphabet it is written in."""
    for make in (secrets.token_urlsafe, secrets.token_hex):
        for _ in range(200):
            assert key_weakness(make(32)) is None
    assert key_weakness(str(secrets.randbits(256) | 1 << 255)) is None


MADE = fingerprint("m2ms_")
IMPORTED_HASH = imported("pbkdf2_sha256$600000$salt$" + "A" * 43 + "=")


def of_client(environment: Environment = PRODUCTION, **fields: Any) -> list[str]:
    document = {"client_id": "billing", "client_secret": MADE, "scopes": ["read"], **fields}
    size = fields.pop("size", 100)
    document.pop("size", None)
    return [f"{r.severity} {r.id}" for r in client_remarks(document, size, environment, NOW)]


def ending(*moments: datetime | None) -> list[dict[str, Any]]:
    return [{"id": "x", "secret": MADE, "expires_at": moment} for moment in moments]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"scopes": "read"}, ["error client-unusable"]),
        ({"client_secret": "typed"}, ["error plain-secret"]),
        ({"client_secret": "typed", "disabled": True}, []),
        ({"client_secret": IMPORTED_HASH}, ["info imported-secret"]),
        ({"client_id": "test_client"}, ["error demo-client"]),
        ({"client_id": "test_client", "disabled": True}, []),
        ({"secrets": ending(NOW + DAY)}, []),  # the first one does not end
        ({"client_secret": None, "secrets": ending(NOW + DAY)}, ["warning secret-expiring"]),
        ({"client_secret": None, "secrets": ending(NOW + 15 * DAY)}, []),
        ({"client_secret": None, "secrets": ending(NOW + DAY, NOW + 15 * DAY)}, []),
        ({"client_secret": None, "secrets": ending(NOW + DAY, None)}, []),
        ({"client_secret": None, "secrets": ending(NOW - DAY, NOW)}, ["warning secret-expired"]),
        ({"scopes": [f"s{n}" for n in range(159)]}, []),
        ({"scopes": [f"s{n}" for n in range(160)]}, ["warning client-near-limit"]),
        ({"secrets": ending(*[None] * 16)}, ["warning client-near-limit"]),
        ({"size": 65_536}, []),
        ({"size": 65_537}, ["warning client-large"]),
    ],
)
def test_what_is_found_of_a_client(fields: dict[str, Any], expected: list[str]) -> None:
    """Each rule from the side on which it speaks, and from the other."""
    assert of_client(**fields) == expected


def used(kind: Used, name: str = "", days: int = 1) -> Use:
    moment = NOW - days * DAY
    return Use(kind=kind, name=name, first_used_at=moment, last_used_at=moment)


@pytest.mark.parametrize(
    ("uses", "expected"),
    [
        ([], ["client-idle billing"]),
        ([used(Used.CLIENT, days=91)], ["client-idle billing"]),
        (
            [used(Used.CLIENT), used(Used.SCOPE, "read")],
            ["scope-unused billing write", "refresh-unused billing"],
        ),
        (
            [
                used(Used.CLIENT),
                used(Used.SCOPE, "read"),
                used(Used.SCOPE, "write"),
                used(Used.GRANT, "refresh_token"),
                used(Used.SECRET, "one"),
            ],
            ["secret-unused billing two"],
        ),
    ],
)
def test_what_a_client_does_not_need_is_found(uses: list[Use], expected: list[str]) -> None:
    """By what it really used, once it was watched for long enough."""
    secrets_ = [
        {"id": name, "secret": MADE, "created_at": NOW - 300 * DAY} for name in ("one", "two")
    ]
    document = {
        "client_id": "billing",
        "scopes": ["read", "write"],
        "secrets": secrets_,
        "created_at": NOW - 300 * DAY,
    }
    settings, since = settings_from(GOOD), NOW - 200 * DAY
    remarks = unused_remarks(document, uses, settings, since, NOW)
    assert [f"{each.id} {each.about}" for each in remarks] == expected
    assert list(unused_remarks(document, uses, settings, NOW - 89 * DAY, NOW)) == []
    assert list(unused_remarks({"scopes": 5}, uses, settings, since, NOW)) == []


@pytest.mark.parametrize(
    ("setting", "stored", "expected"),
    [
        (True, IMPORTED_HASH, ["imported-secret"]),
        (True, MADE, ["import-over"]),
        (False, IMPORTED_HASH, ["imported-secret", "import-refused"]),
        (False, MADE, []),
    ],
)
def test_the_setting_for_imported_secrets_fits_them(
    setting: bool, stored: str, expected: list[str]
) -> None:
    """On as long as there are some, and no longer."""
    remarks = Remarks()
    document = {"client_id": "billing", "client_secret": stored, "scopes": ["read"]}
    remarks.add(client_remarks(document, 100, PRODUCTION, NOW))
    settings = settings_from({**GOOD, "IMPORTED_SECRETS": setting})
    found_ = [*remarks.findings(), *import_findings(settings, remarks)]
    assert [each.id for each in found_] == expected


def test_demo_clients_are_welcome_in_development() -> None:
    """That is what they are for."""
    assert of_client(DEVELOPMENT, client_id="test_client") == []


def key(number: int, **document: Any) -> StoredKey:
    return StoredKey(
        kid=f"k{number}", algorithm="ES256", number=number, document={"private": b"x", **document}
    )


def test_what_is_found_of_keys() -> None:
    """Private keys in the clear, sealed with another key, or with one that is not at hand."""
    sealer, other = KeySealer([b"a" * 32, b"b" * 32]), KeySealer([b"b" * 32])
    sealed, name = sealer.seal(b"private", "k1")
    older, older_name = other.seal(b"private", "k2")
    keys = [
        key(1, private=sealed, sealed_with=name),
        key(2, private=older, sealed_with=older_name),
        key(3, sealed_with=None),
        key(4, private=b"altered", sealed_with=name),
        StoredKey(kid="k5", algorithm="ES256", number=5, burned_at=NOW),
    ]
    findings = {each.id: each.about for each in key_findings(keys, sealer, PRODUCTION)}
    assert findings == {
        "key-unsealed": ("k3",),
        "key-not-opening": ("k4",),
        "key-sealed-otherwise": ("k2",),
    }
    (alone,) = key_findings(keys[:1], KeySealer(), PRODUCTION)
    assert (alone.id, alone.severity) == ("keys-not-checked", Severity.INFO)


@pytest.mark.parametrize(("number", "expected"), [(15, []), (16, ["keys-many"])])
def test_many_keys_are_said_before_there_are_too_many(number: int, expected: list[str]) -> None:
    """Published ones from four fifths of the key set on."""
    sealer = KeySealer([b"a" * 32])
    keys = [
        StoredKey(kid=str(n), algorithm="ES256", number=n + 1, document={}) for n in range(number)
    ]
    assert [each.id for each in key_findings(keys, sealer, PRODUCTION)] == expected


@pytest.mark.parametrize(("marks", "expected"), [(799_999, 0), (800_000, 1)])
def test_many_revocations_are_said_before_services_stop(marks: int, expected: int) -> None:
    """A ResourceServer holds a million; from four fifths on it is time."""
    assert len(list(revocation_findings(marks))) == expected


UNIQUE = DeclaredIndex("clients", (("client_id", 1),), {"unique": True})
TTL = DeclaredIndex("clients", (("gone_at", 1),), {"expireAfterSeconds": 60})


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ([{"key": [("client_id", 1)], "unique": True}], []),
        ([{"key": [("client_id", 1.0)], "unique": True, "v": 2}], []),
        ([], ["not-started"]),
        ([{"key": [("name", 1)]}], ["index-missing"]),
        ([{"key": [("client_id", -1)], "unique": True}], ["index-missing", "index-foreign"]),
        ([{"key": [("client_id", 1)]}], ["index-drifted"]),
        (
            [{"key": [("client_id", 1)], "unique": True, "partialFilterExpression": {"a": 1}}],
            ["index-drifted"],
        ),
        (
            [{"key": [("client_id", 1)], "unique": True}, {"key": [("name", 1)], "unique": True}],
            ["index-foreign"],
        ),
        ([{"key": [("client_id", 1)], "unique": True}, {"key": [("name", 1)]}], []),
    ],
)
def test_what_is_found_of_indexes(there: list[dict[str, Any]], expected: list[str]) -> None:
    """Fields, order, and each option that makes an index what it is."""
    actual = {"clients": {str(n): {"v": 2, **index} for n, index in enumerate(there)}}
    actual["clients"]["_id_"] = {"key": [("_id", 1)]}
    assert [each.id for each in index_findings([UNIQUE], actual)] == expected


def test_a_lifetime_is_part_of_an_index() -> None:
    """A TTL index of another length removes at another time."""
    for seconds, expected in [(60, []), (61, ["index-drifted"])]:
        actual = {"clients": {"ttl": {"key": [("gone_at", 1)], "expireAfterSeconds": seconds}}}
        assert [each.id for each in index_findings([TTL], actual)] == expected


SET = {"setName": "rs0", "hosts": ["a", "b", "c"]}
USER = {"authenticatedUsers": [{"user": "m2m"}]}
DISK = {"fsTotalSize": 100, "fsUsedSize": 50}


def of_database(environment: Environment = PRODUCTION, **changes: Any) -> list[str]:
    facts: dict[str, Any] = {
        "name": "ours",
        "hello": SET,
        "status": {"storageEngine": {"name": "wiredTiger", "persistent": True}},
        "replica_set": {"_id": "rs0"},
        "connection": {"authInfo": {**USER, "authenticatedUserRoles": []}},
        "statistics": DISK,
        **changes,
    }
    findings = database_findings(DatabaseFacts(**facts), environment)
    return [f"{each.severity} {each.id}" for each in findings]


def last_write(seconds: int) -> dict[str, Any]:
    behind = max(NOW - timedelta(seconds=seconds), datetime(1970, 1, 1, tzinfo=UTC))
    return {"lastWrite": {"lastWriteDate": NOW, "majorityWriteDate": behind}}


def roles(*pairs: tuple[str, str]) -> dict[str, Any]:
    listed = [{"role": role, "db": database} for role, database in pairs]
    return {"connection": {"authInfo": {**USER, "authenticatedUserRoles": listed}}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"hello": {}}, ["warning standalone"]),
        ({"hello": {"msg": "isdbgrid"}}, []),
        ({"hello": {**SET, "hosts": ["a", "b"]}}, ["warning replica-set-small"]),
        ({"hello": {**SET, "hosts": ["a", "b"], "passives": ["c"]}}, []),
        ({"hello": {**SET, "hosts": ["a"], "arbiters": ["b", "c"]}}, ["warning replica-set-small"]),
        ({"hello": {**SET, **last_write(10)}}, []),
        ({"hello": {**SET, **last_write(11)}}, ["warning majority-lags"]),
        ({"hello": {**SET, **last_write(10**10)}}, []),  # nothing is known of a majority yet
        ({"skew": timedelta(seconds=1)}, []),
        ({"skew": timedelta(seconds=1.1)}, ["warning clock-skew"]),
        ({"skew": timedelta(seconds=-1.1)}, ["warning clock-skew"]),
        ({"skew": timedelta(seconds=3), "uncertainty": timedelta(seconds=2)}, []),
        ({"skew": timedelta(seconds=-31)}, ["error clock-skew"]),
        ({"status": {"storageEngine": {"persistent": False}}}, ["error not-durable"]),
        (
            {"replica_set": {"writeConcernMajorityJournalDefault": False}},
            ["warning majority-not-journaled"],
        ),
        ({"connection": {"authInfo": {}}}, ["error no-access-control"]),
        (roles(("readWrite", "ours"), ("dbAdmin", "ours"), ("clusterMonitor", "admin")), []),
        (roles(("mine", "ours"), ("readWrite", "ours")), []),
        (roles(("readWrite", "theirs")), ["error too-many-rights"]),
        (roles(("root", "admin")), ["error too-many-rights"]),
        (roles(("dbOwner", "ours")), ["error too-many-rights"]),
        ({"statistics": {"fsTotalSize": 100, "fsUsedSize": 84}}, []),
        ({"statistics": {"fsTotalSize": 100, "fsUsedSize": 85}}, ["warning disk-full"]),
        ({"statistics": {"fsTotalSize": 100, "fsUsedSize": 95}}, ["error disk-full"]),
        ({"status": None}, ["info not-checked"]),
        ({"connection": None}, ["info not-checked"]),
    ],
)
def test_what_is_found_of_a_database(changes: dict[str, Any], expected: list[str]) -> None:
    """Each fact that it tells of itself, at the edge from which on it is worth a word."""
    assert of_database(**changes) == expected


def test_the_worst_comes_first() -> None:
    """So that it is seen; and it is what the exit code goes by."""
    findings = [
        found(name, severity, "what")
        for name, severity in [
            ("limits-off", Severity.WARNING),
            ("not-checked", Severity.INFO),
            ("plain-secret", Severity.ERROR),
        ]
    ]
    assert [each.severity for each in sorted_findings(findings)] == list(reversed(Severity))
    assert worst(findings) is Severity.ERROR
    assert worst([]) is None


def test_advice_is_given_for_each_finding() -> None:
    """Nobody is told of a fault without why it matters and what to do."""
    for name in ADVICE:
        assert isinstance(found(name, Severity.INFO, "what"), Finding)
        assert all(ADVICE[name])
