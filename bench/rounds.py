"""Measure contenders in interleaved rounds: each has its turn, then each again."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from pymongo import MongoClient

from bench import load, processes, registry, seeding
from bench.load import Load, WrongAnswers
from bench.options import Options
from bench.registry import Contender

GREETING = '^{"message":"Hello bench_%d+, you have accessed a protected route!"}$'
FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Turn:
    """One contender's turn. Latencies in ms; CPU in seconds for 1,000 requests."""

    round: int
    contender: str
    connections: int
    requests: int
    seconds: float
    rate: float
    p50: float
    p99: float
    server_cpu: float
    database_cpu: float


@dataclass(frozen=True, slots=True)
class Entrant:
    """A contender that runs, and the load that it gets."""

    contender: Contender
    server: processes.Server
    load: Load


class Database:
    """The mongod under all of them: its CPU time, and what the contenders leave in it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._mongo = MongoClient[dict[str, Any]](url)
        status = self._mongo.admin.command("serverStatus")
        self._pid = int(status["pid"])
        self.version = str(status["version"])

    def cpu_seconds(self) -> float:
        """The CPU time of mongod so far."""
        return processes.cpu_seconds(self._pid)

    def documents(self, contender: Contender) -> dict[str, int]:
        """How many documents the collections hold that grow with each answer."""
        database = self._mongo[contender.database]
        return {name: database[name].estimated_document_count() for name in contender.effects}

    def drop(self, contender: Contender) -> None:
        """Remove a contender's database."""
        self._mongo.drop_database(contender.database)

    def close(self) -> None:
        """Close the connection."""
        self._mongo.close()


def measure(
    contenders: Sequence[Contender], path: str, database: Database, options: Options
) -> list[Turn]:
    """Seed and start all, measure them in turn, stop all.

    Args:
        contenders: who takes part. The first of ours makes the secrets that all of them know.
        path: `/protected` or `/token`.
        database: the mongod.
        options: how much to measure.
    """
    known = {f"bench_{n}": secret for n, secret in enumerate(_secrets(database, options.clients))}
    turns = []
    with ExitStack() as stack:
        entrants = []
        tokens: list[str] = []
        ours_first = sorted(contenders, key=lambda contender: not contender.is_ours)
        for contender in ours_first:
            registry.seed(contender, database.url, known)
            stack.callback(database.drop, contender)
            server = registry.start(contender, database.url)
            stack.callback(server.stop)
            if path == "/protected" and contender.is_ours:
                tokens = [access_token(server.port, *client) for client in known.items()]
            made = protected_load(tokens) if path == "/protected" else token_load(contender, known)
            entrants.append(Entrant(contender, server, made))
        entrants.sort(key=lambda entrant: contenders.index(entrant.contender))
        for entrant in entrants:
            _check_closely(entrant)
        for number in range(1, options.rounds + 1):
            turns += one_round(number, entrants, database, options)
    return turns


def one_round(
    number: int, entrants: Sequence[Entrant], database: Database, options: Options
) -> list[Turn]:
    """Every contender's turn at every concurrency, once."""
    turns = []
    for connections in options.connections:
        for entrant in entrants:
            if connections <= entrant.contender.most_connections:
                turn = _turn(number, entrant, connections, database, options)
                if turn is None:
                    print(f"{entrant.contender.name}: no answer in {options.seconds} s", flush=True)
                    continue
                turns.append(turn)
                print(
                    f"round {number}  c={connections:<3} {turn.contender:45} "
                    f"{turn.rate:9,.0f}/s  p50 {turn.p50:8.2f}  p99 {turn.p99:8.2f} ms  "
                    f"CPU/1000: {turn.server_cpu:6.3f} + {turn.database_cpu:.3f} s",
                    flush=True,
                )
    return turns


def _turn(
    number: int, entrant: Entrant, connections: int, database: Database, options: Options
) -> Turn | None:
    contender, server = entrant.contender, entrant.server
    try:
        load.run(entrant.load, server.port, connections=connections, seconds=options.warm_up)
        server.settle()
        documents = database.documents(contender)
        cpu, database_cpu = server.cpu_seconds(), database.cpu_seconds()
        outcome = load.run(
            entrant.load, server.port, connections=connections, seconds=options.seconds
        )
        cpu, database_cpu = server.cpu_seconds() - cpu, database.cpu_seconds() - database_cpu
    except WrongAnswers as error:
        raise WrongAnswers(f"{contender.name} at {connections} connections: {error}") from None
    server.settle()
    for name, after in database.documents(contender).items():
        if after - documents[name] < outcome.requests:
            raise WrongAnswers(
                f"{contender.name}: {outcome.requests} answers, but {after - documents[name]} "
                f"documents in {name}"
            )
    if not outcome.requests:
        return None
    thousands = outcome.requests / 1000
    return Turn(
        round=number,
        contender=contender.name,
        connections=connections,
        requests=outcome.requests,
        seconds=outcome.seconds,
        rate=outcome.requests / outcome.seconds,
        p50=outcome.p50,
        p99=outcome.p99,
        server_cpu=cpu / thousands,
        database_cpu=database_cpu / thousands,
    )


def protected_load(tokens: Sequence[str]) -> Load:
    """Ask for the protected route, with one token after the other."""
    headers = [{"Authorization": f"Bearer {token}"} for token in tokens]
    return Load("GET", "/protected", [(header, "") for header in headers], GREETING)


def token_load(contender: Contender, clients: Mapping[str, str]) -> Load:
    """Ask for tokens, with one client after the other."""
    # In the order in which every one of them writes these members.
    expect = ".*".join(f'"{member}": ?"[^"]+"' for member in contender.answers)
    requests = [(_basic(*client), _BODY) for client in clients.items()]
    return Load("POST", contender.path, requests, expect)


_BODY = "grant_type=client_credentials&scope=read"


def access_token(port: int, client_id: str, secret: str) -> str:
    """One access token of ours."""
    return str(_ask(port, "/token", _basic(client_id, secret), _BODY)["access_token"])


def _basic(client_id: str, secret: str) -> dict[str, str]:
    credentials = base64.b64encode(f"{client_id}:{secret}".encode()).decode()
    return {"Authorization": f"Basic {credentials}", "Content-Type": FORM}


def _check_closely(entrant: Entrant) -> None:
    """Read one answer as a client would, and see that it refuses what it must refuse."""
    headers, body = entrant.load.requests[0]
    path, name = entrant.load.path, entrant.contender.name
    try:
        answer = _ask(entrant.server.port, path, headers, body)
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")[:500]
        raise WrongAnswers(f"{name} answers {error.code}: {said}") from None
    if body and not (
        all(isinstance(answer[member], str) for member in entrant.contender.answers)
        and answer["token_type"].lower() == "bearer"
        and answer["expires_in"] > 0
        and answer.get("scope", "read") == "read"
    ):
        raise WrongAnswers(f"{name} answers {answer}")
    wrong = {**headers, "Authorization": headers["Authorization"][:-6] + "AAAA=="}
    try:
        _ask(entrant.server.port, path, wrong, body)
    except urllib.error.HTTPError as refusal:
        if refusal.code in {400, 401, 403}:
            return
        raise WrongAnswers(f"{name} answers {refusal.code} to wrong credentials") from None
    if entrant.contender.key != "bare":
        raise WrongAnswers(f"{name} takes wrong credentials")


def _ask(port: int, path: str, headers: Mapping[str, str], body: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", body.encode() or None, dict(headers)
    )
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        answer: dict[str, Any] = json.load(response)
    return answer


def _secrets(database: Database, clients: int) -> list[str]:
    """Secrets as our door makes them."""
    maker = Contender("maker", "maker", registry.OURS, "")
    made = seeding.seed_ours(database.url, maker.database, clients=clients)
    database.drop(maker)
    return list(made.values())


def as_json(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The raw rounds."""
    return [asdict(turn) for turn in turns]
