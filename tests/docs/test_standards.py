"""The page of standards: every test that it names is there."""

from __future__ import annotations

import re

import pytest

from tests.papers import ROOT, paper

NAMED = sorted(set(re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", paper("docs/standards.md"))))


@pytest.mark.parametrize(("file", "test"), NAMED, ids=lambda name: str(name))
def test_a_test_that_is_named_exists(file: str, test: str) -> None:
    """Whoever looks for the proof finds it."""
    source = (ROOT / "tests" / file).read_text(encoding="utf-8")
    assert re.search(rf"^(async )?def {test}\(", source, re.MULTILINE)


def test_the_page_names_tests() -> None:
    """A page whose names are spelled in another way would prove nothing."""
    assert len(NAMED) > 25
