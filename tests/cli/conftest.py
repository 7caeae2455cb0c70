"""What the tests of the command line share."""

from __future__ import annotations

import pytest

from tests.command_line import CommandLine


@pytest.fixture
def command_line(mongo_url: str, database_name: str) -> CommandLine:
    """The command line, on the test's database."""
    return CommandLine(mongo_url, database_name)
