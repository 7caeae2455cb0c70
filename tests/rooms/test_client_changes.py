"""What operators want clients to be, and what is to change for that: rules of values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _oauth2_m2m.client_changes import (
    FIELDS,
    ClientChange,
    check_wanted,
    diff,
    in_words,
    stored_fields,
)

BILLING = {"client_id": "billing", "client_secret": "sha256$x", "scopes": ["read"], "role": "user"}


def changes(
    documents: list[dict[str, Any]], wanted: dict[str, Any], *, prune: bool = False
) -> list[ClientChange]:
    return diff(documents, check_wanted(wanted), prune=prune)


def applied(document: dict[str, Any], change: ClientChange) -> dict[str, Any]:
    """A document as a change leaves it."""
    if change.action in ("enable", "disable"):
        return {**document, "disabled": change.action == "disable"}
    after = {**document, **{name: pair[1] for name, pair in change.fields.items()}}
    return {name: value for name, value in after.items() if value is not None}


FIELDS_OF_A_CLIENT = st.fixed_dictionaries(
    {"scopes": st.lists(st.sampled_from(["read", "write", "admin"]))},
    optional={
        "role": st.sampled_from(["user", "admin", None]),
        "name": st.sampled_from(["Billing", None]),
        "disabled": st.booleans(),
        "access_token_expire_minutes": st.sampled_from([5, 60, None]),
        "allowed_networks": st.sampled_from([[], ["10.0.0.0/8"], None]),
        "grant_types": st.sampled_from([["refresh_token", "client_credentials"], None]),
        "issue_refresh_tokens": st.sampled_from([True, False, None]),
        "audience": st.sampled_from([["https://b.example/", "https://a.example/"], []]),
        "dpop_bound_access_tokens": st.sampled_from([True, False, None]),
    },
)


@given(FIELDS_OF_A_CLIENT, FIELDS_OF_A_CLIENT)
def test_whatever_a_client_was_it_becomes_what_is_wanted(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    """Doing what is to be done leaves nothing to do, whatever is said and left unsaid."""
    documents: dict[str, dict[str, Any]] = {}
    for wanted in (before, after):
        for change in changes(list(documents.values()), {"billing": wanted}):
            document = documents.get("billing", {"client_id": "billing"})
            documents["billing"] = applied(document, change)
        assert changes(list(documents.values()), {"billing": wanted}) == []


def test_a_client_typed_by_hand_that_says_the_same_is_the_same() -> None:
    """What is usual need not be said, and the order of scopes is nobody's business."""
    typed = {**BILLING, "scopes": ["write", "read"], "disabled": False, "allowed_networks": []}
    del typed["role"]
    assert changes([typed], {"billing": {"scopes": ["read", "write"], "role": "user"}}) == []


def test_what_is_not_said_becomes_the_usual() -> None:
    """A file is the whole truth of the clients in it."""
    (change,) = changes([{**BILLING, "role": "admin", "name": "B"}], {"billing": {"scopes": []}})
    assert change.action == "update"
    assert change.fields == {
        "scopes": (["read"], []),
        "role": ("admin", None),
        "name": ("B", None),
    }
    assert in_words(change.fields) == "scopes -read, role admin -> user, name"


def test_others_are_left_alone_unless_they_are_pruned() -> None:
    """Who is in no file is somebody else's, unless the file is all there is."""
    assert changes([BILLING], {}) == []
    assert changes([BILLING], {}, prune=True) == [
        ClientChange(action="remove", client_id="billing", fields={})
    ]


@pytest.mark.parametrize(
    ("wanted", "word"),
    [
        ({"billing": {}}, "billing.*scopes is missing"),
        ({"billing": None}, "billing.*fields"),
        ({"billing": {"scopes": "read"}}, "billing.*list"),
        ({"billing": {"scopes": [7]}}, "billing.*list of texts"),
        ({"billing": {"scopes": ["a b"]}}, "billing.*scopes"),
        ({"billing": {"scopes": [], "client_secret": "x"}}, "client_secret does not belong"),
        ({"billing": {"scopes": [], "secrets": []}}, "secrets does not belong"),
        ({"billing": {"scopes": [], "epoch": "x"}}, "epoch is no field"),
        ({"billing": {"scopes": [], "disabled": "yes"}}, "disabled"),
        ({"billing": {"scopes": [], "role": 7}}, "role"),
        ({"billing": {"scopes": [], "allowed_networks": ["10.0.0.1/8"]}}, "networks"),
        ({7: {"scopes": []}}, "quotes"),
        ({"a b": {"scopes": []}}, "client_id must be"),
        ({"fine": {"scopes": []}, "~": {"scopes": []}}, "client_id must not"),
    ],
    ids=repr,
)
def test_what_cannot_be_stored_is_told_before_anything_is_done(
    wanted: dict[Any, Any], word: str
) -> None:
    """With the client and the field, and there is no plan at all."""
    with pytest.raises(ValueError, match=word):
        changes([BILLING], wanted)


def test_every_field_that_clients_differ_in_can_be_said() -> None:
    """What `register` takes is what a file may hold; a field too many is told."""
    assert stored_fields(dict.fromkeys(FIELDS)) == dict.fromkeys(FIELDS)
    with pytest.raises(ValueError, match="no field"):
        stored_fields({"scope": ["read"]})
