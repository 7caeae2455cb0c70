"""Can it be told by time who exists? `.bench/python/bin/python -m bench.timing [SAMPLES]`.

Every way of failing to authenticate is measured over HTTP on one connection, each in its turn, in
an order that is drawn anew for every round; and each is compared with an unknown client's. Kinds
that are slower on purpose show what would be seen. Not in CI: it needs a machine of its own.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import random
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from cryptography.hazmat.primitives.asymmetric import ec
from jose import jwk, jwt
from pymongo import AsyncMongoClient

from bench import processes, registry, report, seeding
from bench.contenders.common import AUDIENCE
from bench.distinguish import FALSE_ALARMS, POWER, compare, smallest_detectable
from bench.registry import Contender
from example.mongodb import running_mongodb
from oauth2_m2m import OAuth2M2M

SAMPLES = 10_000
#: A typed secret costs a slow hash each time.
SLOW_SHARE = 20
WARM_UP = 200
#: So many clients of each sort, so that no single id's bucket or document decides.
EACH = 10
DELAYS = (20, 50, 200, 1_000)
#: And a slow hash drowns more than that.
SLOW_DELAYS = (5_000, 20_000, 60_000)
#: A disk's noise would drown what is looked for.
MEMORY = Path("/dev/shm")  # noqa: S108
GRANT = {"grant_type": "client_credentials"}
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
DELAYED = Contender("ours", "timing", "bench.contenders.delayed:app", "")

#: Makes the next request of a kind.
Make = Callable[[], bytes]


def main() -> None:
    """Measure all families, print a table for each, and keep the figures."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    samples = int(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES
    with (
        tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder,
        running_mongodb(Path(folder)) as url,
    ):
        people = asyncio.run(People.registered(url))
        server = registry.start(DELAYED, url)
        try:
            measured = {}
            for name, kinds, number in families(people, samples):
                print(f"\n== {name}: {number:,} of each ==", flush=True)
                times = measure(server.port, kinds, number)
                measured[name] = times
                print(table(times), flush=True)
            report.save_raw(registry.HOME / "timing.json", measured)
        finally:
            server.stop()


@dataclass(frozen=True, slots=True)
class People:
    """Who may be asked about: ids by sort, and right secrets by id."""

    ids: Mapping[str, Sequence[str]]
    rights: Mapping[str, str]

    @classmethod
    async def registered(cls, url: str) -> People:
        """Register clients of each sort, in a database of their own."""
        async with AsyncMongoClient[dict[str, Any]](url) as mongo:
            await mongo.drop_database(DELAYED.database)
            await seeding.configure(mongo, DELAYED.database, seeding.LIMIT)
            database = mongo[DELAYED.database]
            m2m = OAuth2M2M(database, environment="production")
            ids: dict[str, list[str]] = {"unknown": [_id() for _ in range(EACH)]}
            rights: dict[str, str] = {}

            async def add(sort: str, **registration: Any) -> str:
                made = await m2m.clients.register(_id(), scopes=["read", "write"], **registration)
                ids.setdefault(sort, []).append(made.client.client_id)
                rights[made.client.client_id] = made.client_secret or ""
                return made.client.client_id

            for number in range(EACH):
                await add("known")
                await m2m.clients.disable(await add("disabled"))
                expired = await add("expired")
                await add("elsewhere", allowed_networks=["203.0.113.0/24"])
                await add("typed", client_secret=f"typed by a person {number}")
                disabled = await add("typed, disabled", client_secret=f"typed by another {number}")
                await m2m.clients.disable(disabled)
                await add("with keys", jwks=_public_keys())
                await m2m.clients.disable(await add("with keys, disabled", jwks=_public_keys()))
                document = await database.clients.find_one({"client_id": expired}) or {}
                old = {
                    "id": "old",
                    "secret": document["client_secret"],
                    "expires_at": datetime.now(UTC) - timedelta(days=1),
                }
                change = {"$set": {"secrets": [old]}, "$unset": {"client_secret": ""}}
                await database.clients.update_one({"client_id": expired}, change)
            # A made secret that is nobody's.
            nobody = await m2m.clients.register(scopes=["read"])
            await m2m.clients.remove(nobody.client.client_id)
            rights[""] = nobody.client_secret or ""
            return cls(ids, rights)

    def with_secret(self, sort: str, secret: str | None = None, delay: int = 0) -> Make:
        """Requests of clients of a sort, with this secret or their right one."""

        def make() -> bytes:
            client_id = random.choice(self.ids[sort])  # noqa: S311
            chosen = self.rights[client_id] if secret is None else secret
            pair = base64.b64encode(f"{client_id}:{chosen}".encode()).decode()
            return _post({"Authorization": f"Basic {pair}"}, GRANT, delay)

        return make

    def with_assertion(self, sort: str, delay: int = 0, **header: str) -> Make:
        """Requests that somebody else's key has signed."""
        stranger = _private_key()

        def make() -> bytes:
            client_id = random.choice(self.ids[sort])  # noqa: S311
            claims = {
                "iss": client_id,
                "sub": client_id,
                "aud": AUDIENCE,
                "exp": int(time.time()) + 60,
                "jti": secrets.token_hex(16),
            }
            assertion = jwt.encode(claims, stranger, "ES256", headers=header)
            proof = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}
            return _post({}, GRANT | proof, delay)

        return make


def families(people: People, samples: int) -> list[tuple[str, dict[str, Make], int]]:
    """What is compared with what: the first of each family is an unknown client."""
    wrong, typed = people.rights[""], "no person's secret"
    slow = max(samples // SLOW_SHARE, 20)
    return [
        ("a secret of the shape that we make", {
            "unknown client": people.with_secret("unknown", wrong),
            "unknown client, again": people.with_secret("unknown", wrong),
            "wrong secret": people.with_secret("known", wrong),
            "wrong secret, where it was typed": people.with_secret("typed", wrong),
            "disabled client, wrong secret": people.with_secret("disabled", wrong),
            "disabled client, right secret": people.with_secret("disabled"),
            "expired secret": people.with_secret("expired"),
            "right secret from elsewhere": people.with_secret("elsewhere"),
            **{f"unknown, {d} us slower": people.with_secret("unknown", wrong, d) for d in DELAYS},
        }, samples),
        ("an assertion", {
            "unknown client": people.with_assertion("unknown"),
            "unknown client, again": people.with_assertion("unknown"),
            "wrong key": people.with_assertion("with keys"),
            "wrong key under a known kid": people.with_assertion("with keys", kid="first"),
            "wrong key under an unknown kid": people.with_assertion("with keys", kid="other"),
            "disabled client": people.with_assertion("with keys, disabled"),
            "client with a secret": people.with_assertion("known"),
            **{f"unknown, {d:,} us slower": people.with_assertion("unknown", d) for d in DELAYS},
        }, samples),
        ("any other secret, such as people type", {
            "unknown client": people.with_secret("unknown", typed),
            "unknown client, again": people.with_secret("unknown", typed),
            "wrong secret": people.with_secret("typed", typed),
            "wrong secret, where it was made": people.with_secret("known", typed),
            "disabled client, wrong secret": people.with_secret("typed, disabled", typed),
            "disabled client, right secret": people.with_secret("typed, disabled"),
            **{
                f"unknown, {d:,} us slower": people.with_secret("unknown", typed, d)
                for d in SLOW_DELAYS
            },
        }, slow),
    ]  # fmt: skip


def measure(port: int, kinds: Mapping[str, Make], number: int) -> dict[str, list[float]]:
    """The microseconds that each kind took, so many times."""
    times: dict[str, list[float]] = {name: [] for name in kinds}
    with socket.create_connection((processes.HOST, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for make in kinds.values():
            for _ in range(min(WARM_UP, number)):
                _ask(connection, make())
        gc.collect()
        gc.disable()
        for _ in range(number):
            for name in random.sample(list(kinds), len(kinds)):
                times[name].append(_ask(connection, kinds[name]()) / 1000)
        gc.enable()
    return times


def table(times: Mapping[str, Sequence[float]]) -> str:
    """How each kind compares with the first."""
    base = next(iter(times.values()))
    lines = [
        "| refusal | median us | against the first | 95 % interval | p | |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for name, own in times.items():
        verdict = compare(base, own)
        lines.append(
            f"| {name} | {sorted(own)[len(own) // 2]:,.0f} | {verdict.difference:+.1f} "
            f"| {verdict.low:+.1f} to {verdict.high:+.1f} | {verdict.p:.2g} "
            f"| {'**differs**' if verdict.differs else ''} |"
        )
    lines.append(
        f"\nWith {POWER:.0%} power and {FALSE_ALARMS:.0%} false alarms it would see "
        f"{smallest_detectable(base):.1f} us."
    )
    return "\n".join(lines)


def _ask(connection: socket.socket, request: bytes) -> int:
    """Send a request and read its refusal; the nanoseconds from the one to the other."""
    begun = time.perf_counter_ns()
    connection.sendall(request)
    answer = connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    took = time.perf_counter_ns() - begun
    if not head.startswith(b"HTTP/1.1 401"):
        sys.exit(f"error: this is no refusal: {answer!r}")
    return took


def _post(headers: Mapping[str, str], form: Mapping[str, str], delay: int) -> bytes:
    body = urlencode(form).encode()
    lines = [
        "POST /token HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}",
        f"X-Delay: {delay:06}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _id() -> str:
    """An id like any other, and as long."""
    return secrets.token_hex(11)


def _private_key() -> Any:
    return jwk.construct(ec.generate_private_key(ec.SECP256R1()), "ES256")


def _public_keys() -> dict[str, Any]:
    return {"keys": [{**_private_key().public_key().to_dict(), "kid": "first", "use": "sig"}]}


if __name__ == "__main__":
    main()
