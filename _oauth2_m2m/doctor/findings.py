"""What a finding is, and for each of them why it matters and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from _oauth2_m2m.config import Environment
from _oauth2_m2m.key_sealing import VARIABLE as KEY_ENCRYPTION_KEY
from _oauth2_m2m.revocation_follower import MOST_MARKS

#: A finding names so many of what it is about; it counts all of them.
MOST_NAMED = 20
#: From which part of a limit on it is worth a word.
NEARLY = 0.8


class Severity(StrEnum):
    """How bad it is: an error is unsafe or will fail; a warning wants to be looked at."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """From 0, the worst highest."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        id: its short name, which stays the same.
        severity: how bad it is.
        what: what was found.
        why: why it matters.
        mend: what to do.
        about: what it was found of, such as client ids; the first of them.
        count: of how many.
    """

    id: str
    severity: Severity
    what: str
    why: str
    mend: str
    about: tuple[str, ...] = ()
    count: int = 1


_SHOW = "oauth2-m2m clients show names the command that takes it away, unless it is rare but needed"

#: For each finding: why it matters, and what to do.
ADVICE: Mapping[str, tuple[str, str]] = {
    "config-missing": (
        "nothing has been started on this database yet, or it is another one than you think",
        "check MONGODB_URL and MONGODB_DB; the first start makes the config",
    ),
    "config-unusable": (
        "running workers keep the last good config, and none that starts will serve",
        "oauth2-m2m config set NAME=VALUE",
    ),
    "config-unknown-field": (
        "a field whose name is mistyped does nothing",
        "oauth2-m2m config show; take it out of the collection config",
    ),
    "weak-secret-key": (
        "whoever guesses the key makes tokens for any client, with any scope",
        "oauth2-m2m keys rotate makes a random one; then take the weak one out of "
        "PREVIOUS_SECRET_KEYS, or burn it",
    ),
    "plain-http-issuer": (
        "secrets and tokens travel in the clear, and standard clients refuse such an issuer",
        "oauth2-m2m config set ISSUER=https://... once TLS is in front of the service",
    ),
    "previous-keys-many": (
        "keys rotate is refused when there is no room left",
        "oauth2-m2m config set PREVIOUS_SECRET_KEYS=... without those that no token needs",
    ),
    "previous-keys-idle": (
        "a key that verifies and that nobody needs can only be stolen",
        "oauth2-m2m config set PREVIOUS_SECRET_KEYS=... without it",
    ),
    "limits-off": (
        "nothing slows down who guesses secrets, and one client can keep all others waiting",
        "oauth2-m2m config set MAX_REQUESTS_PER_MINUTE=...",
    ),
    "audit-retention-short": (
        "what was stolen is often noticed only after weeks",
        "oauth2-m2m config set AUDIT_RETENTION_DAYS=90",
    ),
    "client-unusable": (
        "it is refused as if it were unknown",
        "mend the field that is named, in the collection clients",
    ),
    "plain-secret": (
        "whoever reads the database, or a backup of it, is the client",
        "have the client log in once, which replaces it by its digest; or give it a new secret",
    ),
    "secret-expiring": (
        "the client is locked out when its last secret ends",
        "give it a new secret: oauth2-m2m secrets rotate",
    ),
    "secret-expired": (
        "the client is locked out, and perhaps nobody needs it any more",
        "oauth2-m2m secrets rotate, or clients remove",
    ),
    "client-idle": (
        "a credential that nobody uses is stolen without being missed",
        "oauth2-m2m clients disable, later clients remove",
    ),
    "secret-unused": (
        "a secret that nobody uses is stolen without being missed",
        _SHOW,
    ),
    "scope-unused": (
        "whoever steals its secret gets what the client itself does not need",
        _SHOW,
    ),
    "role-unused": (
        "whoever steals its secret gets what the client itself does not need",
        _SHOW,
    ),
    "refresh-unused": (
        "each login hands out a second credential, and costs a write more",
        _SHOW,
    ),
    "network-open": (
        "a stolen secret works from anywhere",
        _SHOW,
    ),
    "imported-secret": (
        "its hash is as good as the server was that it came from",
        "have the client log in once, which replaces it; or oauth2-m2m secrets rotate",
    ),
    "import-over": (
        "every failed comparison of a typed secret lasts a second, for nothing",
        "oauth2-m2m config set IMPORTED_SECRETS=false",
    ),
    "import-refused": (
        "these clients are refused as if their secrets were wrong",
        "oauth2-m2m config set IMPORTED_SECRETS=true, or give them new secrets",
    ),
    "demo-client": (
        "everybody knows its secret",
        "oauth2-m2m clients remove",
    ),
    "client-near-limit": (
        "beyond the limit the client is refused",
        "remove what it does not need, or make two clients of it",
    ),
    "client-large": (
        "its document is read at every token request",
        "remove what it does not need",
    ),
    "clients-not-all": (
        "what is wrong with the others is not known",
        "look at them in the database",
    ),
    "key-unsealed": (
        "whoever reads the database, or a backup of it, can sign tokens",
        f"set {KEY_ENCRYPTION_KEY} for all workers, then oauth2-m2m keys rewrap; where somebody "
        "may have read it, keys rotate and keys burn",
    ),
    "key-sealed-otherwise": (
        "the encryption key that is to go away is still needed",
        "oauth2-m2m keys rewrap",
    ),
    "key-not-opening": (
        "no worker that starts can sign with it",
        f"add its encryption key to {KEY_ENCRYPTION_KEY}, or give the key up: oauth2-m2m keys burn",
    ),
    "key-unusable": (
        "workers go on with the keys that they have, and none that starts will serve",
        "restore the document in the collection keys from a backup: see docs/storage.md",
    ),
    "keys-not-checked": (
        "whether the keys open is not known here",
        f"run doctor with the {KEY_ENCRYPTION_KEY} of the workers",
    ),
    "keys-many": (
        "past the limit no key can be made, and past that of the collection nothing serves",
        "rotate and burn less often, and wait until the tokens of the oldest keys have ended",
    ),
    "revocations-many": (
        f"a ResourceServer keeps up to {MOST_MARKS} live revocations, and answers 503 beyond",
        "end many tokens at once: clients disable, or tokens revoke --client",
    ),
    "not-started": (
        "the indexes are made at the first start, and were not looked at",
        "start a worker, and look again",
    ),
    "index-missing": (
        "what it keeps unique is not, what it removes stays, or every request reads all documents",
        "start a worker: it makes the index, or says what stands in the way",
    ),
    "index-drifted": (
        "what it keeps unique, or removes, is not what this version relies on",
        "drop it in mongosh, and start a worker, which makes it anew",
    ),
    "index-foreign": (
        "a unique index refuses writes, and a TTL index removes documents, that are needed",
        "drop it in mongosh, unless you know better",
    ),
    "expired-stay": (
        "the collection grows without end",
        "see whether MongoDB's ttlMonitorEnabled is on; remove dates that are texts by hand",
    ),
    "standalone": (
        "there is one copy of the data and no failover; linearizable reads are refused",
        "run MongoDB as a replica set of three members",
    ),
    "replica-set-small": (
        "when one member dies nothing can be written, or acknowledged writes can be lost",
        "run three members that hold data, or more",
    ),
    "majority-lags": (
        "what is acknowledged waits for a majority: requests are slow, or answered 503",
        "look at the members that lag: rs.status()",
    ),
    "majority-not-journaled": (
        "what a majority has acknowledged may be lost when it loses power at once",
        "rs.reconfig() with writeConcernMajorityJournalDefault: true",
    ),
    "not-durable": (
        "every revocation, and every key, is gone when the process ends",
        "run mongod with the storage engine wiredTiger, and with its journal",
    ),
    "clock-skew": (
        "tokens name moments: those of a host whose clock is ahead are alive when they should not "
        "be, and what the database removes goes by its own clock",
        "keep all hosts in step by NTP",
    ),
    "no-access-control": (
        "whoever reaches MongoDB reads and writes everything, the keys included",
        "start mongod with --auth, and make a user for the service alone",
    ),
    "too-many-rights": (
        "whoever steals the password of the service gets more than the service has",
        "give the user readWrite, and dbAdmin if AUDIT_RETENTION_DAYS is to change, on this "
        "database alone",
    ),
    "disk-full": (
        "nothing can be written when it is full, and nothing is handed out that cannot be recorded",
        "make room, or shorten AUDIT_RETENTION_DAYS",
    ),
    "not-checked": (
        "the database user of this run may not ask",
        "run doctor as a user with clusterMonitor, if you want to know",
    ),
    "slash-redirects": (
        "a call with a slash too many is redirected to an address that the caller's Host header "
        "names, and clients send their token along",
        "FastAPI(redirect_slashes=False), for the app and for every app that is mounted in it",
    ),
    "app-debug": (
        "errors show stack traces, with values, to callers",
        "FastAPI(debug=False)",
    ),
}  # fmt: skip


def found(
    name: str, severity: Severity, what: str, about: Sequence[str] = (), count: int | None = None
) -> Finding:
    """A finding, with the advice that belongs to it."""
    why, mend = ADVICE[name]
    number = max(len(about), 1) if count is None else count
    return Finding(name, severity, what, why, mend, tuple(about[:MOST_NAMED]), number)


def unsafe_in(environment: Environment) -> Severity:
    """How bad it is what no production may have."""
    return Severity.ERROR if environment is Environment.PRODUCTION else Severity.WARNING


def worst(findings: Iterable[Finding]) -> Severity | None:
    """The severity of the worst of them."""
    return max((each.severity for each in findings), key=_rank, default=None)


def sorted_findings(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first."""
    return sorted(findings, key=lambda each: (-each.severity.rank, each.id))


def _rank(severity: Severity) -> int:
    return severity.rank
