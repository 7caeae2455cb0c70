"""A follower of the revocation feed, as the room serves it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime

from _oauth2_m2m.revocation_feed import Cursor, RevocationFeed, cursor_from


@dataclass
class Follower:
    """What one follower knows.

    Attributes:
        feed: what it follows.
        cursor: how far it has come.
        known: the marks that it was given, and when each ends.
        given: how many pages it was given.
    """

    feed: RevocationFeed
    cursor: str = field(default_factory=lambda: str(Cursor()))
    known: dict[str, int] = field(default_factory=dict)
    given: int = 0

    async def take_page(self, now: datetime | None = None) -> bool:
        """Take one page; whether there is more."""
        page = await self.feed.page(cursor_from(self.cursor), now or datetime.now(UTC))
        members = json.loads(page.as_json())
        assert members.keys() == {"revoked", "cursor", "more"}
        self.known.update((name, end) for name, end in members["revoked"])
        self.cursor = members["cursor"]
        self.given += 1
        more: bool = members["more"]
        return more

    async def catch_up(self, now: datetime | None = None) -> None:
        """End the pass that is under way, or make a whole one."""
        while await self.take_page(now):
            assert self.given < 1_000, "the feed never ends"
