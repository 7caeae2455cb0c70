"""The rules of a key's life, as functions of values: when it signs, verifies and is forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest

from _oauth2_m2m.config import Settings, settings_from
from _oauth2_m2m.errors import ConfigurationError
from _oauth2_m2m.key_ring import (
    ANNOUNCED_FOR,
    KEPT,
    SIGNS_FOR,
    KeyRing,
    StoredKey,
    build_ring,
    dead_keys,
    next_number,
    signing_at,
    stored_key,
    successor_begins,
)
from _oauth2_m2m.key_sealing import KeySealer
from _oauth2_m2m.signatures import SigningKey, hs256_key, new_private_key, private_signing_key

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
SECRET, OLD_SECRET = "s" * 40, "o" * 40
HS256, OLD_HS256 = (hs256_key(config).kid for config in (
    settings_from({"SECRET_KEY": SECRET}).secret_key,
    settings_from({"SECRET_KEY": OLD_SECRET}).secret_key,
))  # fmt: skip


def settings(algorithm: str = "ES256", **fields: Any) -> Settings:
    return settings_from({"SECRET_KEY": SECRET, "ALGORITHM": algorithm, **fields})


@cache
def material(name: str, algorithm: str) -> tuple[str, bytes, Mapping[str, str]]:
    private = new_private_key(algorithm)
    key = private_signing_key(private, algorithm)
    return key.kid, private, dict(key.public_jwk)


def key(
    number: int, begins: datetime, *, algorithm: str = "ES256", sealer: KeySealer | None = None,
    **moments: Any,
) -> StoredKey:  # fmt: skip
    """A key as it is stored; the same for the same number."""
    kid, private, public = material(f"{number}", algorithm)
    sealed, sealed_with = (sealer or KeySealer()).seal(private, kid)
    return stored_key({
        "_id": kid, "algorithm": algorithm, "number": number, "public": public,
        "private": sealed, "sealed_with": sealed_with,
        "signs_from": begins, "signs_until": begins + SIGNS_FOR, **moments,
    })  # fmt: skip


def note(kid: str, **moments: Any) -> StoredKey:
    """What is noted of a shared secret."""
    return stored_key({"_id": kid, "algorithm": "HS256", **moments})


def ring(stored: list[StoredKey], algorithm: str = "ES256", **fields: Any) -> KeyRing:
    return build_ring(settings(algorithm, **fields), stored, KeySealer(), NOW)


#: What is stored, as (number, begins in days from now, burned), and the number of what signs.
SIGNING: dict[str, tuple[list[tuple[int, float, bool]], int | None]] = {
    "nothing is there": ([], None),
    "one has begun": ([(1, -1, False)], 1),
    "its successor is announced": ([(1, -1, False), (2, 1, False)], 1),
    "its successor has begun, this very moment": ([(1, -90, False), (2, 0, False)], 2),
    "it is past its time, and nobody was there to make a successor": ([(1, -500, False)], 1),
    "it is burned, and alone": ([(1, -1, True)], None),
    "it is burned, and its successor steps in before its time": ([(1, -1, True), (2, 1, False)], 2),
    "both are burned": ([(1, -1, True), (2, 1, True)], None),
    "its successor is burned before it began": ([(1, -1, False), (2, 1, True)], 1),
    "its successor is burned after it began": ([(1, -90, False), (2, 0, True)], None),
    "its successor was burned before it was to begin": ([(1, -90, False), (2, -0.5, True)], 1),
    "who stepped in was superseded before its own time": (
        [(1, -1, True), (2, 1, False), (3, -1, False)], 3,
    ),
    "who stepped in was superseded, and its own time has come": (
        [(1, -5, True), (2, -1, False), (3, -4, False)], 3,
    ),
    "the first one waits for the clock of its maker": ([(1, 0.0001, False)], 1),
}  # fmt: skip


@pytest.mark.parametrize("case", SIGNING)
def test_which_key_signs(case: str) -> None:
    """The last made that has begun, unless it is burned; never one that was superseded."""
    rows, expected = SIGNING[case]
    stored = [
        key(number, NOW + days * DAY, burned_at=NOW - DAY * (days == -0.5) if burned else None)
        for number, days, burned in rows
    ]
    signing = signing_at([*stored, key(9, NOW - DAY, algorithm="RS256")], "ES256", NOW)
    assert (signing and signing.number) == expected


#: What is stored, and when the next one is to begin, in days from now.
SUCCESSORS: dict[str, tuple[list[tuple[int, float]], float | None]] = {
    "the first signs at once": ([], 0),
    "a young key needs none": ([(1, -88)], None),
    "it is announced a day before its predecessor ends": ([(1, -89)], 1),
    "that it is late makes its predecessor sign for longer": ([(1, -300)], 1),
    "one that is announced is enough": ([(1, -89.5), (2, 0.5)], None),
    "one that has begun is young again": ([(1, -91), (2, -1)], None),
}


@pytest.mark.parametrize("case", SUCCESSORS)
def test_when_the_next_key_is_made(case: str) -> None:
    """A day before its predecessor stops, and never announced for less than a day."""
    rows, expected = SUCCESSORS[case]
    stored = [key(number, NOW + days * DAY) for number, days in rows]
    begins = successor_begins(stored, "ES256", NOW)
    assert begins == (None if expected is None else NOW + expected * DAY)


def test_a_shared_secret_is_never_made() -> None:
    """HS256 has its key in the config."""
    assert successor_begins([], "HS256", NOW) is None


def test_numbers_are_never_given_twice() -> None:
    """A burned key keeps its number, and each algorithm counts for itself."""
    stored = [key(1, NOW), key(2, NOW, burned_at=NOW), key(5, NOW, algorithm="RS256")]
    assert next_number(stored, "ES256") == 3
    assert next_number(stored, "RS256") == 6
    assert next_number([], "ES256") == 1


LAST = NOW - KEPT
#: A key of the past, what signs now, and whether it can be forgotten.
DEAD: dict[str, tuple[dict[str, Any], bool, bool]] = {
    "its last token lives": ({"last_expiry": NOW + MINUTE}, True, False),
    "its last token has just ended: workers may not have noticed": (
        {"last_expiry": LAST}, True, False,
    ),
    "its last token has long ended": ({"last_expiry": LAST - MINUTE}, True, True),
    "it signed nothing": ({}, True, True),
    "it was burned today, which must be remembered": ({"burned_at": NOW}, True, False),
    "it was burned, and nothing of it can be alive": (
        {"burned_at": NOW - DAY, "last_expiry": LAST - MINUTE}, True, True,
    ),
    "a shared secret signs now, and its last token lives": (
        {"last_expiry": NOW + MINUTE}, False, False,
    ),
    "a shared secret signs now, and its last token has ended": (
        {"last_expiry": LAST - MINUTE}, False, True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DEAD)
def test_when_a_superseded_key_is_forgotten(case: str) -> None:
    """Only after the last token that it signed, with an hour for those who have not noticed."""
    moments, same_algorithm, expected = DEAD[case]
    old, new = key(1, NOW - 9 * DAY, **moments), key(2, NOW - DAY)
    if same_algorithm:
        assert dead_keys([new, old], new, NOW) == ([old] if expected else [])
    else:
        noted = note(HS256, last_expiry=NOW + DAY)
        assert dead_keys([old, noted], noted, NOW) == ([old] if expected else [])
        assert dead_keys([old], None, NOW) == ([old] if expected else [])


def test_what_signs_or_will_sign_is_never_forgotten() -> None:
    """However long it has signed nothing."""
    signing, next_one = key(1, NOW - 400 * DAY), key(2, NOW - 30 * DAY)
    assert dead_keys([signing, next_one], signing, NOW) == []


def test_a_predecessor_is_kept_until_all_workers_know_who_signs_now() -> None:
    """A worker that has not noticed yet may go on signing with it for a moment."""
    old = key(1, NOW - 90 * DAY, last_expiry=NOW - 2 * DAY)
    assert dead_keys([old, new := key(2, NOW - MINUTE)], new, NOW) == []


def test_a_key_that_is_needed_keeps_those_that_superseded_it() -> None:
    """Else it would sign again when its algorithm comes back."""
    first = key(1, NOW - 9 * DAY, last_expiry=NOW + DAY)
    second = key(2, NOW - 8 * DAY, last_expiry=NOW - 7 * DAY)
    other = key(1, NOW - 7 * DAY, algorithm="RS256")
    assert dead_keys([second, first, other], other, NOW) == []
    ended = replace(first, last_expiry=NOW - DAY)
    assert dead_keys([second, ended, other], other, NOW) == [ended, second]


def test_the_note_of_a_shared_secret_goes_with_its_last_token() -> None:
    """Of notes there is one for each, and none keeps another."""
    lives, gone = note(HS256, last_expiry=NOW + DAY), note(OLD_HS256, last_expiry=NOW - DAY)
    assert dead_keys([lives, gone], None, NOW) == [gone]


def test_a_ring_signs_with_one_and_verifies_with_all() -> None:
    """Announced and superseded keys verify; burned ones do not."""
    stored = [key(1, NOW - 90 * DAY), key(2, NOW - DAY), key(3, NOW + DAY)]
    stored += [key(4, NOW - DAY, algorithm="RS256"), key(5, NOW + DAY, burned_at=NOW)]
    found = ring(stored)
    assert found.signing.kid == stored[1].kid
    assert set(found.verifying) == {each.kid for each in stored[:4]}
    assert {each["kid"] for each in found.published()} == set(found.verifying)


#: ALGORITHM, other fields, what is noted of SECRET_KEY, and which secrets verify.
SHARED = {
    "it signs": ("HS256", {}, None, {HS256}),
    "and one before it verifies": (
        "HS256", {"PREVIOUS_SECRET_KEYS": [OLD_SECRET]}, None, {HS256, OLD_HS256},
    ),
    "it signs no more, and never did": ("ES256", {}, None, set()),
    "it signs no more, and its last token lives": (
        "ES256", {}, {"last_expiry": NOW + MINUTE}, {HS256},
    ),
    "it signs no more, and its last token has long ended": (
        "ES256", {}, {"last_expiry": LAST - MINUTE}, set(),
    ),
    "it is burned": ("ES256", {}, {"last_expiry": NOW + MINUTE, "burned_at": NOW}, set()),
    "those named as previous verify in any case": (
        "ES256", {"PREVIOUS_SECRET_KEYS": [OLD_SECRET]}, None, {OLD_HS256},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SHARED)
def test_which_shared_secrets_verify(case: str) -> None:
    """The one that signs, those named as previous, and one whose tokens live; never published."""
    algorithm, fields, noted, expected = SHARED[case]
    stored = [key(1, NOW - DAY), *([note(HS256, **noted)] if noted else [])]
    found = ring(stored, algorithm, **fields)
    assert set(found.verifying) - {stored[0].kid} == expected
    assert [each["kid"] for each in found.published()] == [stored[0].kid]


def test_a_burned_secret_signs_nothing() -> None:
    """It is a loud error, until SECRET_KEY is another."""
    with pytest.raises(ConfigurationError, match="SECRET_KEY was burned"):
        ring([note(HS256, burned_at=NOW)], "HS256")


def test_the_same_ring_is_known_as_such() -> None:
    """It is another when another signs, or when there are others."""
    one, two, rs256 = key(1, NOW), key(2, NOW + DAY), key(1, NOW, algorithm="RS256")
    assert ring([one]).same_as(ring([one]))
    assert not ring([one]).same_as(None)
    assert not ring([one]).same_as(ring([one, two]))
    assert not ring([one, rs256]).same_as(ring([one, rs256], "RS256"))


def test_keys_of_the_last_ring_are_not_parsed_again() -> None:
    """A ring that is built on another shares its keys."""
    stored = [key(1, NOW - DAY), key(1, NOW - DAY, algorithm="RS256")]
    before = ring(stored)
    after = build_ring(settings(), stored, KeySealer(), NOW, before)
    assert {kid: id(each) for kid, each in after.verifying.items()} == {
        kid: id(each) for kid, each in before.verifying.items()
    }


def test_a_key_that_only_verified_can_sign_when_its_algorithm_comes_back() -> None:
    """Its private part is opened then."""
    stored = [key(1, NOW - DAY), key(1, NOW - DAY, algorithm="RS256")]
    before = ring(stored)
    assert not isinstance(before.verifying[stored[1].kid], SigningKey)
    after = build_ring(settings("RS256"), stored, KeySealer(), NOW, before)
    assert after.signing.kid == stored[1].kid
    assert after.verifying[stored[1].kid].verify(b"message", after.signing.sign(b"message"))


OTHER_KID, OTHER_PRIVATE, OTHER_PUBLIC = material("another", "ES256")
RS256_PUBLIC = material("another", "RS256")[2]
#: What was done to the document of the key that signs.
BROKEN: dict[str, dict[str, Any]] = {
    "no public part": {"public": None},
    "a text as public part": {"public": "text"},
    "another key's public part": {"public": OTHER_PUBLIC},
    "another algorithm's public part": {"public": RS256_PUBLIC},
    "the private part published": {"public": {**OTHER_PUBLIC, "d": "AAAA"}},
    "no private part": {"private": None},
    "a text as private part": {"private": "text"},
    "another key's private part": {"private": OTHER_PRIVATE},
    "bytes that are no key": {"private": b"\x30\x00"},
    "sealed with who knows what": {"sealed_with": "0123456789abcdef"},
    "sealed with no text": {"sealed_with": ["0123456789abcdef"]},
    "no moment to begin": {"signs_from": None},
    "a text that is no moment": {"signs_until": "soon"},
    "an algorithm that is none": {"algorithm": 7},
    "an algorithm of a later version": {"algorithm": "EdDSA"},
    "a number that is none": {"number": "1"},
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_key_is_a_loud_error(case: str) -> None:
    """It is named by its id, nothing of it is quoted, and nothing takes its place."""
    good = key(1, NOW - DAY)
    with pytest.raises(ConfigurationError, match=good.kid) as raised:
        ring([stored_key({**good.document, **BROKEN[case]})])
    assert "AAAA" not in str(raised.value)


def test_a_key_that_will_sign_must_open_now() -> None:
    """Who cannot open what signs tomorrow hears of it today; what only verifies may stay closed."""
    sealer = KeySealer([b"k" * 32])
    old, signing = key(1, NOW - 9 * DAY, sealer=sealer), key(2, NOW - DAY)
    assert set(ring([old, signing]).verifying) == {old.kid, signing.kid}
    with pytest.raises(ConfigurationError, match="OAUTH2_M2M_KEY_ENCRYPTION_KEY"):
        ring([signing, key(3, NOW + ANNOUNCED_FOR, sealer=sealer)])
