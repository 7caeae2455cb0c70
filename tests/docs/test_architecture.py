"""docs/architecture.md against the rooms."""

from __future__ import annotations

from _oauth2_m2m import ORDER
from tests.papers import codes, paper, section, table


def test_the_rooms_stand_in_their_order() -> None:
    """The table is the order that imports keep."""
    rows = table(section(paper("docs/architecture.md"), "The rooms"), "room")
    assert tuple(codes(row[0])[0] for row in rows) == ORDER
