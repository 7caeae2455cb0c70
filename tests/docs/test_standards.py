"""The page of standards: every test that it names is there."""

from __future__ import annotations

import re

import pytest

from tests.papers import TEST, is_there, paper

NAMED = sorted(set(re.findall(TEST, paper("docs/standards.md"))))


@pytest.mark.parametrize(("file", "test"), NAMED, ids=lambda name: str(name))
def test_a_test_that_is_named_exists(file: str, test: str) -> None:
    """Whoever looks for the proof finds it."""
    assert is_there(file, test)


def test_the_page_names_tests() -> None:
    """A page whose names are spelled in another way would prove nothing."""
    assert len(NAMED) > 25
