"""Revocation: a mark that was acknowledged is seen by every question that follows."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo.database import Database

from _oauth2_m2m.revocation import Question, Revocation, epoch_mark, family_mark
from _oauth2_m2m.storage import Storage

if TYPE_CHECKING:
    from tests.rooms.conftest import Commands

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
END = NOW + timedelta(minutes=15)
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJyZXBvcnRlciJ9.c2lnbmF0dXJl"


@pytest.fixture
async def revocation(storage: Storage) -> Revocation:
    """The room, prepared."""
    room = Revocation(storage)
    await room.prepare()
    return room


@pytest.mark.parametrize(
    "mark", ["a-jti", family_mark("a-family"), epoch_mark("reporter", "e"), epoch_mark("r", "")]
)
async def test_a_mark_hits_what_carries_it(
    storage: Storage, revocation: Revocation, mark: str
) -> None:
    """Set by one worker, a mark is seen by another, and by nobody without it."""
    another = Revocation(storage)
    question = Question(("one", mark, "two"), JWT)
    assert await another.is_revoked(question) is False
    await revocation.revoke(mark, NOW, END)
    assert await another.is_revoked(question) is True
    assert await another.is_revoked(Question((mark,), linearizable=True)) is True
    for other in (mark + "x", mark[:-1], mark.upper(), f"family:{mark}", ""):
        assert await another.is_revoked(Question((other,))) is False
    assert await another.is_revoked(Question(())) is False


def test_marks_of_different_kinds_never_meet() -> None:
    """A family, an epoch and a `jti` of one spelling are three marks."""
    marks = {"x", family_mark("x"), epoch_mark("x", "x"), epoch_mark("x", ""), epoch_mark("", "x")}
    assert len(marks) == 5


async def test_a_mark_is_stored_as_the_contract_says(
    revocation: Revocation, database: Database[Any]
) -> None:
    """The mark is the `_id`; digest and dates stand beside it."""
    await revocation.revoke("a-jti", NOW, END, "sha256$digest")
    assert list(database.revoked_tokens.find({}, {"seq": False})) == [
        {"_id": "a-jti", "token": "sha256$digest", "revoked_at": NOW, "expires_at": END}
    ]


async def test_a_mark_that_is_set_again_only_ever_lives_longer(
    revocation: Revocation, database: Database[Any]
) -> None:
    """The first moment and token stay; the later expiry wins, in whatever order they come."""
    for minutes in (0, 9, 3):
        later = timedelta(minutes=minutes)
        await revocation.revoke("a-jti", NOW + later, END + later, f"sha256${minutes}")
    assert list(database.revoked_tokens.find({}, {"seq": False})) == [
        {
            "_id": "a-jti",
            "token": "sha256$0",
            "revoked_at": NOW,
            "expires_at": END + timedelta(minutes=9),
        }
    ]


async def test_many_workers_set_one_mark_at_once(
    storage: Storage, revocation: Revocation, database: Database[Any]
) -> None:
    """Forty revocations of one token over four workers all succeed, and leave one mark."""
    workers = [Revocation(storage) for _ in range(4)]
    await asyncio.gather(
        *(workers[n % 4].revoke("a-jti", NOW, END + timedelta(seconds=n)) for n in range(40))
    )
    (mark,) = database.revoked_tokens.find()
    assert mark["expires_at"] == END + timedelta(seconds=39)


async def test_whoever_asks_after_the_acknowledgement_sees_it(
    storage: Storage, revocation: Revocation
) -> None:
    """Under a stream of questions, none that was asked after a mark was set misses it."""
    workers = [Revocation(storage) for _ in range(3)]
    busy = [asyncio.ensure_future(_ask(worker, "other")) for worker in workers for _ in range(20)]
    for n in range(10):
        mark = f"jti-{n}"
        await revocation.revoke(mark, NOW, END)
        answers = await asyncio.gather(*(_ask(worker, mark) for worker in workers))
        assert answers == [True] * 3
    assert not any(await asyncio.gather(*busy))


async def _ask(room: Revocation, mark: str) -> bool:
    return await room.is_revoked(Question((mark,), f"token of {mark}"))


MARKS = st.sampled_from(["a", "b", "c", "family:a", "client:a:", "client:a:b", JWT])
QUESTIONS = st.builds(
    Question, st.lists(MARKS, max_size=3).map(tuple), st.none() | MARKS, st.just(False)
)


@given(st.sets(MARKS), st.sets(MARKS), st.lists(QUESTIONS, min_size=1, max_size=12))
@settings(max_examples=40)
def test_a_batch_answers_each_question_for_itself(
    mongo_url: str, database: Database[Any], marks: set[str], older: set[str], asked: list[Question]
) -> None:
    """Questions that share a command have the answers that each would have had alone."""
    database.revoked_tokens.delete_many({})
    documents = [{"_id": mark, "token": "sha256$x"} for mark in marks]
    documents += [{"token": token, "expires_at": "2030-01-01"} for token in older]
    if documents:
        database.revoked_tokens.insert_many(documents)
    room = Revocation(Storage(database))

    async def ask_all() -> list[bool]:
        return await asyncio.gather(*(_wait(room, question) for question in asked))

    expected = [bool(marks & set(q.marks)) or q.token in older for q in asked]
    assert asyncio.run(ask_all()) == expected


async def _wait(room: Revocation, question: Question) -> bool:
    return await room.is_revoked(question)


@pytest.mark.parametrize(
    "document",
    [
        {"token": JWT, "revoked_at": "2030-01-01T00:00:00", "expires_at": "2030-01-01T01:00:00"},
        {"token": JWT, "revoked_at": NOW, "expires_at": END},
        {"token": JWT},
    ],
    ids=["ISO texts", "dates", "bare"],
)
async def test_a_whole_token_of_the_older_shape_stays_revoked(
    revocation: Revocation, database: Database[Any], document: dict[str, Any]
) -> None:
    """A token that the older software revoked is refused, and its neighbours are not."""
    database.revoked_tokens.insert_one(document)
    answers = await asyncio.gather(
        _wait(revocation, Question(("a-jti",), JWT)),
        _wait(revocation, Question(("a-jti",), JWT + "x")),
        _wait(revocation, Question(("a-jti",))),
        _wait(revocation, Question(("a-jti",), JWT, linearizable=True)),
    )
    assert list(answers) == [True, False, False, True]


async def test_our_own_digests_are_no_older_tokens(
    revocation: Revocation, database: Database[Any]
) -> None:
    """The digest beside a mark hits nobody who presents that digest as a token."""
    await revocation.revoke("a-jti", NOW, END, "sha256$digest")
    assert await revocation.is_revoked(Question(("b-jti",), "sha256$digest")) is False


async def test_an_odd_document_harms_nobody_else(
    revocation: Revocation, database: Database[Any]
) -> None:
    """A list where the older shape has a text neither revokes nor breaks its batch."""
    database.revoked_tokens.insert_one({"token": [JWT, "another"]})
    await revocation.revoke("a-jti", NOW, END)
    answers = await asyncio.gather(
        _wait(revocation, Question(("a-jti",), "x")), _wait(revocation, Question(("b-jti",), JWT))
    )
    assert answers[0] is True


async def test_the_indexes_are_those_of_the_contract(
    revocation: Revocation, database: Database[Any]
) -> None:
    """Marks are tidied six hours after they have expired."""
    indexes = database.revoked_tokens.index_information()
    assert indexes["expires_at_1"]["expireAfterSeconds"] == 21_600
    await revocation.prepare()


@pytest.mark.parametrize("older", [True, False], ids=["with older documents", "without"])
async def test_no_check_reads_the_collection_from_end_to_end(
    watched_storage: Storage, commands: Commands, database: Database[Any], older: bool
) -> None:
    """Among 20,000 marks, half of them of the older shape, a batch of checks reads its own."""
    room = Revocation(watched_storage)
    await room.prepare()
    database.revoked_tokens.insert_many(
        {"token": f"{JWT}{n}", "expires_at": "2030-01-01T00:00:00"}
        if older and n % 2
        else {"_id": f"jti-{n}", "token": f"sha256${n}", "expires_at": END}
        for n in range(20_000)
    )
    commands.sent.clear()
    hit = f"{JWT}77" if older else None
    await asyncio.gather(
        *(_wait(room, Question((f"jti-{n}", f"family:{n}", "client:a:"), hit)) for n in range(100))
    )
    await room.is_revoked(Question(("jti-2", "family:x"), None))
    await room.is_revoked(Question(("jti-2",), JWT, linearizable=True))
    await room.revoke("jti-2", NOW, END)
    plans = commands.plans(database)
    assert len(plans) == 4
    assert not [plan for plan in plans if "COLLSCAN" in plan.stages]
    assert all(plan.examined <= 110 for plan in plans)


async def test_checks_read_what_a_majority_holds(
    watched_storage: Storage, commands: Commands
) -> None:
    """Marks are written durably and read with majority concern, or linearizably when asked."""
    room = Revocation(watched_storage)
    await room.revoke("a-jti", NOW, END)
    await room.is_revoked(Question(("a-jti",)))
    await room.is_revoked(Question(("a-jti",), linearizable=True))
    (update,) = commands.named("update")
    assert update["writeConcern"] == {"w": "majority", "j": True}
    levels = [find["readConcern"]["level"] for find in commands.named("find")]
    assert levels == ["majority", "linearizable"]
