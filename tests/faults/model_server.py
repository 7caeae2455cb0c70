"""A tiny server that keeps every promise, for the checker to be tried on: no network, no database.

It does one thing at a time, at a moment that the test chooses; what its clients see begins before
that moment and ends after it, so histories overlap as those of real workers do.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import count
from typing import Any

from tests.faults.checker_rules import single_use_id, window_name
from tests.faults.history import Dump, Kind, Operation, Outcome

Document = dict[str, Any]


class Fate(StrEnum):
    """What becomes of a request and of its answer."""

    ANSWERED = "answered"
    REQUEST_LOST = "request lost"
    ANSWER_LOST = "answer lost"
    FAILED_BEFORE = "503, and nothing was done"
    FAILED_AFTER = "503, and yet it was done"


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sends."""

    id: str
    kind: Kind
    client_id: str
    presented: str
    proof: str
    now: float


class Refusal(Exception):
    """The answer is no."""

    def __init__(self, status: int, error: str) -> None:
        self.fields: Document = {"status": status, "error": error}
        if status in {429, 503}:
            self.fields["retry_after"] = "1"


@dataclass(slots=True)
class ModelServer:
    """A server, its database and what its clients saw.

    Attributes:
        grace: seconds in which a refresh may be repeated.
        limit: requests a minute of a client; 0 for any number.
        now: the moment of the last operation.
        history: what clients saw.
    """

    grace: float = 0.0
    limit: int = 0
    now: float = 10_000.0
    history: list[Operation] = field(default_factory=list)
    tokens: dict[str, Document] = field(default_factory=dict)
    used: dict[str, Document] = field(default_factory=dict)
    marks: set[str] = field(default_factory=set)
    assertions: set[str] = field(default_factory=set)
    proofs: set[str] = field(default_factory=set)
    disabled: set[str] = field(default_factory=set)
    families: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    audit: dict[str, Document] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=count)

    def do(
        self,
        kind: Kind,
        client_id: str = "billing",
        presented: str = "",
        *,
        proof: str = "",
        fate: Fate = Fate.ANSWERED,
        pause: float = 1.0,
        before: float = 0.1,
        after: float = 0.1,
    ) -> Operation:
        """Do one operation, `pause` seconds after the last; it is seen from `before` to `after`."""
        self.now += pause
        request = Request(self.made("request"), kind, client_id, presented, proof, self.now)
        seen: Document = {"outcome": Outcome.UNKNOWN}
        if fate not in {Fate.REQUEST_LOST, Fate.FAILED_BEFORE}:
            seen = self._answer(request)
        if fate in {Fate.FAILED_BEFORE, Fate.FAILED_AFTER} and kind is not Kind.DISABLE:
            seen = _refused(Refusal(503, "temporarily_unavailable"))
        elif fate is not Fate.ANSWERED:
            seen = {"outcome": Outcome.UNKNOWN}
        return self.see(
            id=request.id,
            kind=kind,
            client_id=client_id,
            presented=presented,
            proof=proof,
            jkt=f"key of {client_id}" if proof else "",
            start=self.now - before,
            end=self.now + after,
            **seen,
        )

    def refresh(self, tokens: Operation, **how: Any) -> Operation:
        """Exchange the refresh token that was received."""
        return self.do(Kind.REFRESH, tokens.client_id, tokens.refresh_digest, **how)

    def call(self, tokens: Operation, **how: Any) -> Operation:
        """Use the access token that was received."""
        return self.do(Kind.CALL, tokens.client_id, tokens.jti, **how)

    def revoke(self, tokens: Operation, **how: Any) -> Operation:
        """Revoke that access token."""
        return self.do(Kind.REVOKE_ACCESS, tokens.client_id, tokens.jti, **how)

    def revoke_family(self, tokens: Operation, **how: Any) -> Operation:
        """Revoke that refresh token, and all of its family."""
        return self.do(Kind.REVOKE_REFRESH, tokens.client_id, tokens.refresh_digest, **how)

    def see(self, **fields: Any) -> Operation:
        """Write an operation into the history, true or not."""
        operation = Operation(**fields)
        self.history.append(operation)
        return operation

    def forge(self, operation: Operation, **changes: Any) -> Operation:
        """Change what was seen of an operation."""
        forged = replace(operation, **changes)
        self.history[self.history.index(operation)] = forged
        return forged

    def made(self, what: str) -> str:
        """A name that nobody had before."""
        return f"{what}-{next(self._numbers)}"

    def dump(self) -> Dump:
        """The database."""
        return Dump({
            "tokens": [{"refresh_token": name, **d} for name, d in self.tokens.items()],
            "used_refresh_tokens": [{"_id": name, **d} for name, d in self.used.items()],
            "revoked_tokens": [{"_id": mark} for mark in self.marks],
            "used_assertions": [{"_id": name} for name in self.assertions],
            "used_dpop_proofs": [{"_id": name} for name in self.proofs],
            "rate_limits": [{"_id": name, "count": n} for name, n in self.counts.items()],
            "audit_logs": [{"_id": name, **record} for name, record in self.audit.items()],
            "clients": [
                {"client_id": name, "disabled": name in self.disabled}
                for name in {operation.client_id for operation in self.history}
            ],
        })  # fmt: skip

    def record(self, event: str, client_id: str, request_id: str, jti: str | None = None) -> str:
        """Write a record into the audit log."""
        name = self.made("record")
        self.audit[name] = {
            "event_type": event,
            "client_id": client_id,
            "request_id": request_id,
            "jti": jti,
        }
        return name

    def _answer(self, request: Request) -> Document:
        try:
            return {"outcome": Outcome.OK, **self._serve(request)}
        except Refusal as refusal:
            if refusal.fields["status"] != 429:
                self.record("refused", request.client_id, request.id)
            return _refused(refusal)

    def _serve(self, request: Request) -> Document:
        match request.kind:
            case Kind.TOKEN | Kind.ASSERTION:
                return self._log_in(request)
            case Kind.REFRESH:
                return self._refresh(request)
            case Kind.CALL | Kind.PROOF:
                return self._call(request)
            case Kind.REVOKE_ACCESS:
                self.marks.add(request.presented)
            case Kind.REVOKE_REFRESH:
                self.marks.add(self._family_mark(request.presented))
            case Kind.DISABLE:
                self.disabled.add(request.client_id)
                return {}
            case Kind.OTHER:
                raise Refusal(401, "invalid_token")
        return {"status": 200}

    def _log_in(self, request: Request) -> Document:
        if request.client_id in self.disabled:
            raise Refusal(401, "invalid_client")
        if request.kind is Kind.ASSERTION:
            _use(self.assertions, request.client_id, request.presented, "invalid_client")
        self._charge(request)
        return self._issue("login_success", request, self.made("family"), self.made("digest"))

    def _refresh(self, request: Request) -> Document:
        claim = self.used.get(request.presented)
        late = claim is not None and request.now >= claim["used_at"] + self.grace
        mark = self._family_mark(request.presented)
        if mark in self.marks or request.client_id in self.disabled:
            raise Refusal(401, "invalid_grant")
        if late:
            self.marks.add(mark)
            self.record("refresh_token_reuse", request.client_id, request.id)
            raise Refusal(401, "invalid_grant")
        self._charge(request)
        family = self.tokens[request.presented]["family_id"]
        if claim is None:
            claim = {
                "family_id": family,
                "used_at": request.now,
                "successor": self.made("digest"),
            }
            self.used[request.presented] = claim
        return self._issue("token_refreshed", request, family, claim["successor"])

    def _call(self, request: Request) -> Document:
        family = self.families.get(request.presented)
        dead = not self.marks.isdisjoint({request.presented, f"family:{family}"})
        if family is None or dead or request.client_id in self.disabled:
            raise Refusal(401, "invalid_token")
        self._charge(request)
        if request.proof:
            owner = f"key of {request.client_id}"
            _use(self.proofs, owner, request.proof, "invalid_dpop_proof")
        return {"status": 200}

    def _issue(self, event: str, request: Request, family: str, digest: str) -> Document:
        jti = self.made("jti")
        self.families[jti] = family
        self.tokens[digest] = {"family_id": family}
        self.record(event, request.client_id, request.id, jti)
        return {"status": 200, "jti": jti, "refresh_digest": digest}

    def _charge(self, request: Request) -> None:
        if not self.limit:
            return
        key = window_name(request.client_id, "127.0.0.1", request.now)
        self.counts[key] += 1
        if self.counts[key] > self.limit:
            record: Document = {
                "event_type": "rate_limit_exceeded",
                "client_id": request.client_id,
                "request_id": request.id,
                "jti": None,
                "count": 0,
            }
            self.audit.setdefault(f"rate_limit_exceeded:{key}", record)["count"] += 1
            raise Refusal(429, "rate_limit_exceeded")

    def _family_mark(self, digest: str) -> str:
        return f"family:{self.tokens[digest]['family_id']}"


def _use(used: set[str], owner: str, jti: str, error: str) -> None:
    name = single_use_id(owner, jti)
    if name in used:
        raise Refusal(401, error)
    used.add(name)


def _refused(refusal: Refusal) -> Document:
    return {"outcome": Outcome.REFUSED, **refusal.fields}
