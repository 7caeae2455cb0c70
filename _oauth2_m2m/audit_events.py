"""Audit records as events of the Open Cybersecurity Schema Framework (OCSF), for other systems.

The class is Authentication (3002) of version 1.3.0, for every record alike, so that one stream
tells the whole story; what the schema has no word for is an activity called by its own name.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_address
from typing import Any

from _oauth2_m2m.audit import Event
from _oauth2_m2m.audit_chain import milliseconds, place_of

SCHEMA_VERSION = "1.3.0"
_CATEGORY, _CLASS = 3, 3002
_LOGON, _LOGOFF, _OTHER = 1, 2, 99
_ACTIVITIES = {
    Event.LOGIN_SUCCESS: (_LOGON, "Logon"),
    Event.LOGIN_FAILURE: (_LOGON, "Logon"),
    Event.TOKEN_REVOKED: (_LOGOFF, "Logoff"),
}
_FAILURES = frozenset({
    Event.LOGIN_FAILURE,
    Event.REFRESH_TOKEN_REUSE,
    Event.REFRESH_TOKEN_INVALID,
    Event.RATE_LIMIT_EXCEEDED,
    Event.TOKEN_INVALID,
    Event.ACCESS_DENIED,
})  # fmt: skip
_INFORMATIONAL, _LOW, _MEDIUM, _HIGH = (
    (1, "Informational"),
    (2, "Low"),
    (3, "Medium"),
    (4, "High"),
)
_SEVERITIES = {Event.REFRESH_TOKEN_REUSE: _HIGH, Event.RATE_LIMIT_EXCEEDED: _MEDIUM}
_SUCCESS, _FAILURE = (1, "Success"), (2, "Failure")
_OAUTH_2 = (6, "OAUTH 2.0")
_NETWORK_LOGON = (3, "Network")
#: What the event says in fields of the schema; the rest of a record is `unmapped`.
_MAPPED = frozenset({
    "_id", "event_type", "client_id", "ip", "reason", "timestamp", "jti", "request_id",
    "user_agent", "error_id", "count",
})  # fmt: skip


def ocsf_event(record: Mapping[str, Any]) -> dict[str, Any]:
    """The event that a record is. Members that have no value are left out."""
    kind = str(record.get("event_type"))
    activity, activity_name = _ACTIVITIES.get(kind, (_OTHER, kind))  # type: ignore[call-overload]
    is_failure = kind in _FAILURES
    status, status_name = _FAILURE if is_failure else _SUCCESS
    severity, severity_name = _SEVERITIES.get(  # type: ignore[call-overload]
        kind, _LOW if is_failure else _INFORMATIONAL
    )
    reason = record.get("reason") or ""
    place = place_of(record["_id"])
    code = reason.partition(":")[0] if is_failure and ": " in reason else None
    event = {
        "activity_id": activity,
        "activity_name": activity_name,
        "category_uid": _CATEGORY,
        "category_name": "Identity & Access Management",
        "class_uid": _CLASS,
        "class_name": "Authentication",
        "type_uid": _CLASS * 100 + activity,
        "type_name": f"Authentication: {activity_name if activity != _OTHER else 'Other'}",
        "severity_id": severity,
        "severity": severity_name,
        "status_id": status,
        "status": status_name,
        "status_code": code,
        "status_detail": reason,
        "message": f"{kind}: {reason}" if reason else kind,
        "time": _time(record.get("timestamp")),
        "count": record.get("count"),
        "auth_protocol_id": _OAUTH_2[0],
        "auth_protocol": _OAUTH_2[1],
        "logon_type_id": _NETWORK_LOGON[0],
        "logon_type": _NETWORK_LOGON[1],
        "is_remote": record.get("ip") is not None,
        "user": {"uid": record.get("client_id"), "name": record.get("client_id") or "unknown"},
        "src_endpoint": _endpoint(record.get("ip")),
        "service": {"name": "oauth2-m2m"},
        "session": {"uid": record.get("jti")},
        "http_request": {"uid": record.get("request_id"), "user_agent": record.get("user_agent")},
        "metadata": {
            "version": SCHEMA_VERSION,
            "uid": str(record["_id"]),
            "event_code": kind,
            "correlation_uid": record.get("error_id"),
            "sequence": place and place[1],
            "log_name": "audit_logs",
            "product": {"name": "oauth2-m2m", "vendor_name": "oauth2-m2m"},
        },
        "unmapped": {name: value for name, value in record.items() if name not in _MAPPED},
    }
    return _without_empty(event)


def _endpoint(ip: str | None) -> dict[str, str]:
    """An address as such; one that was truncated or hashed, by its name."""
    if ip is None:
        return {}
    try:
        return {"ip": str(ip_address(ip))}
    except ValueError:
        return {"name": ip}


def _time(moment: object) -> int | None:
    return milliseconds(moment) if isinstance(moment, datetime) else None


def _without_empty(members: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        name: _without_empty(value) if isinstance(value, Mapping) else value
        for name, value in members.items()
    }
    return {name: value for name, value in found.items() if value not in (None, "", {})}
