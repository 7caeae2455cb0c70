"""Questions to the audit log, each of which an index answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from _oauth2_m2m.audit_addresses import Addresses


def search_query(
    addresses: Addresses,
    *,
    client_id: str | None = None,
    event: str | None = None,
    address: str | None = None,
    request_id: str | None = None,
    error_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> dict[str, Any]:
    """The query for records that match all that is given.

    Args:
        addresses: in which forms addresses may have been kept.
        client_id: the client as it was presented.
        event: what happened.
        address: from where, as whole address, or as it stands in a record.
        request_id: which request.
        error_id: which error, as the caller was told.
        since: not before.
        until: before.
    """
    query: dict[str, Any] = {
        name: value
        for name, value in {
            "client_id": client_id,
            "event_type": event and str(event),
            "ip": address and {"$in": addresses.spellings(address)},
            "request_id": request_id,
            "error_id": error_id,
        }.items()
        if value is not None
    }
    moments = {"$gte": since, "$lt": until}
    bounds = {name: moment for name, moment in moments.items() if moment is not None}
    return {**query, "timestamp": bounds} if bounds else query
