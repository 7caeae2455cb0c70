"""What may be wrong with the MongoDB that all of it lies in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from _oauth2_m2m.config import Environment
from _oauth2_m2m.doctor.findings import Finding, Severity, found, unsafe_in
from _oauth2_m2m.storage import Document

#: How far the database's clock may be from this host's, and from when on nothing works.
SKEW, GROSS_SKEW = timedelta(seconds=1), timedelta(seconds=30)
#: Majority writes wait for this.
LAG = timedelta(seconds=10)
_BEFORE_ALL = datetime(1971, 1, 1, tzinfo=UTC)
FULL_DISK, ALMOST_FULL_DISK = 0.95, 0.85
FEWEST_MEMBERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFacts:
    """What the database says of itself; `None` where its user may not ask, or nobody answers.

    Attributes:
        name: the database.
        hello: the answer to `hello`.
        skew: how far its clock is ahead of this host's.
        uncertainty: how wrong that may be.
        status: the answer to `serverStatus`.
        replica_set: the configuration of its replica set, if it has one.
        connection: the answer to `connectionStatus`.
        statistics: the answer to `dbStats`.
    """

    name: str
    hello: Document
    skew: timedelta = timedelta(0)
    uncertainty: timedelta = timedelta(0)
    status: Document | None = None
    replica_set: Document | None = None
    connection: Document | None = None
    statistics: Document | None = None


def database_findings(facts: DatabaseFacts, environment: Environment) -> Iterator[Finding]:
    """What is wrong with the MongoDB that all of it lies in."""
    yield from _topology(facts)
    yield from _clock(facts)
    yield from _durability(facts)
    yield from _rights(facts, environment)
    yield from _disk(facts)
    unknown = {
        "whether it is durable": facts.status,
        "how its replica set is configured": facts.replica_set or "setName" not in facts.hello,
        "what its user may do": facts.connection,
        "whether its disk is full": facts.statistics,
    }
    missing = [name for name, answer in unknown.items() if not answer]
    if missing:
        yield found("not-checked", Severity.INFO, f"MongoDB did not say {', '.join(missing)}")


def _topology(facts: DatabaseFacts) -> Iterator[Finding]:
    hello = facts.hello
    if hello.get("msg") == "isdbgrid":  # a sharded cluster: its shards are replica sets
        return
    if "setName" not in hello:
        yield found("standalone", Severity.WARNING, "MongoDB is a standalone")
        return
    members = len(hello.get("hosts") or ()) + len(hello.get("passives") or ())
    if members < FEWEST_MEMBERS:
        what = f"the replica set {hello['setName']} has {members} members that hold data"
        yield found("replica-set-small", Severity.WARNING, what)
    last = hello.get("lastWrite") or {}
    written, acknowledged = last.get("lastWriteDate"), last.get("majorityWriteDate")
    # 1970 is what a primary says that has not heard of a majority since it began.
    if written and acknowledged and acknowledged > _BEFORE_ALL and written - acknowledged > LAG:
        what = f"the majority is {(written - acknowledged).total_seconds():.0f} s behind"
        yield found("majority-lags", Severity.WARNING, what)


def _clock(facts: DatabaseFacts) -> Iterator[Finding]:
    surely = abs(facts.skew) - facts.uncertainty
    if surely > SKEW:
        direction = "ahead of" if facts.skew > timedelta(0) else "behind"
        seconds = abs(facts.skew).total_seconds()
        what = f"the clock of MongoDB is {seconds:.1f} s {direction} that of this host"
        yield found("clock-skew", Severity.ERROR if surely > GROSS_SKEW else Severity.WARNING, what)


def _durability(facts: DatabaseFacts) -> Iterator[Finding]:
    engine = (facts.status or {}).get("storageEngine") or {}
    if engine.get("persistent") is False:
        what = f"the storage engine {engine.get('name')} keeps nothing"
        yield found("not-durable", Severity.ERROR, what)
    if (facts.replica_set or {}).get("writeConcernMajorityJournalDefault") is False:
        what = "writeConcernMajorityJournalDefault is false"
        yield found("majority-not-journaled", Severity.WARNING, what)


#: What a database user needs on its own database.
_NEEDED = frozenset({"read", "readWrite", "dbAdmin"})
#: More than the data of one database, on whichever database it is given.
_BROAD = frozenset({
    "__system", "backup", "clusterAdmin", "clusterManager", "dbAdminAnyDatabase", "dbOwner",
    "enableSharding", "hostManager", "readAnyDatabase", "readWriteAnyDatabase", "restore", "root",
    "userAdmin", "userAdminAnyDatabase",
})  # fmt: skip


def _rights(facts: DatabaseFacts, environment: Environment) -> Iterator[Finding]:
    if facts.connection is None:
        return
    who = facts.connection.get("authInfo") or {}
    if not who.get("authenticatedUsers"):
        what = "MongoDB asks nobody for a password"
        yield found("no-access-control", unsafe_in(environment), what)
        return
    roles = [(str(r.get("role")), str(r.get("db"))) for r in who.get("authenticatedUserRoles", [])]
    more = [f"{role} on {db}" for role, db in roles if _is_too_much(role, db, facts.name)]
    if more:
        what = f"the database user has {', '.join(more)}"
        yield found("too-many-rights", unsafe_in(environment), what, more)


def _is_too_much(role: str, database: str, ours: str) -> bool:
    """A role that somebody made is judged by those that it is made of, which are listed too."""
    if role in _BROAD:
        return True
    return database != ours and role in _NEEDED  # clusterMonitor, say, may be on others


def _disk(facts: DatabaseFacts) -> Iterator[Finding]:
    statistics = facts.statistics or {}
    total, used = statistics.get("fsTotalSize") or 0, statistics.get("fsUsedSize") or 0
    part = used / total if total else 0
    if part >= ALMOST_FULL_DISK:
        severity = Severity.ERROR if part >= FULL_DISK else Severity.WARNING
        yield found("disk-full", severity, f"{part:.0%} of MongoDB's disk is used")
