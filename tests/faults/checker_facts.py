"""What a scenario expects, and what follows from a history and a dump before any rule is asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

from tests.faults.history import Dump, Kind, Operation, Outcome

#: From, until: seconds of the machine's monotonic clock.
Span: TypeAlias = tuple[float, float]
#: What ends credentials: ("jti", ...), ("family", ...) or ("client", ...).
Mark: TypeAlias = tuple[str, str]

#: Good credentials are answered OK. The other kinds end something, or are garbage.
GOOD_KINDS = frozenset({Kind.TOKEN, Kind.ASSERTION, Kind.REFRESH, Kind.CALL, Kind.PROOF})
CALLS = frozenset({Kind.CALL, Kind.PROOF})
REVOCATIONS = frozenset({Kind.REVOKE_ACCESS, Kind.REVOKE_REFRESH})
NEVER = float("inf")

_ENDPOINT = frozenset({200, 400, 401, 408, 413, 422, 429, 503})
_ROUTE = frozenset({200, 401, 403, 429, 503})
#: Contract section 2. What is sent as `OTHER` may be anything, so its answer may be anything but
#: a failure of the server.
DOCUMENTED_STATUSES: Mapping[Kind, Collection[int]] = {
    Kind.TOKEN: _ENDPOINT,
    Kind.ASSERTION: _ENDPOINT,
    Kind.REFRESH: _ENDPOINT,
    Kind.REVOKE_ACCESS: _ENDPOINT,
    Kind.REVOKE_REFRESH: _ENDPOINT,
    Kind.CALL: _ROUTE,
    Kind.PROOF: _ROUTE,
    Kind.DISABLE: frozenset(),
    Kind.OTHER: frozenset({*_ENDPOINT, *_ROUTE, 304, 404, 405, 414, 431}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """What a scenario knows. The defaults are those of a run without fault, limits and grace.

    Attributes:
        grace: `REFRESH_GRACE_SECONDS`.
        fault: from its beginning until its end, the restart of what was killed included. `None`
            when there was none: then limits are exact.
        recovery_seconds: so long after the end of the fault, good operations are OK again.
        longest_answer: seconds.
        busy_allowance: what a busy machine may add to them.
        limits: requests a minute, by client id; else what the client's document says.
        default_limit: `MAX_REQUESTS_PER_MINUTE`, for all others; 0 switches limits off.
        wall_offset: `time.time() - time.monotonic()`: it says which minute of the wall an operation
            fell in. `None`: only those are counted that name their `window`.
        clocks: how many seconds the clocks of some workers are ahead, by the worker's name.
        stale_primary: while a primary was cut off and had not noticed: what was revoked may pass.
        linearizable: `REVOCATION_READ_CONCERN`: not even then.
        refusable: kinds that this fault may have refused though their credentials were good.
        access_token_seconds: the lifetime of access tokens.
    """

    grace: float = 0.0
    fault: Span | None = None
    recovery_seconds: float = 10.0
    longest_answer: float = 5.0
    busy_allowance: float = 0.0
    limits: Mapping[str, int] = field(default_factory=dict)
    default_limit: int = 0
    wall_offset: float | None = None
    clocks: Mapping[str, float] = field(default_factory=dict)
    stale_primary: Sequence[Span] = ()
    linearizable: bool = False
    refusable: Collection[Kind] = ()
    access_token_seconds: float = 900.0

    @property
    def clock_span(self) -> float:
        """How far the clocks of two workers may lie apart, in seconds."""
        offsets = [0.0, *self.clocks.values()]
        return max(offsets) - min(offsets)


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken.

    Attributes:
        rule: "R1" to "R10".
        text: how, in one sentence.
        operations: the ids of the operations that show it.
    """

    rule: str
    text: str
    operations: tuple[str, ...] = ()


class Families:
    """Which refresh tokens are of one chain: a disjoint-set forest."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def join(self, one: str, other: str) -> None:
        """Both are of one family."""
        self._parents[self.of(one)] = self.of(other)

    def of(self, name: str) -> str:
        """The name of the family that this is of."""
        parents = self._parents
        parent = parents.setdefault(name, name)
        while parent != name:
            parents[name] = parents[parent]
            name, parent = parent, parents[parent]
        return name


class Facts:
    """A history and a dump, looked at once for all rules.

    Args:
        history: the operations, in any order.
        dump: the database after the last of them.
        expected: what the scenario knows.
    """

    def __init__(self, history: Iterable[Operation], dump: Dump, expected: Expectations) -> None:
        self.history = sorted(history, key=lambda operation: operation.start)
        self.dump = dump
        self.expected = expected

    @cached_property
    def good(self) -> list[Operation]:
        """The operations that spend or use credentials, by their start."""
        return [operation for operation in self.history if operation.kind in GOOD_KINDS]

    @cached_property
    def issued(self) -> dict[str, Operation]:
        """By `jti`: the operation that received the access token."""
        return {operation.jti: operation for operation in self.history if operation.jti}

    @cached_property
    def received(self) -> set[str]:
        """The digests of all refresh tokens that clients received."""
        return {operation.refresh_digest for operation in self.history if operation.refresh_digest}

    @cached_property
    def tokens(self) -> dict[str, dict[str, Any]]:
        """The documents of `tokens`, by the digest."""
        return {document["refresh_token"]: document for document in self.dump["tokens"]}

    @cached_property
    def used(self) -> dict[str, dict[str, Any]]:
        """The documents of `used_refresh_tokens`, by the digest."""
        return {document["_id"]: document for document in self.dump["used_refresh_tokens"]}

    @cached_property
    def marks(self) -> set[str]:
        """The marks of `revoked_tokens`."""
        return {document["_id"] for document in self.dump["revoked_tokens"]}

    @cached_property
    def families(self) -> Families:
        """From the chains that clients saw, and from what the database says."""
        families = Families()
        for operation in self.history:
            if operation.kind is Kind.REFRESH and operation.refresh_digest:
                families.join(operation.refresh_digest, operation.presented)
        for digest, document in (*self.tokens.items(), *self.used.items()):
            if document.get("family_id"):
                families.join(digest, document["family_id"])
        return families

    @cached_property
    def presented(self) -> dict[str, list[Operation]]:
        """Who presented a refresh token, by its digest, in the order of their start."""
        return _grouped((o.presented, o) for o in self.good if o.kind is Kind.REFRESH)

    @cached_property
    def assertions(self) -> dict[tuple[str, str], list[Operation]]:
        """Who presented an assertion, by client and `jti`, in the order of their start."""
        return _grouped(
            ((o.client_id, o.presented), o) for o in self.good if o.kind is Kind.ASSERTION
        )

    @cached_property
    def proofs(self) -> dict[tuple[str, str], list[Operation]]:
        """Who presented a DPoP proof, by its key or client and `jti`, in the order of start."""
        return _grouped(((o.jkt or o.client_id, o.proof), o) for o in self.good if o.proof)

    @cached_property
    def attempted(self) -> dict[Mark, float]:
        """When the first attempt began to set a mark, whatever came of it."""
        begun: dict[Mark, float] = {}
        for operation in self.history:  # by start, so the first one stays
            for mark in self._ends(operation):
                begun.setdefault(mark, operation.start)
        for digest, operations in self.presented.items():
            mark = ("family", self.families.of(digest))
            for again in operations[1:]:
                if not self.within_grace(again):
                    begun[mark] = min(again.start, begun.get(mark, NEVER))
        return begun

    @cached_property
    def acknowledged(self) -> dict[Mark, Operation]:
        """The first revocation or disabling of each mark that was answered OK."""
        first: dict[Mark, Operation] = {}
        for operation in sorted(self.history, key=lambda operation: operation.end):
            if operation.outcome is Outcome.OK:
                for mark in self._ends(operation):
                    first.setdefault(mark, operation)
        return first

    @cached_property
    def seen_dead(self) -> dict[Mark, Operation]:
        """The first refusal of each access token that was issued and had not expired."""
        first: dict[Mark, Operation] = {}
        for operation in sorted(self.good, key=lambda operation: operation.end):
            is_dead = operation.kind in CALLS and operation.error == "invalid_token"
            if is_dead and not self._is_foreign(operation):
                first.setdefault(("jti", operation.presented), operation)
        return first

    @cached_property
    def reuses(self) -> dict[Mark, Operation]:
        """By family: the first answer that refused a spent refresh token as spent."""
        said = {
            record["request_id"]
            for record in self.dump["audit_logs"]
            if record["event_type"] == "refresh_token_reuse"
        }
        first: dict[Mark, Operation] = {}
        for digest, operations in self.presented.items():
            mark = ("family", self.families.of(digest))
            redeemed = next((o for o in operations if o.outcome is Outcome.OK), None)
            for again in operations:
                if again.error == "invalid_grant" and (
                    again.id in said or self._is_reuse(again, redeemed)
                ):
                    first[mark] = min(first.get(mark, again), again, key=lambda o: o.end)
        return first

    def _is_reuse(self, again: Operation, redeemed: Operation | None) -> bool:
        """Whether a refusal can only mean that the token was spent before, by the same client."""
        return (
            redeemed is not None
            and redeemed.client_id == again.client_id
            and redeemed.start < again.end
            and self.attempted.get(("client", again.client_id), NEVER) >= again.end
        )

    @cached_property
    def limits(self) -> dict[str, int]:
        """Requests a minute of the clients that have a limit of their own."""
        own = {c["client_id"]: c.get("max_requests_per_minute") for c in self.dump["clients"]}
        limited = {name: int(limit) for name, limit in own.items() if limit is not None}
        return {**limited, **self.expected.limits}

    def limit(self, client_id: str) -> int:
        """The requests a minute of a client; 0 for any number."""
        return self.limits.get(client_id, self.expected.default_limit)

    def owner(self, operation: Operation) -> str:
        """Whose credentials were used."""
        if operation.client_id or operation.kind not in CALLS:
            return operation.client_id
        issuing = self.issued.get(operation.presented)
        return issuing.client_id if issuing else ""

    def family_mark(self, operation: Operation) -> Mark | None:
        """The family of what an operation presents."""
        digest = ""
        if operation.kind in {Kind.REFRESH, Kind.REVOKE_REFRESH}:
            digest = operation.presented
        elif operation.kind in CALLS and operation.presented in self.issued:
            issuing = self.issued[operation.presented]
            digest = issuing.refresh_digest or (
                issuing.presented if issuing.kind is Kind.REFRESH else ""
            )
        return ("family", self.families.of(digest)) if digest else None

    def token_marks(self, operation: Operation) -> list[Mark]:
        """What of `jti` and family would end what an operation presents."""
        marks = [("jti", operation.presented)] if operation.kind in CALLS else []
        family = self.family_mark(operation)
        return marks if family is None else [*marks, family]

    def within_grace(self, operation: Operation) -> bool:
        """Whether a refresh certainly ended within the grace after the first such refresh."""
        first = self.presented[operation.presented][0]
        grace = self.expected.grace - self.expected.clock_span
        return operation.end < first.start + grace

    def stale(self, operation: Operation) -> bool:
        """Whether the honest exception of the contract's section 3 holds for a request."""
        if self.expected.linearizable and operation.kind not in {Kind.TOKEN, Kind.ASSERTION}:
            return False
        return any(
            operation.start <= until and operation.end >= since
            for since, until in self.expected.stale_primary
        )

    def may_have_expired(self, operation: Operation) -> bool:
        """Whether an access token that was received may have reached the end of its life."""
        issuing = self.issued.get(operation.presented)
        lifetime = self.expected.access_token_seconds - self.expected.clock_span
        return issuing is not None and operation.end - issuing.start >= lifetime

    def may_be_refused(self, operation: Operation) -> bool:
        """Whether the credentials of an operation may have been dead, spent or not to be known."""
        marks = [("client", self.owner(operation))]
        if operation.kind not in REVOCATIONS:  # who revokes what is revoked is told that it is
            marks += self.token_marks(operation)
        return (
            operation.kind in self.expected.refusable
            or any(self.attempted.get(mark, NEVER) < operation.end for mark in marks)
            or self._is_foreign(operation)
            or self._is_repeated(operation)
        )

    def _is_foreign(self, operation: Operation) -> bool:
        """Whether no client received what is presented, or so long ago that it has expired."""
        if operation.kind is Kind.REFRESH:
            return operation.presented not in self.received
        if operation.kind not in CALLS | {Kind.REVOKE_ACCESS}:
            return False
        return operation.presented not in self.issued or self.may_have_expired(operation)

    def _is_repeated(self, operation: Operation) -> bool:
        """Whether somebody else may have been the first to use up what is presented."""
        uses: list[list[Operation]] = []
        if operation.kind is Kind.REFRESH and not self.within_grace(operation):
            uses.append(self.presented[operation.presented])
        if operation.kind is Kind.ASSERTION:
            uses.append(self.assertions[operation.client_id, operation.presented])
        if operation.proof:
            uses.append(self.proofs[operation.jkt or operation.client_id, operation.proof])
        return any(
            len(those) > 1 and (those[0] is not operation or those[1].start < operation.end)
            for those in uses
        )

    def _ends(self, operation: Operation) -> list[Mark]:
        """The mark that an operation sets when it is OK."""
        if operation.kind is Kind.REVOKE_ACCESS:
            return [("jti", operation.presented)]
        if operation.kind is Kind.REVOKE_REFRESH:
            return [("family", self.families.of(operation.presented))]
        return [("client", operation.client_id)] if operation.kind is Kind.DISABLE else []


def _grouped(pairs: Iterable[tuple[Any, Operation]]) -> dict[Any, list[Operation]]:
    groups: dict[Any, list[Operation]] = defaultdict(list)
    for key, operation in pairs:
        groups[key].append(operation)
    return dict(groups)
