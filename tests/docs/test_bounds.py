"""docs/bounds.md: every bound is what the code says, and is tried at its edge."""

from __future__ import annotations

import importlib
import re
from datetime import timedelta
from typing import Any

import pytest

from tests.papers import ROOT, TEST, codes, is_there, paper, table

PAGE = paper("docs/bounds.md")
BOUNDS = table(PAGE, "what")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "day": "days", "days": "days"}
SOURCES = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "_oauth2_m2m").rglob("*.py"))

#: What only says how often or how long something is tried, and refuses nothing.
PACES = {
    "storage.INDEX_SECONDS",
    "issuer_calls.MOST_CONNECTIONS",
    "issuer_calls._IDLE_SECONDS",
    "remote_judge.LONGEST_START_SECONDS",
    "remote_documents.MOST_WAITING",
    "audit_checkpoints.MOST_ATTEMPTS",
    "audit_reading.FOLLOW_SECONDS",
    "audit_checkpoints.MOST_KEYS",
}


@pytest.mark.parametrize("row", BOUNDS, ids=lambda row: codes(row[3])[0])
def test_a_bound_is_what_the_code_says(row: list[str]) -> None:
    """The number in the table is the constant that it names."""
    module, _, constant = codes(row[3])[0].rpartition(".")
    value = getattr(importlib.import_module(f"_oauth2_m2m.{module}"), constant)
    number, _, unit = row[1].partition(" ")
    expected: Any = float(number)
    if isinstance(value, timedelta):
        expected = timedelta(**{UNITS[unit]: expected})
    assert value == expected


def test_every_bound_is_in_the_table() -> None:
    """A constant that is named like a bound is in the table."""
    named = {codes(row[3])[0].rpartition(".")[2] for row in BOUNDS}
    pattern = r"^(_?(?:LARGEST|LONGEST|MOST|DEEPEST)_\w+|\w+_SECONDS)\b.* = "
    # The same bound in another unit.
    assert set(re.findall(pattern, SOURCES, re.M)) - named == {"_LONGEST_LIFETIME_MINUTES"}


@pytest.mark.parametrize("row", BOUNDS, ids=lambda row: codes(row[3])[0])
def test_a_bound_has_a_test_at_its_edge(row: list[str]) -> None:
    """Each row names the test that tries it, and that test is there."""
    if codes(row[3])[0] in PACES:
        assert row[4] == "a pace, not tried"
        return
    assert re.fullmatch(TEST, codes(row[4])[0])
    assert is_there(*codes(row[4])[0].split("::"))


def test_what_others_bound_names_tests_that_are_there() -> None:
    """The table below, of what is not ours to bound, was tried as well."""
    named = re.findall(TEST, PAGE.partition("What others bound")[2])
    assert len(named) == 2
    assert all(is_there(*name) for name in named)
