"""Secrets as other servers store them, verified in their formats until their first use here.

Hydra has `$2a$12$...` (bcrypt) or `$pbkdf2-sha256$i=25000,l=32$salt$hash`; Django has
`pbkdf2_sha256$600000$salt$hash`, `argon2$argon2id$...`, `bcrypt_sha256$$2b$...`, `bcrypt$$2b$...`
or `scrypt$n$salt$r$p$hash`.

What a hash costs is said by the hash, so it is bounded: whoever imports one must not be able to
stop the service with it. In the database `imported$` stands before them, and like any digest they
are never taken for a secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping

import bcrypt
from argon2 import PasswordHasher, Type, extract_parameters
from argon2.exceptions import Argon2Error, InvalidHash

#: What stands before a foreign hash in the database.
IMPORTED = "imported$"

#: Each is some half a second of a processor at the most.
MOST_BCRYPT_ROUNDS = 13
MOST_PBKDF2_ITERATIONS = 2_000_000
MOST_SCRYPT_WORK = 2**21
MOST_ARGON2_KIB = 256 * 1024
MOST_ARGON2_WORK = 2**20
LONGEST_HASH = 1024

_BCRYPT_READS = 72
_SCRYPT_MEMORY = 64 * 1024 * 1024
#: How long their blocks are, each of which takes all iterations, and how much one iteration costs.
_DIGESTS = {
    "sha1": (20, 1),
    "sha224": (28, 1),
    "sha256": (32, 1),
    "sha384": (48, 2),
    "sha512": (64, 2),
}
_SHAPE = re.compile(
    r"\$2[abxy]\$\d\d\$[./A-Za-z0-9]{53}|\$(?:pbkdf2-|scrypt\$|argon2)\S*\$\S*"
    r"|(?:pbkdf2_\w+|argon2|bcrypt|bcrypt_sha256|scrypt)\$\S*\$\S*",
    re.ASCII,
)
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}", re.ASCII)
_HYDRA_PBKDF2 = re.compile(
    r"\$pbkdf2-(sha\d+)\$i=(\d{1,9}),l=(\d{1,3})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)", re.ASCII
)
_DJANGO_PBKDF2 = re.compile(r"pbkdf2_(sha1|sha256)\$(\d{1,9})\$([^$]+)\$([A-Za-z0-9+/=]+)")
_DJANGO_SCRYPT = re.compile(r"scrypt\$(\d{1,9})\$([^$]+)\$(\d{1,5})\$(\d{1,5})\$([A-Za-z0-9+/=]+)")
_ARGON2 = PasswordHasher()

#: Decides whether a secret is the one of a hash.
_Verify = Callable[[bytes], bool]


def is_imported(stored: str) -> bool:
    """Whether a stored secret is a foreign hash."""
    return stored.startswith(IMPORTED)


def looks_foreign(text: str) -> bool:
    """Whether a text has the shape of a hash as other servers store them, or would like to."""
    return "$" in text and _SHAPE.fullmatch(text) is not None


def imported(foreign: str) -> str:
    """How a foreign hash is stored here.

    Raises:
        ValueError: it is none that is known, or costs too much to verify.
    """
    _verifier(foreign)
    return IMPORTED + foreign


def matches(presented: str, stored: str) -> bool:
    """Whether a presented secret is the one that a foreign hash is of.

    It takes as long as the hash says: call it off the event loop.

    Args:
        presented: what the caller sent.
        stored: the hash, as it is stored here. One that cannot be verified matches nothing.
    """
    try:
        verify = _verifier(stored.removeprefix(IMPORTED))
        return verify(presented.encode())
    except (ValueError, MemoryError):
        return False


def _verifier(foreign: str) -> _Verify:
    if len(foreign) > LONGEST_HASH:
        raise ValueError("its hash is too long")
    for begins, read in _READERS.items():
        if foreign.startswith(begins):
            return read(foreign)
    raise ValueError("its hash is of a kind that is not known here")


def _bcrypt(text: str) -> _Verify:
    found = _BCRYPT.fullmatch(text)
    if found is None:
        raise ValueError("its bcrypt hash is malformed")
    _check_cost("bcrypt", int(found[1]), MOST_BCRYPT_ROUNDS)

    def verify(secret: bytes) -> bool:
        # bcrypt reads no further, so a longer secret would be worth no more than its beginning.
        return len(secret) <= _BCRYPT_READS and bcrypt.checkpw(secret, text.encode())

    return verify


def _bcrypt_of_digest(text: str) -> _Verify:
    verify = _bcrypt(text.removeprefix("bcrypt_sha256$"))
    return lambda secret: verify(hashlib.sha256(secret).hexdigest().encode())


def _bcrypt_of_django(text: str) -> _Verify:
    return _bcrypt(text.removeprefix("bcrypt$"))


def _hydra_pbkdf2(text: str) -> _Verify:
    found = _HYDRA_PBKDF2.fullmatch(text)
    if found is None:
        raise ValueError("its PBKDF2 hash is malformed")
    digest, iterations, length, salt, key = found.groups()
    return _pbkdf2(digest, int(iterations), _b64(salt), _b64(key), int(length))


def _django_pbkdf2(text: str) -> _Verify:
    found = _DJANGO_PBKDF2.fullmatch(text)
    if found is None:
        raise ValueError("its PBKDF2 hash is malformed")
    digest, iterations, salt, encoded = found.groups()
    key = _b64(encoded)
    return _pbkdf2(digest, int(iterations), salt.encode(), key, len(key))


def _pbkdf2(digest: str, iterations: int, salt: bytes, key: bytes, length: int) -> _Verify:
    if digest not in _DIGESTS or len(key) != length or length < 16:
        raise ValueError("its PBKDF2 hash is of a kind that is not known here")
    size, factor = _DIGESTS[digest]
    _check_cost("PBKDF2", iterations * factor * -(-length // size), MOST_PBKDF2_ITERATIONS)
    return lambda secret: hmac.compare_digest(
        key, hashlib.pbkdf2_hmac(digest, secret, salt, iterations, length)
    )


def _django_scrypt(text: str) -> _Verify:
    found = _DJANGO_SCRYPT.fullmatch(text)
    if found is None:
        raise ValueError("its scrypt hash is malformed")
    n, r, p, key = int(found[1]), int(found[3]), int(found[4]), _b64(found[5])
    _check_cost("scrypt", n * r * p, MOST_SCRYPT_WORK)
    if n & (n - 1) or 128 * n * r >= _SCRYPT_MEMORY or len(key) < 16:
        raise ValueError("its scrypt hash is of a kind that is not known here")
    salt = found[2].encode()
    return lambda secret: hmac.compare_digest(
        key,
        hashlib.scrypt(secret, salt=salt, n=n, r=r, p=p, maxmem=2 * _SCRYPT_MEMORY, dklen=len(key)),
    )


def _django_argon2(text: str) -> _Verify:
    encoded = text.removeprefix("argon2")
    encoded = encoded if encoded.startswith("$") else f"${encoded}"
    try:
        parameters = extract_parameters(encoded)
    except InvalidHash:
        raise ValueError("its argon2 hash is malformed") from None
    if parameters.type is not Type.ID or parameters.parallelism > 64:
        raise ValueError("its argon2 hash is of a kind that is not known here")
    memory = parameters.memory_cost
    _check_cost("argon2", memory, MOST_ARGON2_KIB)
    _check_cost("argon2", memory * parameters.time_cost, MOST_ARGON2_WORK)

    def verify(secret: bytes) -> bool:
        try:
            return _ARGON2.verify(encoded, secret)
        except Argon2Error:
            return False

    return verify


def _check_cost(name: str, cost: int, most: int) -> None:
    if not 1 <= cost <= most:
        raise ValueError(f"its {name} hash costs more than is taken here ({cost}, at most {most})")


def _b64(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise ValueError("its hash is no base64") from None


#: By what a hash begins with, the longer beginnings first.
_READERS: Mapping[str, Callable[[str], _Verify]] = {
    "bcrypt_sha256$": _bcrypt_of_digest,
    "bcrypt$": _bcrypt_of_django,
    "$2": _bcrypt,
    "$pbkdf2-": _hydra_pbkdf2,
    "pbkdf2_": _django_pbkdf2,
    "scrypt$": _django_scrypt,
    "argon2$": _django_argon2,
}
