"""Callers: addresses in one spelling, and nothing in the audit log that could disturb it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _oauth2_m2m.callers import Caller, addresses


@pytest.mark.parametrize(
    ("host", "ip", "network"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("::FFFF:c000:207", "192.0.2.7", "192.0.2.7"),
        ("2001:DB8:0:1:0:0:0:7", "2001:db8:0:1::7", "2001:db8:0:1::"),
        ("2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::"),
        ("::1", "::1", "::"),
        ("fe80::1%eth0", "fe80::1", "fe80::"),
        ("fe80::1%a:b\nc", "fe80::1", "fe80::"),
        (None, "unknown", "unknown"),
        ("", "unknown", "unknown"),
        ("testclient", "unknown", "unknown"),
        ("192.0.2.007", "unknown", "unknown"),
        ("192.0.2.7:443", "unknown", "unknown"),
        ("[::1]", "unknown", "unknown"),
        (" 192.0.2.7", "unknown", "unknown"),
        ("192.0.2.7, 198.51.100.1", "unknown", "unknown"),
        ("3221225991", "unknown", "unknown"),
        ("\ud800", "unknown", "unknown"),
    ],
    ids=ascii,
)
def test_an_address_has_one_spelling(host: str | None, ip: str, network: str) -> None:
    """Addresses are canonical, IPv6 is limited by /64, and what is no address is one caller."""
    assert addresses(host) == (ip, network)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_its_own_network_however_it_arrives(address: IPv4Address) -> None:
    """A socket that listens on IPv6 gives no caller a second budget."""
    assert addresses(str(address)) == addresses(f"::ffff:{address}") == (str(address),) * 2


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_all_of_a_64_share_one_network(address: IPv6Address, host: int) -> None:
    """Nobody gets a fresh budget from another address of the same /64."""
    if address.ipv4_mapped is not None:
        return
    network = IPv6Network((int(address), 64), strict=False)
    assert addresses(str(address))[1] == addresses(str(network[host]))[1]
    assert addresses(address.exploded.upper()) == addresses(str(address))


@given(st.text(st.characters(categories=None)))
def test_any_host_is_an_address_or_unknown(host: str) -> None:
    """Whatever a proxy forwards, what is counted on is an address or `unknown`."""
    ip, network = addresses(host)
    if ip != "unknown":
        assert addresses(ip) == (ip, network)


@pytest.mark.parametrize("name", ["x-forwarded-for", "forwarded", "x-real-ip"])
def test_a_forwarded_header_is_none_of_our_business(name: str) -> None:
    """Only the server knows which proxy to trust; we take the peer that it gives us."""
    caller = Caller("192.0.2.7", {name: "198.51.100.1"})
    assert (caller.ip, caller.network) == ("192.0.2.7", "192.0.2.7")


@pytest.mark.parametrize("request_id", ["a", "A-b_c.9", "x" * 64])
def test_a_harmless_request_id_is_kept(request_id: str) -> None:
    """The caller's own id follows the request into the audit log."""
    assert Caller(None, {"x-request-id": request_id}).request_id == request_id


@pytest.mark.parametrize(
    "request_id", ["", "a b", "a\n", "\na", "x" * 65, "\u00e9", "${jndi}", '"', "a\0", "\u0661"]
)
def test_another_request_id_is_replaced(request_id: str) -> None:
    """An id that could disturb a log line gives way to a random one."""
    first, second = (Caller(None, {"x-request-id": request_id}).request_id for _ in "12")
    assert first != second
    assert len(first) == 32
    int(first, 16)


@given(st.text(st.characters(categories=None), max_size=400))
def test_a_user_agent_is_bounded_and_printable(user_agent: str) -> None:
    """At most 200 characters, none of which moves a cursor or ends a line."""
    found = Caller(None, {"user-agent": user_agent}).user_agent
    assert found is not None
    assert len(found) <= 200
    assert found.isprintable()
    found.encode()  # no lone surrogate, which no database could take


def test_no_user_agent_is_none() -> None:
    """A header that was not sent is not an empty one."""
    assert Caller(None, {}).user_agent is None
