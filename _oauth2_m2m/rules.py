"""What a request must satisfy, each rule by its name, in the order in which it is asked.

Every refusal names the rule that did not hold, with small facts about it: what was had, and what
was wanted. The caller sees neither; they stand in the audit record, and `explaining` tells from
them how the decision came about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeAlias

#: What is kept of a refusal besides its rule; never a secret, nor a token.
Facts: TypeAlias = Mapping[str, str | int]
#: What code says of it, before it is made small and plain.
Said: TypeAlias = str | int | datetime | Iterable[str] | None

LONGEST_FACT = 200


class Rule(StrEnum):
    """A rule, in the words of the field `rule` of audit records."""

    # What is asked at all
    REQUEST = "request"
    PROFILE = "profile"
    CREDENTIALS = "credentials"
    FAILURE_LIMIT = "failure_limit"

    # Which client asks
    CLIENT_KNOWN = "client_known"
    CLIENT_READABLE = "client_readable"
    CLIENT_ENABLED = "client_enabled"
    CLIENT_NETWORK = "client_network"
    CLIENT_METHOD = "client_method"
    SECRET_PATIENCE = "secret_patience"
    SECRET_RIGHT = "secret_right"
    SECRET_LIVE = "secret_live"
    CLIENT_KEYS = "client_keys"
    ASSERTION_SIGNATURE = "assertion_signature"
    ASSERTION_CLAIMS = "assertion_claims"
    ASSERTION_UNUSED = "assertion_unused"
    BUDGET = "budget"

    # Which key it holds (DPoP)
    PROOF_SENT = "proof_sent"
    PROOF_GOOD = "proof_good"
    PROOF_UNUSED = "proof_unused"
    PROOF_NONCE = "proof_nonce"

    # What it asks for
    GRANT_OFFERED = "grant_offered"
    GRANT_ALLOWED = "grant_allowed"
    PARAMETERS = "parameters"
    RESOURCE = "resource"
    SCOPE = "scope"
    ROLE = "role"

    # The refresh token that it presents
    REFRESH_KNOWN = "refresh_known"
    REFRESH_OWN = "refresh_own"
    REFRESH_NOT_REVOKED = "refresh_not_revoked"
    REFRESH_UNSPENT = "refresh_unspent"
    REFRESH_LIVE = "refresh_live"
    REFRESH_EPOCH = "refresh_epoch"
    REFRESH_KEY = "refresh_key"

    # The access token that it presents
    TOKEN_SENT = "token_sent"
    TOKEN_READABLE = "token_readable"
    TOKEN_TYPE = "token_type"
    TOKEN_KEY = "token_key"
    TOKEN_SIGNATURE = "token_signature"
    TOKEN_ISSUER = "token_issuer"
    TOKEN_LIVE = "token_live"
    TOKEN_CLAIMS = "token_claims"
    TOKEN_AUDIENCE = "token_audience"
    TOKEN_SCHEME = "token_scheme"
    TOKEN_CLIENT = "token_client"
    TOKEN_NOT_REVOKED = "token_not_revoked"

    # What is no matter of the caller's
    SERVICE = "service"


class Broken(ValueError):
    """A rule that does not hold.

    Args:
        rule: which.
        words: why, in words that quote nothing.
        said: what was had, what was wanted.
    """

    def __init__(self, rule: Rule, words: str, **said: Said) -> None:
        super().__init__(words)
        self.rule = rule
        self.facts = facts_of(said)


def facts_of(said: Mapping[str, Said]) -> Facts:
    """Facts as they are kept: numbers, and texts that are not long; what is `None` is left out."""
    return {name: _plain(value) for name, value in said.items() if value is not None}


def _plain(value: str | int | datetime | Iterable[str]) -> str | int:
    if isinstance(value, int):
        return value
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    text = value if isinstance(value, str) else " ".join(value)
    return text if len(text) <= LONGEST_FACT else f"{text[: LONGEST_FACT - 3]}..."


class Flow(StrEnum):
    """A way through the server, in the words of the field `flow` of audit records."""

    TOKEN = "token"
    EXCHANGE = "exchange"
    REFRESH = "refresh"
    REVOKE = "revoke"
    REVOKE_HELD = "revoke_held"
    REVOKE_REFRESH = "revoke_refresh"
    INTROSPECT = "introspect"
    ROUTE = "route"


_BY_SECRET = (
    Rule.CLIENT_KNOWN,
    Rule.CLIENT_READABLE,
    Rule.CLIENT_ENABLED,
    Rule.CLIENT_NETWORK,
    Rule.CLIENT_METHOD,
    Rule.SECRET_PATIENCE,
    Rule.SECRET_RIGHT,
    Rule.SECRET_LIVE,
)
_BY_ASSERTION = (
    *_BY_SECRET[:5],
    Rule.CLIENT_KEYS,
    Rule.ASSERTION_SIGNATURE,
    Rule.ASSERTION_CLAIMS,
    Rule.ASSERTION_UNUSED,
)
_PROOF = (Rule.PROOF_SENT, Rule.PROOF_GOOD, Rule.PROOF_UNUSED, Rule.PROOF_NONCE)
_ASKED = (Rule.REQUEST, Rule.PROFILE)
_GRANT = (Rule.GRANT_OFFERED, Rule.GRANT_ALLOWED)
_REFRESH_TOKEN = (
    Rule.REFRESH_OWN,
    Rule.REFRESH_NOT_REVOKED,
    Rule.REFRESH_UNSPENT,
    Rule.REFRESH_LIVE,
    Rule.REFRESH_EPOCH,
    Rule.REFRESH_KEY,
    Rule.SCOPE,
    Rule.RESOURCE,
)
_TOKEN = (
    Rule.TOKEN_READABLE,
    Rule.TOKEN_TYPE,
    Rule.TOKEN_KEY,
    Rule.TOKEN_SIGNATURE,
    Rule.TOKEN_ISSUER,
    Rule.TOKEN_LIVE,
    Rule.TOKEN_CLAIMS,
)
_ROUTE = (
    Rule.TOKEN_SENT,
    *_TOKEN,
    Rule.TOKEN_AUDIENCE,
    Rule.TOKEN_SCHEME,
    Rule.TOKEN_CLIENT,
    Rule.PROOF_SENT,
    Rule.PROOF_GOOD,
    Rule.TOKEN_NOT_REVOKED,
    Rule.BUDGET,
    Rule.PROOF_UNUSED,
    Rule.PROOF_NONCE,
    Rule.SCOPE,
    Rule.ROLE,
)
#: Rules that few requests meet: they are told of only when they are what failed.
RARE = frozenset({
    Rule.PROFILE, Rule.CLIENT_READABLE, Rule.SECRET_PATIENCE, *_PROOF, Rule.REFRESH_KEY,
    Rule.RESOURCE, Rule.ROLE, Rule.TOKEN_CLAIMS, Rule.TOKEN_SCHEME, Rule.SERVICE,
})  # fmt: skip


def rules_of(flow: Flow, *, by_assertion: bool = False, by_token: bool = False) -> tuple[Rule, ...]:
    """The rules of a flow, in the order in which they are asked.

    Args:
        flow: the way through the server.
        by_assertion: whether the client signed who it is, and sent no secret.
        by_token: whether a refresh token was all that it had to send.
    """
    proved = _BY_ASSERTION if by_assertion else _BY_SECRET
    client = (Rule.CREDENTIALS, Rule.FAILURE_LIMIT, *proved, Rule.BUDGET)
    match flow:
        case Flow.TOKEN:
            return (*_ASKED, *client, *_PROOF, *_GRANT, Rule.RESOURCE, Rule.SCOPE)
        case Flow.EXCHANGE:
            found = (Rule.PARAMETERS, Rule.REFRESH_KNOWN)
            return (*_ASKED, *client, *_PROOF, *_GRANT, *found, *_REFRESH_TOKEN)
        case Flow.REFRESH if by_token:
            owner = (Rule.REFRESH_KNOWN, *_BY_SECRET[:4])
            rotated = (Rule.GRANT_ALLOWED, *_PROOF, *_REFRESH_TOKEN)
            return (*_ASKED, Rule.FAILURE_LIMIT, *owner, *rotated, Rule.BUDGET)
        case Flow.REFRESH:
            rotated = (Rule.GRANT_ALLOWED, *_PROOF, *_REFRESH_TOKEN)
            return (*_ASKED, *client, Rule.REFRESH_KNOWN, *rotated)
        case Flow.REVOKE | Flow.INTROSPECT:
            return (Rule.REQUEST, *client, Rule.PARAMETERS)
        case Flow.REVOKE_HELD:
            return (*_ASKED, Rule.FAILURE_LIMIT, *_TOKEN)
        case Flow.REVOKE_REFRESH:
            return (*_ASKED, Rule.FAILURE_LIMIT, Rule.REFRESH_KNOWN, Rule.REFRESH_LIVE)
        case Flow.ROUTE:
            return _ROUTE
