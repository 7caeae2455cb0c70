"""docs/security.md: every point has its state, and every test that it names is there."""

from __future__ import annotations

import re

import pytest

from tests.papers import ROOT, TEST, is_there, paper, section, table

PAPER = paper("docs/security.md")
RFC_9700 = table(section(PAPER, "RFC 9700: best current practice for OAuth"), "section")
RFC_8725 = table(section(PAPER, "RFC 8725: best current practice for JWT"), "section")
ASVS = table(section(PAPER, "OWASP ASVS 5.0, chapters V9 and V10"), "requirement")
#: Each requirement of the two chapters: how many there are in a section.
REQUIREMENTS = {
    "9.1": 3, "9.2": 4, "10.1": 2, "10.2": 3, "10.3": 5, "10.4": 16, "10.5": 5, "10.6": 2,
    "10.7": 3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("file", "test"), sorted(set(re.findall(TEST, PAPER))), ids=lambda name: str(name)
)
def test_a_test_that_is_named_exists(file: str, test: str) -> None:
    """Whoever looks for the proof finds it."""
    assert is_there(file, test)


def test_an_attack_has_what_stops_it_and_a_test() -> None:
    """No row of the threat model is a mere claim."""
    for row in table(PAPER, "attack"):
        assert len(row) == 4, row
        assert re.search(TEST, row[3]), row


@pytest.mark.parametrize("row", [*((r[0], *r[2:]) for r in RFC_9700 + RFC_8725), *ASVS], ids=str)
def test_a_point_is_met_or_says_why_not(row: tuple[str, ...]) -> None:
    """What is met names its test; what is not, or is none of ours, says why."""
    state, *shown = row[1:]
    if re.match(r"not (met|applicable): .", state):
        return
    assert state.startswith("met")
    assert shown
    assert re.search(TEST, shown[0])


def numbers(text: str) -> set[str]:
    """The numbers of requirements that begin a row; `a to b` stands for all between them."""
    head = re.match(r"[\d.]+(?:(?:, | to )[\d.]+)*", text)
    assert head, text
    found: set[str] = set()
    for part in head[0].split(","):
        first, _, last = part.strip().partition(" to ")
        chapter, _, begins = first.strip().rpartition(".")
        ends = last.strip().rpartition(".")[2] or begins
        found |= {f"{chapter}.{n}" for n in range(int(begins), int(ends) + 1)}
    return found


def test_no_requirement_is_left_out() -> None:
    """Every point of the two standards with numbers stands in the tables, once."""
    asvs = [number for row in ASVS for number in numbers(row[0])]
    expected = {f"{part}.{n}" for part, most in REQUIREMENTS.items() for n in range(1, most + 1)}
    assert sorted(asvs) == sorted(expected)
    assert {row[0] for row in RFC_8725} == {f"3.{n}" for n in range(1, 13)}
    whole = {".".join(n.split(".")[:2]) for row in RFC_9700 for n in numbers(row[0])}
    assert whole == {f"2.{n}" for n in range(1, 7)} | {f"4.{n}" for n in range(1, 18)}


def test_readers_find_the_page() -> None:
    """From the front page, and from where vulnerabilities are reported."""
    for front in ("README.md", "SECURITY.md"):
        assert "docs/security.md" in (ROOT / front).read_text(encoding="utf-8")
