"""Client secrets and opaque tokens: make, fingerprint, compare.

What this software makes carries 256 random bits, so SHA-256 is enough to store it: there is
nothing to guess. What people type is short, so it is stored under scrypt, and the one slow
computation runs off the event loop, in a small pool of its own.

Which of the two is computed depends on the *presented* text alone (has it the shape of a made
secret?), never on the client, so the time of a refusal tells nothing about who exists.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar
from zlib import crc32

from _oauth2_m2m.errors import TooManySecrets
from _oauth2_m2m.foreign_hashes import is_imported, looks_foreign, matches
from _oauth2_m2m.newest import Newest

A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")

CLIENT_SECRET_PREFIX = "m2ms_"
REFRESH_TOKEN_PREFIX = "m2mr_"
LONGEST_SECRET = 1024

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Random bytes become characters, each as likely as any other: the last 8 of 256 are left out.
_CHARACTER_OF_BYTE = (_BASE62 * 5).encode()[:256]
_LEFT_OUT = bytes(range(62 * 4, 256))
_RANDOM_CHARACTERS = 43  # 62 ** 43 > 2 ** 256
_CHECKSUM_CHARACTERS = 6  # 62 ** 6 > 2 ** 32
_MADE = re.compile(
    rf"m2m[a-z]_[0-9A-Za-z]{{{_RANDOM_CHARACTERS + _CHECKSUM_CHARACTERS}}}", re.ASCII
)
#: The beginning of a secret or token that was made here, or of anybody's JWT, however it goes on.
_PASTED = re.compile(r"(m2m[a-z]_)[0-9A-Za-z]{8,}|(eyJ)[\w-]{8,}\.[\w.-]*", re.ASCII)
_DIGEST = re.compile(r"sha256\$[0-9a-f]{64}|(?:scrypt|imported)\$.*", re.ASCII | re.DOTALL)

# OWASP's password storage recommendation for scrypt: 16 MiB, five passes.
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**14, 8, 5
_SCRYPT_MEMORY = 64 * 1024 * 1024
_SALT_BYTES = 16

_SLOW_HASHES_AT_ONCE = 2
_MOST_WAITING = 64
_MOST_WAITING_FROM_ONE_NETWORK = 8
_OPERATOR = "operator"
#: Where secrets from elsewhere are taken, whose hashes cost what they cost, every slow comparison
#: that fails lasts so long: nobody is to learn by the time whose secret came from where.
FAILED_SECONDS = 1.0
#: A client has one from an import; more come in only by hand.
_MOST_IMPORTED_TRIED = 2
_REMEMBERED_SECONDS = 300
_MOST_REMEMBERED = 1024


def without_secrets(text: str) -> str:
    """A text in which whatever has the shape of a secret or a token is cut short.

    What is replaced is not left out: the rest must not become something else.
    """
    return _PASTED.sub(r"\1\2...", text)


def make_client_secret() -> str:
    """A new client secret: `m2ms_`, 256 random bits in base62, a checksum for leak scanners."""
    return _make(CLIENT_SECRET_PREFIX)


def make_refresh_token() -> str:
    """A new refresh token, `m2mr_` and the same."""
    return _make(REFRESH_TOKEN_PREFIX)


def make_id(length: int = 22) -> str:
    """Random characters of base62; 22 hold 130 bits."""
    characters = b""
    while len(characters) < length:
        characters += secrets.token_bytes(length + 8).translate(_CHARACTER_OF_BYTE, _LEFT_OUT)
    return characters[:length].decode()


def is_made_here(text: str) -> bool:
    """Whether the text has the shape of a secret or token that this software makes."""
    if _MADE.fullmatch(text) is None:
        return False
    body = text[:-_CHECKSUM_CHARACTERS]
    return text[-_CHECKSUM_CHARACTERS:] == _checksum(body)


def fingerprint(text: str) -> str:
    """The digest under which a made secret or token is stored: `sha256$` and 64 hex digits."""
    return "sha256$" + hashlib.sha256(text.encode()).hexdigest()


def is_digest(text: str) -> bool:
    """Whether the text is shaped like a stored digest, ours or another server's.

    Such a text is never accepted from outside: whoever could read the database, or the one that a
    hash was copied from by hand, would otherwise hold every credential in it.
    """
    return _DIGEST.fullmatch(text) is not None or looks_foreign(text)


@dataclass(frozen=True, slots=True)
class Match:
    """The outcome of comparing a presented secret with the stored ones.

    Attributes:
        stored: the stored value that matched, or `None`.
        digest: the digest to store in its place when it was plain text.
    """

    stored: str | None
    digest: str | None = None


class SecretChecker:
    """Compares presented secrets with stored ones, in a time that depends on neither.

    Remembers for five minutes that a slow comparison held, under a key that only this process
    has. The stored value is part of what is remembered, so any change of it forgets.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(
            _SLOW_HASHES_AT_ONCE, thread_name_prefix="oauth2-m2m-scrypt"
        )
        self._waiting: Counter[str] = Counter()
        self._key = secrets.token_bytes(32)
        self._remembered: Newest[bytes, float] = Newest(_MOST_REMEMBERED)

    async def digest(self, secret: str, beside: Iterable[str] = ()) -> str:
        """The digest to store for a secret, whoever made it.

        Args:
            secret: the secret.
            beside: the client's other stored secrets. Those that were typed share one salt, so
                that comparing with all of them is one slow computation.
        """
        if is_made_here(secret):
            return fingerprint(secret)
        salt = next(iter(_salts(beside)), None) or _new_salt()
        return _scrypt_text(salt, await self._scrypt(secret, salt, _OPERATOR))

    async def match(
        self,
        presented: str,
        stored: Sequence[str],
        network: str,
        ended: Sequence[str] = (),
        *,
        imported: bool = False,
    ) -> Match:
        """Find the stored value that the presented secret belongs to.

        Args:
            presented: what the caller sent.
            stored: what the database holds: digests, or the plain text that an operator typed.
            network: where it comes from; nobody may keep the slow comparison to themselves.
            ended: what it holds of secrets that are taken no more. They are compared like the
                others, so that the caller can tell which one it was; whoever asks must judge that.
            imported: whether secrets that came from elsewhere are taken: `IMPORTED_SECRETS`.

        Raises:
            TooManySecrets: too many wait for the slow comparison, from there or in all.
        """
        if is_made_here(presented):
            digest = fingerprint(presented)
            return _first([*stored, *ended], digest, presented)
        began = time.monotonic()
        found = await self._match_slowly(presented, stored, network, ended, imported)
        if imported and found.stored not in stored:
            await asyncio.sleep(_rest_of_failure(time.monotonic() - began))
        return found

    async def _match_slowly(
        self,
        presented: str,
        stored: Sequence[str],
        network: str,
        ended: Sequence[str],
        imported: bool,
    ) -> Match:
        candidates = [*stored, *ended]
        for value in stored:  # no short cut for those that ended: it would tell by the time
            if value.startswith("scrypt$") and self._is_remembered(presented, value):
                return Match(value)
        # A client's typed secrets share one salt, so this is one computation, as for an unknown
        # client; a second salt comes in only by hand, or by two first uses in one moment. One
        # that only an ended secret has must not add to the time.
        for salt in _salts(stored) or _salts(ended)[:1] or [_new_salt()]:
            digest = _scrypt_text(salt, await self._scrypt(presented, salt, network))
            found = _first(candidates, digest, presented)
            if found.stored is not None:
                if found.stored in stored:
                    self._remember(presented, found.digest or found.stored)
                return found
        if imported:
            return await self._match_imported(presented, candidates, network)
        return Match(None)

    async def _match_imported(
        self, presented: str, candidates: Sequence[str], network: str
    ) -> Match:
        """Compare with secrets from elsewhere; the one that matches is stored our way from now."""
        for stored in list(filter(is_imported, candidates))[:_MOST_IMPORTED_TRIED]:
            if await self._slowly(network, matches, presented, stored):
                return Match(stored, await self.digest(presented, candidates))
        return Match(None)

    async def _scrypt(self, secret: str, salt: bytes, network: str) -> bytes:
        return await self._slowly(network, _scrypt, secret.encode(), salt)

    async def _slowly(self, network: str, compute: Callable[[A, B], R], first: A, second: B) -> R:
        """Compute something slow off the event loop.

        Raises:
            TooManySecrets: too many wait for that, from there or in all.
        """
        from_there, in_all = self._waiting[network], self._waiting.total()
        if from_there >= _MOST_WAITING_FROM_ONE_NETWORK or in_all >= _MOST_WAITING:
            raise TooManySecrets(detail="too many slow secrets at once")
        self._waiting[network] += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, compute, first, second)
        finally:
            self._waiting[network] -= 1
            self._waiting += Counter()  # forgets networks from which nothing waits

    def _is_remembered(self, presented: str, stored: str) -> bool:
        return self._remembered.get(self._tag(presented, stored), 0.0) > time.monotonic()

    def _remember(self, presented: str, stored: str) -> None:
        self._remembered[self._tag(presented, stored)] = time.monotonic() + _REMEMBERED_SECONDS

    def _tag(self, presented: str, stored: str) -> bytes:
        return hmac.digest(self._key, f"{stored}\0{presented}".encode(), "sha256")


def _make(prefix: str) -> str:
    body = prefix + make_id(_RANDOM_CHARACTERS)
    return body + _checksum(body)


def _checksum(body: str) -> str:
    number, digits = crc32(body.encode()), ""
    for _ in range(_CHECKSUM_CHARACTERS):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits


def _first(candidates: list[str], digest: str, presented: str) -> Match:
    """Compare with every candidate, so that the time does not tell which one matched."""
    found = Match(None)
    for stored in reversed(candidates):
        if is_digest(stored):
            if hmac.compare_digest(stored.encode(), digest.encode()):
                found = Match(stored)
        elif hmac.compare_digest(stored.encode(), presented.encode()):
            found = Match(stored, digest)
    return found


def _rest_of_failure(elapsed: float) -> float:
    """How long a failed comparison still waits: its whole time is a multiple of the usual one.

    Behind a crowd it may last longer than once, and must not tell by how much.
    """
    return FAILED_SECONDS - elapsed % FAILED_SECONDS


def _scrypt(secret: bytes, salt: bytes) -> bytes:
    return hashlib.scrypt(
        secret, salt=salt, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P, maxmem=_SCRYPT_MEMORY, dklen=32
    )


def _new_salt() -> bytes:
    return secrets.token_bytes(_SALT_BYTES)


def _scrypt_text(salt: bytes, key: bytes) -> str:
    parameters = f"{_SCRYPT_N},{_SCRYPT_R},{_SCRYPT_P}"
    return "$".join(("scrypt", parameters, _b64(salt), _b64(key)))


def _salts(candidates: Iterable[str]) -> list[bytes]:
    """The distinct salts of the scrypt digests among the stored values."""
    salts: dict[bytes, None] = {}
    for stored in candidates:
        parts = stored.split("$")
        if parts[0] == "scrypt" and len(parts) == 4:
            with contextlib.suppress(ValueError):
                salts[base64.b64decode(parts[2], validate=True)] = None
    return list(salts)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
