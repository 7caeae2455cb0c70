"""Machines at work, in a process of their own, which write down all that they see.

    python -m tests.faults.load --worker w0=http://127.0.0.1:8000 --mongo-url mongodb://127.0.0.1 \
        --database name --history history.jsonl --seconds 10

It registers clients of its own, then works until its seconds or operations are over, or SIGTERM.
Beside the history, `<history>.count` says how many operations there are so far; it is there as soon
as the work begins.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import uvloop
from pymongo import AsyncMongoClient

from _oauth2_m2m.credentials import fingerprint, make_client_secret
from oauth2_m2m import OAuth2M2M, OAuth2M2MError, TemporarilyUnavailable
from tests.assertions import ClientKey, jwks
from tests.assertions import fields as assertion_fields
from tests.faults.history import Kind, Operation, Outcome, write_history
from tests.machine import basic, claims_of
from tests.proofs import Key

#: How long a client waits for an answer; afterwards it does not know what became of it.
PATIENCE_SECONDS = 10.0
#: A client with no connection looks elsewhere, and comes back after so long.
DOWN_SECONDS = 0.2
#: What `ISSUER` is unless the config says otherwise. Proofs and assertions name it.
ISSUER = "http://localhost:8000"
#: The same token twice: the second so much later, at most.
TWICE_WITHIN_SECONDS = 0.05
#: Younger than the 15 minutes of an access token, so that no refusal is explained by age.
USED_FOR_SECONDS = 600.0
MOST_REMEMBERED = 3000
FLUSH_SECONDS = 0.5
#: How much more than its limit a client asks for, and how many clients do so side by side.
LIMIT_EXTRA = 1.3
USED_UP_AT_ONCE = 3

#: Of a hundred things that a machine does, about.
MIX = {
    Kind.TOKEN: 12,
    Kind.ASSERTION: 6,
    Kind.REFRESH: 14,
    Kind.CALL: 48,
    Kind.PROOF: 6,
    Kind.REVOKE_ACCESS: 5,
    Kind.REVOKE_REFRESH: 3,
    Kind.OTHER: 5,
    Kind.DISABLE: 1,
}

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass(frozen=True, slots=True)
class Machine:
    """A client, with all that it could prove itself by."""

    client_id: str
    secret: str = field(repr=False)
    key: ClientKey
    is_bound: bool = False

    @property
    def basic(self) -> dict[str, str]:
        """Its header `Authorization`."""
        return {"Authorization": basic(self.client_id, self.secret)}


@dataclass(slots=True, eq=False)
class Tokens:
    """What one answer gave."""

    machine: Machine
    access: str = field(repr=False)
    jti: str
    refresh: str = field(repr=False)
    since: float
    #: The tokens of earlier answers in the same chain of refreshes.
    earlier: list[Tokens] = field(default_factory=list, repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """An operation, and the tokens that it gave, if any."""

    operation: Operation
    tokens: Tokens | None = None

    @property
    def is_certain(self) -> bool:
        """Whether nothing happened, or all did: a 503 may hide a write that came through."""
        unknown = self.operation.outcome is Outcome.UNKNOWN
        return not unknown and (self.operation.status or 0) < 500


class Workers:
    """The workers, of which any may be away."""

    def __init__(self, urls: Mapping[str, str], rng: random.Random) -> None:
        self.urls = urls
        self._names = list(urls)
        self._down: dict[str, float] = {}
        self._rng = rng

    def choose(self, other_than: str = "") -> str:
        """One at random, rather one that took the last connection."""
        now = time.monotonic()
        good = [n for n in self._names if n != other_than and self._down.get(n, 0) < now]
        return self._rng.choice(good or self._names)

    def refused(self, name: str) -> None:
        """Nobody listens there."""
        self._down[name] = time.monotonic() + DOWN_SECONDS


class Recorder:
    """Sends requests, and writes down each that went out."""

    def __init__(
        self, session: aiohttp.ClientSession, workers: Workers, path: Path, prefix: str
    ) -> None:
        self.workers = workers
        self.count = 0
        self._asked = 0
        self._session = session
        self._path = path
        self._count_path = Path(f"{path}.count")
        self._prefix = prefix
        self._pending: list[Operation] = []

    async def ask(
        self,
        kind: Kind,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: str | bytes | None = None,
        worker: str = "",
        **what: Any,
    ) -> tuple[Operation, bytes] | None:
        """Send one request; `None` if nobody took the connection, so that nothing happened."""
        name = worker or self.workers.choose()
        identity = self.next_id()
        start = time.monotonic()
        answer: tuple[int, Mapping[str, str], bytes] | None = None
        try:
            async with self._session.request(
                method,
                self.workers.urls[name] + path,
                headers={**(headers or {}), "X-Request-ID": identity},
                data=body,
            ) as response:
                answer = response.status, response.headers, await response.read()
        except aiohttp.ClientConnectorError:
            self.workers.refused(name)
            await asyncio.sleep(DOWN_SECONDS / 4)
            return None
        except (aiohttp.ClientError, OSError, TimeoutError):
            answer = None
        operation = _operation(identity, kind, start, name, answer, what)
        self.add(operation)
        return operation, answer[2] if answer else b""

    def next_id(self) -> str:
        """An id that no other operation has."""
        self._asked += 1
        return f"{self._prefix}-{self._asked}"

    def add(self, operation: Operation) -> None:
        """Write an operation down, soon."""
        self.count += 1
        self._pending.append(operation)

    def flush(self) -> None:
        """Write down what was not written yet."""
        pending, self._pending = self._pending, []
        write_history(self._path, pending)
        self._count_path.write_text(str(self.count))


def _operation(
    identity: str,
    kind: Kind,
    start: float,
    worker: str,
    answer: tuple[int, Mapping[str, str], bytes] | None,
    what: Mapping[str, Any],
) -> Operation:
    end = time.monotonic()
    if answer is None:
        return Operation(identity, kind, start, end, Outcome.UNKNOWN, worker, **what)
    status, headers, body = answer
    received: dict[str, str] = {}
    if status == 200:
        if kind in (Kind.TOKEN, Kind.ASSERTION, Kind.REFRESH):
            members = json.loads(body)
            received["jti"] = jti_of(members["access_token"])
            if "refresh_token" in members:
                received["refresh_digest"] = fingerprint(members["refresh_token"])
    else:
        received["body"] = body[:500].decode(errors="replace")
        received["error"] = _error(body)
        received["retry_after"] = headers.get("Retry-After", "")
    outcome = Outcome.OK if status < 400 else Outcome.REFUSED
    return Operation(identity, kind, start, end, outcome, worker, status=status, **what, **received)


def _error(body: bytes) -> str:
    try:
        return str(json.loads(body).get("error", ""))
    except (ValueError, AttributeError):
        return ""


class Load:
    """What machines do. Each method is one errand, of one or several operations."""

    def __init__(
        self,
        recorder: Recorder,
        operator: OAuth2M2M,
        rng: random.Random,
        grace: float,
        twice: float,
    ) -> None:
        self.recorder = recorder
        self.machines: list[Machine] = []
        self.bound: list[Machine] = []
        self._operator = operator
        self._rng = rng
        self._grace = grace
        self._twice = twice
        self._key = ClientKey(Key(), "one")
        self._live: deque[Tokens] = deque(maxlen=MOST_REMEMBERED)
        self._live_bound: deque[Tokens] = deque(maxlen=MOST_REMEMBERED)
        self._chains: deque[Tokens] = deque(maxlen=MOST_REMEMBERED)
        self._dead: deque[Tokens] = deque(maxlen=MOST_REMEMBERED)
        self.errands: dict[Kind, Callable[[], Awaitable[None]]] = {
            Kind.TOKEN: self.log_in,
            Kind.ASSERTION: self.log_in_by_assertion,
            Kind.REFRESH: self.refresh,
            Kind.CALL: self.call,
            Kind.PROOF: self.call_with_proof,
            Kind.REVOKE_ACCESS: self.revoke_access,
            Kind.REVOKE_REFRESH: self.revoke_refresh,
            Kind.OTHER: self.disturb,
            Kind.DISABLE: self.disable,
        }

    async def populate(self, machines: int, bound: int) -> None:
        """Register clients."""
        wanted = [*[False] * machines, *[True] * bound]
        made = await asyncio.gather(*(self._register(is_bound=each) for each in wanted))
        self.machines, self.bound = made[:machines], made[machines:]

    async def _register(self, *, is_bound: bool = False, **options: Any) -> Machine:
        registered = await self._operator.clients.register(
            scopes=["read", "write"],
            jwks=jwks(self._key),
            token_endpoint_auth_methods=["client_secret_basic", "private_key_jwt"],
            dpop_bound_access_tokens=is_bound or None,
            **options,
        )
        assert registered.client_secret is not None
        return Machine(registered.client.client_id, registered.client_secret, self._key, is_bound)

    # --- Getting tokens ---------------------------------------------------------------------------

    async def log_in(self) -> None:
        """Client credentials by secret, of one machine or another."""
        bound = self.bound and self._rng.random() < 0.2
        await self._log_in(self._rng.choice(self.bound if bound else self.machines))

    async def _log_in(self, machine: Machine) -> Answer | None:
        headers: dict[str, str] = {**FORM, **machine.basic}
        what: dict[str, Any] = {"client_id": machine.client_id}
        if machine.is_bound:
            headers["DPoP"], what["proof"] = _proof(machine, "POST", "/token")
            what["jkt"] = machine.key.pair.jkt
        body = "grant_type=client_credentials"
        return await self._tokens(Kind.TOKEN, machine, "/token", headers=headers, body=body, **what)

    async def log_in_by_assertion(self) -> None:
        """Client credentials by a signed assertion, now and then one twice at once."""
        machine = self._rng.choice(self.machines)
        assertion = machine.key.assertion(machine.client_id, ISSUER)
        body = urlencode(assertion_fields(assertion, grant_type="client_credentials"))
        jti = jti_of(assertion)

        async def present(worker: str) -> None:
            await self._tokens(
                Kind.ASSERTION,
                machine,
                "/token",
                headers=FORM,
                body=body,
                worker=worker,
                client_id=machine.client_id,
                presented=jti,
            )

        await self._once_or_twice(present)

    async def _tokens(
        self, kind: Kind, machine: Machine, path: str, *, earlier: Tokens | None = None, **ask: Any
    ) -> Answer | None:
        """Ask for tokens, and remember those that come."""
        asked = await self.recorder.ask(kind, "POST", path, **ask)
        if asked is None:
            return None
        operation, body = asked
        if operation.status != 200:
            return Answer(operation)
        members = json.loads(body)
        tokens = Tokens(
            machine,
            members["access_token"],
            operation.jti,
            members.get("refresh_token", ""),
            operation.end,
            [*earlier.earlier, earlier] if earlier else [],
        )
        (self._live_bound if machine.is_bound else self._live).append(tokens)
        if tokens.refresh and not machine.is_bound:
            self._chains.append(tokens)
        return Answer(operation, tokens)

    # --- Refreshing -------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """The next link of a chain; now and then the same token twice, a moment apart."""
        tokens = self._take(self._chains)
        if tokens is None:
            return await self.log_in()
        if self._rng.random() < self._twice:
            return await self._refresh_twice(tokens)
        answer = await self._refresh(tokens)
        if answer is not None and not answer.is_certain:
            await self._recover(tokens)
        return None

    async def _refresh(self, tokens: Tokens, worker: str = "") -> Answer | None:
        what = {"client_id": tokens.machine.client_id, "presented": fingerprint(tokens.refresh)}
        if self._rng.random() < 0.5:
            path, headers = "/refresh", {"Content-Type": "application/json"}
            body = json.dumps({"refresh_token": tokens.refresh})
        else:
            path, headers = "/token", {**FORM, **tokens.machine.basic}
            body = f"grant_type=refresh_token&refresh_token={tokens.refresh}"
        return await self._tokens(
            Kind.REFRESH,
            tokens.machine,
            path,
            earlier=tokens,
            headers=headers,
            body=body,
            worker=worker,
            **what,
        )

    async def _refresh_twice(self, tokens: Tokens) -> None:
        """Without a grace one of the two is reuse, and all tokens of the chain die."""
        first = self.recorder.workers.choose()
        pause = self._rng.uniform(0, TWICE_WITHIN_SECONDS)

        async def second() -> Answer | None:
            await asyncio.sleep(pause)
            return await self._refresh(tokens, self.recorder.workers.choose(other_than=first))

        answers = await asyncio.gather(self._refresh(tokens, first), second())
        given = [answer.tokens for answer in answers if answer and answer.tokens]
        if self._grace:  # one successor, given twice
            for same in given[1:]:
                self._forget(same)
        else:
            for each in (*given, tokens):
                self._bury(each)

    async def _recover(self, tokens: Tokens) -> None:
        """What the documentation says after a lost answer.

        With a grace, the same token again; without one, or when that is over, client credentials.
        """
        until = time.monotonic() + self._grace / 2
        while time.monotonic() < until:
            answer = await self._refresh(tokens)
            if answer is not None and answer.is_certain:
                return
            await asyncio.sleep(0.2)
        self._bury(tokens)  # without a grace the next look at it would be reuse
        await self._log_in(tokens.machine)

    # --- Using tokens -----------------------------------------------------------------------------

    async def call(self) -> None:
        """A guarded route with a good token, now and then with one that was ended."""
        dead = self._dead and self._rng.random() < 0.15
        tokens = self._pick(self._dead if dead else self._live)
        if tokens is None:
            return await self.log_in()
        await self._call(tokens)
        return None

    async def _call(self, tokens: Tokens) -> None:
        await self.recorder.ask(
            Kind.CALL,
            "GET",
            "/protected",
            headers={"Authorization": f"Bearer {tokens.access}"},
            client_id=tokens.machine.client_id,
            presented=tokens.jti,
        )

    async def call_with_proof(self) -> None:
        """A guarded route with a bound token, now and then one proof twice."""
        tokens = self._pick(self._live_bound)
        if tokens is None:
            if self.bound:
                await self._log_in(self._rng.choice(self.bound))
            return
        machine = tokens.machine
        proof, jti = _proof(machine, "GET", "/protected", tokens.access)
        headers = {"Authorization": f"DPoP {tokens.access}", "DPoP": proof}

        async def present(worker: str) -> None:
            await self.recorder.ask(
                Kind.PROOF,
                "GET",
                "/protected",
                headers=headers,
                worker=worker,
                client_id=machine.client_id,
                presented=tokens.jti,
                proof=jti,
                jkt=machine.key.pair.jkt,
            )

        await self._once_or_twice(present)

    async def _once_or_twice(self, present: Callable[[str], Awaitable[None]]) -> None:
        workers = self.recorder.workers
        first = workers.choose()
        if self._rng.random() < self._twice:
            await asyncio.gather(present(first), present(workers.choose(other_than=first)))
        else:
            await present(first)

    # --- Ending tokens ----------------------------------------------------------------------------

    async def revoke_access(self) -> None:
        """Revoke an access token, and often look at once whether others know of it."""
        tokens = self._take(self._live)
        if tokens is None:
            return
        what = {"client_id": tokens.machine.client_id, "presented": tokens.jti}
        await self._revoke(Kind.REVOKE_ACCESS, tokens, "access_token", tokens.access, what)
        self._dead.append(tokens)
        if self._rng.random() < 0.5:
            await self._call(tokens)

    async def revoke_refresh(self) -> None:
        """Revoke a refresh token, with all tokens of its chain."""
        tokens = self._take(self._chains)
        if tokens is None:
            return
        what = {"client_id": tokens.machine.client_id, "presented": fingerprint(tokens.refresh)}
        await self._revoke(Kind.REVOKE_REFRESH, tokens, "refresh_token", tokens.refresh, what)
        self._bury(tokens)
        if self._rng.random() < 0.5:
            await self._call(tokens)
        if self._rng.random() < 0.3:
            await self._refresh(tokens)

    async def _revoke(
        self, kind: Kind, tokens: Tokens, member: str, text: str, what: Mapping[str, str]
    ) -> None:
        if self._rng.random() < 0.5:
            headers = {"Content-Type": "application/json"}
            body = json.dumps({member: text})
        else:
            headers = {**FORM, **tokens.machine.basic}
            body = urlencode({"token": text, "token_type_hint": member})
        await self.recorder.ask(kind, "POST", "/revoke", headers=headers, body=body, **what)

    async def disable(self) -> None:
        """An operator stops a client that was at work; afterwards it tries on."""
        try:
            victim = await self._register()
        except TemporarilyUnavailable:  # there is nobody to be stopped just now
            return
        given = [await self._log_in(victim) for _ in range(2)]
        tokens = [answer.tokens for answer in given if answer and answer.tokens]
        for each in tokens:
            self._forget(each)
            await self._call(each)
        identity, start, outcome = self.recorder.next_id(), time.monotonic(), Outcome.OK
        try:
            await self._operator.clients.disable(victim.client_id)
        except TemporarilyUnavailable:
            outcome = Outcome.UNKNOWN
        except OAuth2M2MError:
            outcome = Outcome.REFUSED
        self.recorder.add(
            Operation(
                identity,
                Kind.DISABLE,
                start,
                time.monotonic(),
                outcome,
                client_id=victim.client_id,
            )
        )
        self._dead.extend(tokens)
        for each in tokens:
            await self._call(each)
            await self._refresh(each)
        await self._log_in(victim)

    # --- Disturbing -------------------------------------------------------------------------------

    async def disturb(self) -> None:
        """Something that must be refused: a wrong secret, an unknown client, a body of nonsense."""
        machine, garbage = self._rng.choice(self.machines), self._rng.randbytes(16).hex()
        # Of the shape of made secrets: the slow hash of others would be most of the load.
        secret = make_client_secret()
        stranger = {"Authorization": basic(garbage, secret)}
        wrong = {"Authorization": basic(machine.client_id, secret)}
        credentials = "grant_type=client_credentials"
        json_type = {"Content-Type": "application/json"}
        method, path, headers, body = self._rng.choice([
            ("POST", "/token", {**FORM, **stranger}, credentials),
            ("POST", "/token", {**FORM, **wrong}, credentials),
            ("POST", "/token", {**FORM, **machine.basic}, f"{credentials}&scope={garbage}"),
            ("POST", "/token", {**FORM, **machine.basic}, f"grant_type={garbage}"),
            ("POST", "/token", json_type, "{}"),
            ("POST", "/refresh", json_type, json.dumps({"refresh_token": f"m2mr_{garbage}"})),
            ("POST", "/refresh", json_type, "{" * 40),
            ("POST", "/revoke", json_type, json.dumps({"access_token": garbage})),
            ("GET", "/protected", {"Authorization": f"Bearer {garbage}"}, None),
            ("GET", "/protected", {}, None),
            ("GET", "/token", {}, None),
        ])  # fmt: skip
        await self.recorder.ask(Kind.OTHER, method, path, headers=headers, body=body)

    # --- Limits -----------------------------------------------------------------------------------

    async def use_up(self, limit: int) -> None:
        """A new client asks for more than its limit, everywhere at once."""
        machine = await self._register(max_requests_per_minute=limit)
        first = await self._log_in(machine)
        tokens = first.tokens if first else None

        async def ask() -> None:
            if tokens is not None and self._rng.random() < 0.7:
                await self._call(tokens)
            else:
                await self._log_in(machine)

        await asyncio.gather(*(ask() for _ in range(int(limit * LIMIT_EXTRA))))

    # --- Remembering ------------------------------------------------------------------------------

    def _pick(self, pool: deque[Tokens]) -> Tokens | None:
        while pool and time.monotonic() - pool[0].since > USED_FOR_SECONDS:
            pool.popleft()
        return pool[self._rng.randrange(len(pool))] if pool else None

    def _take(self, pool: deque[Tokens]) -> Tokens | None:
        if not pool:
            return None
        pool.rotate(self._rng.randrange(len(pool)))
        return pool.pop()

    def _bury(self, tokens: Tokens) -> None:
        """Use the tokens of a chain no more, but to see that they are dead."""
        for each in (*tokens.earlier, tokens):
            self._forget(each)
            self._dead.append(each)

    def _forget(self, tokens: Tokens) -> None:
        for pool in (self._live, self._chains):
            if tokens in pool:
                pool.remove(tokens)


def jti_of(token: str) -> str:
    """How histories name an access token, an assertion or a proof."""
    return str(claims_of(token)["jti"])


def _proof(
    machine: Machine, method: str, path: str, access_token: str | None = None
) -> tuple[str, str]:
    """A new DPoP proof, and its id."""
    proof = machine.key.pair.proof(method, ISSUER + path, access_token=access_token)
    return proof, jti_of(proof)


async def work(options: argparse.Namespace) -> None:
    """Be the machines until it is enough."""
    rng = random.Random(options.seed)  # noqa: S311
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if options.seconds:
        loop.call_later(options.seconds, stop.set)
    workers = Workers(dict(pair.split("=", 1) for pair in options.worker), rng)
    timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    async with (
        AsyncMongoClient[dict[str, Any]](options.mongo_url) as mongo,
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
    ):
        # By itself aiohttp repeats a GET whose connection broke: a second operation of one name.
        assert session._retry_connection, "aiohttp names it otherwise by now"
        session._retry_connection = False
        recorder = Recorder(session, workers, options.history, f"{options.name}-{options.seed}")
        operator = OAuth2M2M(mongo[options.database])
        load = Load(recorder, operator, rng, options.grace, options.twice)
        await load.populate(options.machines, options.bound)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_flush(recorder, stop, options.operations))
            for _ in range(options.parallel):
                tasks.create_task(_be_busy(load, rng, stop, _mix(options.mix)))
            for _ in range(USED_UP_AT_ONCE if options.limit else 0):
                tasks.create_task(_use_up(load, stop, options.limit))
        recorder.flush()


async def _be_busy(
    load: Load, rng: random.Random, stop: asyncio.Event, mix: Mapping[Kind, float]
) -> None:
    kinds, weights = list(mix), list(mix.values())
    while not stop.is_set():
        (kind,) = rng.choices(kinds, weights)
        await load.errands[kind]()


async def _use_up(load: Load, stop: asyncio.Event, limit: int) -> None:
    while not stop.is_set():
        try:
            await load.use_up(limit)
        except TemporarilyUnavailable:  # nobody can be registered just now
            await asyncio.sleep(DOWN_SECONDS)


async def _flush(recorder: Recorder, stop: asyncio.Event, operations: int) -> None:
    while not stop.is_set():
        recorder.flush()
        if operations and recorder.count >= operations:
            stop.set()
        await asyncio.sleep(FLUSH_SECONDS)


def _mix(text: str) -> Mapping[Kind, float]:
    return {Kind(name): weight for name, weight in json.loads(text).items()} if text else MIX


def arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--worker", action="append", required=True, metavar="NAME=URL")
    parser.add_argument("--mongo-url", required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--history", type=Path, required=True)
    parser.add_argument("--name", default="load", help="what the ids of operations begin with")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0, help="0: until SIGTERM")
    parser.add_argument("--operations", type=int, default=0, help="0: without bound")
    parser.add_argument("--parallel", type=int, default=80, help="machines at work at a time")
    parser.add_argument("--machines", type=int, default=10)
    parser.add_argument("--bound", type=int, default=4, help="machines with bound tokens")
    parser.add_argument("--grace", type=float, default=0, help="REFRESH_GRACE_SECONDS")
    parser.add_argument("--twice", type=float, default=0.1, help="how often twice at once, 0 to 1")
    parser.add_argument("--limit", type=int, default=0, help="use up budgets of this size as well")
    parser.add_argument("--mix", default="", help="weights of the kinds, a JSON object")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    uvloop.run(work(arguments()))
