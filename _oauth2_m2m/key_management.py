"""What an operator does with the signing keys: `m2m.keys`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from _oauth2_m2m.audit import Event
from _oauth2_m2m.config import LONGEST_ACCESS_TOKEN_LIFETIME, MOST_PREVIOUS_KEYS, Settings
from _oauth2_m2m.errors import ConfigurationError, KeyNotFound, TooManyKeys
from _oauth2_m2m.key_ring import KEPT, StoredKey, next_number, signing_at
from _oauth2_m2m.key_sets import MOST_KEYS as MOST_PUBLISHED
from _oauth2_m2m.revocation import key_mark
from _oauth2_m2m.services import Services
from _oauth2_m2m.signatures import hs256_key

#: `rotate` leaves room in the key set for the successor that is due next, and for the first key of
#: another algorithm.
_LEFT_FREE = 2


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A signing key, without its private part.

    Attributes:
        kid: its id.
        algorithm: what it signs with.
        signs: whether it signs new tokens now.
        signs_from: when it began to sign or will; `None` for an HS256 key, which `config` holds.
        last_expiry: no token that it signed lives longer; `None` when it signed none.
        burned_at: when it was given up, if it was.
    """

    kid: str
    algorithm: str
    signs: bool
    signs_from: datetime | None = None
    last_expiry: datetime | None = None
    burned_at: datetime | None = None


class KeyManagement:
    """Rotate, burn and list the keys that sign access tokens."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def list(self) -> Sequence[KeyInfo]:
        """Every key that signs, will sign, or may have signed a token that is alive.

        Raises:
            TemporarilyUnavailable: the database does not answer.
        """
        await self._settings()
        signing = self._services.keys.ring.signing
        stored = await self._services.keys.list()
        found = [_info(key, signs=key.kid == signing.kid) for key in stored]
        if signing.kid not in {key.kid for key in stored}:  # a shared secret that signed nothing
            found.append(KeyInfo(signing.kid, signing.algorithm, signs=True))
        return found

    async def rotate(self, *, announce: timedelta = timedelta(0)) -> KeyInfo:
        """Have the next key sign; the one before it verifies on until its last token has expired.

        Args:
            announce: how long the next key is published before it signs. Our own workers and
                `ResourceServer` need none. Others may keep the key set for a while, and would
                refuse the new key's tokens until they look again. HS256 keys are not published.

        Returns:
            That key; it signs already, or will.

        Raises:
            ValueError: `announce` is negative.
            TooManyKeys: there are too many keys already; wait until the oldest has gone.
            TemporarilyUnavailable: the database does not answer.
        """
        if announce < timedelta(0):
            raise ValueError("announce must not be negative")
        settings = await self._settings()
        services, now = self._services, datetime.now(UTC)
        if settings.algorithm == "HS256":
            await self._check_previous(settings, now)
            await services.settings.replace_secret_key(settings.secret_key, keep=True)
            await services.audit.record(Event.KEY_ROTATED, now, reason="HS256 key rotated")
        else:
            await self._next(settings, now + announce, now)
        await services.settings.fresh()
        stored, signing = await services.keys.list(), services.keys.ring.signing
        key = signing_at(stored, signing.algorithm, now + announce)
        if key is None:  # a shared secret
            return KeyInfo(signing.kid, signing.algorithm, signs=True)
        return _info(key, signs=key.kid == signing.kid)

    async def burn(self, kid: str) -> None:
        """Give up a key that leaked: all that it signed is refused everywhere, at once.

        Another signs from now on, made if need be. For up to 30 s workers that have not noticed yet
        may go on handing out tokens of the burned key; they are refused, and whoever gets one
        needs another.

        Raises:
            KeyNotFound: there is no such key.
            TemporarilyUnavailable: the database does not answer.
        """
        settings = await self._settings()
        services, now = self._services, datetime.now(UTC)
        algorithm = await self._algorithm_of(kid, settings)
        until = now + LONGEST_ACCESS_TOKEN_LIFETIME + KEPT
        # The mark comes first: one write, and every worker refuses all that the key signed.
        await services.revocation.revoke(key_mark(kid), now, until)
        await services.audit.record(Event.KEY_ROTATED, now, reason=f"{algorithm} key {kid} burned")
        # A shared secret leaves the config first: who reads in between has one to sign with.
        if hs256_key(settings.secret_key).kid == kid:
            await services.settings.replace_secret_key(settings.secret_key, keep=False)
        for secret in settings.previous_secret_keys:
            if hs256_key(secret).kid == kid:
                await services.settings.forget_secret_key(secret)
        await services.keys.burn(kid, algorithm, now, until)
        await services.settings.fresh()

    async def rewrap(self) -> Sequence[str]:
        """Seal every private key anew with the first key of `OAUTH2_M2M_KEY_ENCRYPTION_KEY`.

        Those that are sealed with it already are left alone. Running workers go on with the keys
        that they have open; to read them again they need that first key, too.

        Returns:
            The ids of those that were sealed anew.

        Raises:
            ConfigurationError: the variable is not set, or a key does not open with any of its
                keys; all that do open were sealed anew.
            TemporarilyUnavailable: the database does not answer.
        """
        rewrapped = await self._services.keys.rewrap(datetime.now(UTC))
        if rewrapped.failed:
            done = f"{len(rewrapped.done)} keys were sealed anew, but "
            raise ConfigurationError(done + "; ".join(rewrapped.failed))
        return rewrapped.done

    async def _settings(self) -> Settings:
        """The settings and keys as they stand now: what is remembered may be past already."""
        await self._services.ready()
        return await self._services.settings.fresh()

    async def _next(self, settings: Settings, begins: datetime, now: datetime) -> None:
        """Bring the announced successor forward, or make one."""
        keys = self._services.keys
        stored = [key for key in await keys.list() if key.algorithm == settings.algorithm]
        signing = signing_at(stored, settings.algorithm, now)
        later = [k for k in stored if signing and k.number > signing.number and not k.burned_at]
        if later and later[0].signs_from <= begins:
            return  # it signs by then anyway
        if later and await keys.bring_forward(later[0], begins):
            reason = f"{settings.algorithm} key {later[0].kid} brought forward"
            await self._services.audit.record(Event.KEY_ROTATED, now, reason=reason)
        elif len(keys.ring.published()) >= MOST_PUBLISHED - _LEFT_FREE:
            raise TooManyKeys(
                "the key set is full: wait until the last token of the oldest key ends"
            )
        else:
            await keys.make(
                settings.algorithm, next_number(stored, settings.algorithm), begins, now
            )

    async def _check_previous(self, settings: Settings, now: datetime) -> None:
        """Whether the oldest of `PREVIOUS_SECRET_KEYS` can make room for one more.

        Raises:
            TooManyKeys: tokens of it may be alive.
        """
        if len(settings.previous_secret_keys) < MOST_PREVIOUS_KEYS:
            return
        oldest = hs256_key(settings.previous_secret_keys[-1])
        for key in await self._services.keys.list():
            if key.kid == oldest.kid and key.may_have_live_tokens(now):
                raise TooManyKeys(
                    "PREVIOUS_SECRET_KEYS is full: wait until the last token of its oldest ends"
                )

    async def _algorithm_of(self, kid: str, settings: Settings) -> str:
        for secret in (settings.secret_key, *settings.previous_secret_keys):
            if hs256_key(secret).kid == kid:
                return "HS256"
        for key in await self._services.keys.list():
            if key.kid == kid:
                return key.algorithm
        raise KeyNotFound(f"there is no key {kid!r}: m2m.keys.list() names those there are")


def _info(key: StoredKey, *, signs: bool) -> KeyInfo:
    begins = key.signs_from if key.number else None
    return KeyInfo(key.kid, key.algorithm, signs, begins, key.last_expiry, key.burned_at)
