"""Other people's documents: what is fetched, what never is, and what is kept."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from _oauth2_m2m import remote_documents
from _oauth2_m2m.remote_documents import (
    LARGEST_DOCUMENT_BYTES,
    FetchRules,
    RemoteDocument,
    Resolve,
    fetch_json,
    is_public,
    place_of,
)
from tests.clocks import Clock
from tests.sites import Reply, Site, serving

LOCAL = FetchRules(allow_http=True, allow_private=True)
DOCUMENT: dict[str, Any] = {"keys": []}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with serving() as site:
        site.reply = site.document(DOCUMENT)
        yield site


def resolving(*answers: Sequence[str]) -> tuple[Resolve, list[str]]:
    """A resolver with an answer for each question, and whom it was asked for."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    return resolve, asked


# URLs and addresses


@pytest.mark.parametrize(
    ("url", "host_header", "path"),
    [
        ("https://keys.example", "keys.example", "/"),
        ("https://keys.example:443/a?b=c", "keys.example", "/a?b=c"),
        ("https://KEYS.example:8443/A", "keys.example:8443", "/A"),
        ("http://127.0.0.1:8000/", "127.0.0.1:8000", "/"),
        ("https://[2001:DB8:0::1]/x", "[2001:db8::1]", "/x"),
    ],
)
def test_a_url_is_taken_apart(url: str, host_header: str, path: str) -> None:
    """Into where to connect and what to ask for."""
    place = place_of(url)
    assert (place.host_header, place.path) == (host_header, path)


@pytest.mark.parametrize(
    "url",
    [
        "", "keys", "/keys", "//keys.example/", "ftp://keys.example/", "file:///etc/passwd",
        "https://", "https:///keys", "https://user@keys.example/", "https://u:p@keys.example/",
        "https://keys.example/#part", "https://keys.example/#", "https://keys.example:0/",
        "https://keys.example:65536/", "https://keys.example:x/", "https://keys example/",
        "https://keys.example\\@127.0.0.1/", "https://k\u00e9ys.example/", "https://[::1",
        "https://[fe80::1%25eth0]/", "https://a%2eb/", "https://keys.example/\n",
        "https://keys.example/\x00", "https://keys.example/" + "x" * 2048,
    ],
)  # fmt: skip
def test_what_is_no_proper_url_is_refused(url: str) -> None:
    """Nothing that two readers could read in two ways."""
    with pytest.raises(ValueError, match="URL"):
        place_of(url)


PUBLIC = ["93.184.216.34", "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
NOT_PUBLIC = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0",  # noqa: S104
    "10.0.0.1", "172.16.0.1", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "192.0.0.1", "192.0.0.8", "192.88.99.1",
    "198.18.0.1", "192.0.2.1", "203.0.113.1",
    "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1",
    "2001:0:102:304::1", "fec0::1", "no address",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_open_internet_are_public(address: str) -> None:
    """Whether IPv4 stands in IPv6 or not."""
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_of_our_own_networks_are_not_public(address: str) -> None:
    """Loopback, private, link-local, multicast, reserved; also when wrapped in IPv6."""
    assert not is_public(address)


# One fetch


async def test_a_document_is_fetched(site: Site) -> None:
    """Its JSON value, asked for by one plain request that carries nothing of ours."""
    assert await fetch_json(site.url + "?a=b", LOCAL) == DOCUMENT
    assert len(site.requests) == 1
    head = site.requests[0].lower()
    assert head.startswith("get /keys.json?a=b http/1.1\r\n")
    assert f"\r\nhost: 127.0.0.1:{site.port}\r\n" in head
    assert "\r\naccept-encoding: identity\r\n" in head
    assert "cookie" not in head
    assert "authorization" not in head


NO_DOCUMENTS: dict[str, tuple[Callable[[Site], Reply], str]] = {
    "a redirect": (
        lambda site: site.body(b"", "302 Found", f"Location: {site.url}\r\n"),
        "302, not 200",
    ),
    "not found": (lambda site: site.body(b"{}", "404 Not Found"), "404"),
    "an error": (lambda site: site.body(b"{}", "500 Oops"), "500"),
    "created": (lambda site: site.body(b"{}", "201 Created"), "201"),
    "a page": (lambda site: site.body(b"<html>secret</html>"), "not JSON"),
    "empty": (lambda site: site.body(b""), "not JSON"),
    "not UTF-8": (lambda site: site.body(b'"\xff"'), "not UTF-8"),
    "a repeated member": (lambda site: site.body(b'{"a": 1, "a": 2}'), "repeated"),
    "NaN": (lambda site: site.body(b'{"a": NaN}'), "number"),
    "too deep": (lambda site: site.body(b"[" * 50 + b"]" * 50), "deeper"),
    "too large": (lambda site: site.body(b" " * (LARGEST_DOCUMENT_BYTES + 1)), "larger"),
    "too large in pieces": (
        lambda site: site.raw(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            *[b"4000\r\n" + b" " * 0x4000 + b"\r\n"] * 5,
        ),
        "larger",
    ),
    "a bomb": (
        lambda site: site.body(
            gzip.compress(b" " * 50_000_000), headers="Content-Encoding: gzip\r\n"
        ),
        "compressed",
    ),
    "cut off": (
        lambda site: site.raw(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"keys": []}'),
        "transfer failed",
    ),
    "no HTTP": (lambda site: site.raw(b"SSH-2.0-OpenSSH\r\n\r\n"), "transfer failed"),
    "silence": (lambda site: site.raw(), "transfer failed"),
    "headers without end": (
        lambda site: site.raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000),
        "transfer failed",
    ),
}


@pytest.mark.parametrize(("reply", "words"), NO_DOCUMENTS.values(), ids=NO_DOCUMENTS)
async def test_what_is_no_document_is_refused(
    site: Site, reply: Callable[[Site], Reply], words: str
) -> None:
    """One request, no second; the words say what is wrong and quote nothing."""
    site.reply = reply(site)
    with pytest.raises(ValueError, match=words) as refusal:
        await fetch_json(site.url, LOCAL)
    assert "secret" not in str(refusal.value)
    assert len(site.requests) == 1


async def test_the_largest_document_is_taken(site: Site) -> None:
    """64 KiB, to the byte."""
    site.reply = site.body(b"{}".ljust(LARGEST_DOCUMENT_BYTES))
    assert await fetch_json(site.url, LOCAL) == {}


async def test_a_slow_answer_is_not_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is for all together: a byte now and then does not renew it."""
    monkeypatch.setattr(remote_documents, "FETCH_SECONDS", 0.5)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"
    site.reply = site.raw(head, *[b" "] * 90, pause=0.1)
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"within 0\.5 s"):
        await fetch_json(site.url, LOCAL)
    assert time.monotonic() - began < 5


async def test_a_slow_resolver_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolving is part of the bound."""
    monkeypatch.setattr(remote_documents, "FETCH_SECONDS", 0.2)

    async def resolve(host: str, port: int) -> Sequence[str]:
        await asyncio.sleep(60)
        return []

    with pytest.raises(ValueError, match="within"):
        await fetch_json("https://keys.example/", resolve=resolve)


async def test_without_leave_there_is_no_http_and_no_private_address(site: Site) -> None:
    """Each has its own permission, and without it nothing is sent."""
    with pytest.raises(ValueError, match="not https"):
        await fetch_json(site.url, FetchRules(allow_private=True))
    with pytest.raises(ValueError, match="not public"):
        await fetch_json(site.url, FetchRules(allow_http=True))
    with pytest.raises(ValueError, match="not public"):
        await fetch_json(site.url.replace("127.0.0.1", "localhost"), FetchRules(allow_http=True))
    with pytest.raises(ValueError, match="not public"):
        await fetch_json(site.url.replace("127.0.0.1", "2130706433"), FetchRules(allow_http=True))
    assert site.requests == []


@pytest.mark.parametrize("private", ["127.0.0.1", "::1", "::ffff:10.0.0.1", "64:ff9b::a00:1"])
async def test_one_private_address_among_public_ones_is_enough_to_refuse(private: str) -> None:
    """Which of them would be used is nobody's choice but the attacker's."""
    resolve, _ = resolving(["93.184.216.34", "2606:4700::1111", private])
    with pytest.raises(ValueError, match="not public"):
        await fetch_json("https://keys.example/", resolve=resolve)


@pytest.mark.parametrize("failure", [[], OSError("no such host"), UnicodeError("label")])
async def test_a_name_without_address_is_refused(failure: Any) -> None:
    """Whatever the resolver says of it."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        if isinstance(failure, Exception):
            raise failure
        return []

    with pytest.raises(ValueError, match="no address"):
        await fetch_json("https://keys.example/", resolve=resolve)


async def test_the_connection_goes_to_the_address_that_was_judged(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads elsewhere when it is asked again gains nothing: it is asked once."""
    monkeypatch.setattr(remote_documents, "is_public", lambda address: address == "127.0.0.1")
    resolve, asked = resolving(["127.0.0.1"], ["127.0.0.2"])
    url = f"http://keys.example:{site.port}/"
    assert await fetch_json(url, FetchRules(allow_http=True), resolve=resolve) == DOCUMENT
    assert asked == ["keys.example"]
    assert f"host: keys.example:{site.port}\r\n" in site.requests[0].lower()


async def test_an_address_that_does_not_answer_is_passed_over(site: Site) -> None:
    """A host with a dead address still works; one with nothing else is refused."""
    resolve, _ = resolving(["127.0.0.2", "127.0.0.1"])
    url = f"http://keys.example:{site.port}/"
    assert await fetch_json(url, LOCAL, resolve=resolve) == DOCUMENT
    resolve, _ = resolving(["127.0.0.2"])
    with pytest.raises(ValueError, match="no connection"):
        await fetch_json(url, LOCAL, resolve=resolve)


async def test_proxies_of_the_environment_are_not_used(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would resolve the name themselves."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert await fetch_json(site.url, LOCAL) == DOCUMENT


# TLS


def certificate(directory: Path, name: str) -> Path:
    """A certificate for a name, with its key, that nobody but itself vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / f"{name}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize(
    ("name", "trusted", "words"),
    [
        ("keys.example", True, None),
        ("keys.example", False, "no trusted certificate"),
        ("other.example", True, "no trusted certificate"),
    ],
)
async def test_the_certificate_must_be_for_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, trusted: bool, words: str | None
) -> None:
    """Though the connection is to an address; and an authority that we trust must vouch for it."""
    path = certificate(tmp_path, name)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(path)
    named: list[str | None] = []
    tls.sni_callback = lambda _, server_name, __: named.append(server_name)
    resolve, _ = resolving(["127.0.0.1"])
    rules = FetchRules(allow_private=True)
    remote_documents.trusted_authorities.cache_clear()
    try:
        async with serving(tls) as site:
            site.reply = site.document(DOCUMENT)
            url = f"https://keys.example:{site.port}/"
            if words is None:
                assert await fetch_json(url, rules, resolve=resolve) == DOCUMENT
            else:
                with pytest.raises(ValueError, match=words):
                    await fetch_json(url, rules, resolve=resolve)
                assert site.requests == []
    finally:
        remote_documents.trusted_authorities.cache_clear()
    assert named == ["keys.example"]


async def test_what_breaks_tls_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are no TLS in the middle of it are a transfer that failed, like any other."""
    path = certificate(tmp_path, "keys.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(path)

    async def reply(request: bytes, writer: asyncio.StreamWriter) -> None:
        os.write(writer.get_extra_info("socket").fileno(), b"\x17\x03\x03\x00\x20" + b"x" * 32)
        await asyncio.sleep(0.1)

    resolve, _ = resolving(["127.0.0.1"])
    remote_documents.trusted_authorities.cache_clear()
    try:
        async with serving(tls) as site:
            site.reply = reply
            with pytest.raises(ValueError, match="transfer failed"):
                await fetch_json(
                    f"https://keys.example:{site.port}/",
                    FetchRules(allow_private=True),
                    resolve=resolve,
                )
    finally:
        remote_documents.trusted_authorities.cache_clear()


# A document that is kept

FRESH, COOL = 300.0, 30.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch, "remote_documents")


def title_of(value: Any) -> str:
    if not isinstance(value, dict) or not isinstance(value.get("title"), str):
        raise ValueError("it has no title")
    return str(value["title"])


@pytest.fixture
def document(site: Site) -> RemoteDocument[str]:
    site.reply = site.document({"title": "first"})
    return RemoteDocument(
        site.url + "?key=hidden", title_of, LOCAL, fresh_seconds=FRESH, cool_down_seconds=COOL
    )


async def test_a_fresh_copy_is_not_fetched_again(
    clock: Clock, site: Site, document: RemoteDocument[str]
) -> None:
    """Until its time is over; then the change is seen, and its age begins anew."""
    assert document.age == float("inf")
    assert await document.get() == "first"
    site.reply = site.document({"title": "second"})
    clock.let_pass(FRESH - 1)
    assert await document.get() == "first"
    assert (len(site.requests), document.age) == (1, FRESH - 1)
    clock.let_pass(1)
    assert await document.get() == "second"
    assert (len(site.requests), document.age) == (2, 0)


async def test_a_hundred_who_ask_at_once_share_a_fetch(
    clock: Clock, site: Site, document: RemoteDocument[str]
) -> None:
    """Whether they want it, or want it newer."""
    assert await asyncio.gather(*[document.get() for _ in range(100)]) == ["first"] * 100
    assert len(site.requests) == 1
    site.reply = site.document({"title": "second"})
    clock.let_pass(COOL)
    assert await asyncio.gather(*[document.newer() for _ in range(100)]) == ["second"] * 100
    assert len(site.requests) == 2


async def test_those_who_come_while_it_is_fetched_wait_for_it(
    clock: Clock, site: Site, document: RemoteDocument[str]
) -> None:
    """Nobody is told the old when the new is on its way."""
    await document.get()
    clock.let_pass(COOL)
    gate = asyncio.Event()
    answer = site.document({"title": "second"})

    async def reply(request: bytes, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await answer(request, writer)

    site.reply = reply
    first = asyncio.ensure_future(document.newer())
    await site.asked(2)
    later = [asyncio.ensure_future(document.newer()) for _ in range(5)]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in later)
    gate.set()
    assert await asyncio.gather(first, *later) == ["second"] * 6
    assert len(site.requests) == 2


async def test_within_the_cool_down_nothing_is_fetched(
    clock: Clock, site: Site, document: RemoteDocument[str]
) -> None:
    """However many look for something newer, they get what is at hand."""
    await document.get()
    site.reply = site.document({"title": "second"})
    clock.let_pass(COOL - 1)
    for _ in range(3):
        assert await document.newer() == "first"
    assert len(site.requests) == 1
    clock.let_pass(1)
    assert await document.newer() == "second"
    assert len(site.requests) == 2


async def test_who_waits_for_the_end_of_the_cool_down_shares_a_fetch(site: Site) -> None:
    """What they get was fetched after they asked, and once for all of them."""
    site.reply = site.document({"title": "first"})
    document = RemoteDocument(site.url, title_of, LOCAL, fresh_seconds=FRESH, cool_down_seconds=0.4)
    await document.get()
    site.reply = site.document({"title": "second"})
    began = time.monotonic()
    waiting = [document.newer(wait=True) for _ in range(20)]
    assert await asyncio.gather(*waiting) == ["second"] * 20
    assert time.monotonic() - began >= 0.3
    assert len(site.requests) == 2


async def test_the_last_good_copy_is_kept(
    clock: Clock,
    site: Site,
    document: RemoteDocument[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While its server fails or answers nonsense; said once in the log, without the query."""
    caplog.set_level(logging.WARNING, "oauth2_m2m")
    await document.get()
    for reply in (site.body(b"", "500 Oops"), site.document({"name": "x"}), site.body(b"<html>")):
        site.reply = reply
        clock.let_pass(FRESH)
        assert await document.newer() == "first"
        assert document.fault
    assert document.age == 3 * FRESH
    assert len(site.requests) == 4
    assert [record.message for record in caplog.records] == [
        f"cannot fetch {site.url}: the answer is 500, not 200"
    ]
    site.reply = site.document({"title": "second"})
    clock.let_pass(COOL)
    assert await document.newer() == "second"
    assert document.fault is None
    site.reply = site.body(b"", "500 Oops")
    clock.let_pass(COOL)
    await document.newer()
    assert len(caplog.records) == 2


async def test_nobody_waits_for_a_server_that_is_known_to_fail(
    clock: Clock, site: Site, document: RemoteDocument[str]
) -> None:
    """The last good copy is the answer at once, and the attempt goes on behind it."""
    await document.get()
    site.reply = site.body(b"", "500 Oops")
    clock.let_pass(FRESH)
    assert await document.get() == "first"
    site.reply = site.document({"title": "second"})
    clock.let_pass(COOL)
    assert await document.get() == "first"
    assert await document.newer() == "second"  # waits for the attempt that is under way
    assert await document.get() == "second"
    assert len(site.requests) == 3


async def test_without_any_copy_the_reason_is_said(
    clock: Clock, site: Site, document: RemoteDocument[str]
) -> None:
    """To everybody, with one attempt in a cool-down; and then it heals."""
    site.reply = site.document({"name": "x"})
    for _ in range(3):
        with pytest.raises(ValueError, match="it has no title"):
            await document.get()
        with pytest.raises(ValueError, match="it has no title"):
            await document.newer()
    assert len(site.requests) == 1
    site.reply = site.document({"title": "first"})
    clock.let_pass(COOL)
    assert await document.get() == "first"


async def test_a_malformed_url_is_never_had() -> None:
    """The reason is a ValueError like any other."""
    document = RemoteDocument(
        "no url", title_of, LOCAL, fresh_seconds=FRESH, cool_down_seconds=COOL
    )
    with pytest.raises(ValueError, match="not a"):
        await document.get()


def test_a_document_serves_several_event_loops_one_after_another() -> None:
    """As test clients and workers of other servers start them."""
    holder: list[RemoteDocument[str]] = []

    async def once() -> str:
        async with serving() as site:
            site.reply = site.document({"title": f"loop {len(holder)}"})
            if not holder:
                holder.append(
                    RemoteDocument(site.url, title_of, LOCAL, fresh_seconds=0, cool_down_seconds=0)
                )
            holder[0].url = site.url  # type: ignore[misc]
            return await holder[0].newer()

    assert [asyncio.run(once()) for _ in range(3)] == ["loop 0", "loop 1", "loop 1"]


async def test_who_is_cancelled_cancels_nobody_else(
    clock: Clock, site: Site, document: RemoteDocument[str]
) -> None:
    """One who hangs up while it is fetched leaves the fetch to the others."""
    site.reply = site.raw(
        b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n", b'{"title": "first"}', pause=0.1
    )
    tasks = [asyncio.ensure_future(document.get()) for _ in range(3)]
    await site.asked(1)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert await asyncio.gather(*tasks[1:]) == ["first"] * 2
    assert len(site.requests) == 1


def test_httpx_is_imported_by_those_who_fetch_only() -> None:
    """The others start a tenth of a second earlier."""
    program = (
        "import sys, _oauth2_m2m.remote_documents, _oauth2_m2m.services; "
        "print('httpx' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
