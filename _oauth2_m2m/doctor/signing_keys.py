"""What may be wrong with the private keys, and with what was revoked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from _oauth2_m2m.config import Environment
from _oauth2_m2m.doctor.findings import NEARLY, Finding, Severity, found, unsafe_in
from _oauth2_m2m.errors import ConfigurationError
from _oauth2_m2m.key_ring import StoredKey
from _oauth2_m2m.key_sealing import VARIABLE as KEY_ENCRYPTION_KEY
from _oauth2_m2m.key_sealing import KeySealer
from _oauth2_m2m.key_sets import MOST_KEYS as MOST_PUBLISHED
from _oauth2_m2m.keys import MOST_KEYS
from _oauth2_m2m.revocation_follower import MOST_MARKS


def key_findings(
    stored: Sequence[StoredKey], sealer: KeySealer, environment: Environment
) -> Iterator[Finding]:
    """What is wrong with the private keys in the collection `keys`."""
    private = [key for key in stored if isinstance(key.document.get("private"), bytes)]
    clear = [key.kid for key in private if key.document.get("sealed_with") is None]
    sealed = [key for key in private if key.document.get("sealed_with") is not None]
    if clear:
        what = f"{len(clear)} private keys lie in the clear"
        yield found("key-unsealed", unsafe_in(environment), what, clear)
    if sealed and sealer.seals_with is None:
        what = f"{len(sealed)} private keys are sealed, and {KEY_ENCRYPTION_KEY} is not set here"
        yield found("keys-not-checked", Severity.INFO, what)
    elif sealed:
        yield from _sealed_keys(sealed, sealer)
    published = [key for key in stored if key.number and key.burned_at is None]
    if len(published) >= NEARLY * MOST_PUBLISHED or len(stored) >= NEARLY * MOST_KEYS:
        what = (
            f"{len(published)} keys are published, at most {MOST_PUBLISHED}; "
            f"the collection holds {len(stored)}, at most {MOST_KEYS}"
        )
        yield found("keys-many", Severity.WARNING, what)


def _sealed_keys(sealed: Sequence[StoredKey], sealer: KeySealer) -> Iterator[Finding]:
    closed, otherwise = [], []
    for key in sealed:
        try:
            sealer.open(key.document["private"], key.kid, key.document["sealed_with"])
        except ConfigurationError:
            closed.append(key.kid)
        else:
            if key.document["sealed_with"] != sealer.seals_with:
                otherwise.append(key.kid)
    if closed:
        what = f"{len(closed)} private keys do not open"
        yield found("key-not-opening", Severity.ERROR, what, closed)
    if otherwise:
        what = f"{len(otherwise)} private keys are sealed with another than the first key"
        yield found("key-sealed-otherwise", Severity.WARNING, what, otherwise)


def revocation_findings(marks: int) -> Iterator[Finding]:
    """Whether services elsewhere can follow what was revoked.

    Args:
        marks: how many documents `revoked_tokens` holds.
    """
    if marks >= NEARLY * MOST_MARKS:
        yield found("revocations-many", Severity.WARNING, f"there are about {marks} revocations")
