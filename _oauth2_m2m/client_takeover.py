"""What an operator does with the clients of an export: they are registered here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from _oauth2_m2m.client_import import Foreign, NotImported, Source
from _oauth2_m2m.errors import ClientExists
from _oauth2_m2m.services import Services


@dataclass(frozen=True, slots=True)
class Takeover:
    """What came of an export.

    Attributes:
        taken: who is registered here now.
        left: who is not, and why.
    """

    taken: Sequence[Foreign]
    left: Sequence[NotImported]


async def take_over(
    services: Services,
    source: Source,
    found: Sequence[Foreign],
    *,
    dry_run: bool = False,
) -> Takeover:
    """Register machines with the secrets that they have; who is here already stays as it is.

    Hashed secrets need `IMPORTED_SECRETS`, which is set first: running workers take them within
    30 s.

    Args:
        services: the rooms to register them with.
        source: where they come from.
        found: who they are, as `client_import.read_export` gives them.
        dry_run: say what would come of it, but write nothing.

    Raises:
        TemporarilyUnavailable: the database does not answer. Who was registered before stays.
    """
    if any(each.stored for each in found) and not dry_run:
        await services.settings.take_imported_secrets()
    taken, left = [], []
    for each in found:
        if await _is_free(services, each) if dry_run else await _register(services, source, each):
            taken.append(each)
        else:
            reason = "it is registered here already"
            left.append(NotImported(client_id=each.client_id, reason=reason))
    return Takeover(taken, left)


async def _is_free(services: Services, foreign: Foreign) -> bool:
    return await services.clients.find(foreign.client_id) is None


async def _register(services: Services, source: Source, foreign: Foreign) -> bool:
    try:
        await services.clients.take_over(
            foreign.client_id,
            foreign.fields,
            secret=foreign.secret,
            stored=foreign.stored,
            origin=source.value,
        )
    except ClientExists:
        return False
    return True
