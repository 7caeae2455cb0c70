"""Other people's JSON documents, fetched within strict bounds and kept as long as they are good.

Who names a URL to a server makes it send requests from inside its network (RFC 7591 section 5,
RFC 9700 section 4.10). So a fetch follows no redirect and no proxy, and goes to public addresses
only: the name is resolved here, every address of it is judged, and the connection is made to an
address that was judged, so that a second answer of the name's owner changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

from starlette.status import HTTP_200_OK

from _oauth2_m2m.forms import parse_json
from _oauth2_m2m.group_commit import GroupCommit

if TYPE_CHECKING:
    import ssl

    import httpx

T = TypeVar("T")

#: Resolving, connecting, and reading to the end.
FETCH_SECONDS = 3.0
#: One address. A host that has lost its IPv6 has time for another.
CONNECT_SECONDS = 1.0
LARGEST_DOCUMENT_BYTES = 64 * 1024
LONGEST_URL = 2048
MOST_WAITING = 1_000
MOST_ADDRESSES = 16

_PORTS = {"https": 443, "http": 80}
_URL = re.compile(r"[!-\[\]-~]+")  # printable ASCII without spaces and backslashes
_HOST = re.compile(r"[A-Za-z0-9._-]+")
#: RFC 4291 section 2.4: what was ever given out for the open internet.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
#: RFC 6890 and RFC 7526: not global, though older Pythons take some of it for that.
_SPECIAL = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"))
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052 section 2.1

_log = logging.getLogger("oauth2_m2m")

#: From a host's name and port to its addresses. Raises `OSError` when there are none.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class FetchRules:
    """What a fetch may do beside https to public addresses.

    Attributes:
        allow_http: without TLS, for development.
        allow_private: to loopback, private, link-local and reserved addresses.
    """

    allow_http: bool = False
    allow_private: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a URL leads, taken apart once, so that nobody reads it in another way."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def host_header(self) -> str:
        """The host as it stands in a URL and in the header `Host`. RFC 9110 section 7.2."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        """For people: without the query, which may hold a secret."""
        return f"{self.scheme}://{self.host_header}{self.path.partition('?')[0]}"


def place_of(url: str) -> Place:
    """Take a URL apart: absolute, http or https, without user, password and fragment.

    Raises:
        ValueError: it is anything else, or longer than 2,048 characters.
    """
    if len(url) > LONGEST_URL or not _URL.fullmatch(url):
        raise ValueError(f"not a URL of printable ASCII, up to {LONGEST_URL} characters")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if ":" in host:
            host = str(IPv6Address(host))
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme not in _PORTS:
        raise ValueError("not an https URL")
    if "@" in parts.netloc or "#" in url:
        raise ValueError("a URL with a user or a fragment")
    if "%" in host or not (":" in host or _HOST.fullmatch(host)) or port == 0:
        raise ValueError("a URL without a proper host and port")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Place(parts.scheme, host, port or _PORTS[parts.scheme], path)


def is_public(address: str) -> bool:
    """Whether an address is on the open internet, whatever stands around an IPv4 address."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address):
        inside = _embedded(ip)
        if inside is None:
            return ip in _GLOBAL_UNICAST and ip.is_global
        ip = inside
    is_special = any(ip in network for network in _SPECIAL)
    return ip.is_global and not is_special and not ip.is_multicast and not ip.is_reserved


def _embedded(ip: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a mapped, NAT64 or 6to4 address leads to."""
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


async def resolve_by_system(host: str, port: int) -> Sequence[str]:
    """The addresses of a host, as the machine's resolver says them, in its order."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def fetch_json(
    url: str, rules: FetchRules = FetchRules(), *, resolve: Resolve = resolve_by_system
) -> Any:
    """Get a JSON document.

    Args:
        url: where from.
        rules: what is allowed beyond the usual.
        resolve: who knows the addresses of names.

    Returns:
        The value, read as strictly as what arrives from outside.

    Raises:
        ValueError: there is none to be had within 3 s, 64 KiB and the rules; the message says why,
            and quotes nothing of it.
    """
    place = place_of(url)
    if place.scheme != "https" and not rules.allow_http:
        raise ValueError("the URL is not https")
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            addresses = await _good_addresses(place, rules, resolve)
            return parse_json(await _read(place, addresses))
    except TimeoutError:
        raise ValueError(f"no answer within {FETCH_SECONDS:g} s") from None


async def _good_addresses(place: Place, rules: FetchRules, resolve: Resolve) -> Sequence[str]:
    try:
        addresses = await resolve(place.host, place.port)
    except (OSError, UnicodeError):  # such as a label of more than 63 characters
        addresses = ()
    if not addresses:
        raise ValueError("the host's name has no address")
    if not rules.allow_private and not all(map(is_public, addresses)):
        raise ValueError("the host's name leads to an address that is not public")
    return addresses[:MOST_ADDRESSES]


async def _read(place: Place, addresses: Sequence[str]) -> bytes:
    """The body of a good answer, from the first of these addresses that lets us connect."""
    # The first time takes a tenth of a second or two: not while everybody else waits.
    tls = await asyncio.to_thread(trusted_authorities)
    import httpx  # those who fetch nothing need not pay for it

    # Time is bounded by our caller. Proxies of the environment would resolve the name anew.
    limits = httpx.Timeout(None, connect=CONNECT_SECONDS)
    async with httpx.AsyncClient(verify=tls, trust_env=False, timeout=limits) as http:
        for address in addresses:
            try:
                return await _read_from(http, place, address)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:  # such as ssl.SSLError
                raise ValueError(f"the transfer failed ({type(error).__name__})") from None
    raise ValueError("no connection, or no trusted certificate for the host's name")


async def _read_from(http: httpx.AsyncClient, place: Place, address: str) -> bytes:
    target = Place(place.scheme, address, place.port, place.path)
    request = http.build_request(
        "GET",
        f"{target.scheme}://{target.host_header}{target.path}",
        headers={
            "Host": place.host_header,
            "Accept": "application/jwk-set+json, application/json",
            # Bytes that grow when they are read are not asked for, and not taken.
            "Accept-Encoding": "identity",
            # Whoever looks again misses something: what a cache on the way has kept is no help.
            "Cache-Control": "no-cache",
        },
        extensions={"sni_hostname": place.host},  # the certificate must be for the name
    )
    response = await http.send(request, stream=True, follow_redirects=False)
    return await body_of(response, LARGEST_DOCUMENT_BYTES)


async def body_of(response: httpx.Response, most: int) -> bytes:
    """The body of a good answer, whose connection is then free for the next.

    Args:
        response: the answer, as a stream.
        most: how many bytes it may have.

    Raises:
        ValueError: the answer is not 200, compressed, or larger; the message says which.
    """
    try:
        if response.status_code != HTTP_200_OK:
            raise ValueError(f"the answer is {response.status_code}, not 200")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise ValueError("the answer is compressed, which was not asked for")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > most:
                raise ValueError(f"the answer is larger than {most} bytes")
        return bytes(body)
    finally:
        await response.aclose()


@lru_cache(maxsize=1)
def trusted_authorities() -> ssl.SSLContext:
    """Whom to trust: the usual authorities, or those that the operator's SSL_CERT_FILE names."""
    import httpx

    return httpx.create_ssl_context()


class RemoteDocument(Generic[T]):
    """A document that somebody else keeps, as it stood when it was last seen.

    When it cannot be had, or is malformed, its last good copy goes on being served: an outage of
    somebody else's server must not be one of ours. Event loops may use it one after another.

    Args:
        url: where it is.
        parse: from its JSON to what it means; `ValueError` refuses it.
        rules: what a fetch may do.
        fresh_seconds: how long a copy is good without looking again.
        cool_down_seconds: how long nothing is fetched after a fetch, whoever asks.
        resolve: who knows the addresses of names.
    """

    def __init__(
        self,
        url: str,
        parse: Callable[[Any], T],
        rules: FetchRules = FetchRules(),
        *,
        fresh_seconds: float,
        cool_down_seconds: float,
        resolve: Resolve = resolve_by_system,
    ) -> None:
        self.url: Final = url
        self._parse = parse
        self._rules = rules
        self._fresh_seconds = fresh_seconds
        self._cool_down_seconds = cool_down_seconds
        self._resolve = resolve
        self._copy: tuple[T] | None = None
        self._copied_at = self._began_at = self._ended_at = -math.inf
        self._fault: str | None = None
        self._waiting = 0
        # Whoever asks while a fetch is under way waits for it, and finds that all is done.
        self._flight: GroupCommit[bool, None] = GroupCommit(self._fetch_for_all)

    @property
    def age(self) -> float:
        """Seconds since the last good fetch; infinite before the first."""
        return time.monotonic() - self._copied_at

    @property
    def fault(self) -> str | None:
        """Why the last fetch failed; `None` when it did not, or before the first."""
        return self._fault

    async def get(self) -> T:
        """The document, fetched again when its copy is no longer fresh.

        While its server is known to fail, nobody waits for the next attempt: the last good copy
        is the answer at once.

        Raises:
            ValueError: it was never had; the message says why it could not be fetched last.
        """
        if self.age >= self._fresh_seconds and not self._is_cooling():
            fetched = self._flight.ask(False)  # under way from here on, awaited or not
            if self._copy is None or self._fault is None:
                await fetched
        return self._at_hand()

    async def newer(self, *, wait: bool = False) -> T:
        """The document, fetched again though it is fresh, for it lacks what somebody looks for.

        There is one fetch in a cool-down, however many ask. Within it the answer is what is at
        hand.

        Args:
            wait: within a cool-down, wait for its end instead and share the next fetch, so that
                the answer was fetched after this call, or could not be. When a thousand wait
                already, the next ones do not.

        Raises:
            ValueError: it was never had.
        """
        asked_at = time.monotonic()
        await self._flight.ask(True)
        if not wait or self._waiting >= MOST_WAITING:
            return self._at_hand()
        self._waiting += 1
        try:
            while self._began_at < asked_at:
                rest = self._ended_at + self._cool_down_seconds - time.monotonic()
                await asyncio.sleep(max(rest, 0))
                await self._flight.ask(True)
        finally:
            self._waiting -= 1
        return self._at_hand()

    def _at_hand(self) -> T:
        if self._copy is None:
            raise ValueError(self._fault or "it was not fetched yet")
        return self._copy[0]

    def _is_cooling(self) -> bool:
        return time.monotonic() < self._ended_at + self._cool_down_seconds

    async def _fetch_for_all(self, newer: Sequence[bool]) -> Sequence[None]:
        if not self._is_cooling() and (any(newer) or self.age >= self._fresh_seconds):
            self._began_at = time.monotonic()
            try:
                await self._fetch()
            finally:
                self._ended_at = time.monotonic()
        return [None] * len(newer)

    async def _fetch(self) -> None:
        try:
            value = await fetch_json(self.url, self._rules, resolve=self._resolve)
            self._copy = (self._parse(value),)
        except ValueError as fault:
            if self._fault is None:  # once, until it succeeds again
                _log.warning("cannot fetch %s: %s", _shown(self.url), fault)
            self._fault = str(fault)
        else:
            self._fault, self._copied_at = None, time.monotonic()


def _shown(url: str) -> str:
    try:
        return str(place_of(url))
    except ValueError:
        return "a malformed URL"
