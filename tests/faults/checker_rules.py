"""The promises of the contract's section 5 as rules: each takes the facts and says what is broken.

An unknown outcome counts as zero or one: nothing here calls a history broken that a correct server
could have answered.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

from tests.faults.checker_facts import (
    CALLS,
    DOCUMENTED_STATUSES,
    GOOD_KINDS,
    REVOCATIONS,
    Facts,
    Mark,
)
from tests.faults.history import Kind, Operation, Outcome

#: What is broken, and the operations that show it.
Finding: TypeAlias = tuple[str, tuple[Operation, ...]]
Rule: TypeAlias = Callable[[Facts], Iterator[Finding]]

_ISSUED = frozenset({"login_success", "token_refreshed"})
#: The shape that the service keeps of an `X-Request-ID`.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
#: What no body may hold. `mongodb` in small letters is the name of a check of `/health/ready`.
_INTERNALS = re.compile(
    r"Traceback|File \"|pymongo|bson|MongoDB|mongodb://|mongodb\+srv|\bmongod\b"
    r"|(?:\d{1,3}(?:\.\d{1,3}){3}|localhost):\d"
    r"|\b[A-Z]\w*(?:Error|Exception|Timeout|Warning)\b"
    r"|m2m[a-z]_|sha256\$|scrypt\$|\beyJ[\w-]{8}"
)
_MINUTE = 60
#: A busy machine is too slow for the odd request, also without a fault.
_BUSY_SHARE = 0.05


def single_use(facts: Facts) -> Iterator[Finding]:
    """R1: a refresh token, an assertion, a DPoP proof is redeemed at most once."""
    grace = facts.expected.grace
    for digest, operations in facts.presented.items():
        redeemed = _ok(operations)
        if not grace and len(redeemed) > 1:
            yield f"refresh token redeemed {len(redeemed)} times", redeemed
        elif len({operation.refresh_digest for operation in redeemed}) > 1:
            yield "one refresh token has several successors", redeemed
        yield from _beyond_grace(facts, redeemed)
        if redeemed and digest not in facts.used:
            yield "redeemed, but used_refresh_tokens does not hold it", redeemed
    for what, groups in (("assertion", facts.assertions), ("DPoP proof", facts.proofs)):
        for operations in groups.values():
            redeemed = _ok(operations)
            if len(redeemed) > 1:
                yield f"{what} used {len(redeemed)} times", redeemed
    yield from _marks_of_single_use(facts)
    yield from _one_descendant(facts)


def _beyond_grace(facts: Facts, redeemed: tuple[Operation, ...]) -> Iterator[Finding]:
    if not facts.expected.grace or not redeemed:
        return
    first = min(redeemed, key=lambda operation: operation.end)
    latest = first.end + facts.expected.grace + facts.expected.clock_span
    for operation in redeemed:
        if operation.start > latest:
            yield "refresh token redeemed again beyond the grace", (first, operation)


def _marks_of_single_use(facts: Facts) -> Iterator[Finding]:
    """What was redeemed is on record as used, which alone keeps it from being redeemed again."""
    assertions = _ids(facts.dump["used_assertions"])
    for (client_id, jti), operations in facts.assertions.items():
        if _ok(operations) and single_use_id(client_id, jti) not in assertions:
            yield "assertion used, but used_assertions does not hold it", _ok(operations)
    proofs, nameless = _ids(facts.dump["used_dpop_proofs"]), []
    for (jkt, jti), operations in facts.proofs.items():
        redeemed = _ok(operations)
        if redeemed and not redeemed[0].jkt:
            nameless.append(redeemed[0])
        elif redeemed and single_use_id(jkt, jti) not in proofs:
            yield "DPoP proof used, but used_dpop_proofs does not hold it", redeemed
    if len(nameless) > len(proofs):
        yield "more DPoP proofs were used than used_dpop_proofs holds", tuple(nameless[:1])


def _one_descendant(facts: Facts) -> Iterator[Finding]:
    """Each claim makes one refresh token, of its own family, and nothing else continues one."""
    stored = Counter(document.get("family_id") for document in facts.tokens.values())
    spent = Counter(document.get("family_id") for document in facts.used.values())
    for family, number in stored.items():
        if family and number > spent[family] + 1:
            yield f"family {family} has {number} tokens from {spent[family]} claims", ()
    for operation in facts.good:
        if operation.kind is Kind.REFRESH:
            claim = facts.used.get(operation.presented)
            successor = facts.tokens.get(operation.refresh_digest)
            if claim and successor and claim.get("family_id") != successor.get("family_id"):
                yield "the successor is of another family", (operation,)


def nobody_stranded(facts: Facts) -> Iterator[Finding]:
    """R2: what is good is never refused as bad, so a client always finds its way back.

    That is the recovery from a lost answer: client credentials again, or with a grace the same
    refresh again. That it is answered at all is R10; that the successor is the same, R1.
    """
    for operation in facts.history:
        asks_well = operation.kind in GOOD_KINDS | REVOCATIONS
        if asks_well and _is_refusal(operation) and not facts.may_be_refused(operation):
            yield f"what was good was refused: {operation.status} {operation.error}", (operation,)
    for operation in facts.good:
        if operation.status == 429 and not _is_limited(facts, operation):
            yield "refused for a limit that there is not", (operation,)
        if operation.refresh_digest and operation.refresh_digest not in facts.tokens:
            yield "received a refresh token that the database does not hold", (operation,)


def revocation_is_monotone(facts: Facts) -> Iterator[Finding]:
    """R3: what was acknowledged as revoked is never accepted by a request that starts later."""
    for operation in facts.good:
        marks = facts.token_marks(operation)
        yield from _accepted_after(facts, operation, facts.acknowledged, marks, "its revocation")
        if operation.kind in CALLS:
            marks = [("jti", operation.presented)]
            yield from _accepted_after(facts, operation, facts.seen_dead, marks, "it was dead")
    for (kind, name), operation in facts.acknowledged.items():
        lives = kind == "jti" and not facts.may_have_expired(operation)
        if lives and name not in facts.marks:
            yield "revoked, but revoked_tokens does not hold the mark", (operation,)
        if operation.kind is Kind.REVOKE_REFRESH and not _family_is_marked(facts, operation):
            yield "revoked, but revoked_tokens does not hold the family's mark", (operation,)


def audit_is_complete(facts: Facts) -> Iterator[Finding]:
    """R4: every token handed out and every refusal has its record; no two tell of one token."""
    records = facts.dump["audit_logs"]
    issued = Counter(record["jti"] for record in records if record["event_type"] in _ISSUED)
    recorded = {record["request_id"] for record in records}
    for number in issued.values():
        if number > 1:
            yield f"{number} records tell of the issue of one jti", ()
    for operation in facts.history:
        if operation.jti and operation.jti not in issued:
            yield "a token was handed out without its record", (operation,)
        refused = operation.status in {401, 403} and _REQUEST_ID.fullmatch(operation.id)
        if refused and operation.id not in recorded:
            yield f"a {operation.status} without its record", (operation,)
    yield from _counted_refusals(facts)


def _counted_refusals(facts: Facts) -> Iterator[Finding]:
    """Every 429 is counted in the record of its window; by client, where no window is named."""
    records = [r for r in facts.dump["audit_logs"] if r["event_type"] == "rate_limit_exceeded"]
    counted = {str(record["_id"]): int(record["count"]) for record in records}
    of_clients: Counter[str | None] = Counter()
    for record in records:
        of_clients[record["client_id"]] += int(record["count"])
    refused = [operation for operation in facts.history if operation.status == 429]
    if len(refused) > of_clients.total():
        number = of_clients.total()
        yield f"{len(refused)} answers of 429, but {number} are counted", tuple(refused[-1:])
        return
    for name, group in _groups(refused, lambda o: o.window).items():
        if name and len(group) > counted.get(f"rate_limit_exceeded:{name}", 0):
            yield f"more answers of 429 in {name} than are counted", tuple(group[-1:])
    for client_id, group in _groups(refused, facts.owner).items():
        if client_id and len(group) > of_clients[client_id] + of_clients[None]:
            yield f"more answers of 429 to {client_id} than are counted", tuple(group[-1:])


def limits_are_kept(facts: Facts) -> Iterator[Finding]:
    """R5: a window never admits more than its limit, and without a fault exactly that many.

    A window's minute is that of the worker's clock at some moment of the request. A request that
    may have fallen into another window as well is counted in neither direction.
    """
    admitted: dict[str, list[Operation]] = defaultdict(list)
    perhaps: Counter[str] = Counter()
    refused: dict[str, Operation] = {}
    for operation in facts.history:
        windows = _windows(facts, operation)
        certain = len(windows) == 1 and operation.kind in GOOD_KINDS
        if operation.status == 429:
            if certain and not facts.may_be_refused(operation):
                refused[windows[0]] = operation
        elif certain and operation.outcome is Outcome.OK:
            admitted[windows[0]].append(operation)
        else:
            perhaps.update(windows)
    for window, operations in admitted.items():
        number, limit = len(operations), _limit_of(facts, window)
        if number > limit:
            yield f"{number} were admitted in {window}, which admits {limit}", tuple(operations)
    if facts.expected.fault is None:
        yield from _not_exact(facts, admitted, perhaps, refused)


def _not_exact(
    facts: Facts,
    admitted: Mapping[str, list[Operation]],
    perhaps: Mapping[str, int],
    refused: Mapping[str, Operation],
) -> Iterator[Finding]:
    """Without a fault: who was refused found the window full, and every place is counted."""
    for window, operation in refused.items():
        most, limit = (
            len(admitted.get(window, ())) + perhaps.get(window, 0),
            _limit_of(facts, window),
        )
        if most < limit:
            yield f"at most {most} were admitted in {window}, which admits {limit}", (operation,)
    counts = {document["_id"]: int(document["count"]) for document in facts.dump["rate_limits"]}
    for window, operations in admitted.items():
        number, counted = len(operations), counts.get(window, 0)
        if number > counted:
            yield f"{number} were admitted in {window}, but {counted} counted", tuple(operations)


def families_die(facts: Facts) -> Iterator[Finding]:
    """R6: after reuse was answered, nothing of the family is accepted by who starts later."""
    for operation in facts.good:
        marks = facts.token_marks(operation)
        yield from _accepted_after(facts, operation, facts.reuses, marks, "reuse in its family")
    for operation in facts.reuses.values():
        if not _family_is_marked(facts, operation):
            yield "reuse was answered, but revoked_tokens does not hold the mark", (operation,)


def ids_are_unique(facts: Facts) -> Iterator[Finding]:
    """R7: no request id, `jti`, refresh token or id of a record was made twice."""
    for text, groups in (
        ("two operations have one request id", _groups(facts.history, lambda o: o.id)),
        ("one jti was handed out twice", _groups(facts.history, lambda o: o.jti)),
    ):
        for name, group in groups.items():
            if name and len(group) > 1:
                yield text, tuple(group)
    for digest, group in _groups(facts.history, lambda o: o.refresh_digest).items():
        # With a grace a repeated refresh gets the same successor.
        sources = {o.presented if o.kind is Kind.REFRESH else o.id for o in group}
        if digest and len(sources) > 1:
            yield "one refresh token was handed out for several", tuple(group)
    records = facts.dump["audit_logs"]
    issuing = [record for record in records if record["event_type"] in _ISSUED]
    asked = {(record["jti"], record["client_id"], record["request_id"]) for record in issuing}
    known = {record["jti"] for record in issuing}
    for jti, operation in facts.issued.items():
        if jti in known and (jti, operation.client_id, operation.id) not in asked:
            yield "a token was handed out that somebody else had asked for", (operation,)
    issues = Counter(record["request_id"] for record in issuing)
    for what, counts in (
        ("_id", Counter(str(record["_id"]) for record in records)),
        ("request_id of an issue", issues),
    ):
        for name, number in counts.items():
            if number > 1:
                yield f"{number} records have the {what} {name}", ()


def answers_are_documented(facts: Facts) -> Iterator[Finding]:
    """R8: documented statuses, headers and codes, in time, and nothing of our insides."""
    for operation in facts.history:
        status = operation.status
        if status is not None and status not in DOCUMENTED_STATUSES[operation.kind]:
            yield f"{operation.kind} was answered {status}", (operation,)
        wanted = {429: "rate_limit_exceeded", 503: "temporarily_unavailable"}.get(status or 0)
        if wanted and operation.error != wanted:
            yield f"{status} with the error {operation.error!r}", (operation,)
        if wanted and not operation.retry_after.isdecimal():
            yield f"{status} with Retry-After: {operation.retry_after!r}", (operation,)
        if found := _INTERNALS.search(operation.body):
            yield f"the body tells of our insides: {found[0]}", (operation,)
        yield from _slow(facts, operation)


def _slow(facts: Facts, operation: Operation) -> Iterator[Finding]:
    """An answer that took too long, or none for so long. The operator's calls are no requests."""
    expected = facts.expected
    hung = operation.outcome is Outcome.UNKNOWN
    longest = expected.longest_answer + expected.busy_allowance
    if operation.kind is not Kind.DISABLE and operation.seconds > longest:
        answer = "no answer" if hung else f"the answer {operation.status}"
        yield f"{answer} after {operation.seconds:.1f} s", (operation,)


def disabled_clients_stop(facts: Facts) -> Iterator[Finding]:
    """R9: a client that was disabled is refused at once, on all workers."""
    for operation in facts.good:
        marks = [("client", facts.owner(operation))]
        yield from _accepted_after(facts, operation, facts.acknowledged, marks, "it was disabled")
    enabled = {document["client_id"] for document in facts.dump["clients"]
               if not document.get("disabled")}  # fmt: skip
    for (kind, client_id), operation in facts.acknowledged.items():
        if kind == "client" and client_id in enabled:
            yield "disabled, but the client's document does not say so", (operation,)


def recovers(facts: Facts) -> Iterator[Finding]:
    """R10: soon after the fault, whoever does nothing wrong is answered OK again."""
    if facts.expected.fault is None:
        return
    recovered = facts.expected.fault[1] + facts.expected.recovery_seconds
    later = [o for o in facts.good if o.start >= recovered and not facts.may_be_refused(o)]
    failed = [o for o in later if o.outcome is not Outcome.OK and (o.status or 503) >= 500]
    if facts.expected.busy_allowance and len(failed) < _BUSY_SHARE * len(later):
        failed = []
    for operation in failed:
        seconds = operation.start - facts.expected.fault[1]
        yield f"{operation.status or 'no answer'} {seconds:.1f} s after the fault", (operation,)
    if not _ok(later):
        yield "nothing was seen to be OK again after the fault", tuple(later[:1])


RULES: Mapping[str, Rule] = {
    "R1": single_use,
    "R2": nobody_stranded,
    "R3": revocation_is_monotone,
    "R4": audit_is_complete,
    "R5": limits_are_kept,
    "R6": families_die,
    "R7": ids_are_unique,
    "R8": answers_are_documented,
    "R9": disabled_clients_stop,
    "R10": recovers,
}


def single_use_id(owner: str, jti: str) -> str:
    """The `_id` of a mark in `used_assertions` and `used_dpop_proofs`."""
    digest = hashlib.sha256(f"{owner}\0{jti}".encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def window_name(client_id: str, ip: str, wall: float) -> str:
    """The `_id` of a window in `rate_limits`, for a moment in seconds since 1970."""
    minute = datetime.fromtimestamp(wall // _MINUTE * _MINUTE, UTC)
    return f"{client_id}:{ip}:{minute:%Y%m%d%H%M}"


def _windows(facts: Facts, operation: Operation) -> list[str]:
    """The windows that an operation may have been counted in, as far as one can know."""
    expected, client_id = facts.expected, facts.owner(operation)
    if not facts.limit(client_id):
        return []
    if operation.window:
        return [operation.window]
    if expected.wall_offset is None:
        return []
    offsets = {0.0, *expected.clocks.values()}
    if operation.worker:
        offsets = {expected.clocks.get(operation.worker, 0.0)}
    minutes = {
        float(minute * _MINUTE)
        for offset in offsets
        for minute in range(
            int((operation.start + expected.wall_offset + offset) // _MINUTE),
            int((operation.end + expected.wall_offset + offset) // _MINUTE) + 1,
        )
    }
    return [window_name(client_id, operation.ip, minute) for minute in minutes]


def _limit_of(facts: Facts, window: str) -> int:
    return facts.limit(window.partition(":")[0])


def _is_limited(facts: Facts, operation: Operation) -> bool:
    return bool(facts.expected.default_limit or facts.limit(facts.owner(operation)))


def _accepted_after(
    facts: Facts,
    operation: Operation,
    ended: Mapping[Mark, Operation],
    marks: Iterable[Mark],
    what: str,
) -> Iterator[Finding]:
    """An operation that was OK though it began after what it presents had been ended."""
    if operation.outcome is not Outcome.OK or facts.stale(operation):
        return
    for mark in marks:
        end = ended.get(mark)
        if end is not None and end.end < operation.start:
            seconds = operation.start - end.end
            yield f"{operation.kind} was OK {seconds:.3f} s after {what}", (end, operation)


def _family_is_marked(facts: Facts, operation: Operation) -> bool:
    document = facts.used.get(operation.presented) or facts.tokens.get(operation.presented) or {}
    family_id = document.get("family_id")
    return family_id is None or f"family:{family_id}" in facts.marks


def _is_refusal(operation: Operation) -> bool:
    """Whether it was called wrong: neither too often, nor at a bad moment."""
    return 400 <= (operation.status or 0) < 500 and operation.status != 429


def _ok(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    return tuple(o for o in operations if o.outcome is Outcome.OK)


def _ids(documents: Iterable[Mapping[str, Any]]) -> set[Any]:
    return {document["_id"] for document in documents}


def _groups(
    operations: Iterable[Operation], key: Callable[[Operation], str]
) -> dict[str, list[Operation]]:
    groups: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        groups[key(operation)].append(operation)
    return groups
