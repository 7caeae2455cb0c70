"""Audit records as OCSF events: the fields of the schema, and nothing lost."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import ObjectId

from _oauth2_m2m.audit import Event
from _oauth2_m2m.audit_events import SCHEMA_VERSION, ocsf_event

RECORD: dict[str, Any] = {
    "_id": "0123456789abcdef:000000000007",
    "event_type": "login_failure",
    "client_id": "billing",
    "ip": "192.0.2.7",
    "reason": "invalid_client: wrong secret",
    "timestamp": datetime(2030, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC),
    "jti": None,
    "request_id": "a-request",
    "user_agent": "curl/8",
    "error_id": "an-error",
    "rule": "secret_matches",
    "facts": {"had": "x"},
    "previous": "p",
    "hash": "h",
}
#: OCSF 1.3.0, class Authentication: those that are required, or that this class asks for.
REQUIRED = {
    "activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid",
    "user", "service",
}  # fmt: skip
#: What the class and its objects have at all.
KNOWN = REQUIRED | {
    "activity_name", "auth_protocol", "auth_protocol_id", "category_name", "class_name", "count",
    "http_request", "is_remote", "logon_type", "logon_type_id", "message", "session", "severity",
    "src_endpoint", "status", "status_code", "status_detail", "status_id", "type_name", "unmapped",
}  # fmt: skip


def test_a_failed_login_is_an_event_of_the_schema() -> None:
    """Each thing that the record says has its field."""
    event = ocsf_event(RECORD)
    assert event == {
        "activity_id": 1,
        "activity_name": "Logon",
        "category_uid": 3,
        "category_name": "Identity & Access Management",
        "class_uid": 3002,
        "class_name": "Authentication",
        "type_uid": 300201,
        "type_name": "Authentication: Logon",
        "severity_id": 2,
        "severity": "Low",
        "status_id": 2,
        "status": "Failure",
        "status_code": "invalid_client",
        "status_detail": "invalid_client: wrong secret",
        "message": "login_failure: invalid_client: wrong secret",
        "time": 1893553445678,
        "auth_protocol_id": 6,
        "auth_protocol": "OAUTH 2.0",
        "logon_type_id": 3,
        "logon_type": "Network",
        "is_remote": True,
        "user": {"uid": "billing", "name": "billing"},
        "src_endpoint": {"ip": "192.0.2.7"},
        "service": {"name": "oauth2-m2m"},
        "http_request": {"uid": "a-request", "user_agent": "curl/8"},
        "metadata": {
            "version": SCHEMA_VERSION,
            "uid": "0123456789abcdef:000000000007",
            "event_code": "login_failure",
            "correlation_uid": "an-error",
            "sequence": 7,
            "log_name": "audit_logs",
            "product": {"name": "oauth2-m2m", "vendor_name": "oauth2-m2m"},
        },
        "unmapped": {
            "rule": "secret_matches",
            "facts": {"had": "x"},
            "previous": "p",
            "hash": "h",
        },
    }
    json.dumps(event)


@pytest.mark.parametrize("kind", [*Event, "of_a_newer_version", None], ids=str)
def test_every_event_has_what_the_schema_requires(kind: object) -> None:
    """Also one that this version does not know, and records with hardly anything in them."""
    for record in ({**RECORD, "event_type": kind}, {"_id": ObjectId(), "event_type": kind}):
        event = ocsf_event(record)
        timeless = set() if "timestamp" in record else {"time"}
        assert event.keys() >= REQUIRED - timeless
        assert event.keys() <= KNOWN
        assert event["type_uid"] == 300200 + event["activity_id"]
        assert event["user"].keys() & {"uid", "name"}


@pytest.mark.parametrize(
    ("kind", "activity", "status", "severity"),
    [
        ("login_success", "Logon", "Success", "Informational"),
        ("token_revoked", "Logoff", "Success", "Informational"),
        ("token_refreshed", "token_refreshed", "Success", "Informational"),
        ("refresh_token_reuse", "refresh_token_reuse", "Failure", "High"),
        ("rate_limit_exceeded", "rate_limit_exceeded", "Failure", "Medium"),
    ],
)
def test_what_an_event_is_called(kind: str, activity: str, status: str, severity: str) -> None:
    """By the schema where it has a word, else by its own name."""
    event = ocsf_event({**RECORD, "event_type": kind})
    assert (event["activity_name"], event["status"], event["severity"]) == (
        activity,
        status,
        severity,
    )
    assert event["activity_id"] in {1, 2, 99}


@pytest.mark.parametrize("kept", ["192.0.2.0/24", "hmac:abc", "unknown"])
def test_what_is_left_of_an_address_is_no_address(kept: str) -> None:
    """A field for addresses would be refused by who checks them."""
    assert ocsf_event({**RECORD, "ip": kept})["src_endpoint"] == {"name": kept}
