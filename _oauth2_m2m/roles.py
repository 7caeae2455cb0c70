"""Roles as values, and the order that an operator may give them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from _oauth2_m2m.scopes import is_scope_token, plain

MOST_ROLES = 50
LONGEST_ROLE = 255


def role_order_from(value: Any) -> tuple[str, ...]:
    """Read an order of roles, the highest first.

    Raises:
        ValueError: it is no list of different roles.
    """
    if not isinstance(value, list | tuple) or len(value) > MOST_ROLES:
        raise ValueError(f"must be a list of at most {MOST_ROLES} roles, the highest first")
    if not all(isinstance(each, str) and is_role(each) for each in value):
        raise ValueError("must be a list of roles, each one word without quotes")
    if len(set(value)) < len(value):
        raise ValueError("must name each role once")
    return plain(value)


def is_role(text: str) -> bool:
    """Whether the text can be a role."""
    return len(text) <= LONGEST_ROLE and is_scope_token(text)


def has_role(roles: Collection[str], wanted: str, order: Sequence[str]) -> bool:
    """Whether somebody of these roles may do what asks for a role.

    Args:
        roles: the roles that somebody has.
        wanted: the role that is asked for.
        order: roles of which each may do what those after it may. One that is not among them
            stands for itself alone.
    """
    if wanted in roles:
        return True
    return wanted in order and not set(order[: order.index(wanted)]).isdisjoint(roles)
