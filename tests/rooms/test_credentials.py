"""Credentials: made, fingerprinted and compared; the digest is never the secret."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import string
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _oauth2_m2m import credentials
from _oauth2_m2m.credentials import (
    Match,
    SecretChecker,
    fingerprint,
    is_digest,
    is_made_here,
    make_client_secret,
    make_id,
    make_refresh_token,
)
from _oauth2_m2m.errors import TooManySecrets
from tests.clocks import Clock

SALT = b"salt-of-16-bytes"


CHEAP_N = 16


def scrypt_digest(secret: str, salt: bytes = SALT, n: int = CHEAP_N) -> str:
    """A stored scrypt digest, made apart from the code under test."""
    key = hashlib.scrypt(secret.encode(), salt=salt, n=n, r=8, p=5, maxmem=2**26, dklen=32)
    encoded = [base64.b64encode(part).decode() for part in (salt, key)]
    return "$".join(["scrypt", f"{n},8,5", *encoded])


TYPED_DIGEST = scrypt_digest("typed secret")
MADE, OTHER = make_client_secret(), make_client_secret()


async def match(
    checker: SecretChecker, presented: str, stored: list[str], network: str = "192.0.2.7"
) -> Match:
    """Compare a secret that somebody presents."""
    return await checker.match(presented, stored, network)


@pytest.fixture(autouse=True)
def cheap_scrypt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrypt without its price; one test pays it."""
    if request.node.name != "test_a_typed_secret_has_its_price":
        monkeypatch.setattr(credentials, "_SCRYPT_N", CHEAP_N)


async def test_a_typed_secret_has_its_price() -> None:
    """A typed secret is stored under the scrypt parameters that OWASP recommends."""
    digest = await SecretChecker().digest("typed secret")
    assert digest.startswith("scrypt$16384,8,5$")
    salt = base64.b64decode(digest.split("$")[2])
    assert len(salt) >= 16
    assert digest == scrypt_digest("typed secret", salt, 2**14)


@pytest.fixture
def scrypts(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The secrets that a slow digest was computed for."""
    computed: list[bytes] = []
    slow: Callable[..., bytes] = hashlib.scrypt

    def counting(secret: bytes, **options: Any) -> bytes:
        computed.append(secret)
        return slow(secret, **options)

    monkeypatch.setattr(hashlib, "scrypt", counting)
    return computed


@pytest.mark.parametrize(
    ("make", "prefix"), [(make_client_secret, "m2ms_"), (make_refresh_token, "m2mr_")]
)
def test_what_is_made_has_its_shape(make: Callable[[], str], prefix: str) -> None:
    """A prefix for scanners, 43 base62 characters, and a CRC-32 in six more."""
    texts = {make() for _ in range(50)}
    assert len(texts) == 50
    alphabet = string.digits + string.ascii_uppercase + string.ascii_lowercase
    for text in texts:
        assert re.fullmatch(rf"{prefix}[0-9A-Za-z]{{49}}", text)
        assert is_made_here(text)
        number = 0
        for character in text[-6:]:
            number = number * 62 + alphabet.index(character)
        assert number == zlib.crc32(text[:-6].encode())


@given(st.integers(0, 53), st.sampled_from(string.printable + "\u00e9"))
def test_a_typing_error_is_seen_by_the_checksum(place: int, character: str) -> None:
    """One wrong character, and a text is none that was made here."""
    mistyped = MADE[:place] + character + MADE[place + 1 :]
    assert is_made_here(mistyped) == (mistyped == MADE)


@pytest.mark.parametrize(
    "text",
    ["", "m2ms_", "test_secret", "m2ms_" + "a" * 49, make_client_secret() + "\n", "\ud800"],
    ids=range(6),
)
def test_another_text_is_not_made_here(text: str) -> None:
    """The shape is exact, from the first character to the last."""
    assert not is_made_here(text)


def test_ids_are_random_and_unreserved() -> None:
    """An id needs no escaping anywhere, and has the asked length."""
    ids = {make_id() for _ in range(50)} | {make_id(8) for _ in range(50)}
    assert len(ids) == 100
    assert {len(i) for i in ids} == {22, 8}
    assert all(i.isascii() and i.isalnum() for i in ids)


@given(st.text(st.characters(codec="utf-8")))
def test_a_fingerprint_is_a_digest_that_is_no_credential(text: str) -> None:
    """What is stored is SHA-256, recognisable as such, and never accepted from outside."""
    digest = fingerprint(text)
    assert digest == f"sha256${hashlib.sha256(text.encode()).hexdigest()}"
    assert is_digest(digest)
    assert not is_made_here(digest)


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        (TYPED_DIGEST, True),
        ("scrypt$", True),
        ("scrypt$a\nb", True),
        ("sha256$" + "0" * 64, True),
        ("sha256$" + "0" * 63, False),
        ("sha256$" + "0" * 64 + "\n", False),
        ("sha256$" + "G" * 64, False),
        ("imported$x", True),
        ("$2b$12$" + "a" * 53, True),
        ("$2b$12$" + "a" * 52, False),
        ("$pbkdf2-sha256$i=25000,l=32$c2FsdA$a2V5", True),
        ("pbkdf2_sha256$600000$salt$aGFzaA==", True),
        ("argon2$argon2id$v=19$m=102400,t=2,p=8$c2FsdA$aGFzaA", True),
        ("$argon2id$v=19$m=102400,t=2,p=8$c2FsdA$aGFzaA", True),
        ("bcrypt_sha256$$2b$12$" + "a" * 53, True),
        ("$ecret$", False),
        ("a$b$c", False),
        ("scrypt", False),
        ("Scrypt$x", False),
        (" scrypt$x", False),
        ("test_secret", False),
        (make_client_secret(), False),
        ("", False),
    ],
    ids=range(23),
)
def test_a_digest_is_known_by_its_shape(text: str, digest: bool) -> None:
    """Whoever could read the database must not hold a credential in his hands."""
    assert is_digest(text) is digest


@pytest.mark.parametrize(
    ("presented", "stored", "expected", "digest"),
    [
        (MADE, [fingerprint(MADE)], fingerprint(MADE), None),
        (MADE, [fingerprint(OTHER), fingerprint(MADE)], fingerprint(MADE), None),
        (MADE, [MADE], MADE, fingerprint(MADE)),
        (MADE, [fingerprint(OTHER)], None, None),
        (MADE, [TYPED_DIGEST, OTHER, ""], None, None),
        (MADE, [], None, None),
        (OTHER, [fingerprint(MADE)], None, None),
    ],
    ids=range(7),
)
async def test_a_made_secret_is_compared_fast(
    presented: str,
    stored: list[str],
    expected: str | None,
    digest: str | None,
    scrypts: list[bytes],
) -> None:
    """A made secret is found by its fingerprint, and no slow digest is computed for it."""
    found = await match(SecretChecker(), presented, stored)
    assert (found.stored, found.digest) == (expected, digest)
    assert scrypts == []


@pytest.mark.parametrize(
    ("presented", "stored", "expected"),
    [
        ("typed secret", [TYPED_DIGEST], TYPED_DIGEST),
        ("typed secret", [fingerprint(MADE), TYPED_DIGEST], TYPED_DIGEST),
        ("typed secret", ["typed secret"], "typed secret"),
        ("s\u00e9cret", ["s\u00e9cret"], "s\u00e9cret"),
        ("wrong secret", [TYPED_DIGEST], None),
        ("wrong secret", ["typed secret", TYPED_DIGEST, fingerprint(MADE)], None),
        ("wrong secret", [], None),
        ("typed secret", [fingerprint("typed secret")], None),
        (TYPED_DIGEST, [TYPED_DIGEST], None),
        ("", ["scrypt$$$$"], None),
        ("x", ["scrypt$16,8,5$not base64$x", "scrypt$"], None),
    ],
    ids=range(11),
)
async def test_a_typed_secret_costs_one_slow_digest(
    presented: str, stored: list[str], expected: str | None, scrypts: list[bytes]
) -> None:
    """Exactly one scrypt, whatever is stored, nothing included: time tells nobody who exists."""
    found = await match(SecretChecker(), presented, stored)
    assert found.stored == expected
    assert scrypts == [presented.encode()]
    if expected == presented:
        assert found.digest is not None
        assert found.digest == scrypt_digest(
            presented, base64.b64decode(found.digest.split("$")[2])
        )
    else:
        assert found.digest is None


@pytest.mark.parametrize("presented", [MADE, "typed secret"], ids=["made", "typed"])
@pytest.mark.parametrize("stored", ["scrypt$\u00e9", "scrypt$16,8,5$\u00e9$k", "scrypt$$\u00e9$"])
async def test_a_stored_text_that_only_looks_like_a_digest_matches_nothing(
    presented: str, stored: str
) -> None:
    """A client whose document was typed in an unlucky way is refused like any other."""
    assert (await match(SecretChecker(), presented, [stored])).stored is None


async def test_a_slow_comparison_that_held_is_remembered(scrypts: list[bytes]) -> None:
    """The same secret against the same stored value is cheap for a while; any change forgets."""
    checker = SecretChecker()
    for _ in range(3):
        assert (await match(checker, "typed secret", [TYPED_DIGEST])).stored == TYPED_DIGEST
    assert len(scrypts) == 1
    other = scrypt_digest("another secret")
    scrypts.clear()
    assert (await match(checker, "typed secret", [other])).stored is None
    assert (await match(checker, "wrong", [TYPED_DIGEST])).stored is None
    assert (await match(checker, "wrong", [TYPED_DIGEST])).stored is None
    assert len(scrypts) == 3


async def test_a_plain_text_that_matched_is_remembered_under_its_digest(
    scrypts: list[bytes],
) -> None:
    """The first use of a typed secret costs one slow digest, the next ones none."""
    checker = SecretChecker()
    found = await match(checker, "typed secret", ["typed secret"])
    assert found.digest is not None
    assert (await match(checker, "typed secret", [found.digest])).stored == found.digest
    assert len(scrypts) == 1


async def test_what_was_remembered_is_forgotten_in_time(
    scrypts: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After five minutes the slow comparison is made again."""
    checker, clock = SecretChecker(), Clock(monkeypatch, "credentials")
    await match(checker, "typed secret", [TYPED_DIGEST])
    clock.let_pass(299)
    await match(checker, "typed secret", [TYPED_DIGEST])
    assert len(scrypts) == 1
    clock.let_pass(2)
    await match(checker, "typed secret", [TYPED_DIGEST])
    assert len(scrypts) == 2


@pytest.mark.parametrize("made", [True, False])
async def test_the_digest_to_store_matches_its_secret(made: bool) -> None:
    """Made secrets are stored as SHA-256, typed ones as scrypt with a salt of their own."""
    checker = SecretChecker()
    secret = MADE if made else "typed secret"
    digests = [await checker.digest(secret) for _ in range(2)]
    assert (digests[0] == digests[1]) == made
    assert digests[0].startswith("sha256$" if made else "scrypt$16,8,5$")
    assert all(map(is_digest, digests))
    assert (await match(checker, secret, digests[:1])).stored == digests[0]


@pytest.mark.parametrize(("networks", "served"), [(1, 8), (4, 32), (20, 64)])
async def test_too_many_slow_secrets_at_once_are_refused(
    monkeypatch: pytest.MonkeyPatch, networks: int, served: int
) -> None:
    """The queue of slow comparisons is bounded, for one network and in all, and recovers."""
    monkeypatch.setattr(credentials, "_scrypt", lambda secret, salt: b"x" * 32)
    checker = SecretChecker()
    outcomes = await asyncio.gather(
        *(match(checker, "typed", [], f"192.0.2.{n % networks}") for n in range(200)),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, TooManySecrets)]
    assert len(refused) == 200 - served
    assert (await match(checker, "typed", [])).stored is None


async def test_many_made_secrets_at_once_are_no_trouble() -> None:
    """Nobody who has a made secret waits behind those who guess."""
    checker = SecretChecker()
    found = await asyncio.gather(*(match(checker, MADE, [fingerprint(MADE)]) for _ in range(200)))
    assert {outcome.stored for outcome in found} == {fingerprint(MADE)}
