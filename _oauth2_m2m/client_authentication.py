"""Which client is calling? RFC 6749 section 2.3.

Two steps: what the request presents (a plain function), and whether it is true (the secret is
compared). Whatever fails, the answer is one and the same, in words and in time.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import unquote_plus

from _oauth2_m2m.callers import Caller
from _oauth2_m2m.client_documents import Client, client_from
from _oauth2_m2m.clients import Clients
from _oauth2_m2m.credentials import LONGEST_SECRET, SecretChecker, is_digest
from _oauth2_m2m.errors import InvalidClient, InvalidRequest, Unprocessable
from _oauth2_m2m.forms import Form
from _oauth2_m2m.storage import Document

#: A stand-in of the right length, so that a hopeless secret costs what any other does.
_HOPELESS = "x" * 32
_MOST_EXPECTED = 10_000
#: What Swagger UI sends beside its password form when its client fields are empty.
_EMPTY_BASIC = "Basic Og=="


@dataclass(frozen=True, slots=True)
class Presented:
    """What a request presents as its client's credentials.

    Attributes:
        client_id: the id, known or not.
        secret: the secret; never shown by `repr`.
        by_basic: whether they came in the header `Authorization: Basic`.
    """

    client_id: str
    secret: str = field(repr=False)
    by_basic: bool = False


def is_plain(form: Form) -> bool:
    """Whether the form speaks the plain dialect: `username` and `password`.

    Raises:
        InvalidRequest: it names no grant, and is not plain either.
    """
    grant_type = form.get("grant_type")
    if grant_type is None:
        if "username" in form or "password" in form:
            return True
        raise InvalidRequest(
            "Send username and password, or grant_type=client_credentials "
            "with client authentication"
        )
    return grant_type == "password"


def present_plain(form: Form, authorization: Sequence[str]) -> Presented:
    """Read the credentials of the plain dialect.

    Raises:
        Unprocessable: a field is missing.
        InvalidRequest: the request authenticates in another way too.
    """
    for name in ("username", "password"):
        if name not in form:
            raise Unprocessable(f"Field required: {name}", field=name, kind="missing")
    if any(header.strip() != _EMPTY_BASIC for header in authorization) or "client_secret" in form:
        raise InvalidRequest("Authenticate in one way only: username and password, or as a client")
    return Presented(form["username"], form["password"])


def present_standard(form: Form, authorization: Sequence[str]) -> Presented:
    """Read the credentials of `client_secret_basic` or `client_secret_post`.

    Args:
        form: the form of the request.
        authorization: every `Authorization` header, as sent.

    Raises:
        InvalidClient: there are none, or the header is malformed.
        InvalidRequest: there are two kinds at once. RFC 6749 section 2.3.
    """
    if len(authorization) > 1:
        raise InvalidRequest("The header Authorization is repeated: send it once")
    scheme, _, rest = (authorization[0] if authorization else "").partition(" ")
    if scheme.lower() == "basic":
        presented = _read_basic(rest.strip())
        if "client_secret" in form or form.get("client_id", presented.client_id) != (
            presented.client_id
        ):
            raise InvalidRequest("Authenticate in one way only: by header or in the form")
        return presented
    client_id, secret = form.get("client_id"), form.get("client_secret")
    if client_id is None or secret is None:
        raise InvalidClient(detail="no client credentials")
    return Presented(client_id, secret)


def _read_basic(text: str) -> Presented:
    """Read the value of a Basic header. RFC 7617 section 2; halves as RFC 6749 section 2.3.1."""
    try:
        pair = base64.b64decode(text, validate=True).decode("utf-8")
        client_id, colon, secret = pair.partition(":")
        client_id, secret = (unquote_plus(half, errors="strict") for half in (client_id, secret))
    except (binascii.Error, ValueError):
        raise InvalidClient(detail="malformed Basic header", by_basic=True) from None
    if not colon or not client_id or not secret:
        raise InvalidClient(detail="Basic header without id or secret", by_basic=True)
    return Presented(client_id, secret, by_basic=True)


class ClientAuthentication:
    """Compares what is presented with what is stored."""

    def __init__(self, clients: Clients, checker: SecretChecker) -> None:
        self._clients = clients
        self._checker = checker
        self._key = secrets.token_bytes(32)
        self._expected: OrderedDict[bytes, None] = OrderedDict()

    def expects(self, presented: Presented) -> bool:
        """Whether these credentials were good when they were seen here last.

        It is a guess, to ask the database for more at once, and never the answer.
        """
        return self._tag(presented) in self._expected

    def expect(self, presented: Presented, good: bool) -> None:
        """Learn whether credentials were good."""
        tag = self._tag(presented)
        self._expected.pop(tag, None)
        if good:
            self._expected[tag] = None
        if len(self._expected) > _MOST_EXPECTED:
            self._expected.popitem(last=False)

    async def authenticate(
        self, presented: Presented, document: Document | None, caller: Caller, now: datetime
    ) -> Client:
        """Decide whether the caller is the client that it says it is.

        The work is the same for every refusal: an unknown client's secret is compared with
        nothing, in the time that a comparison takes.

        Args:
            presented: what the request presents.
            document: the client's document, or `None` when there is none.
            caller: where the request comes from.
            now: the moment to judge at.

        Raises:
            InvalidClient: it is not, or may not; only `detail` says why.
        """
        client, fault = _known_client(document, caller.ip)
        secret, stored = presented.secret, client.live_secrets(now) if client else []
        if len(secret) > LONGEST_SECRET or is_digest(secret):
            secret, stored = _HOPELESS, []
        match = await self._checker.match(secret, stored, caller.network)
        if client is None or match.stored is None:
            fault = fault or "wrong or expired secret"
            raise InvalidClient(detail=fault, by_basic=presented.by_basic)
        if match.digest is not None:
            return await self._clients.adopt(client, match.stored, match.digest)
        return client

    def _tag(self, presented: Presented) -> bytes:
        """What stands for the credentials in memory, under a key that only this process has."""
        text = f"{presented.client_id}\0{presented.secret}"
        return hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256")


def _known_client(document: Document | None, ip: str) -> tuple[Client | None, str | None]:
    """The client whose secret is worth comparing, or why there is none."""
    if document is None:
        return None, "unknown client"
    try:
        client = client_from(document)
    except ValueError as fault:
        return None, f"malformed client document: {fault}"
    if client.disabled:
        return None, "disabled client"
    if not client.allows_address(ip):
        return None, "address outside the client's networks"
    return client, None
