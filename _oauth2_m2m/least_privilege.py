"""What could be taken away from a client, by what it really uses. Plain functions of values.

Nothing is said before a client was watched for long enough: what runs once a quarter is not unused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Literal

from _oauth2_m2m.client_documents import Client
from _oauth2_m2m.client_usage import MOST_ADDRESSES, Use, Used
from _oauth2_m2m.config import Settings

#: What was not used for so long could be taken away.
UNUSED_AFTER = timedelta(days=90)
_REFRESH = "refresh_token"
_USUAL_ROLE = "user"

Part = Literal["client", "scope", "role", "refresh tokens", "secret", "networks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Superfluous:
    """Something that a client has and does not need, as far as that is seen.

    Attributes:
        what: what kind of thing.
        name: which one.
        why: what was seen.
        how: the command that takes it away.
    """

    what: Part
    name: str
    why: str
    how: str


def superfluous(
    client: Client,
    uses: Sequence[Use],
    settings: Settings,
    *,
    since: datetime,
    now: datetime,
    unused_after: timedelta = UNUSED_AFTER,
) -> list[Superfluous]:
    """What could be taken away from a client.

    Args:
        client: the client.
        uses: what is known of what it used.
        settings: the settings of this moment.
        since: since when use is noted at all.
        now: the moment to judge at.
        unused_after: how long something must have been unused, and the client watched.
    """
    watched_since = max(since, client.created_at or since)
    if client.disabled or now - watched_since < unused_after:
        return []
    limit = now - unused_after
    used = {(use.kind, use.name): use for use in uses if use.last_used_at > limit}
    if (Used.CLIENT, "") not in used:
        why = f"not here for {unused_after.days} days"
        return [_found(client, "client", client.client_id, why, "clients disable {id}")]
    return [
        *_scopes(client, used, unused_after),
        *_role(client, used, unused_after),
        *_refresh_tokens(client, used, settings, unused_after),
        *_secrets(client, used, limit, now, unused_after),
        *_networks(client, used),
    ]


_Recent = dict[tuple[Used, str], Use]


def _scopes(client: Client, used: _Recent, after: timedelta) -> Iterable[Superfluous]:
    for scope in sorted(client.scopes):
        if not {(Used.SCOPE, scope), (Used.ASKED_SCOPE, scope)} & used.keys():
            why = f"no route here wanted it of this client for {after.days} days, nor did it ask"
            yield _found(client, "scope", scope, why, f"clients update {{id}} --drop-scope {scope}")


def _role(client: Client, used: _Recent, after: timedelta) -> Iterable[Superfluous]:
    # By ROLE_ORDER it may have been let through for a lower role, which `user` would not be.
    wanted = {name for kind, name in used if kind is Used.ROLE} - {_USUAL_ROLE}
    if client.role != _USUAL_ROLE and not wanted:
        why = f"no route here wanted it of this client for {after.days} days"
        how = f"clients update {{id}} --role {_USUAL_ROLE}"
        yield _found(client, "role", client.role, why, how)


def _refresh_tokens(
    client: Client, used: _Recent, settings: Settings, after: timedelta
) -> Iterable[Superfluous]:
    own = client.issue_refresh_tokens
    issued = settings.issue_refresh_tokens if own is None else own
    if issued and client.allows_grant(_REFRESH) and (Used.GRANT, _REFRESH) not in used:
        why = f"it used none for {after.days} days, and gets one with each login"
        how = "clients update {id} --no-refresh-tokens"
        yield _found(client, "refresh tokens", "", why, how)


def _secrets(
    client: Client, used: _Recent, limit: datetime, now: datetime, after: timedelta
) -> Iterable[Superfluous]:
    live = [secret for secret in client.secrets if secret.is_live(now)]
    is_used = [secret for secret in live if (Used.SECRET, secret.id) in used]
    if not is_used:
        return  # it proves itself in another way, or nobody has seen it log in
    for secret in live:
        is_old = secret.created_at is None or secret.created_at < limit
        if secret not in is_used and is_old:
            why = f"not used for {after.days} days, while another one is"
            how = f"secrets retire {{id}} {secret.id}"
            yield _found(client, "secret", secret.id, why, how)


def _networks(client: Client, used: _Recent) -> Iterable[Superfluous]:
    addresses = used[Used.CLIENT, ""].addresses
    if client.allowed_networks or not 0 < len(addresses) < MOST_ADDRESSES:
        return
    words = sorted(addresses)
    if not all(map(_is_network, words)):
        return  # they are kept as hashes, or came over a socket
    why = f"it may come from anywhere, and came from {', '.join(words)} alone"
    options = " ".join(f"--network {address}" for address in words)
    yield _found(client, "networks", "", why, f"clients update {{id}} {options}")


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


def _found(client: Client, what: Part, name: str, why: str, how: str) -> Superfluous:
    command = "oauth2-m2m " + how.format(id=client.client_id)
    return Superfluous(what=what, name=name, why=why, how=command)
