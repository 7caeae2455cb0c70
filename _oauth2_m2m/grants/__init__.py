"""The grants: what a token request may present, and what it gets for it. One file each.

A new grant is a new file and a line in `_GRANTS`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from _oauth2_m2m.config import Settings
from _oauth2_m2m.grants import client_credentials, refresh_token
from _oauth2_m2m.grants.request import GrantRequest
from _oauth2_m2m.issuing import IssuedTokens

Grant = Callable[[GrantRequest], Awaitable[IssuedTokens]]

#: `grant_type` as it stands on the wire, and what serves it.
_GRANTS: Mapping[str, Grant] = {
    client_credentials.GRANT_TYPE: client_credentials.grant,
    client_credentials.PLAIN_GRANT_TYPE: client_credentials.grant,
    refresh_token.GRANT_TYPE: refresh_token.grant,
}


def find_grant(grant_type: str, settings: Settings) -> Grant | None:
    """The grant of a request; `None` when it is not offered."""
    if settings.is_fapi2 and grant_type != client_credentials.GRANT_TYPE:
        return None  # no plain dialect, and no refresh tokens, not even those of before
    return _GRANTS.get(grant_type)


def grant_word(grant_type: str) -> str:
    """The name of a grant, or one word for all that are none of ours."""
    return grant_type if grant_type in _GRANTS else "unknown"


def offered_grants(settings: Settings) -> list[str]:
    """The grants of standard clients. RFC 8414 section 2, `grant_types_supported`."""
    plain = client_credentials.PLAIN_GRANT_TYPE
    return [name for name in _GRANTS if name != plain and find_grant(name, settings)]
