"""The same load on a big database and on an empty one: no path may depend on how much is stored.

Both live in the same mongod. The big one is kept in .bench/ for the next run.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from pymongo import MongoClient
from pymongo.synchronous.collection import Collection

from bench import registry, report, rounds, seeding
from bench.options import Options
from bench.registry import Contender
from bench.rounds import Database, Entrant, Turn
from bench.targets import Target

#: How many documents the big database holds, at SCALE=1.
FIGURES = {
    "clients": 100_000,
    "tokens": 1_000_000,
    "revoked_tokens": 1_000_000,
    "audit_logs": 10_000_000,
}
BATCH = 5_000
#: The load comes from this many clients, with this many tokens each, so that it is spread a little.
CLIENTS, TOKENS_EACH = 50, 10
PATHS = ("/protected", "/token")


def measure_growth(options: Options, database: Database) -> tuple[list[dict[str, Any]], str]:
    """Measure one and two workers on both databases, in turn.

    Returns:
        The raw rounds, and the tables.
    """
    contenders = (
        _contender("empty", "growth_empty"),
        _contender("big", f"growth_big_{options.scale * 1000:.0f}"),
    )
    empty, big = contenders
    known = seeding.seed_ours(database.url, empty.database, clients=CLIENTS)
    seeding.seed_ours(database.url, big.database, clients=CLIENTS, known=known, keep=True)
    registry.start(big, database.url).stop()  # the indexes first, as in life
    _seed_big(database.url, big.database, options.scale)
    raw, texts = [], []
    figures = ", ".join(f"{number:,} {name}" for name, number in _figures(options.scale).items())
    for workers in (1, 2):
        turns = _turns(contenders, workers, known, options, database)
        for path in PATHS:
            where = {"path": path, "workers": workers}
            raw += [{**where, **turn} for turn in rounds.as_json(turns[path])]
            targets = [Target("ours, big", "ours, empty", c, 0.9) for c in options.connections]
            texts += [
                f"{path}, {workers} worker{'s' if workers > 1 else ''} (big: {figures}):",
                report.result_table(turns[path], contenders, "ours, empty"),
                report.target_table(turns[path], targets),
            ]
    database.drop(empty)
    return raw, "\n\n".join(texts)


def _turns(
    contenders: Sequence[Contender],
    workers: int,
    known: Mapping[str, str],
    options: Options,
    database: Database,
) -> dict[str, list[Turn]]:
    turns: dict[str, list[Turn]] = {path: [] for path in PATHS}
    entrants: dict[str, list[Entrant]] = {path: [] for path in PATHS}
    with ExitStack() as stack:
        for contender in contenders:
            server = registry.start(contender, database.url, workers=workers)
            stack.callback(server.stop)
            tokens = [
                rounds.access_token(server.port, *client)
                for client in known.items()
                for _ in range(TOKENS_EACH)
            ]
            protected = rounds.protected_load(tokens)
            entrants["/protected"].append(Entrant(contender, server, protected))
            issuing = rounds.token_load(contender, known)
            entrants["/token"].append(Entrant(contender, server, issuing))
        for number in range(1, options.rounds + 1):
            for path in PATHS:
                turns[path] += rounds.one_round(number, entrants[path], database, options)
    return turns


def _contender(size: str, key: str) -> Contender:
    answers = ("access_token", "refresh_token")
    return Contender(f"ours, {size}", key, registry.OURS, "", answers=answers)


def _figures(scale: float) -> dict[str, int]:
    return {name: max(1, int(number * scale)) for name, number in FIGURES.items()}


def _seed_big(url: str, name: str, scale: float) -> None:
    """Fill the big database by bulk writes, unless an earlier run has."""
    makers: dict[str, Callable[[datetime], dict[str, Any]]] = {
        "clients": _client,
        "tokens": _refresh_token,
        "revoked_tokens": _mark,
        "audit_logs": _record,
    }
    with MongoClient[dict[str, Any]](url) as mongo:
        big, wanted = mongo[name], _figures(scale)
        for collection, number in wanted.items():
            missing = number - big[collection].estimated_document_count()
            if missing > 0:
                started = time.monotonic()
                _insert(big[collection], _many(makers[collection], missing))
                took = time.monotonic() - started
                print(f"seeded {missing:,} documents in {collection} in {took:.0f} s", flush=True)


def _insert(collection: Collection[dict[str, Any]], documents: Iterator[dict[str, Any]]) -> None:
    """Insert documents by the million: the indexes are left out meanwhile, and built at once."""
    indexes = [dict(index) for index in collection.list_indexes() if index["name"] != "_id_"]
    collection.drop_indexes()
    while batch := list(islice(documents, BATCH)):
        collection.insert_many(batch, ordered=False)
    if indexes:
        collection.database.command("createIndexes", collection.name, indexes=indexes)


def _many(make: Callable[[datetime], dict[str, Any]], number: int) -> Iterator[dict[str, Any]]:
    """Documents of the last 30 days, none of which will expire soon."""
    now = datetime.now(UTC)
    for _ in range(number):
        yield make(now - timedelta(seconds=secrets.randbelow(30 * 86400)))


def _client(then: datetime) -> dict[str, Any]:
    return {
        "client_id": secrets.token_hex(11),
        "client_secret": _digest(),
        "scopes": ["read", "write"],
        "role": "user",
        "created_at": then,
        "epoch": secrets.token_hex(4),
    }


def _refresh_token(then: datetime) -> dict[str, Any]:
    return {
        "client_id": secrets.token_hex(11),
        "refresh_token": _digest(),
        "created_at": then,
        "expires_at": then + timedelta(days=60),
        "family_id": secrets.token_hex(11),
        "scope": "read",
        "epoch": secrets.token_hex(4),
    }


def _mark(then: datetime) -> dict[str, Any]:
    return {
        "_id": secrets.token_hex(11),
        "token": _digest(),
        "revoked_at": then,
        "expires_at": then + timedelta(days=60),
    }


def _record(then: datetime) -> dict[str, Any]:
    return {
        "event_type": "login_success",
        "client_id": secrets.token_hex(11),
        "ip": "192.0.2.1",
        "reason": "scope: read",
        "timestamp": then,
        "jti": secrets.token_hex(11),
        "request_id": secrets.token_hex(16),
        "user_agent": None,
    }


def _digest() -> str:
    return f"sha256${hashlib.sha256(secrets.token_bytes(16)).hexdigest()}"
