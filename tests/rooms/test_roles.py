"""Roles, and the order that an operator gives them."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _oauth2_m2m.roles import has_role, role_order_from

ORDER = ("owner", "admin", "user")
ROLES = st.sampled_from([*ORDER, "auditor", "Admin"])


class Role(StrEnum):
    ADMIN = "admin"
    USER = "user"


@pytest.mark.parametrize(
    ("held", "wanted", "order", "expected"),
    [
        (["admin"], "admin", (), True),
        (["admin"], "user", (), False),
        (["admin"], "user", ORDER, True),
        (["owner"], "user", ORDER, True),
        (["user"], "admin", ORDER, False),
        (["auditor"], "user", ORDER, False),
        (["owner"], "auditor", ORDER, False),
        (["auditor"], "auditor", ORDER, True),
        (["auditor", "owner"], "admin", ORDER, True),
        (["Admin"], "user", ORDER, False),
        (["admin"], Role.USER, (Role.ADMIN, Role.USER), True),
        ([], "user", ORDER, False),
    ],
)
def test_a_role_does_what_those_after_it_may(
    held: list[str], wanted: str, order: tuple[str, ...], expected: bool
) -> None:
    """The order counts for the roles in it; any other role stands for itself alone."""
    assert has_role(held, wanted, order) is expected


@given(ROLES, ROLES)
def test_of_two_roles_at_most_one_stands_above(one: str, other: str) -> None:
    """Two different roles never may do each other's things."""
    both = has_role([one], other, ORDER) and has_role([other], one, ORDER)
    assert both == (one == other)


@pytest.mark.parametrize(
    "value",
    ["admin", {"admin": 1}, 1, [1], ["two words"], ["a", "a"], [""], ["x" * 256], [None], ["ä"]],
    ids=repr,
)
def test_what_is_no_order_is_refused(value: Any) -> None:
    """A typing mistake must not quietly give somebody more than is meant."""
    with pytest.raises(ValueError, match="must"):
        role_order_from(value)


def test_an_order_has_a_bound() -> None:
    """Fifty roles are an order, and one more is none; a role may have 255 characters."""
    fifty = [f"role-{n}" for n in range(49)] + ["x" * 255]
    assert role_order_from(fifty) == tuple(fifty)
    with pytest.raises(ValueError, match="at most 50"):
        role_order_from([*fifty, "another"])
    assert [type(each) for each in role_order_from([Role.ADMIN])] == [str]
