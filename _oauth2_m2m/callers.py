"""Who is on the other end of a request: its address and what identifies it in the audit log."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

#: A request id from outside is kept only when it cannot disturb a log line.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_LONGEST_REQUEST_ID = 64
_LONGEST_USER_AGENT = 200
_MOST_REMEMBERED = 4096
_UNKNOWN_ADDRESS = "unknown"

#: Who asks, while a request is under way: so that log lines can name the request.
CALLER: ContextVar[Caller | None] = ContextVar("oauth2_m2m.caller", default=None)


class Caller:
    """The other end of one request. What only a record tells is worked out when there is one.

    Args:
        host: the peer's address as the server gives it. Forwarded headers are the server's
            business (`--forwarded-allow-ips`), never ours: only it knows which proxy to trust.
        headers: the request's headers; names are looked up in lower case.

    Attributes:
        ip: its address in canonical spelling, or `unknown` (a Unix socket has none).
        network: what its limits are counted on: the address, for IPv6 its /64.
    """

    __slots__ = ("_headers", "_made_id", "ip", "network")

    def __init__(self, host: str | None, headers: Mapping[str, str]) -> None:
        self.ip, self.network = addresses(host)
        self._headers = headers
        self._made_id: str | None = None

    @property
    def request_id(self) -> str:
        """The caller's `X-Request-ID` when it is harmless, else a random one."""
        given = self._headers.get("x-request-id", "")
        if len(given) <= _LONGEST_REQUEST_ID and _REQUEST_ID.fullmatch(given):
            return given
        self._made_id = self._made_id or secrets.token_hex(16)
        return self._made_id

    @property
    def user_agent(self) -> str | None:
        """The first 200 characters of `User-Agent` without control characters."""
        return _printable(self._headers.get("user-agent"))


@lru_cache(maxsize=_MOST_REMEMBERED)
def addresses(host: str | None) -> tuple[str, str]:
    """The canonical spelling of an address, and the network that its limits are counted on.

    A home or a data centre gets a whole IPv6 /64, so a single address there is no bound at all.
    What is no address (a forwarded header may hold anything) counts as one unknown caller.
    """
    try:
        address = ip_address(host or "")
    except ValueError:
        return _UNKNOWN_ADDRESS, _UNKNOWN_ADDRESS
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped), str(address.ipv4_mapped)
        # A zone such as %eth0 names an interface of this machine, not the caller.
        address = IPv6Address(int(address))
        return str(address), str(ip_network((int(address), 64), strict=False).network_address)
    return str(address), str(address)


def _printable(user_agent: str | None) -> str | None:
    if user_agent is None:
        return None
    user_agent = user_agent[:_LONGEST_USER_AGENT]
    return user_agent if user_agent.isprintable() else "".join(filter(str.isprintable, user_agent))
