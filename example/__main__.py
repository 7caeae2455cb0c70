"""`make serve`: MongoDB, two demo clients and the example's app, until Ctrl-C.

PORT (8000) is where the app listens, MONGODB_PORT (27017) where a started mongod does, and
DATA_DIRECTORY (.data) where it keeps its data. MONGODB_URL and MONGODB_DB mean what they mean to
the app: the MongoDB to use instead of starting one, and the database in it.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from pymongo import AsyncMongoClient

from example.mongodb import HOST, MongoDBUnavailable, running_mongodb
from oauth2_m2m import ClientExists, ConfigurationError, OAuth2M2M

DATA_DIRECTORY = Path(__file__).resolve().parent.parent / ".data"

LOOPBACK = re.compile(r"http://(localhost|127\.0\.0\.1)(:\d+)?$")

INSTRUCTIONS = r"""
Paste these, one after another:

API=http://{host}:{port} JSON='Content-Type: application/json'
field() {{ python3 -c "import json, sys; print(json.load(sys.stdin)['$1'])"; }}
ANSWER=$(curl -sS $API/token -d username=test_client -d password=test_secret); echo "$ANSWER"
TOKEN=$(field access_token <<< "$ANSWER"); REFRESH=$(field refresh_token <<< "$ANSWER")
curl -sS -w '\n' $API/protected -H "Authorization: Bearer $TOKEN"
curl -sS -w '\n' $API/admin-only -H "Authorization: Bearer $TOKEN"
ANSWER=$(curl -sS $API/refresh -H "$JSON" -d "{{\"refresh_token\": \"$REFRESH\"}}"); echo "$ANSWER"
TOKEN=$(field access_token <<< "$ANSWER")
curl -sS -w '\n' $API/revoke -H "$JSON" -d "{{\"access_token\": \"$TOKEN\"}}"
curl -sS -w '\n' $API/protected -H "Authorization: Bearer $TOKEN"
ANSWER=$(curl -sS $API/token -u user_client:user_secret -d grant_type=client_credentials)
TOKEN=$(field access_token <<< "$ANSWER")
curl -sS -w '\n' $API/protected -H "Authorization: Bearer $TOKEN"
curl -sS -w '\n' $API/admin-only -H "Authorization: Bearer $TOKEN"

Or open http://{host}:{port}/docs in a browser. To look behind it, paste this into another terminal:

{variables}{python} -m oauth2_m2m doctor
{python} -m oauth2_m2m --help

Ctrl-C stops what was started here.
"""


class Unusable(Exception):
    """A setting or a port that cannot be used, in one line that says what to do."""


class Server(uvicorn.Server):
    """uvicorn, which says what to type once the app answers.

    Args:
        config: what to serve.
        variables: what the command line needs to find the database, as lines for a shell.
    """

    def __init__(self, config: uvicorn.Config, variables: str) -> None:
        super().__init__(config)
        self._variables = variables

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as usual, then print the instructions below uvicorn's own lines."""
        await super().startup(sockets)
        if self.started:
            instructions = INSTRUCTIONS.format(
                host=self.config.host,
                port=self.config.port,
                variables=self._variables,
                python=shlex.quote(sys.executable),
            )
            print(instructions, flush=True)


def main() -> None:
    """Serve until told to stop. Whatever is missing is one line on stderr and exit code 1."""
    # As an exception, so that what was started is stopped on the way out. uvicorn takes the signals
    # over while it serves, finishes its requests, and raises them again for this handler.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        port, mongodb_port = _port("PORT", 8000), _port("MONGODB_PORT", 27017)
        data_directory = Path(os.environ.get("DATA_DIRECTORY", DATA_DIRECTORY))
        with _listening(port) as listener, running_mongodb(data_directory, mongodb_port) as url:
            variables = _variables(url)
            os.environ["MONGODB_URL"] = url  # where the app looks
            asyncio.run(_prepare_demo(url, port))
            server = Server(uvicorn.Config("example.main:app", host=HOST, port=port), variables)
            server.run(sockets=[listener])
            if not server.started:
                raise Unusable("the app did not start: its own lines above say why")
    except (ConfigurationError, MongoDBUnavailable, Unusable) as error:
        sys.exit(f"error: {error}")


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def _port(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if text.isascii() and text.isdigit() and 0 < int(text) < 65536:
        return int(text)
    raise Unusable(f"{variable} is {text!r}: set it to a number from 1 to 65535")


def _variables(url: str) -> str:
    """What another terminal needs to find the database. A URL that was set may hold a password."""
    return "" if "MONGODB_URL" in os.environ else f"export MONGODB_URL={url}\n"


def _listening(port: int) -> socket.socket:
    """Take the port before anything else is started: a second `make serve` ends here."""
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        remedy = f"choose another with `PORT={port + 1} make serve`"
        raise Unusable(
            f"port {port} cannot be used ({os.strerror(error.errno or 0)}): {remedy}"
        ) from None


async def _prepare_demo(url: str, port: int) -> None:
    """Name the address that is served as the issuer, and make the two clients of the README.

    An issuer elsewhere stays, and so do clients that an earlier start has made.
    """
    async with AsyncMongoClient[dict[str, Any]](url) as mongo:
        database = mongo[os.environ.get("MONGODB_DB", "oauth2_m2m")]
        mine = {"_id": "jwt_config"}
        config = await database["config"].find_one(mine) or {}
        if LOOPBACK.match(str(config.get("ISSUER", f"http://{HOST}"))):
            issuer = {"$set": {"ISSUER": f"http://{HOST}:{port}"}}
            await database["config"].update_one(mine, issuer, upsert=True)
        clients = OAuth2M2M(database).clients
        for name, scopes in {"test": ["read", "write", "admin"], "user": ["read"]}.items():
            try:
                await clients.register(
                    f"{name}_client",
                    client_secret=f"{name}_secret",
                    scopes=scopes,
                    role="admin" if name == "test" else "user",
                    name=f"Demo client ({name})",
                )
            except ClientExists:
                continue


if __name__ == "__main__":
    main()
