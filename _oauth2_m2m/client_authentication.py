"""Which client is calling? RFC 6749 section 2.3.

Two steps: what the request presents (a plain function), and whether it is true (the secret is
compared, or the signature verified). Whatever fails, the answer is one and the same, in words and
in time: a secret is always compared and a signature always verified, if need be with nobody's. (One
thing shows: a client whose `jwks_uri` is looked at anew, once in a while, takes as long as that.)
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import unquote_plus

from _oauth2_m2m.callers import Caller
from _oauth2_m2m.client_assertions import (
    ASSERTION_TYPE,
    Assertion,
    UnknownClientKey,
    claimed_client_id,
    judge_nobody,
    read_assertion,
)
from _oauth2_m2m.client_documents import (
    BASIC,
    NOBODY,
    POST,
    PRIVATE_KEY_JWT,
    SECRET_METHODS,
    Client,
    StoredSecret,
    client_from,
)
from _oauth2_m2m.client_keys import ClientKeys, Keys
from _oauth2_m2m.client_secrets import renewal
from _oauth2_m2m.clients import Clients
from _oauth2_m2m.config import Settings
from _oauth2_m2m.credentials import LONGEST_SECRET, SecretChecker, is_digest
from _oauth2_m2m.errors import InvalidClient, InvalidRequest, Unprocessable
from _oauth2_m2m.forms import Form
from _oauth2_m2m.newest import Newest
from _oauth2_m2m.rules import Broken, Rule
from _oauth2_m2m.single_use import SingleUse
from _oauth2_m2m.storage import Document, Storage
from _oauth2_m2m.windows import Limits

#: A stand-in of the right length, so that a hopeless secret costs what any other does.
_HOPELESS = "x" * 32
_NOBODYS = client_from(NOBODY).secrets
TOKEN_ENDPOINT = "token"
#: What the audit log calls the plain dialect's way beside the methods of RFC 7591.
PLAIN_METHOD = "password"
_MOST_EXPECTED = 10_000
#: Room for the longest id and secret, each character four bytes of UTF-8, each byte escaped. HTTP
#: servers may take headers of any length, and to decode one takes time.
_LONGEST_BASIC = 20_480
#: What Swagger UI sends beside its password form when its client fields are empty.
_EMPTY_BASIC = "Basic Og=="
#: RFC 7521 section 4.2.
_ASSERTION_PARAMETERS = ("client_assertion", "client_assertion_type")


@dataclass(frozen=True, slots=True)
class Presented:
    """What a request presents as its client's credentials.

    Attributes:
        client_id: the id, known or not.
        secret: the secret; never shown by `repr`.
        methods: the method, as clients' documents call it. The plain dialect counts as both of
            those that send a secret.
        assertion: what it signed instead of sending a secret; never shown either.
    """

    client_id: str
    secret: str = field(default="", repr=False)
    methods: tuple[str, ...] = SECRET_METHODS
    assertion: str | None = field(default=None, repr=False)

    @property
    def by_basic(self) -> bool:
        """Whether it came in the header `Authorization: Basic`."""
        return self.methods == (BASIC,)


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
    others = {"client_secret", *_ASSERTION_PARAMETERS}
    if any(header.strip() != _EMPTY_BASIC for header in authorization) or others & form.keys():
        raise _two_ways("Authenticate in one way only: username and password, or as a client")
    return Presented(form["username"], form["password"])


def present_standard(form: Form, authorization: Sequence[str]) -> Presented:
    """Read the credentials of `client_secret_basic`, `client_secret_post` or `private_key_jwt`.

    Args:
        form: the form of the request.
        authorization: every `Authorization` header, as sent.

    Raises:
        InvalidClient: there are none, or malformed ones.
        InvalidRequest: there are two kinds at once. RFC 6749 section 2.3.
    """
    if len(authorization) > 1:
        raise _two_ways("The header Authorization is repeated: send it once")
    scheme, _, rest = (authorization[0] if authorization else "").partition(" ")
    is_basic = scheme.lower() == "basic"
    if not form.keys().isdisjoint(_ASSERTION_PARAMETERS):
        if is_basic or "client_secret" in form:
            raise _two_ways("Authenticate in one way only: by an assertion or by a secret")
        return _present_assertion(form)
    if is_basic:
        presented = _read_basic(rest.strip())
        if "client_secret" in form or form.get("client_id", presented.client_id) != (
            presented.client_id
        ):
            raise _two_ways("Authenticate in one way only: by header or in the form")
        return presented
    client_id, secret = form.get("client_id"), form.get("client_secret")
    if client_id is None or secret is None:
        raise InvalidClient(detail="no client credentials")
    return Presented(client_id, secret, (POST,))


def _two_ways(description: str) -> InvalidRequest:
    return InvalidRequest(description).breaking(Rule.CREDENTIALS)


def _present_assertion(form: Form) -> Presented:
    """Read the parameters of an assertion. RFC 7521 section 4.2, with the errors of 4.2.1."""
    text = form.get("client_assertion")
    if text is None or form.get("client_assertion_type") != ASSERTION_TYPE:
        raise InvalidClient(detail="client assertion: missing, or of another type than jwt-bearer")
    client_id = claimed_client_id(text)
    if form.get("client_id", client_id) != client_id:
        raise InvalidClient(detail="client assertion: client_id is another client")
    return Presented(client_id, "", (PRIVATE_KEY_JWT,), text)


def _read_basic(text: str) -> Presented:
    """Read the value of a Basic header. RFC 7617 section 2; halves as RFC 6749 section 2.3.1."""
    if len(text) > _LONGEST_BASIC:
        raise InvalidClient(detail="malformed Basic header: too long", by_basic=True)
    try:
        pair = base64.b64decode(text, validate=True).decode("utf-8")
        client_id, colon, secret = pair.partition(":")
        client_id, secret = (unquote_plus(half, errors="strict") for half in (client_id, secret))
    except (binascii.Error, ValueError):
        raise InvalidClient(detail="malformed Basic header", by_basic=True) from None
    if not colon or not client_id or not secret:
        raise InvalidClient(detail="Basic header without id or secret", by_basic=True)
    return Presented(client_id, secret, (BASIC,))


@dataclass(frozen=True, slots=True)
class Authenticated:
    """A client that has proved who it is.

    Attributes:
        client: the client, as it is from now on.
        secret: the secret that it came with; `None` when it signed instead.
    """

    client: Client
    secret: StoredSecret | None = None


class ClientAuthentication:
    """Compares what is presented with what is stored. The collection `used_assertions`."""

    def __init__(
        self, storage: Storage, clients: Clients, checker: SecretChecker, keys: ClientKeys
    ) -> None:
        self._clients = clients
        self._checker = checker
        self._keys = keys
        self._used_assertions = SingleUse(storage, "used_assertions")
        self._tag_key = secrets.token_bytes(32)
        self._expected: Newest[bytes, Limits] = Newest(_MOST_EXPECTED)

    async def prepare(self) -> None:
        """Make the index."""
        await self._used_assertions.prepare()

    async def drain(self) -> None:
        """Wait until every assertion that was used is written down as used."""
        await self._used_assertions.drain()

    def expects(self, presented: Presented) -> Limits | None:
        """The limits of the client whose secret this is, if it was good when it was seen last.

        It is a guess, to ask the database for more at once, and never the answer. No assertion is
        expected: to expect the next one of a client that was just here would tell by the time of a
        refusal who that is.
        """
        return None if presented.assertion is not None else self._expected.get(self._tag(presented))

    def expect(self, presented: Presented, limits: Limits | None) -> None:
        """Learn that a secret was good, and what its client's limits are; or forget it."""
        if presented.assertion is not None:
            return
        tag = self._tag(presented)
        if limits is None:
            self._expected.pop(tag, None)
        else:
            self._expected[tag] = limits

    async def authenticate(
        self,
        presented: Presented,
        document: Document | None,
        caller: Caller,
        now: datetime,
        settings: Settings,
        endpoint: str = TOKEN_ENDPOINT,
    ) -> Authenticated:
        """Decide whether the caller is the client that it says it is.

        The work is the same for every refusal: an unknown client's secret is compared with
        nothing, in the time that a comparison takes, and so is its signature.

        Args:
            presented: what the request presents.
            document: the client's document, or `None` when there is none.
            caller: where the request comes from.
            now: the moment to judge at.
            settings: the settings of this moment.
            endpoint: which one the request was sent to, such as `revoke`.

        Raises:
            InvalidClient: it is not, or may not; only `detail` says why.
            TemporarilyUnavailable: the database does not answer.
        """
        client, fault = known_client(document, caller.ip)
        if client is not None and not _may_use(client, presented, settings):
            fault = _wrong_method(client, presented)
            client = None
        if presented.assertion is not None:
            audiences = own_audiences(settings, endpoint)
            client = await self._prove_by_key(
                client, fault, presented.assertion, now, settings, audiences
            )
            return Authenticated(client)
        secret, stored = presented.secret, client.secrets if client else _NOBODYS
        if len(secret) > LONGEST_SECRET or is_digest(secret):
            secret, stored = _HOPELESS, _NOBODYS
        # Those that have ended are compared too, and judged afterwards: the audit log tells which
        # one it was, and the time of the answer does not.
        live = [each.stored for each in stored if each.is_live(now)]
        ended = [each.stored for each in stored if not each.is_live(now)]
        match = await self._checker.match(
            secret, live, caller.network, ended, imported=settings.imported_secrets
        )
        if client is None or match.stored is None or match.stored not in live:
            fault = fault or _wrong_secret(stored, match.stored)
            refused = InvalidClient(detail=str(fault), by_basic=presented.by_basic)
            raise refused.because(fault)
        if match.digest is not None:
            client = await self._clients.adopt(client, match.stored, match.digest)
        proof = client.secret_stored_as(match.digest or match.stored)
        if proof is not None and (until := renewal(proof, now)):
            await self._clients.prolong(client, proof.stored, until)
        return Authenticated(client, proof)

    async def _prove_by_key(
        self,
        client: Client | None,
        fault: Broken | None,
        assertion: str,
        now: datetime,
        settings: Settings,
        audiences: Collection[str],
    ) -> Client:
        if client is None:
            judge_nobody(assertion, settings.foreign_algorithms, now)
            raise InvalidClient(detail=str(fault)).because(fault)
        try:
            keys = await self._keys.known(client, settings)
        except InvalidClient:
            judge_nobody(assertion, settings.foreign_algorithms, now)
            raise
        try:
            used = _read(assertion, client, keys, now, settings, audiences)
        except UnknownClientKey:
            newer = await self._keys.newer(client, settings)
            if newer is keys:
                raise
            used = _read(assertion, client, newer, now, settings, audiences)
        # Last of all, so that nobody but the client can use its assertions up.
        if not await self._used_assertions.claim(client.client_id, used.jti, used.expires_at):
            used_before = InvalidClient(detail="client assertion: used before")
            raise used_before.breaking(Rule.ASSERTION_UNUSED)
        return client

    def _tag(self, presented: Presented) -> bytes:
        """What stands for a secret in memory, under a key that only this process has."""
        text = f"{presented.client_id}\0{presented.secret}"
        return hmac.digest(self._tag_key, text.encode("utf-8", "surrogatepass"), "sha256")


def _may_use(client: Client, presented: Presented, settings: Settings) -> bool:
    """Whether the client may prove itself in this way."""
    # FAPI 2.0 Security Profile section 5.3.2.1: no secrets.
    if settings.is_fapi2 and presented.assertion is None:
        return False
    return client.allows_method(*presented.methods)


def own_audiences(settings: Settings, endpoint: str) -> Collection[str]:
    """By which names an assertion may mean this server. RFC 7523 section 3, (3).

    Beside the issuer and the token endpoint that is the endpoint that it was sent to, for so do
    many libraries. A client of FAPI 2.0 names the issuer alone, so that no other endpoint can pass
    it on.
    """
    if settings.is_fapi2:
        return (settings.issuer,)
    base = settings.issuer.rstrip("/")
    return (settings.issuer, f"{base}/{TOKEN_ENDPOINT}", f"{base}/{endpoint}")


def _read(
    assertion: str,
    client: Client,
    keys: Keys,
    now: datetime,
    settings: Settings,
    audiences: Collection[str],
) -> Assertion:
    return read_assertion(
        assertion,
        client_id=client.client_id,
        keys=keys,
        audiences=audiences,
        algorithms=settings.foreign_algorithms,
        now=now,
        fapi2=settings.is_fapi2,
    )


def known_client(document: Document | None, ip: str) -> tuple[Client | None, Broken | None]:
    """The client that a document describes, or why nobody can be this client from this address."""
    if document is None:
        client_from(NOBODY)  # in vain: who is not there takes as long as who is
        return None, Broken(Rule.CLIENT_KNOWN, "unknown client")
    try:
        client = client_from(document)
    except ValueError as fault:
        return None, Broken(Rule.CLIENT_READABLE, f"malformed client document: {fault}")
    if client.disabled:
        return None, Broken(Rule.CLIENT_ENABLED, "disabled client")
    if not client.allows_address(ip):
        words, networks = "address outside the client's networks", client.allowed_networks
        # Not the address that was had: the record has it, as much of it as is to be kept.
        return None, Broken(Rule.CLIENT_NETWORK, words, wanted=map(str, networks))
    return client, None


def _wrong_method(client: Client, presented: Presented) -> Broken:
    words = "a method that this client may not use"
    return Broken(Rule.CLIENT_METHOD, words, had=presented.methods, wanted=client.allowed_methods())


def _wrong_secret(stored: Sequence[StoredSecret], match: str | None) -> Broken:
    """Why a secret is not taken: it is none of the client's, or one that has ended."""
    ended = next((each for each in stored if each.stored == match), None)
    if ended is None:
        return Broken(Rule.SECRET_RIGHT, "wrong secret", compared=len(stored))
    return Broken(
        Rule.SECRET_LIVE,
        "expired secret",
        secret=ended.id,
        label=ended.label,
        expired_at=ended.ends_at,
    )
