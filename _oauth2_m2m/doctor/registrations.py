"""What may be wrong with clients: many with the same fault are one finding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from _oauth2_m2m.client_documents import (
    MOST_AUDIENCES,
    MOST_NETWORKS,
    MOST_SCOPES,
    MOST_SECRETS,
    SECRET_METHODS,
    Client,
    client_from,
)
from _oauth2_m2m.client_usage import Use
from _oauth2_m2m.config import Environment, Settings
from _oauth2_m2m.credentials import is_digest
from _oauth2_m2m.doctor.findings import MOST_NAMED, NEARLY, Finding, Severity, found, unsafe_in
from _oauth2_m2m.foreign_hashes import is_imported
from _oauth2_m2m.key_sets import MOST_KEYS as MOST_PUBLISHED
from _oauth2_m2m.least_privilege import UNUSED_AFTER, Part, superfluous
from _oauth2_m2m.storage import Document

#: So long before its last secret ends, a client needs another.
EXPIRES_SOON = timedelta(days=14)
#: A client's document is read at every token request.
LARGE_CLIENT_BYTES = 65_536
#: What `make serve` makes.
DEMO_CLIENTS = frozenset({"test_client", "user_client"})
_IMPORTED = "imported-secret"


@dataclass(frozen=True, slots=True)
class Remark:
    """One client's share of a finding: many clients with the same are one finding."""

    id: str
    severity: Severity
    about: str


def client_remarks(
    document: Document, size: int, environment: Environment, now: datetime
) -> Iterator[Remark]:
    """What is wrong with one client.

    Args:
        document: its document.
        size: its size in bytes.
        environment: where it is used.
        now: the moment.
    """
    name = str(document.get("client_id"))
    if size > LARGE_CLIENT_BYTES:
        yield Remark("client-large", Severity.WARNING, f"{name} ({size} bytes)")
    try:
        client = client_from(document)
    except ValueError as mistake:
        yield Remark("client-unusable", Severity.ERROR, f"{name}: {mistake}")
        return
    if client.disabled:
        return  # whatever its secrets are, they open nothing
    if name in DEMO_CLIENTS and environment is Environment.PRODUCTION:
        yield Remark("demo-client", Severity.ERROR, name)
    if any(not is_digest(secret) for secret in client.live_secrets(now)):
        yield Remark("plain-secret", unsafe_in(environment), name)
    if any(is_imported(secret) for secret in client.live_secrets(now)):
        yield Remark(_IMPORTED, Severity.INFO, name)
    yield from _expiring(client, now)
    yield from _near_limits(client, document)


def _expiring(client: Client, now: datetime) -> Iterator[Remark]:
    """Whether the last of its secrets ends. One that has another beside it is being rotated."""
    if not client.secrets or not client.allows_method(*SECRET_METHODS):
        return
    ends = [secret.expires_at for secret in client.secrets if secret.expires_at is not None]
    if len(ends) < len(client.secrets):
        return
    last = max(ends)
    if last <= now:
        yield Remark("secret-expired", Severity.WARNING, client.client_id)
    elif last < now + EXPIRES_SOON:
        about = f"{client.client_id} ({last:%Y-%m-%d %H:%M} UTC)"
        yield Remark("secret-expiring", Severity.WARNING, about)


def _near_limits(client: Client, document: Document) -> Iterator[Remark]:
    sizes = {
        "scopes": (len(client.scopes), MOST_SCOPES),
        "secrets": (len(document.get("secrets") or ()), MOST_SECRETS),
        "audience": (len(client.audience), MOST_AUDIENCES),
        "allowed_networks": (len(client.allowed_networks), MOST_NETWORKS),
        "jwks": (len(client.jwks), MOST_PUBLISHED),
    }
    for field, (number, most) in sizes.items():
        if number >= NEARLY * most:
            about = f"{client.client_id} ({number} {field}, at most {most})"
            yield Remark("client-near-limit", Severity.WARNING, about)


#: What is found of each thing that a client has and does not need.
_UNUSED: Mapping[Part, tuple[str, Severity]] = {
    "client": ("client-idle", Severity.WARNING),
    "secret": ("secret-unused", Severity.WARNING),
    "scope": ("scope-unused", Severity.INFO),
    "role": ("role-unused", Severity.WARNING),
    "refresh tokens": ("refresh-unused", Severity.INFO),
    "networks": ("network-open", Severity.INFO),
}


def unused_remarks(
    document: Document, uses: Sequence[Use], settings: Settings, since: datetime, now: datetime
) -> Iterator[Remark]:
    """What a client has and does not need.

    Args:
        document: its document.
        uses: what is known of what it used.
        settings: the settings of the service.
        since: since when use is noted at all.
        now: the moment.
    """
    try:
        client = client_from(document)
    except ValueError:
        return  # which is said elsewhere
    for each in superfluous(client, uses, settings, since=since, now=now):
        name, severity = _UNUSED[each.what]
        about = (
            client.client_id
            if each.name in ("", client.client_id)
            else (f"{client.client_id} {each.name}")
        )
        yield Remark(name, severity, about)


#: What a finding of many clients says.
_WHAT = {
    "client-unusable": "clients whose documents cannot be read",
    "plain-secret": "clients whose secret lies in the clear",
    "secret-expiring": "clients whose last secret ends soon",
    "secret-expired": "clients whose last secret has ended",
    "client-idle": f"clients that were not here for {UNUSED_AFTER.days} days",
    "imported-secret": "clients whose secret was never used since it was imported",
    "secret-unused": "secrets that nobody uses, beside others",
    "scope-unused": "scopes that clients have and nobody wants of them",
    "role-unused": "roles that clients have and nobody wants of them",
    "refresh-unused": "clients that get refresh tokens and use none",
    "network-open": "clients that may come from anywhere, and come from the same few addresses",
    "demo-client": "demo clients of `make serve`",
    "client-near-limit": "clients that are near a limit",
    "client-large": f"clients whose document is larger than {LARGE_CLIENT_BYTES} bytes",
}


def import_findings(settings: Settings | None, remarks: Remarks) -> Iterator[Finding]:
    """Whether the setting for imported secrets fits those that are there.

    Args:
        settings: the settings of the service, if they are usable.
        remarks: what was remarked of every client.
    """
    if settings is None:
        return
    left = remarks.count(_IMPORTED)
    if settings.imported_secrets and not left:
        what = "IMPORTED_SECRETS is true, and no imported secret is left"
        yield found("import-over", Severity.WARNING, what)
    if left and not settings.imported_secrets:
        what = f"IMPORTED_SECRETS is false, and {left} clients have imported secrets"
        yield found("import-refused", Severity.WARNING, what)


class Remarks:
    """Remarks about many clients, of which only the first few are kept by name."""

    def __init__(self) -> None:
        self._severity: dict[str, Severity] = {}
        self._about: dict[str, list[str]] = {}
        self._count: dict[str, int] = {}

    def add(self, remarks: Iterable[Remark]) -> None:
        """Take in what was remarked of one client."""
        for remark in remarks:
            about = self._about.setdefault(remark.id, [])
            if len(about) < MOST_NAMED:
                about.append(remark.about)
            self._severity[remark.id] = remark.severity
            self._count[remark.id] = self._count.get(remark.id, 0) + 1

    def count(self, name: str) -> int:
        """Of how many clients this was remarked."""
        return self._count.get(name, 0)

    def findings(self) -> Iterator[Finding]:
        """One finding for each kind of remark."""
        for name, about in self._about.items():
            count = self._count[name]
            what = f"{count} {_WHAT[name]}"
            yield found(name, self._severity[name], what, about, count)
