"""Single use: of everybody who presents the same thing, one is the first."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo import AsyncMongoClient
from pymongo.database import Database

from _oauth2_m2m.errors import TemporarilyUnavailable
from _oauth2_m2m.single_use import SingleUse
from _oauth2_m2m.storage import Storage

LATER = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
NAME = "used_dpop_proofs"


@pytest.mark.parametrize(("claims", "workers"), [(2, 1), (40, 1), (40, 8), (200, 4)])
async def test_of_parallel_claims_exactly_one_wins(
    mongo_url: str, database_name: str, claims: int, workers: int
) -> None:
    """However many present the same proof at once, over several workers, one is the first."""
    clients = [AsyncMongoClient[Any](mongo_url) for _ in range(workers)]
    rooms = [SingleUse(Storage(client[database_name]), NAME) for client in clients]
    answers = await asyncio.gather(
        *(rooms[n % workers].claim("a key", "a proof", LATER) for n in range(claims))
    )
    assert sorted(answers) == [False] * (claims - 1) + [True]
    assert not await rooms[0].claim("a key", "a proof", LATER + timedelta(days=1))
    for client in clients:
        await client.close()


NAMES = st.text(st.characters(codec="utf-8"), max_size=300)
OWNERS = NAMES.filter(lambda text: "\0" not in text)


@given(st.lists(st.tuples(OWNERS, NAMES), min_size=1, max_size=12))
@settings(max_examples=25)
def test_every_pair_is_used_up_by_itself(
    database: Database[Any], pairs: list[tuple[str, str]]
) -> None:
    """Whatever arrives together, a pair of owner and id is refused for its own sake alone."""
    database[NAME].delete_many({})
    room = SingleUse(Storage(database), NAME)

    async def claim_all() -> list[bool]:
        return await asyncio.gather(*(room.claim(*pair, LATER) for pair in pairs))

    answers = asyncio.run(claim_all())
    assert answers == [pair not in pairs[:place] for place, pair in enumerate(pairs)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("ab", "c"), ("a", "bc")),
        (("a", "b"), ("b", "a")),
        (("a", ""), ("", "a")),
        (("a", "b\0c"), ("a", "b")),
        (("a", "B"), ("a", "b")),
    ],
)
async def test_the_ids_of_one_owner_are_not_those_of_another(
    storage: Storage, first: tuple[str, str], second: tuple[str, str]
) -> None:
    """An id is its owner's: where the one ends and the other begins makes a difference."""
    room = SingleUse(storage, NAME)
    assert await room.claim(*first, LATER)
    assert await room.claim(*second, LATER)


async def test_collections_do_not_mix(storage: Storage) -> None:
    """An assertion's id says nothing about a proof's."""
    assert await SingleUse(storage, "used_assertions").claim("a", "b", LATER)
    assert await SingleUse(storage, NAME).claim("a", "b", LATER)


async def test_a_mark_is_small_and_says_nothing(storage: Storage, database: Database[Any]) -> None:
    """What was presented is stored as a digest, with the moment from when on it may go."""
    await SingleUse(storage, NAME).claim("k" * 255, "j" * 255, LATER)
    (document,) = database[NAME].find()
    assert document.keys() == {"_id", "expires_at"}
    assert len(document["_id"]) == 43
    assert document["expires_at"] == LATER


async def test_a_mark_goes_when_its_proof_is_too_old(
    storage: Storage, database: Database[Any]
) -> None:
    """MongoDB removes marks 6 hours after they have expired, so its clock may run ahead."""
    room = SingleUse(storage, NAME)
    await room.prepare()
    await room.prepare()
    indexes = database[NAME].index_information()
    assert indexes.keys() == {"_id_", "expires_at_1"}
    assert indexes["expires_at_1"]["expireAfterSeconds"] == 21_600


async def test_what_was_claimed_is_written_before_the_end(
    storage: Storage, database: Database[Any]
) -> None:
    """Draining waits for claims that nobody waits for any more."""
    room = SingleUse(storage, NAME)
    room.claim("a", "b", LATER)
    await room.drain()
    assert database[NAME].count_documents({}) == 1


async def test_a_database_that_does_not_answer_is_no_first_use() -> None:
    """Where nobody can say whether it was used, the answer is an error, never yes."""
    async with AsyncMongoClient[Any](
        "mongodb://127.0.0.1:9", serverSelectionTimeoutMS=100
    ) as client:
        with pytest.raises(TemporarilyUnavailable):
            await SingleUse(Storage(client["nowhere"]), NAME).claim("a", "b", LATER)
