"""The keys that sign access tokens, and those that may still verify one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from _oauth2_m2m.config import Settings
from _oauth2_m2m.signatures import SigningKey, hs256_key


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of one moment.

    Attributes:
        signing: the key that signs new tokens.
        verifying: every key that may verify one, by its `kid`.
    """

    signing: SigningKey
    verifying: Mapping[str, SigningKey]


class Keys:
    """Builds the ring once for each settings; parsing a key is far dearer than using it."""

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._ring: KeyRing | None = None

    def ring(self, settings: Settings) -> KeyRing:
        """The keys that these settings name: the signing one and those before it."""
        if self._ring is None or settings is not self._settings:
            self._ring = key_ring(settings)
            self._settings = settings
        return self._ring


def key_ring(settings: Settings) -> KeyRing:
    """The keys that these settings name.

    Raises:
        ConfigurationError: a key cannot be used.
    """
    signing = hs256_key(settings.secret_key)
    previous = [hs256_key(secret) for secret in settings.previous_secret_keys]
    return KeyRing(signing, MappingProxyType({key.kid: key for key in (*previous, signing)}))
