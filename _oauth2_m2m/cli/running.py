"""From a command line to the rooms: connect, do one thing, disconnect; and how a command ends."""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Any, TypeVar

import typer
from pymongo import AsyncMongoClient
from pymongo.errors import ConfigurationError as BadUrl
from pymongo.errors import PyMongoError

from _oauth2_m2m.cli.output import complain
from _oauth2_m2m.config import Environment, environment_from
from _oauth2_m2m.errors import (
    ConfigurationError,
    DatabaseUnreachable,
    OAuth2M2MError,
    TemporarilyUnavailable,
    UnfitChange,
)
from _oauth2_m2m.key_sealing import VARIABLE as KEY_ENCRYPTION_KEY
from _oauth2_m2m.key_sealing import sealer_from
from _oauth2_m2m.services import Services

T = TypeVar("T")

DEFAULT_URL, DEFAULT_DATABASE = "mongodb://localhost:27017", "oauth2_m2m"


class Exit(IntEnum):
    """How a command ends, for scripts."""

    OK = 0
    #: It found something that is wrong, or what it was asked for cannot be done.
    FOUND = 1
    #: It was called wrongly.
    USAGE = 2
    #: MongoDB does not answer.
    UNAVAILABLE = 3


def run(work: Callable[[Services], Awaitable[T]], *, prepared: bool = True) -> T:
    """Do something with the database that `MONGODB_URL` and `MONGODB_DB` name.

    Whatever goes wrong on the way ends the process with one line that says what to do.

    Args:
        work: what to do with the rooms.
        prepared: whether config and indexes are checked first, and made where there are none.
            Without it the database is as it was found, and what is wrong with it can be mended.

    Raises:
        typer.Exit: it went wrong, and was said.
    """
    try:
        return asyncio.run(_run(work, prepared))
    except (BadUrl, UnfitChange, ValueError) as mistake:
        raise ending(Exit.USAGE, _unquoted(mistake)) from None
    except DatabaseUnreachable as failure:
        raise ending(Exit.UNAVAILABLE, str(failure)) from None
    except (TemporarilyUnavailable, PyMongoError) as failure:
        raise ending(Exit.UNAVAILABLE, _unreachable(failure)) from None
    except OAuth2M2MError as refusal:
        raise ending(Exit.FOUND, str(refusal)) from None


def operator() -> str:
    """Who runs the command, for the audit log: `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without names
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def text_or_stdin(text: str) -> str:
    """An argument, or the standard input where it is `-`: what is typed is seen by others.

    Raises:
        typer.Exit: there is nothing.
    """
    if text == "-":
        text = sys.stdin.readline().strip()
    if not text:
        raise ending(Exit.USAGE, "there is nothing to read: give it as an argument, or - for stdin")
    return text


def ending(code: Exit, message: str) -> typer.Exit:
    """Say why a command ends, and the exception that ends it."""
    complain(message)
    return typer.Exit(code)


async def _run(work: Callable[[Services], Awaitable[T]], prepared: bool) -> T:
    environment = environment_from(os.environ.get("ENVIRONMENT"))
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
        os.environ.get("MONGODB_URL", DEFAULT_URL)
    )
    async with client:
        services = Services(
            client[os.environ.get("MONGODB_DB", DEFAULT_DATABASE)],
            # Weak settings are what the operator is here to mend: they must not keep anybody out.
            Environment.DEVELOPMENT if prepared else environment,
            sealer_from(os.environ.get(KEY_ENCRYPTION_KEY)),
            operator=operator(),
        )
        try:
            mistake = await _prepare(services) if prepared else None
            try:
                return await work(services)
            except TemporarilyUnavailable:
                if mistake is not None:
                    raise mistake from None
                raise
        finally:
            await services.drain()


async def _prepare(services: Services) -> ConfigurationError | None:
    """Check and make what there is to make; what stands in the way, if the database answers.

    It is told by those commands that cannot go on without: a client that must be stopped now is
    stopped though the config is broken, or the operator has no key that opens signing keys.
    """
    try:
        await services.prepare()
    except DatabaseUnreachable:
        raise
    except ConfigurationError as mistake:
        return mistake
    return None


def _unquoted(mistake: Exception) -> str:
    """What is wrong, without what PyMongo quotes of a URL: it may be the end of a password."""
    text = str(mistake)
    return re.sub(r'".*"', '"..."', text) if isinstance(mistake, BadUrl) else text


def _unreachable(failure: Exception) -> str:
    detail = (
        failure.detail if isinstance(failure, TemporarilyUnavailable) else type(failure).__name__
    )
    return f"MongoDB does not answer ({detail}): start it, or set MONGODB_URL"
