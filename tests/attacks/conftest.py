"""A running server to attack, as the conformance tests have it."""

from __future__ import annotations

from tests.conformance.conftest import log, machine, server, start

__all__ = ["log", "machine", "server", "start"]
