"""What an operator does with the config: `m2m.configuration`.

A change is checked against the whole document before anything of it is written, and is written
only to the document that it was checked against. Secrets go in, and never come out again.
"""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from _oauth2_m2m.audit import Event
from _oauth2_m2m.config import (
    Environment,
    Reading,
    Secret,
    Settings,
    new_config,
    reading_of,
    settings_from,
    weaknesses,
)
from _oauth2_m2m.errors import ConfigChanged, ConfigurationError, UnfitChange
from _oauth2_m2m.services import Services
from _oauth2_m2m.signatures import hs256_key
from _oauth2_m2m.storage import Document

#: A field that is left out of the document, and so has its default.
UNSET = None
#: What decides which key signs: a change of it must leave one.
_KEY_FIELDS = frozenset({"ALGORITHM", "PROFILE", "SECRET_KEY", "PREVIOUS_SECRET_KEYS"})


@dataclass(frozen=True, slots=True)
class ConfigField:
    """A field of the config.

    Attributes:
        name: its name in the document.
        value: what it comes to; for a secret only which one it is.
        is_set: whether it stands in the document, or is left to its default.
        mistake: why it cannot be used, if it cannot.
    """

    name: str
    value: Any
    is_set: bool
    mistake: str | None = None


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field of a change: `None` where it is not set, and of a secret only which one it is."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """A change of the config that is fit to be written.

    Attributes:
        fields: what becomes different.
        warnings: what is weak afterwards, and what the change ends.
        written: whether it was written, and not only tried.
    """

    fields: tuple[FieldChange, ...]
    warnings: tuple[str, ...]
    written: bool


class ConfigManagement:
    """Read and change the config document."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def read(self) -> Sequence[ConfigField]:
        """Every field, those that this version does not know at the end. Nothing is written.

        Raises:
            TemporarilyUnavailable: the database does not answer.
        """
        return fields_of(await self._services.settings.look() or {})

    async def change(
        self, changes: Mapping[str, Any], *, by: str | None = None, dry_run: bool = False
    ) -> ConfigChange:
        """Change fields, all of them or none. Running workers see it within 30 s.

        Args:
            changes: the new values by their fields' names; `None` leaves a field to its default.
            by: who does it, for the audit log.
            dry_run: check it and say what it would do, but write nothing.

        Returns:
            What is different, which may be nothing.

        Raises:
            UnfitChange: a field is unknown, or a value makes the document unusable.
            ConfigurationError: the document is not usable afterwards either, or it would have a
                weakness in production that it does not have now.
            ConfigChanged: somebody else changed it meanwhile.
            TemporarilyUnavailable: the database does not answer.
        """
        services, now = self._services, datetime.now(UTC)
        found = await services.settings.look() or {}
        after = changed_document({**new_config(), **found}, changes)
        settings = settings_from(after)
        fields = differences(found, after, changes)
        _check_weaknesses(found, settings, services.settings.environment)
        if not _KEY_FIELDS.isdisjoint(field.name for field in fields):
            await self._check_keys(settings, now)
        writes = bool(fields) and not dry_run
        if writes:
            await self._write(found, {each.name: after.get(each.name) for each in fields})
            reason = _reason(fields, by or services.audit.operator)
            await services.audit.record(
                Event.CONFIG_CHANGED, now, reason=reason, names_operator=False
            )
            if services.settings.last_good is not None:  # this process serves: it sees it at once
                await services.settings.fresh()
        warnings = (*consequences(found, settings), *weaknesses(settings))
        return ConfigChange(fields, warnings, writes)

    async def _check_keys(self, settings: Settings, now: datetime) -> None:
        try:
            await self._services.keys.check(settings, now)
        except ConfigurationError as mistake:
            if settings.algorithm == "HS256":  # its key is a value of the config, and no other
                raise UnfitChange(str(mistake)) from None
            raise

    async def _write(self, read: Document, changes: Mapping[str, Any]) -> None:
        settings = self._services.settings
        if "SECRET_KEY" not in read:  # nobody has started yet: what is left out is made first
            read = await settings.document()
        if not await settings.change(read, changes):
            raise ConfigChanged("the config was changed meanwhile: look at it, and try again")


def value_from(name: str, text: str) -> Any:
    """Read a value of a field as people type it: `60`, `true`, `https://...`, `a,b`, `null`.

    It is JSON where that is what the field takes, else a text, else a list of texts that commas
    part. What the field takes in no reading is left for the check of the whole to refuse.
    """
    readings = list(_readings(text))
    fitting = (value for value in readings if value is UNSET or _fits(name, value))
    return next(fitting, readings[0])


def changed_document(document: Mapping[str, Any], changes: Mapping[str, Any]) -> Document:
    """The document as it would be after a change.

    Raises:
        UnfitChange: a field is unknown, or the change makes the document unusable; the message
            names every field that is at fault.
        ConfigurationError: it was unusable before, and the change does not mend all of it.
    """
    known = reading_of(document).known
    for name in changes.keys() - set(known):
        near = difflib.get_close_matches(name.upper(), known, 1)
        hint = f": is it {near[0]}?" if near else f"; it has {', '.join(sorted(known))}"
        raise UnfitChange(f"the config has no field {name}{hint}")
    after = {n: value for n, value in {**document, **changes}.items() if value is not UNSET}
    mistakes = reading_of(after).mistakes
    if mistakes:
        told = "; ".join(f"{name} {mistake}" for name, mistake in mistakes.items())
        was_there = reading_of(document).mistakes.keys() - changes.keys()
        error = ConfigurationError if mistakes.keys() <= was_there else UnfitChange
        raise error(f"nothing was changed, since {told}")
    return after


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any], names: Iterable[str]
) -> tuple[FieldChange, ...]:
    """What is different between two documents, of these fields."""
    then, now = reading_of(before), reading_of(after)
    return tuple(
        FieldChange(name, _shown(name, before, then), _shown(name, after, now))
        for name in names
        if not _same(before.get(name), after.get(name))
    )


def fields_of(document: Mapping[str, Any]) -> Sequence[ConfigField]:
    """Every field of a document, fit to be shown."""
    reading = reading_of(document)
    known = dict.fromkeys(reading.values) | dict(reading.mistakes)
    unknown = dict.fromkeys(reading.unknown, "is not known to this version")
    return [
        ConfigField(
            name,
            _hidden(value) if name in reading.secret else value,
            is_set=document.get(name) is not None,
            mistake=mistake,
        )
        for name, mistake in {**known, **unknown}.items()
        for value in [reading.values.get(name)]
    ]


def consequences(before: Mapping[str, Any], after: Settings) -> Iterator[str]:
    """What a change of the config ends, beyond what it says; nothing where it was unusable."""
    if not before or reading_of(before).mistakes:
        return
    old = settings_from(before)
    still_verify = (after.secret_key, *after.previous_secret_keys)
    if old.algorithm == "HS256" and old.secret_key not in still_verify:
        yield (
            "tokens that the old SECRET_KEY has signed are refused within 30 s: "
            "`oauth2-m2m keys rotate` changes it and keeps them alive"
        )
    for name, changed in {
        "ISSUER": old.issuer != after.issuer,
        "AUDIENCE": old.audience != after.audience,
    }.items():
        if changed:
            yield f"tokens that name the old {name} are refused within 30 s"
    if after.is_fapi2 and not old.is_fapi2:
        yield "clients without keys of their own, and tokens that are not bound, are refused"


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)  # 1 is no true


def _readings(text: str) -> Iterator[Any]:
    with contextlib.suppress(ValueError, RecursionError):
        yield json.loads(text)
    yield text
    yield [word.strip() for word in text.split(",")]


def _fits(name: str, value: Any) -> bool:
    return name not in reading_of({name: value}).mistakes


def _shown(name: str, document: Mapping[str, Any], reading: Reading) -> Any:
    """A field's value as it stands in a document, fit to be shown; `None` where it is not set."""
    if document.get(name) is None:
        return UNSET
    if name in reading.mistakes:
        return "(not usable)"
    value = reading.values[name]
    return _hidden(value) if name in reading.secret else value


def _hidden(value: Any) -> Any:
    """Which secret it is, by the id that stands in the header of every token that it signs."""
    if isinstance(value, tuple):
        return tuple(map(_hidden, value))
    if not isinstance(value, Secret):
        return UNSET
    try:
        return f"(secret {hs256_key(value).kid})"
    except ConfigurationError:  # a PEM or the like, which signs nothing
        return "(secret)"


def _check_weaknesses(before: Mapping[str, Any], after: Settings, environment: Environment) -> None:
    """Whether a running service would take the change. In production it takes nothing weak.

    Raises:
        ConfigurationError: it adds a weakness. One that is there already may be mended later.
    """
    if environment is not Environment.PRODUCTION:
        return
    usable = before and not reading_of(before).mistakes
    known = weaknesses(settings_from(before)) if usable else []
    for weakness in weaknesses(after):
        if weakness not in known:
            raise ConfigurationError(f"nothing was changed, since in production {weakness}")


def _reason(fields: Sequence[FieldChange], by: str | None) -> str:
    """What the audit log says: names first, for it cuts what is too long."""
    names = ", ".join(field.name for field in fields)
    details = "; ".join(f"{f.name} from {_word(f.before)} to {_word(f.after)}" for f in fields)
    return f"set by {by or 'the operator'}: {names} ({details})"


def _word(value: Any) -> str:
    return "the default" if value is UNSET else json.dumps(value)
