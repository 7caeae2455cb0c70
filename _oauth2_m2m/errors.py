"""What can go wrong, and how each of it looks on the wire.

    OAuth2M2MError
    ├── ConfigurationError             the operator must mend something; the start fails
    │   ├── DatabaseUnreachable        namely MongoDB, or the way to it
    │   └── UnfitChange                m2m.configuration was given what cannot be
    ├── ClientExists, ClientNotFound, ClientChanged
    │                                  m2m.clients was asked for the impossible
    ├── SecretNotFound, LastSecret     so were its secrets
    ├── KeyNotFound, TooManyKeys       so was m2m.keys
    ├── ConfigChanged                  so was m2m.configuration
    ├── TokenNotFound                  so was m2m.tokens
    ├── RefusalNotFound                so was m2m.explain
    └── OAuth2Error                    an answer to a request; the class is the code on the wire
        ├── InvalidRequest             400  (404, 405, 408, 413 and 422 are subclasses)
        ├── InvalidClient              401
        ├── InvalidGrant               400
        ├── UnauthorizedClient         400
        ├── UnsupportedGrantType       400
        ├── InvalidScope               400
        ├── InvalidTarget              400
        ├── InvalidDPoPProof           400  (DPoPProofUsed, UseDPoPNonce)
        ├── RateLimitExceeded          429
        ├── TemporarilyUnavailable     503
        ├── TooManySecrets             503
        └── BearerError                protected routes, RFC 6750
            ├── MissingToken           401  no code in the challenge
            ├── InvalidToken           401  (UnknownKey is a subclass)
            ├── ProofRefused           401  a DPoP proof, RFC 9449 section 7.1
            └── InsufficientScope      403

An OAuth error has two faces: `description` is for the caller, `detail` is for the audit log only.
What binds them is `error_id`: the caller may quote it, and it says nothing by itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Self

from _oauth2_m2m.rules import Broken, Facts, Rule, Said, facts_of

#: RFC 6750 section 2.1 and RFC 9449 section 7.1: how a token is presented.
BEARER, DPOP = "Bearer", "DPoP"
#: Where an answer names its error besides the body.
ERROR_ID_HEADER = "X-Error-ID"
#: 80 random bits, 20 hexadecimal digits.
ERROR_ID_BYTES = 10


class OAuth2M2MError(Exception):
    """The root of everything that this library raises on purpose."""


class ConfigurationError(OAuth2M2MError):
    """The configuration cannot be used. The message is one line that says what to do."""


class DatabaseUnreachable(ConfigurationError):
    """MongoDB does not answer at the start."""


class UnfitChange(ConfigurationError):
    """A field that is none, or a value that cannot be used: nothing was changed."""


class ClientExists(OAuth2M2MError):
    """A client with this id is registered already."""


class ClientNotFound(OAuth2M2MError):
    """No client with this id is registered."""


class ClientChanged(OAuth2M2MError):
    """Somebody else changed the client at the same time: nothing was changed here, try again."""


class SecretNotFound(OAuth2M2MError):
    """The client has no live secret of this id."""


class LastSecret(OAuth2M2MError):
    """Without this secret the client could not prove who it is: nothing was changed."""


class TokenNotFound(OAuth2M2MError):
    """There is no token of this id."""


class ConfigChanged(OAuth2M2MError):
    """Somebody else changed the config at the same time: nothing was changed here, try again."""


class KeyNotFound(OAuth2M2MError):
    """There is no signing key of this id."""


class TooManyKeys(OAuth2M2MError):
    """There are too many signing keys to make another: nothing was changed."""


class RefusalNotFound(OAuth2M2MError):
    """No audit record has this error id."""


class OAuth2Error(OAuth2M2MError):
    """An answer to a request that cannot be granted. RFC 6749 section 5.2.

    Args:
        description: one sentence for the caller. It never holds a secret, nor tells more than the
            caller may know.
        detail: what the operator wants to know, for the audit log. It holds no secret either.

    Attributes:
        rule: the rule that did not hold.
        facts: what was had and wanted of it, for the audit log.
    """

    error: ClassVar[str] = "invalid_request"
    status_code: ClassVar[int] = 400
    default: ClassVar[str] = "The request is malformed"
    rule: Rule = Rule.REQUEST
    facts: Facts = MappingProxyType({})

    def __init__(self, description: str | None = None, *, detail: str | None = None) -> None:
        self.description = description or self.default
        self.detail = detail or self.description
        super().__init__(self.description)

    @cached_property
    def error_id(self) -> str:
        """What the caller may quote to the operator: random, made when it is first asked for."""
        return secrets.token_hex(ERROR_ID_BYTES)

    def breaking(self, rule: Rule, **said: Said) -> Self:
        """The same error, for this rule and with these facts."""
        self.rule, self.facts = rule, facts_of(said)
        return self

    def because(
        self, cause: OAuth2Error | ValueError | None, otherwise: Rule | None = None
    ) -> Self:
        """The same error, for the rule and with the facts of its cause, as far as that names them.

        Args:
            cause: an error of ours, or a fault that a reader found.
            otherwise: the rule, when the fault names none.
        """
        if isinstance(cause, OAuth2Error | Broken):
            self.rule, self.facts = cause.rule, cause.facts
        elif otherwise is not None:
            self.rule = otherwise
        return self

    def headers(self) -> dict[str, str]:
        """The headers that belong to this answer, by name."""
        return {ERROR_ID_HEADER: self.error_id}

    def field_errors(self) -> Sequence[dict[str, Any]] | None:
        """What FastAPI's clients read in `detail` for a 422; nothing for other errors."""
        return None


class InvalidRequest(OAuth2Error):
    """A parameter is missing, repeated or malformed. RFC 6749 section 5.2."""


class NotFound(InvalidRequest):
    """There is nothing at this path: answered, never redirected."""

    status_code = 404
    default = "Not found: the path has no trailing slash"


class MethodNotAllowed(InvalidRequest):
    """The endpoint does not speak this method. RFC 9110 section 15.5.6."""

    status_code = 405

    def __init__(self, allowed: str) -> None:
        super().__init__(f"Method not allowed: use {allowed}")
        self.allowed = allowed

    def headers(self) -> dict[str, str]:
        """`Allow`, as RFC 9110 section 10.2.1 asks."""
        return {**super().headers(), "Allow": self.allowed}


class BodyTooLarge(InvalidRequest):
    """The body is larger than this endpoint reads."""

    status_code = 413

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is larger than {limit} bytes")


class BodyTooSlow(InvalidRequest):
    """The body did not arrive in time. RFC 9110 section 15.5.9."""

    status_code = 408

    def __init__(self, seconds: int) -> None:
        super().__init__(f"The body did not arrive within {seconds} s")

    def headers(self) -> dict[str, str]:
        """The rest of the body may still come: the connection is of no further use."""
        return {**super().headers(), "Connection": "close"}


class PlainDialectOff(InvalidRequest):
    """The profile `fapi2` knows standard OAuth only."""

    default = "The profile fapi2 has no plain dialect: authenticate as a client, by private_key_jwt"
    rule = Rule.PROFILE


class Unprocessable(InvalidRequest):
    """The body of the plain dialect lacks a field or holds one of the wrong type.

    Args:
        description: one sentence for the caller.
        field: the field that is at fault, if one is.
        kind: pydantic's name for the fault, such as `missing`.
    """

    status_code = 422

    def __init__(
        self, description: str, *, field: str | None = None, kind: str = "value_error"
    ) -> None:
        super().__init__(description)
        self.field = field
        self.kind = kind

    def field_errors(self) -> Sequence[dict[str, Any]]:
        """One entry, in the shape of FastAPI's own validation errors (without the input)."""
        place = ["body"] if self.field is None else ["body", self.field]
        return [{"type": self.kind, "loc": place, "msg": self.description}]


class InvalidClient(OAuth2Error):
    """Client authentication failed. RFC 6749 section 5.2.

    Unknown client, wrong secret, disabled client, expired secret: one constant answer, so that
    nobody learns which ids exist. Only `detail` tells them apart.
    """

    error = "invalid_client"
    status_code = 401
    default = "Client authentication failed"
    rule = Rule.CREDENTIALS

    def __init__(self, *, detail: str | None = None, by_basic: bool = False) -> None:
        super().__init__(detail=detail)
        self.by_basic = by_basic

    def headers(self) -> dict[str, str]:
        """A challenge when the caller tried Basic. RFC 6749 section 5.2."""
        if not self.by_basic:
            return super().headers()
        challenge = 'Basic realm="oauth2_m2m", charset="UTF-8"'
        return {**super().headers(), "WWW-Authenticate": challenge}


class InvalidGrant(OAuth2Error):
    """The refresh token is unknown, expired, spent, revoked or somebody else's."""

    error = "invalid_grant"
    default = "The refresh token is invalid, expired or revoked"
    rule = Rule.REFRESH_KNOWN


class InvalidRefreshToken(InvalidGrant):
    """The same in the plain dialect, where it is the caller's only credential."""

    status_code = 401


class UnauthorizedClient(OAuth2Error):
    """This client may not use this grant. RFC 6749 section 5.2."""

    error = "unauthorized_client"
    default = "The client may not use this grant"
    rule = Rule.GRANT_ALLOWED


class UnsupportedGrantType(OAuth2Error):
    """The server does not offer this grant. RFC 6749 section 5.2."""

    error = "unsupported_grant_type"
    default = "Unsupported grant_type: use client_credentials or refresh_token"
    rule = Rule.GRANT_OFFERED


class InvalidScope(OAuth2Error):
    """The scope is malformed, or more than may be asked for. RFC 6749 section 5.2."""

    error = "invalid_scope"
    default = "The requested scope exceeds what the client may have"
    rule = Rule.SCOPE


class InvalidTarget(OAuth2Error):
    """The resource is malformed, or none that the client may ask for. RFC 8707 section 2."""

    error = "invalid_target"
    default = "The requested resource is not one that the client may ask for"
    rule = Rule.RESOURCE


class InvalidDPoPProof(OAuth2Error):
    """The DPoP proof is missing, malformed, or does not fit this request. RFC 9449 section 5."""

    error = "invalid_dpop_proof"
    default = "The DPoP proof is missing or does not fit this request"
    rule = Rule.PROOF_GOOD


class DPoPProofUsed(InvalidDPoPProof):
    """The DPoP proof is a repetition. RFC 9449 section 11.1."""

    default = "The DPoP proof was used before: make one for each request"
    rule = Rule.PROOF_UNUSED


class UseDPoPNonce(InvalidDPoPProof):
    """The DPoP proof must hold a nonce of ours that is still fresh. RFC 9449 section 8.

    Args:
        nonce: the nonce to use.
    """

    error = "use_dpop_nonce"
    default = "Use the nonce of the header DPoP-Nonce in the DPoP proof"
    rule = Rule.PROOF_NONCE

    def __init__(self, nonce: str) -> None:
        super().__init__()
        self.nonce = nonce

    def headers(self) -> dict[str, str]:
        """The nonce. RFC 9449 section 8.1."""
        return {**super().headers(), "DPoP-Nonce": self.nonce}


class RateLimitExceeded(OAuth2Error):
    """Too many requests in this minute, hour or day. RFC 6585 section 4.

    Args:
        key: the counted key, for the audit log.
        limit: how many requests are admitted in such a window.
        reset_seconds: seconds until the window ends, at least 1.
        client_id: whose budget it is, when it is a client's.
        period: how long the window is: `minute`, `hour` or `day`.
    """

    error = "rate_limit_exceeded"
    status_code = 429

    def __init__(
        self,
        key: str,
        limit: int,
        reset_seconds: int,
        client_id: str | None = None,
        period: str = "minute",
    ) -> None:
        super().__init__(f"Rate limit exceeded: try again in {reset_seconds} s")
        rule = Rule.FAILURE_LIMIT if client_id is None else Rule.BUDGET
        self.breaking(rule, wanted=limit, period=period)
        self.key = key
        self.limit = limit
        self.reset_seconds = reset_seconds
        self.client_id = client_id
        self.period = period

    def headers(self) -> dict[str, str]:
        """When to come back, and what the budget is (draft-ietf-httpapi-ratelimit-headers)."""
        return {
            **super().headers(),
            "Retry-After": str(self.reset_seconds),
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": "0",
            "RateLimit-Reset": str(self.reset_seconds),
        }


class TemporarilyUnavailable(OAuth2Error):
    """The database does not answer, or too many requests are waiting for it."""

    error = "temporarily_unavailable"
    status_code = 503
    default = "The service is temporarily unavailable: try again shortly"
    rule = Rule.SERVICE

    def headers(self) -> dict[str, str]:
        """When to come back. RFC 9110 section 10.2.3."""
        return {**super().headers(), "Retry-After": "1"}


class TooManySecrets(OAuth2Error):
    """Too many secrets that people typed wait for their slow comparison.

    Unlike `TemporarilyUnavailable` it counts against the caller: it is how an attack looks.
    """

    error = "temporarily_unavailable"
    status_code = 503
    default = TemporarilyUnavailable.default
    rule = Rule.SECRET_PATIENCE

    def headers(self) -> dict[str, str]:
        """When to come back. RFC 9110 section 10.2.3."""
        return {**super().headers(), "Retry-After": "1"}


class BearerError(OAuth2Error):
    """A protected route refuses. RFC 6750 section 3, RFC 9449 section 7.1.

    Attributes:
        scheme: how the token must be presented: `Bearer`, or `DPoP` with a proof.
        algorithms: what a proof may be signed with, as challenges name it.
    """

    scheme: str = BEARER
    algorithms: str = "ES256 RS256"

    def asking_for(self, scheme: str) -> Self:
        """The same refusal, whose challenge names this scheme."""
        self.scheme = scheme
        return self

    def challenge(self) -> str:
        """The value of `WWW-Authenticate`."""
        words = f'{self.scheme} error="{self.error}", error_description="{self.description}"'
        return f'{words}, algs="{self.algorithms}"' if self.scheme == DPOP else words

    def headers(self) -> dict[str, str]:
        """The challenge that RFC 6750 section 3 asks for."""
        return {**super().headers(), "WWW-Authenticate": self.challenge()}


class MissingToken(BearerError):
    """No token was sent, so the challenge names no error. RFC 6750 section 3.1."""

    error = "invalid_token"
    status_code = 401
    default = "Not authenticated: send the access token in the header Authorization: Bearer"
    rule = Rule.TOKEN_SENT

    def challenge(self) -> str:
        """The bare scheme."""
        return f'{DPOP} algs="{self.algorithms}"' if self.scheme == DPOP else self.scheme


class InvalidToken(BearerError):
    """The token is malformed, forged, expired, revoked, or meant for somebody else."""

    error = "invalid_token"
    status_code = 401
    default = "The access token is invalid, expired or revoked"
    rule = Rule.TOKEN_READABLE


class ProofRefused(BearerError):
    """A protected route refuses the DPoP proof that came with a token. RFC 9449 section 7.1.

    Args:
        cause: what is wrong with the proof.
    """

    error = "invalid_dpop_proof"
    status_code = 401
    scheme = DPOP

    def __init__(self, cause: InvalidDPoPProof) -> None:
        super().__init__(cause.description, detail=cause.detail)
        self.because(cause)
        self.error = cause.error  # type: ignore[misc]
        self._cause = cause

    def headers(self) -> dict[str, str]:
        """The challenge, and the nonce if one is asked for."""
        return {**self._cause.headers(), **super().headers()}


class UnknownKey(InvalidToken):
    """The token names a key that is not at hand: it may be new, so the keys are worth a look."""

    rule = Rule.TOKEN_KEY


class InsufficientScope(BearerError):
    """The token is good, but does not allow this. RFC 6750 section 3.1.

    Args:
        scope: the scopes that the route asks for, separated by spaces.
        role: the role that the route asks for, if it asks for one.
    """

    error = "insufficient_scope"
    status_code = 403
    rule = Rule.SCOPE

    def __init__(self, scope: str, role: str | None = None) -> None:
        wanted = [f"scope {scope}"] if scope else []
        wanted += [f"role {role}"] if role else []
        super().__init__(f"Not allowed: this needs {' and '.join(wanted)}")
        self.scope = scope
        self.role = role

    def challenge(self) -> str:
        """The challenge names the scopes that would be enough, if it is scopes that are missing."""
        return super().challenge() + (f', scope="{self.scope}"' if self.scope else "")
