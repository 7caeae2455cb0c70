"""Links between our own papers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.papers import ROOT, anchors

PAPERS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_inside_the_repository_leads_somewhere(path: Path) -> None:
    """A reader who follows a link finds the page, and on it the section that was meant."""
    dead = []
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            dead.append(link)
    assert dead == []


def test_every_page_is_linked_from_another() -> None:
    """Nothing is written that nobody can find."""
    linked = {
        (path.parent / link.partition("#")[0]).resolve()
        for path in PAPERS
        for link in LINK.findall(path.read_text(encoding="utf-8"))
    }
    assert [path for path in PAPERS if path.resolve() not in linked] == []


@pytest.mark.parametrize("path", sorted((ROOT / "docs/decisions").glob("0*.md")), ids=str)
def test_a_decision_has_context_options_and_choice(path: Path) -> None:
    """Who questions a decision finds what it was chosen from, and why."""
    titles = re.findall(r"^## (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert titles == ["Context", "Options", "Choice"]
