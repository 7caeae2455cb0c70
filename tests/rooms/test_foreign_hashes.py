"""Secrets as other servers store them: verified, bounded, and no way to learn who has one."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from types import SimpleNamespace

import bcrypt
import pytest
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st

from _oauth2_m2m import credentials
from _oauth2_m2m.credentials import SecretChecker, is_digest
from _oauth2_m2m.foreign_hashes import (
    LONGEST_HASH,
    MOST_ARGON2_KIB,
    MOST_ARGON2_WORK,
    MOST_BCRYPT_ROUNDS,
    MOST_PBKDF2_ITERATIONS,
    MOST_SCRYPT_WORK,
    imported,
    is_imported,
    matches,
)

SECRET = "a secret of old"
FROM = "192.0.2.7"

#: Made by Django 5.2, with small costs so that the tests are quick.
OF_DJANGO = [
    "pbkdf2_sha256$1000$somesalt12$6lSBMN2W35QvIsQoZb8hPugNDMuCXuH1PNepbu8eyfw=",
    "pbkdf2_sha1$1000$somesalt12$3PXEpBHTpT/s4gLwEgC5Atz6gLs=",
    "argon2$argon2id$v=19$m=512,t=1,p=2$R3ZsTHc0cDhRS1U2cG50amRJQzlEOQ"
    "$4RV9yZJhDoTLM7hMZa8WbhHUUgCmOxCmSOgBcFHp4K4",
    "bcrypt_sha256$$2b$04$oj5ikaUyT9Ik/Y1xSd6AZOEUFg/6MVLK8x3FecwUlUFkwmuQXqXSq",
    "bcrypt$$2b$04$jkTO/4kIFXAZFKKI1WZHbem1jvIlqk91/2LOlzeGpuuGFcCrUzAHW",
    "scrypt$1024$8ytfzEspxgCzwTNi2V60fi$8$5$LaWZ29Fbgs8LZXlQLlrNJpCyahkqvRfD9yRE45DGK3HIWQBW1o"
    "pkcFIyMg3SoN7BcHMF6GcwaxAoSVmg4GO6Cw==",
]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def of_hydra(secret: str = SECRET, *, iterations: int = 1000, digest: str = "sha256") -> str:
    """What Hydra stores since its second version."""
    key = hashlib.pbkdf2_hmac(digest, secret.encode(), b"0123456789abcdef", iterations, 32)
    return f"$pbkdf2-{digest}$i={iterations},l=32${b64(b'0123456789abcdef')}${b64(key)}"


def of_old_hydra(secret: str = SECRET) -> str:
    """What Hydra's first version stores: bcrypt, as Go spells it."""
    hashed = bcrypt.hashpw(secret.encode(), bcrypt.gensalt(4)).decode()
    return hashed.replace("$2b$", "$2a$")


ALL = [*OF_DJANGO, of_hydra(), of_hydra(digest="sha512"), of_old_hydra()]


@pytest.mark.parametrize("foreign", ALL, ids=lambda text: text[:7])
def test_a_secret_is_known_by_its_foreign_hash(foreign: str) -> None:
    """The right one alone, and the hash itself is no secret."""
    stored = imported(foreign)
    assert is_imported(stored)
    assert is_digest(stored)
    assert matches(SECRET, stored)
    for wrong in (SECRET + "x", SECRET[:-1], "", foreign, stored):
        assert not matches(wrong, stored)


@pytest.mark.parametrize(
    "foreign",
    [
        "",
        "a secret in the clear",
        "md5$salt$5f4dcc3b5aa765d61d8327deb882cf99",
        "$1$salt$qJH7.N4xYta3aEG/dfqo/0",
        "$2a$10$short",
        "$2x$04$" + "a" * 53,
        "$pbkdf2-sha256$i=1000,l=32$c2FsdA",
        "$pbkdf2-sha256$i=1000,l=32$c2FsdA$c2hvcnQ",
        "$pbkdf2-md5$i=1000,l=16$c2FsdA$" + b64(b"x" * 16),
        "pbkdf2_md5$1000$salt$" + b64(b"x" * 16),
        "pbkdf2_sha256$1000$salt$!!!",
        "scrypt$1000$salt$8$1$" + b64(b"x" * 64),
        "scrypt$1024$salt$8$1$" + b64(b"x" * 8),
        "scrypt$16384,8,5$c2FsdA==$a2V5",
        "argon2$argon2i$v=19$m=512,t=1,p=2$c29tZXNhbHQ$" + b64(b"x" * 32),
        "argon2$nonsense",
        "sha256$" + "0" * 64,
        "imported$x",
    ],
    ids=lambda text: text[:30] or "empty",
)
def test_what_cannot_be_verified_is_not_imported(foreign: str) -> None:
    """It is told why; and where somebody writes it by hand all the same, it matches nothing."""
    with pytest.raises(ValueError, match="hash"):
        imported(foreign)
    assert not matches("a secret", "imported$" + foreign)


def hydra_hash(digest: str, iterations: int, length: int) -> str:
    key = b64(b"x" * length).rstrip("=")
    return f"$pbkdf2-{digest}$i={iterations},l={length}$c2FsdA${key}"


def scrypt_hash(n: int, r: int, p: int) -> str:
    return f"scrypt${n}$salt${r}${p}${b64(b'x' * 64)}"


def argon2_hash(memory: int, passes: int) -> str:
    salt = b64(b"saltsalt")
    return f"argon2$argon2id$v=19$m={memory},t={passes},p=1${salt}${b64(b'x' * 32)}"


@pytest.mark.parametrize(
    ("fine", "too_much"),
    [
        (f"$2b${MOST_BCRYPT_ROUNDS}$" + "a" * 53, f"$2b${MOST_BCRYPT_ROUNDS + 1}$" + "a" * 53),
        (
            f"pbkdf2_sha256${MOST_PBKDF2_ITERATIONS}$s${b64(b'x' * 32)}",
            f"pbkdf2_sha256${MOST_PBKDF2_ITERATIONS + 1}$s${b64(b'x' * 32)}",
        ),
        (hydra_hash("sha1", MOST_PBKDF2_ITERATIONS, 20), hydra_hash("sha1", 10**6, 41)),
        (hydra_hash("sha512", 10**6, 64), hydra_hash("sha512", 10**6 + 1, 64)),
        (scrypt_hash(2**14, 8, MOST_SCRYPT_WORK // 2**17), scrypt_hash(2**14, 8, 17)),
        (argon2_hash(MOST_ARGON2_KIB, 1), argon2_hash(MOST_ARGON2_KIB + 1, 1)),
        (argon2_hash(2**17, MOST_ARGON2_WORK // 2**17), argon2_hash(2**17, 9)),
        (
            f"pbkdf2_sha256$1${'s' * (LONGEST_HASH - 60)}${b64(b'x' * 32)}",
            f"pbkdf2_sha256$1${'s' * LONGEST_HASH}${b64(b'x' * 32)}",
        ),
    ],
    ids=[
        "bcrypt",
        "pbkdf2",
        "pbkdf2 blocks",
        "pbkdf2 sha512",
        "scrypt",
        "argon2 memory",
        "argon2 passes",
        "length",
    ],
)
def test_a_hash_that_costs_too_much_is_refused(fine: str, too_much: str) -> None:
    """The hash says what it costs, so whoever imports one could stop the service with it."""
    assert imported(fine)
    with pytest.raises(ValueError, match=r"costs|too long"):
        imported(too_much)
    began = time.monotonic()
    assert not matches("x", "imported$" + too_much)
    assert time.monotonic() - began < 0.5


@given(st.text(), st.text(alphabet="$2abpkdf_sh1256cryti=,lmv0123456789/+A"))
def test_whatever_stands_there_is_compared_or_matches_nothing(secret: str, foreign: str) -> None:
    """Nothing is ever raised, whatever somebody wrote into the database."""
    assert matches(secret, "imported$" + foreign) in (True, False)


def test_bcrypt_takes_no_secret_that_it_would_cut() -> None:
    """Else the first 72 bytes of a longer one would do."""
    stored = imported(of_old_hydra("x" * 72))
    assert matches("x" * 72, stored)
    assert not matches("x" * 73, stored)


@pytest.mark.parametrize("foreign", ALL, ids=lambda text: text[:7])
async def test_an_imported_secret_becomes_one_of_ours_at_its_first_use(foreign: str) -> None:
    """The digest to store in its place is of our kind, and good for the same secret."""
    checker, stored = SecretChecker(), imported(foreign)
    match = await checker.match(SECRET, [stored], FROM, imported=True)
    assert match.stored == stored
    assert match.digest is not None
    assert match.digest.startswith("scrypt$")
    assert (await checker.match(SECRET, [match.digest], FROM)).stored == match.digest


async def test_imported_secrets_are_taken_only_where_somebody_says_so() -> None:
    """Without the setting that evens out the time, they are no secrets at all."""
    match = await SecretChecker().match(SECRET, [imported(of_hydra())], FROM)
    assert match.stored is None


async def test_so_many_imported_secrets_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client has one from an import; a document full of them costs no more."""
    monkeypatch.setattr(credentials, "FAILED_SECONDS", 0.01)
    others = [imported(of_hydra(f"another {number}")) for number in range(2)]
    checker, mine = SecretChecker(), imported(of_hydra())
    second = await checker.match(SECRET, [others[0], mine], FROM, imported=True)
    third = await checker.match(SECRET, [*others, mine], FROM, imported=True)
    assert (second.stored, third.stored) == (mine, None)


@pytest.mark.parametrize(
    "stored",
    [[], ["plain"], [imported(of_hydra())], [imported(of_old_hydra()), "plain"]],
    ids=["nobody", "typed", "one", "two"],
)
async def test_every_failure_lasts_as_long_where_imported_secrets_are_taken(
    stored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose secret came from where, and what its hash costs, does not show in the time."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    moments = iter([100.0, 100.25])
    clock = SimpleNamespace(monotonic=lambda: next(moments))
    loops = SimpleNamespace(sleep=sleep, get_running_loop=asyncio.get_running_loop)
    monkeypatch.setattr(credentials, "asyncio", loops)  # the driver sleeps, too, beside the tests
    monkeypatch.setattr(credentials, "time", clock)
    assert (await SecretChecker().match("wrong", stored, FROM, imported=True)).stored is None
    assert slept == [0.75]


@pytest.mark.parametrize(
    ("elapsed", "whole"), [(0.0, 1.0), (0.3, 1.0), (0.999, 1.0), (1.1, 2.0), (2.0, 3.0)]
)
def test_a_failure_behind_a_crowd_lasts_a_multiple(elapsed: float, whole: float) -> None:
    """What it took beyond the usual time is not told either."""
    rest = credentials._rest_of_failure(elapsed)
    assert elapsed + rest == pytest.approx(whole)


def test_the_dearest_hash_is_verified_within_the_usual_time() -> None:
    """Else a failure would tell after all: each of the bounds is some half a second's work."""
    dearest = PasswordHasher(time_cost=4, memory_cost=MOST_ARGON2_WORK // 4, parallelism=4)
    stored = imported("argon2" + dearest.hash("x"))
    began = time.process_time()
    assert not matches("wrong", stored)
    assert time.process_time() - began < 20 * credentials.FAILED_SECONDS  # a busy machine
