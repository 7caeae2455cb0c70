"""Why a request was refused, step by step: for the operator, from the audit log.

The record of a refusal names the rule that did not hold; the order of the rules says which held
before it, and which were never asked. Beside it stands the client as it is now, and what has been
changed since, so that one sees whether the same request would pass today.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType

from _oauth2_m2m.audit import Event
from _oauth2_m2m.client_documents import PRIVATE_KEY_JWT, Client, StoredSecret, client_from
from _oauth2_m2m.errors import RefusalNotFound
from _oauth2_m2m.rule_words import SAYS, found_of, remedy_of
from _oauth2_m2m.rules import RARE, Facts, Flow, Rule, rules_of
from _oauth2_m2m.scopes import format_scope
from _oauth2_m2m.services import Services
from _oauth2_m2m.storage import Collection, Document, as_utc

#: What is looked at before and after a refusal, each at most.
MOST_CHANGES = 20

#: What may have brought a refusal about, or have mended it.
_OF_THE_CLIENT = (
    Event.CLIENT_CREATED, Event.CLIENT_UPDATED, Event.CLIENT_DISABLED, Event.SECRET_ROTATED,
    Event.TOKEN_REVOKED, Event.REFRESH_TOKEN_REUSE,
)  # fmt: skip
_ABOUT_SECRETS = frozenset({Rule.SECRET_RIGHT, Rule.SECRET_LIVE})
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_OF_ALL = (Event.CONFIG_CHANGED, Event.KEY_ROTATED)


class Outcome(StrEnum):
    """What came of a rule."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_REACHED = "not reached"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Step:
    """One rule of a decision.

    Attributes:
        rule: which.
        outcome: what came of it.
        says: what it asks, in words.
        found: what was had and wanted, in words, where that is known.
    """

    rule: Rule
    outcome: Outcome
    says: str
    found: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened before or after a refusal."""

    timestamp: datetime
    event: str
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A refusal, and how it came about.

    Attributes:
        error_id: what the caller was given to quote.
        event: what the audit log calls it.
        timestamp: when.
        reason: why, as the audit log has it.
        client_id, ip, request_id, jti: as they stand in the record.
        flow: the way through the server that the request took.
        method: how the client proved who it is, as far as that was known.
        route: the guarded route that it asked for, if it was one.
        count: how many refusals share the record, if it is one of a full window.
        steps: the decision.
        remedy: what would have passed.
        now: how it stands with the client today.
        before, since: what happened to the client then, oldest first.
    """

    error_id: str
    event: str
    timestamp: datetime
    reason: str | None
    client_id: str | None
    ip: str | None
    request_id: str | None
    jti: str | None
    flow: Flow
    method: str | None
    route: str | None
    count: int | None
    steps: tuple[Step, ...]
    remedy: str
    now: tuple[str, ...]
    before: tuple[Change, ...]
    since: tuple[Change, ...]


async def explain(services: Services, error_id: str) -> Explanation:
    """How a refusal came about.

    Args:
        services: the rooms.
        error_id: what the caller was given to quote.

    Raises:
        RefusalNotFound: there is no record of it.
        TemporarilyUnavailable: the database does not answer.
    """
    records = services.storage.collection("audit_logs")
    record = await records.find_one({"error_id": error_id})
    if record is None:
        raise RefusalNotFound(
            f"no record has the error id {error_id!r}: those of 503 are in the log alone, and "
            "records are kept for AUDIT_RETENTION_DAYS"
        )
    client_id, when = record.get("client_id"), as_utc(record.get("timestamp")) or _LONG_AGO
    document = await services.clients.find(client_id) if client_id else None
    of_client = {"client_id": client_id, "event_type": {"$in": [*_OF_THE_CLIENT]}}
    before = await _newest(records, {**of_client, "timestamp": {"$lt": when}})
    since = await _newest(records, {**of_client, "timestamp": {"$gt": when}})
    of_all = {"event_type": {"$in": [*_OF_ALL]}, "timestamp": {"$gt": when}}
    since += await _newest(records, of_all)
    return explanation_of(record, document, before, since, datetime.now(UTC))


async def _newest(records: Collection, query: Document) -> list[Document]:
    return await records.page(query, "timestamp", MOST_CHANGES, newest_first=True)


def explanation_of(
    record: Document,
    document: Document | None,
    before: Sequence[Document],
    since: Sequence[Document],
    now: datetime,
) -> Explanation:
    """The same as a plain function.

    Args:
        record: the record of the refusal.
        document: the client as it is now, if there is one.
        before: records of what happened to it earlier.
        since: and of what has happened since.
        now: the moment to judge the client at.
    """
    facts = dict(record.get("facts") or {})
    flow, rule = Flow(record["flow"]), Rule(record["rule"])
    method = facts.pop("method", None)
    route = facts.pop("route", None)
    secret = _name_of(facts.pop("secret", None), facts.pop("label", None))
    by_token = flow is Flow.REFRESH and method is None
    rules = rules_of(flow, by_assertion=method == PRIVATE_KEY_JWT, by_token=by_token)
    return Explanation(
        error_id=record["error_id"],
        event=record["event_type"],
        timestamp=as_utc(record["timestamp"]) or now,
        reason=record.get("reason"),
        client_id=record.get("client_id"),
        ip=record.get("ip"),
        request_id=record.get("request_id"),
        jti=record.get("jti"),
        flow=flow,
        method=method,
        route=route,
        count=record.get("count"),
        steps=steps_of(rules, rule, facts, {Rule.SECRET_RIGHT: secret}),
        remedy=remedy_of(rule, flow, facts),
        now=standing_of(rule, facts, document, now),
        before=_changes(before),
        since=_changes(since),
    )


def steps_of(
    rules: Sequence[Rule],
    failed: Rule | None,
    facts: Facts,
    known: Mapping[Rule, str] = MappingProxyType({}),
) -> tuple[Step, ...]:
    """The steps of a decision.

    Args:
        rules: in the order in which they are asked.
        failed: the one that did not hold, if one did not.
        facts: what is known of that.
        known: what is known of rules that held.
    """
    steps, outcome = [], Outcome.PASSED
    for rule in rules if failed is None or failed in rules else (failed, *rules):
        if rule is failed:
            steps.append(Step(rule, Outcome.FAILED, SAYS[rule], found_of(facts)))
            outcome = Outcome.NOT_REACHED
        elif rule not in RARE:
            found = known.get(rule, "") if outcome is Outcome.PASSED else ""
            steps.append(Step(rule, outcome, SAYS[rule], found))
    return tuple(steps)


def standing_of(
    rule: Rule, facts: Facts, document: Document | None, now: datetime
) -> tuple[str, ...]:
    """How it stands with the client today, as far as the rule asks about it."""
    if document is None:
        return ("the client is not registered",)
    try:
        client = client_from(document)
    except ValueError as fault:
        return (f"the client's document is malformed: {fault}",)
    if client.disabled:
        return ("the client is disabled",)
    said = _about(rule, facts, client)
    if rule in _ABOUT_SECRETS:
        said = [*said, *(_secret_words(secret, now) for secret in client.secrets)]
    return tuple(said) or ("the client is enabled",)


def _about(rule: Rule, facts: Facts, client: Client) -> list[str]:
    had, wanted = str(facts.get("had", "")), str(facts.get("wanted", ""))
    match rule:
        case Rule.CLIENT_NETWORK:
            networks = " ".join(map(str, client.allowed_networks))
            return [f"it may come from {networks or 'anywhere'}"]
        case Rule.CLIENT_METHOD:
            return [f"it may use {' '.join(sorted(client.allowed_methods()))}"]
        case Rule.GRANT_ALLOWED:
            return [f"it {_may(client.allows_grant(had))} use the grant {had}"]
        case Rule.SCOPE:
            return [f"it may ask for {format_scope(client.scopes) or 'no scope'}"]
        case Rule.ROLE:
            return [f"its role is {client.role}; the route asks for {wanted}"]
        case Rule.RESOURCE:
            return [f"it may ask for {' '.join(client.audience) or 'no resource'} besides AUDIENCE"]
        case Rule.BUDGET:
            period = str(facts.get("period", "minute"))
            own = getattr(client, f"max_requests_per_{period}", None)
            return [] if own is None else [f"its own limit is {own} in one {period}"]
    return []


def _may(allowed: bool) -> str:
    return "may" if allowed else "may not"


def _name_of(secret_id: object, label: object) -> str:
    return f"{secret_id} ({label})" if label else str(secret_id or "")


def _secret_words(secret: StoredSecret, now: datetime) -> str:
    name = _name_of(secret.id, secret.label)
    if secret.ends_at is None:
        return f"its secret {name} does not end"
    verb = "ends" if secret.is_live(now) else "ended"
    return f"its secret {name} {verb} at {secret.ends_at:%Y-%m-%d %H:%M:%S} UTC"


def _changes(records: Sequence[Document]) -> tuple[Change, ...]:
    found = [
        Change(as_utc(each.get("timestamp")) or _LONG_AGO, each["event_type"], each.get("reason"))
        for each in records
    ]
    return tuple(sorted(found, key=lambda change: change.timestamp))
