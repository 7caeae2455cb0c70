"""What a server must answer, worked out from nothing but what happened before.

A few rules in place of a database: whoever disagrees with them is wrong, server or model. The order
of the questions is the server's, for a request with two faults is refused for the first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tests.assertions import ClientKey
from tests.proofs import Key

Scope = frozenset[str]

AUDIENCE = "http://localhost:8000"
ACCESS_LIFETIME = timedelta(minutes=15)
REFRESH_LIFETIME = timedelta(days=30)


@dataclass(frozen=True)
class Answer:
    """What is answered: a status, and the error's code, if that is for the model to say."""

    status: int
    error: str = ""


OK = Answer(200)
INVALID_REQUEST = Answer(400, "invalid_request")
INVALID_CLIENT = Answer(401, "invalid_client")
INVALID_SCOPE = Answer(400, "invalid_scope")
INVALID_TARGET = Answer(400, "invalid_target")
INVALID_TOKEN = Answer(401, "invalid_token")
INSUFFICIENT_SCOPE = Answer(403, "insufficient_scope")
TOO_MANY = Answer(429, "rate_limit_exceeded")
BAD_PROOF = Answer(400, "invalid_dpop_proof")
BAD_PROOF_AT_ROUTE = Answer(401, "invalid_dpop_proof")


@dataclass(eq=False)
class Client:
    """A client, as it is now.

    Attributes:
        secrets: those that prove it, each until its moment.
        former_secrets: those that proved it once.
        epoch: grows whenever all its tokens end.
        taken: the places that it took, by minute.
    """

    name: str
    client_id: str = field(repr=False)
    scopes: Scope
    role: str = "user"
    secrets: dict[str, datetime | None] = field(default_factory=dict, repr=False)
    former_secrets: list[str] = field(default_factory=list, repr=False)
    key: ClientKey | None = field(default=None, repr=False)
    audience: tuple[str, ...] = ()
    bound: bool = False
    limit: int = 0
    disabled: bool = False
    removed: bool = False
    epoch: int = 0
    taken: Counter[int] = field(default_factory=Counter, repr=False)

    @property
    def works(self) -> bool:
        """Whether it may do anything at all."""
        return not self.disabled and not self.removed

    def accepts(self, secret: str, now: datetime) -> bool:
        """Whether a secret proves it."""
        until = self.secrets.get(secret, now)
        return self.works and (until is None or until > now)

    def left(self, now: datetime) -> int | None:
        """How many places are left in this minute; `None`: any number."""
        return max(0, self.limit - self.taken[minute_of(now)]) if self.limit else None

    def takes_a_place(self, now: datetime) -> bool:
        """Take a place in its budget; whether there was one."""
        admitted = self.left(now) != 0
        self.taken[minute_of(now)] += 1
        return admitted


@dataclass(eq=False)
class Family:
    """A chain of refreshes, which ends as a whole."""

    ended: bool = False


@dataclass(eq=False)
class Token:
    """What both kinds of token have."""

    name: str
    text: str = field(repr=False)
    client: Client = field(repr=False)
    epoch: int
    family: Family | None
    scope: Scope
    audience: tuple[str, ...]
    key: Key | None
    expires_at: datetime

    def lives(self, now: datetime) -> bool:
        """Whether it is alive, as far as both kinds go."""
        ended = self.family is not None and self.family.ended
        return not ended and now < self.expires_at and self.is_of_its_client

    @property
    def is_of_its_client(self) -> bool:
        """Whether its client works, and has not ended its tokens since."""
        return self.client.works and self.epoch == self.client.epoch


@dataclass(eq=False)
class Access(Token):
    """An access token."""

    role: str = "user"
    revoked: bool = False

    def lives(self, now: datetime) -> bool:
        """Whether it is alive; what for is another question."""
        return not self.revoked and super().lives(now)


@dataclass(eq=False)
class Refresh(Token):
    """A refresh token."""

    spent_at: datetime | None = None
    successor: Refresh | None = field(default=None, repr=False)

    def is_in_grace(self, now: datetime, grace: timedelta) -> bool:
        """Whether it may be repeated."""
        return self.spent_at is not None and bool(grace) and now < self.spent_at + grace

    def is_active(self, now: datetime) -> bool:
        """Whether introspection calls it active: it is alive, and was not spent."""
        return self.spent_at is None and self.lives(now)


@dataclass
class Issued:
    """What a token request got."""

    access: Access
    refresh: Refresh | None


@dataclass
class Proof:
    """A DPoP proof as it will be presented.

    Attributes:
        key: whose proof it is; `None`: none is sent.
        good: whether it fits the request, and is new.
    """

    key: Key | None = None
    good: bool = True
    text: str = field(default="", repr=False)

    @property
    def is_bad(self) -> bool:
        """Whether it is sent, and of no use."""
        return self.key is not None and not self.good


def minute_of(now: datetime) -> int:
    """The window that a moment counts in."""
    return int(now.timestamp()) // 60


# --- Requests for tokens ------------------------------------------------------------------------


def granted(client: Client, scope: Scope, audience: tuple[str, ...], proof: Proof) -> Answer | None:
    """What is wrong with a request for new tokens of a client that proved itself, if anything."""
    if proof.is_bad or (client.bound and proof.key is None):
        return BAD_PROOF
    if not set(audience) <= {*client.audience, AUDIENCE}:
        return INVALID_TARGET
    return None if scope <= client.scopes else INVALID_SCOPE


def exchanged(
    token: Refresh, client: Client, proof: Proof, now: datetime, grace: timedelta
) -> bool:
    """Whether a refresh token may be exchanged by a client; reuse ends its family."""
    family = token.family
    assert family is not None
    if token.client is not client or family.ended:
        return False
    if token.spent_at is not None and not token.is_in_grace(now, grace):
        # One that ended with its client's epoch is refused without further ado.
        family.ended = family.ended or token.epoch == client.epoch
        return False
    in_time = now < token.expires_at and token.epoch == client.epoch
    return in_time and token.key in (None, proof.key)


def narrowed(token: Refresh, scope: Scope, audience: tuple[str, ...]) -> Answer | None:
    """What is wrong with what an exchange asks for, if anything. RFC 6749 section 6, RFC 8707."""
    if not scope <= token.scope & token.client.scopes:
        return INVALID_SCOPE
    own = {*(token.audience or [AUDIENCE])} & {*token.client.audience, AUDIENCE}
    return None if set(audience or token.audience) <= own else INVALID_TARGET


# --- Guarded routes -----------------------------------------------------------------------------


def admitted(
    token: Access, needs: Scope, role: str | None, scheme: str, proof: Proof, now: datetime
) -> Answer:
    """What a guarded route answers to a token."""
    if scheme == "DPoP" and proof.key is None:
        return BAD_PROOF_AT_ROUTE
    is_ours = now < token.expires_at and AUDIENCE in (token.audience or (AUDIENCE,))
    if not is_ours or (token.key is None) == (scheme == "DPoP") or not token.is_of_its_client:
        return INVALID_TOKEN
    if token.key is not None and (not proof.good or proof.key is not token.key):
        # Who was seen dead before is refused for that, and its proof is not looked at.
        return BAD_PROOF_AT_ROUTE if token.lives(now) else Answer(401)
    if not token.lives(now):
        return INVALID_TOKEN
    if not token.client.takes_a_place(now):
        return TOO_MANY
    if not needs <= token.scope or role not in (None, token.role):
        return INSUFFICIENT_SCOPE
    return OK
