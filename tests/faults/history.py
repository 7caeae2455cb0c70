"""What clients saw: one line for each operation, written while faults go on.

The history and a dump of the database are all that the checker looks at.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Kind(StrEnum):
    """What a client did."""

    TOKEN = "token"  # client credentials, by secret
    ASSERTION = "assertion"  # client credentials, by a signed assertion: `presented` is its jti
    REFRESH = "refresh"  # `presented` is the digest of a refresh token
    CALL = "call"  # a guarded route: `presented` is the jti of an access token
    PROOF = "proof"  # the same with a DPoP proof: `proof` is the proof's jti
    REVOKE_ACCESS = "revoke_access"  # `presented` is a jti
    REVOKE_REFRESH = "revoke_refresh"  # `presented` is the digest of a refresh token
    DISABLE = "disable"  # an operator, by our door: `client_id` says whom
    OTHER = "other"  # garbage, floods, probes: only the answer counts


class Outcome(StrEnum):
    """What the client knows of it afterwards."""

    OK = "ok"
    REFUSED = "refused"  # an answer that says no: 4xx, 503
    UNKNOWN = "unknown"  # no whole answer: it may have happened or not


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of one client.

    Attributes:
        id: sent as `X-Request-ID`, so that the audit log names it.
        kind: what it was.
        start, end: seconds of the machine's monotonic clock, the same for all its processes.
        outcome: what came of it.
        worker: the name of the worker that was asked; "" for whichever took the connection.
        client_id: whose credentials were used.
        presented: what was spent, used or revoked: see `Kind`. No secret: a digest, or a `jti`.
        proof: the `jti` of a DPoP proof, if one was sent.
        jkt: the thumbprint of the proof's key, by which the database knows the proof.
        ip: where it came from, as the service sees it.
        window: the name of a rate-limit window (`client_id:ip:minute`) that admitted it, where a
            scenario counts exactly; else "".
        jti, refresh_digest: what was received: the access token's id, the refresh token's digest.
        status: the status of the answer, `None` without one.
        error: the member `error` of the answer.
        retry_after: the header `Retry-After`.
        body: the first 500 characters of an answer that was no success. It holds no secret.
    """

    id: str
    kind: Kind
    start: float
    end: float
    outcome: Outcome
    worker: str = ""
    client_id: str = ""
    presented: str = ""
    proof: str = ""
    window: str = ""
    jti: str = ""
    refresh_digest: str = ""
    status: int | None = None
    error: str = ""
    retry_after: str = ""
    body: str = ""
    jkt: str = ""
    ip: str = "127.0.0.1"

    @property
    def seconds(self) -> float:
        """How long the answer took."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Dump:
    """The database after the last operation: the documents of each collection."""

    collections: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> list[dict[str, Any]]:
        return self.collections.get(name, [])


def write_history(path: Path, operations: Iterable[Operation]) -> None:
    """Append operations, one JSON object a line."""
    with path.open("a", encoding="utf-8") as stream:
        for operation in operations:
            stream.write(json.dumps(asdict(operation), ensure_ascii=False) + "\n")


def read_history(paths: Iterable[Path]) -> Iterator[Operation]:
    """The operations of all files. A last line that was cut off is left out."""
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                fields = json.loads(line)
            except ValueError:
                continue
            fields["kind"], fields["outcome"] = Kind(fields["kind"]), Outcome(fields["outcome"])
            yield Operation(**fields)
