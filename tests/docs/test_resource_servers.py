"""docs/resource-servers.md: its code runs, and its table is that of the class."""

from __future__ import annotations

import inspect
from typing import Any

from _oauth2_m2m.revocation import published
from oauth2_m2m import ResourceServer
from tests.papers import blocks, codes, paper, section, table

PAPER = paper("docs/resource-servers.md")


def test_the_python_blocks_run() -> None:
    """What is shown can be pasted: nothing is sent before the first request."""
    names: dict[str, Any] = {}
    for block in blocks(PAPER, "python"):
        exec(block, names)  # noqa: S102
    assert names["app"].openapi()["paths"].keys() >= {"/reports"}


def test_the_arguments_are_those_of_the_class() -> None:
    """Every argument is in the table, and no other."""
    taken = set(inspect.signature(ResourceServer).parameters) - {"issuer"}
    assert {codes(row[0])[0] for row in table(PAPER, "argument")} == taken


def test_the_shown_mark_is_a_mark() -> None:
    """Whoever writes a follower can check the hash against it."""
    assert f'"{published("a-jti")}"' in section(PAPER, "The feed")
