"""Questions to the audit log, each of which an index answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypedDict, Unpack

from _oauth2_m2m.audit_addresses import Addresses


class AuditQuery(TypedDict, total=False):
    """What records are asked for: those that match all that is given.

    Attributes:
        client_id: the client as it was presented.
        event: what happened, such as `login_failure`.
        address: from where. A whole address finds truncated and hashed ones, too.
        request_id: which request.
        error_id: which error, as the caller was told.
        since: not before.
        until: before.
    """

    client_id: str | None
    event: str | None
    address: str | None
    request_id: str | None
    error_id: str | None
    since: datetime | None
    until: datetime | None


def search_query(addresses: Addresses, **what: Unpack[AuditQuery]) -> dict[str, Any]:
    """The same as MongoDB is asked.

    Args:
        addresses: in which forms addresses may have been kept.
        what: what is asked for.
    """
    event, address = what.get("event"), what.get("address")
    query: dict[str, Any] = {
        name: value
        for name, value in {
            "client_id": what.get("client_id"),
            "event_type": event and str(event),
            "ip": address and {"$in": addresses.spellings(address)},
            "request_id": what.get("request_id"),
            "error_id": what.get("error_id"),
        }.items()
        if value is not None
    }
    moments = {"$gte": what.get("since"), "$lt": what.get("until")}
    bounds = {name: moment for name, moment in moments.items() if moment is not None}
    return {**query, "timestamp": bounds} if bounds else query
