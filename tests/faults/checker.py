"""Whether a history, held against the database that it left behind, keeps every promise.

Each rule, R1 to R10, is a plain function in `checker_rules`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.checker_facts import Expectations, Facts, Span, Violation
from tests.faults.checker_rules import RULES
from tests.faults.history import Dump, Operation

__all__ = ["Expectations", "Span", "Violation", "check"]


def check(history: Sequence[Operation], dump: Dump, expected: Expectations) -> list[Violation]:
    """Every promise that was broken; none when the list is empty.

    Args:
        history: what clients saw, in any order.
        dump: the database after the last operation.
        expected: what the scenario knows.
    """
    facts = Facts(history, dump, expected)
    return [
        Violation(name, text, tuple(operation.id for operation in operations))
        for name, rule in RULES.items()
        for text, operations in rule(facts)
    ]
