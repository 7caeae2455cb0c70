"""What may be wrong with the config document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from math import log2

from _oauth2_m2m.config import (
    MOST_PREVIOUS_KEYS,
    SAMPLE_KEYS,
    SHORTEST_HS256_KEY_BYTES,
    Environment,
    Reading,
    Secret,
    reading_of,
)
from _oauth2_m2m.doctor.findings import NEARLY, Finding, Severity, found, unsafe_in
from _oauth2_m2m.errors import ConfigurationError
from _oauth2_m2m.key_ring import StoredKey
from _oauth2_m2m.signatures import hs256_key
from _oauth2_m2m.storage import Document

#: A text of so many characters, out of so few different ones, was made by hand.
FEWEST_BITS = 100
SHORTEST_RETENTION = timedelta(days=30)


def config_findings(
    document: Document | None, environment: Environment, stored: Sequence[StoredKey], now: datetime
) -> Iterator[Finding]:
    """What is wrong with the config document."""
    if document is None:
        yield found("config-missing", Severity.WARNING, "there is no config document")
        return
    reading = reading_of(document)
    for name, mistake in reading.mistakes.items():
        yield found("config-unusable", Severity.ERROR, f"{name} {mistake}", [name])
    for name in reading.unknown:
        what = f"the config has a field {name}, which this version does not know"
        yield found("config-unknown-field", Severity.WARNING, what, [name])
    values = {name: value for name, value in reading.values.items() if value is not None}
    yield from _key_material(reading, environment, stored, now)
    issuer = str(values.get("ISSUER", ""))
    if issuer.startswith("http:"):
        yield found("plain-http-issuer", unsafe_in(environment), f"ISSUER is {issuer}")
    if values.get("MAX_REQUESTS_PER_MINUTE") == 0:
        yield found("limits-off", Severity.WARNING, "MAX_REQUESTS_PER_MINUTE is 0")
    days = values.get("AUDIT_RETENTION_DAYS")
    if days is not None and timedelta(days=days) < SHORTEST_RETENTION:
        what = f"audit records are kept for {days} days"
        yield found("audit-retention-short", Severity.WARNING, what)


def _key_material(
    reading: Reading, environment: Environment, stored: Sequence[StoredKey], now: datetime
) -> Iterator[Finding]:
    current = reading.values.get("SECRET_KEY")
    previous: tuple[Secret, ...] = reading.values.get("PREVIOUS_SECRET_KEYS") or ()
    if current is not None and (weakness := key_weakness(current.value)):
        yield found("weak-secret-key", unsafe_in(environment), f"SECRET_KEY {weakness}")
    for secret in previous:
        if weakness := key_weakness(secret.value):
            what = f"one of PREVIOUS_SECRET_KEYS {weakness}"
            yield found("weak-secret-key", unsafe_in(environment), what)
    if len(previous) >= NEARLY * MOST_PREVIOUS_KEYS:
        what = f"there are {len(previous)} PREVIOUS_SECRET_KEYS; {MOST_PREVIOUS_KEYS} are the most"
        yield found("previous-keys-many", Severity.WARNING, what)
    needed = {key.kid for key in stored if key.may_have_live_tokens(now)}
    idle = [kid for kid in map(_kid, previous) if kid and kid not in needed]
    if idle:
        what = f"{len(idle)} of PREVIOUS_SECRET_KEYS verify no token that can be alive"
        yield found("previous-keys-idle", Severity.INFO, what, idle)


def key_weakness(text: str) -> str | None:
    """What is weak about key material that was typed; `None` when nothing is to be seen."""
    if text in SAMPLE_KEYS:
        return "is the sample from the documentation"
    if len(text.encode()) < SHORTEST_HS256_KEY_BYTES:
        return f"is shorter than {SHORTEST_HS256_KEY_BYTES} bytes"
    if len(text) * log2(len(set(text))) < FEWEST_BITS:
        return "repeats itself, and is not random"
    return None


def _kid(secret: Secret) -> str | None:
    try:
        return hs256_key(secret).kid
    except ConfigurationError:
        return None
