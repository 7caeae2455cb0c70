"""Callers' addresses as the audit log keeps them: whole, truncated, or hashed under a key."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from enum import StrEnum
from ipaddress import ip_address, ip_network

from _oauth2_m2m.config import Settings
from _oauth2_m2m.signatures import b64url_encode

#: What is left of a truncated address: a network in which somebody cannot be told from neighbours.
_IPV4_PREFIX, _IPV6_PREFIX = 24, 48
_HASH_BYTES = 16
_PURPOSE = b"oauth2-m2m audit addresses\0"


class AddressForm(StrEnum):
    """How much of an address is kept: the values of the setting `AUDIT_ADDRESSES`."""

    WHOLE = "whole"
    TRUNCATED = "truncated"
    HASHED = "hashed"


class Addresses:
    """Brings addresses into their form.

    Args:
        form: which.
        keys: for `hashed` the keys, the one in use first; the others are of what was kept before.
    """

    def __init__(self, form: AddressForm = AddressForm.WHOLE, keys: Sequence[bytes] = ()) -> None:
        self._form = form
        self._keys = keys

    def kept(self, address: str) -> str:
        """The address as it is kept. What is none, such as `unknown`, stays."""
        if self._form is AddressForm.WHOLE or not _is_address(address):
            return address
        if self._form is AddressForm.TRUNCATED:
            return _truncated(address)
        return _hashed(address, self._keys[0])

    def spellings(self, address: str) -> list[str]:
        """Every form in which an address may have been kept, as the setting was or is."""
        if not _is_address(address):
            return [address]
        address = str(ip_address(address))
        hashes = [_hashed(address, key) for key in self._keys]
        return [address, _truncated(address), *hashes]


def addresses_from(settings: Settings) -> Addresses:
    """The form that the settings ask for. Its keys come of `SECRET_KEY` and those before it."""
    secrets = (settings.secret_key, *settings.previous_secret_keys)
    keys = [hmac.digest(each.value.encode(), _PURPOSE, "sha256") for each in secrets]
    return Addresses(AddressForm(settings.audit_addresses), keys)


def _truncated(address: str) -> str:
    prefix = _IPV4_PREFIX if ip_address(address).version == 4 else _IPV6_PREFIX
    return str(ip_network(f"{address}/{prefix}", strict=False))


def _hashed(address: str, key: bytes) -> str:
    hashed = hmac.digest(key, address.encode(), hashlib.sha256)[:_HASH_BYTES]
    return f"hmac:{b64url_encode(hashed).decode()}"


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
