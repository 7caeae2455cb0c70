"""Private keys at rest: sealed with AES-GCM under a key that the database never sees."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from _oauth2_m2m.errors import ConfigurationError
from _oauth2_m2m.storage import Collection, Document

#: The environment variable with the keys that seal and open.
VARIABLE = "OAUTH2_M2M_KEY_ENCRYPTION_KEY"
_KEY_BYTES, _NONCE_BYTES = 32, 12
_MAKE_ONE = "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What became of private keys that were to be sealed anew.

    Attributes:
        done: the ids of those that were.
        failed: why others could not be; each names its key.
    """

    done: tuple[str, ...]
    failed: tuple[str, ...] = ()


class KeySealer:
    """Seals with the first of its keys, and opens with any of them. Without keys it does neither.

    Args:
        keys: keys of 32 bytes each, the one that seals first.
    """

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self._ciphers = {_name(key): AESGCM(key) for key in keys}

    @property
    def seals_with(self) -> str | None:
        """What stands for the key that seals, beside what it sealed; `None` without one."""
        return next(iter(self._ciphers), None)

    def seal(self, data: bytes, kid: str) -> tuple[bytes, str | None]:
        """Seal a private key, and name the key that it was done with; as it is without one.

        Args:
            data: the private key.
            kid: its id, to which it is bound: exchanged in the database, it does not open.
        """
        for name, cipher in self._ciphers.items():
            nonce = secrets.token_bytes(_NONCE_BYTES)
            return nonce + cipher.encrypt(nonce, data, kid.encode()), name
        return data, None

    def open(self, data: bytes, kid: str, sealed_with: object) -> bytes:
        """Open a private key.

        Raises:
            ConfigurationError: it was sealed with a key that is not at hand, or altered.
        """
        if sealed_with is None:
            return data
        cipher = self._ciphers.get(str(sealed_with))
        if cipher is None:
            raise ConfigurationError(
                f"signing key {kid} is sealed with a key that is not at hand ({sealed_with}): "
                f"add that key to {VARIABLE}"
            )
        try:
            return cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], kid.encode())
        except (InvalidTag, ValueError):
            raise ConfigurationError(
                f"signing key {kid} does not open: its document in the collection keys was altered"
            ) from None


async def rewrap(
    sealer: KeySealer, collection: Collection, documents: Iterable[Document]
) -> Rewrapped:
    """Seal private keys anew with the first key, where another one or none was used.

    Workers may go on meanwhile, and others may do the same: a key is replaced only as it was read.

    Args:
        sealer: opens them, and seals them anew.
        collection: where they lie.
        documents: their documents, with `private`, `sealed_with`, and the `kid` where that is not
            the `_id`; those without a private part are left alone.

    Raises:
        ConfigurationError: there is no key to seal with.
        TemporarilyUnavailable: the database does not answer.
    """
    if sealer.seals_with is None:
        raise ConfigurationError(f"{VARIABLE} is not set: make a key with {_MAKE_ONE}")
    done, failed = [], []
    for document in documents:
        private, sealed_with = document.get("private"), document.get("sealed_with")
        kid = str(document.get("kid", document["_id"]))
        if not isinstance(private, bytes) or sealed_with == sealer.seals_with:
            continue
        try:
            sealed, with_key = sealer.seal(sealer.open(private, kid, sealed_with), kid)
        except ConfigurationError as mistake:
            failed.append(str(mistake))
            continue
        as_read = {"_id": document["_id"], "private": private}
        update = {"$set": {"private": sealed, "sealed_with": with_key}}
        if await collection.change(as_read, update, fields=["_id"]):
            done.append(kid)
    return Rewrapped(tuple(done), tuple(failed))


def sealer_from(text: str | None) -> KeySealer:
    """Read the variable: keys in base64url, parted by commas or spaces, the one that seals first.

    Raises:
        ConfigurationError: one of them is not 32 bytes in base64url. It is not quoted.
    """
    return KeySealer([_key(word) for word in re.split(r"[\s,]+", text or "") if word])


def _key(word: str) -> bytes:
    try:
        text = word.replace("+", "-").replace("/", "_").rstrip("=")
        key = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise ConfigurationError(
            f"{VARIABLE} must be {_KEY_BYTES} random bytes in base64url: make one with {_MAKE_ONE}"
        )
    return key


def _name(key: bytes) -> str:
    """What stands for a key beside the data that it sealed."""
    return hashlib.sha256(b"oauth2-m2m key encryption key\0" + key).hexdigest()[:16]
