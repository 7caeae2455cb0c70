"""The grants: what a token request may present, and what it gets for it. One file each.

A new grant is a new file and a line in `GRANTS`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from _oauth2_m2m.grants import client_credentials, refresh_token
from _oauth2_m2m.grants.request import GrantRequest
from _oauth2_m2m.issuing import IssuedTokens

Grant = Callable[[GrantRequest], Awaitable[IssuedTokens]]

#: `grant_type` as it stands on the wire, and what serves it.
GRANTS: Mapping[str, Grant] = {
    client_credentials.GRANT_TYPE: client_credentials.grant,
    client_credentials.PLAIN_GRANT_TYPE: client_credentials.grant,
    refresh_token.GRANT_TYPE: refresh_token.grant,
}
