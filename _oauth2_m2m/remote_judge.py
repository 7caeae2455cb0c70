"""Requests to guarded routes of a service that knows its issuer by name alone."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from starlette.requests import HTTPConnection

from _oauth2_m2m.access_tokens import AccessToken, TokenReader, check_audience, read_access_token
from _oauth2_m2m.bearer import Credentials, check_scopes, method_of, path_of, presented
from _oauth2_m2m.deadlines import Deadline
from _oauth2_m2m.dpop import Proof, own_urls, read_proof
from _oauth2_m2m.errors import (
    ConfigurationError,
    DPoPProofUsed,
    InvalidDPoPProof,
    InvalidToken,
    OAuth2Error,
    ProofRefused,
    TemporarilyUnavailable,
    UnknownKey,
)
from _oauth2_m2m.issuer_calls import IssuerCalls
from _oauth2_m2m.issuer_documents import IssuerDocuments, Keys
from _oauth2_m2m.metrics import FAILED, SUCCESS, Metrics
from _oauth2_m2m.remote_introspection import (
    IntrospectionCredentials,
    RemoteIntrospection,
    keys_to_be_asked_for,
)
from _oauth2_m2m.revocation_follower import RevocationFollower
from _oauth2_m2m.roles import has_role
from _oauth2_m2m.rules import Rule

#: One request's share of waiting for the issuer. Past it the answer is 503.
JUDGING_SECONDS = 4.5
#: A start waits so long for what was revoked.
LONGEST_START_SECONDS = 30.0
#: Proofs that were used and are not too old yet, in one process.
MOST_PROOFS = 100_000
_DEADLINE = Deadline(JUDGING_SECONDS)
_CHECKED = "oauth2_m2m.checked"

_log = logging.getLogger("oauth2_m2m")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a resource server asks of tokens.

    Attributes:
        issuer: who must have issued them.
        audience: whom they must be meant for.
        url: where the service is, for DPoP proofs; empty when nobody knows.
        leeway: how long after its expiry a token is still taken.
        follows: whether the issuer's revocation feed is followed.
        max_lag: how old the knowledge of revocations may become.
        accepts_when_lagging: whether tokens are taken beyond that.
        role_order: the roles of which each may do what those after it may.
    """

    issuer: str
    audience: str
    url: str
    leeway: timedelta
    follows: bool
    max_lag: timedelta
    accepts_when_lagging: bool
    role_order: tuple[str, ...] = ()


class RemoteJudge:
    """Judges by the issuer's keys, its revocation feed, and its introspection if that is wanted."""

    def __init__(
        self,
        rules: Rules,
        documents: IssuerDocuments,
        introspection: IntrospectionCredentials | None,
        metrics: Metrics,
    ) -> None:
        self.documents = documents
        self.follower = (
            RevocationFollower(
                self._feed,
                max_lag=rules.max_lag,
                leeway=rules.leeway,
                attempted=self._show,
            )
            if rules.follows
            else None
        )
        self._introspection = (
            RemoteIntrospection(introspection, self._introspection_endpoint)
            if introspection
            else None
        )
        self._rules = rules
        self._metrics = metrics
        self._reader = TokenReader()
        self._proofs = UsedProofs()
        self._background: dict[asyncio.AbstractEventLoop, _Background] = {}
        self._has_warned = False

    @property
    def introspects(self) -> bool:
        """Whether the issuer is asked about every token."""
        return self._introspection is not None

    async def admit(self, request: HTTPConnection, scopes: Sequence[str]) -> AccessToken:
        """The token of a request, checked in full; it has all of these scopes.

        Raises:
            OAuth2Error: 401, 403 or 503.
        """
        try:
            with _DEADLINE():
                token = await self._checked(request)
        except TimeoutError:
            raise TemporarilyUnavailable(detail="the issuer was too slow") from None
        check_scopes(token, scopes)
        return token

    async def refuse(
        self, request: HTTPConnection, token: AccessToken, error: OAuth2Error
    ) -> OAuth2Error:
        """Nothing to note here: what happened is in the log of whoever serves the route."""
        return error

    def has_role(self, token: AccessToken, role: str) -> bool:
        """Whether a token has a role, or one that stands above it in the order of roles."""
        return has_role(token.roles, role, self._rules.role_order)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Meet the issuer at the start, follow its revocations, and stop at the end.

        Raises:
            ConfigurationError: the issuer can never be worked with; the message says what to do.
        """
        try:
            await self.check_issuer()
        except ValueError as fault:
            _log.warning("the issuer cannot be reached yet: %s", fault)
        await self.first_attempt()
        try:
            yield
        finally:
            await self.stop()

    async def check_issuer(self) -> None:
        """Look whether the issuer can be worked with.

        Raises:
            ConfigurationError: it never can; the message says what to do.
            ValueError: it does not answer yet.
        """
        metadata = await self.documents.metadata()
        if self._introspection is not None:
            await self._introspection_endpoint()
        elif not await self.documents.keys():
            raise self._no_keys()
        if self.follower is not None and metadata.revocations_endpoint is None:
            raise _no_feed()

    async def first_attempt(self) -> None:
        """Start following, and wait until the first attempt has ended well or badly.

        With very many revocations that takes longer than a start may: then it goes on behind.
        """
        background = self._started()
        if self.follower is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(background.attempt_ended.wait(), LONGEST_START_SECONDS)

    async def stop(self) -> None:
        """End what runs in this event loop."""
        background = self._background.get(asyncio.get_running_loop())
        if background is not None:
            await background.stop()

    async def _checked(self, request: HTTPConnection) -> AccessToken:
        """The request's token, checked once, however many guards a route has."""
        judge, token = request.scope.get(_CHECKED, (None, None))
        if judge is not self or not isinstance(token, AccessToken):
            token = await self._check(request, presented(request), datetime.now(UTC))
            request.scope[_CHECKED] = (self, token)
        return token

    async def _check(
        self, request: HTTPConnection, credentials: Credentials, now: datetime
    ) -> AccessToken:
        background = self._started()
        token = await self._read(credentials.token, now)
        check_audience(token, self._rules.audience)
        credentials.check_scheme(token)
        if self.follower is not None:
            await self._check_marks(self.follower, background, token)
        if self._introspection is not None and not await self._introspection.is_active(
            background.calls, credentials.token, token, now
        ):
            raise InvalidToken(detail="not active").breaking(Rule.TOKEN_NOT_REVOKED)
        if token.jkt is not None:  # the last, so that only the holder of a good token uses it up
            self._check_proof(request, credentials, token.jkt, now)
        return token

    async def _read(self, text: str, now: datetime) -> AccessToken:
        keys = await self._keys()
        if not keys:
            return self._read_unverified(text, now)
        try:
            return self._read_with(keys, text, now)
        except UnknownKey:
            keys = await self._keys(newer=True)
        try:
            return self._read_with(keys, text, now)
        except UnknownKey:
            if self.introspects:
                return self._read_unverified(text, now)
            if self.documents.fault is not None:  # perhaps it is only we who do not know it
                raise TemporarilyUnavailable(detail="the issuer's keys cannot be had") from None
            raise

    def _read_with(self, keys: Keys, text: str, now: datetime) -> AccessToken:
        rules = self._rules
        return self._reader.read(text, issuer=rules.issuer, keys=keys, now=now, leeway=rules.leeway)

    def _read_unverified(self, text: str, now: datetime) -> AccessToken:
        """The issuer alone can say whether it signed this, and `_check` asks it."""
        if self._introspection is None:
            self._warn(str(self._no_keys()))
            raise TemporarilyUnavailable(detail="the issuer has no public key")
        try:
            keys = keys_to_be_asked_for(text)
        except ValueError as fault:
            raise InvalidToken(detail=str(fault)) from None
        rules = self._rules
        return read_access_token(text, issuer=rules.issuer, keys=keys, now=now, leeway=rules.leeway)

    async def _keys(self, *, newer: bool = False) -> Keys:
        try:
            return await self.documents.keys(newer=newer)
        except ValueError as fault:
            raise TemporarilyUnavailable(detail=f"the issuer's keys: {fault}") from None

    def _check_proof(
        self, request: HTTPConnection, credentials: Credentials, jkt: str, now: datetime
    ) -> None:
        """Whether the request was sent by the holder of the token's key. RFC 9449 section 7.1."""
        try:
            proof = read_proof(
                credentials.proof,
                method=method_of(request),
                urls=own_urls(self._rules.url, path_of(request)),
                now=now,
                access_token=credentials.token,
                jkt=jkt,
            )
            self._proofs.claim(proof, now)
        except InvalidDPoPProof as fault:
            raise ProofRefused(fault) from None

    async def _check_marks(
        self, follower: RevocationFollower, background: _Background, token: AccessToken
    ) -> None:
        if follower.is_lagging:
            # At the beginning, or after a sleep: the attempt that is under way will tell.
            while follower.is_lagging and follower.fault is None:
                await background.attempt_ended.wait()
            knows_nothing = follower.has_overflowed
            if follower.is_lagging and (knows_nothing or not self._rules.accepts_when_lagging):
                raise TemporarilyUnavailable(detail="what was revoked is not known")
        if follower.marks.hits(token.marks()):
            raise InvalidToken(detail="revoked").breaking(Rule.TOKEN_NOT_REVOKED)

    async def _feed(self) -> str:
        endpoint = (await self.documents.metadata()).revocations_endpoint
        if endpoint is None:
            raise ValueError(str(_no_feed()))
        return endpoint

    async def _introspection_endpoint(self) -> str:
        endpoint = (await self.documents.metadata()).introspection_endpoint
        if endpoint is None:
            raise ValueError("the issuer offers no introspection")
        return endpoint

    def _show(self, follower: RevocationFollower) -> None:
        """Show how old the knowledge is, as moments: so it ages though nobody shows it again."""
        metrics, issuer, now = self._metrics, self._rules.issuer, time.time()
        outcome = SUCCESS if follower.fault is None else FAILED
        metrics.feed_polls[issuer, outcome].inc()
        metrics.revocations[issuer].set(len(follower.marks))
        if math.isfinite(follower.lag):
            metrics.revocations_known[issuer].set(now - follower.lag)
        if math.isfinite(self.documents.keys_age):
            metrics.issuer_keys_seen[issuer].set(now - self.documents.keys_age)

    def _started(self) -> _Background:
        loop = asyncio.get_running_loop()
        background = self._background.get(loop)
        if background is None:
            background = self._background[loop] = _Background(self.follower)
            background.task.add_done_callback(lambda _: self._background.pop(loop, None))
        return background

    def _no_keys(self) -> ConfigurationError:
        return ConfigurationError(
            f"the issuer {self._rules.issuer} publishes no key: it signs with HS256, which only it "
            "can verify. Set its ALGORITHM to ES256 or RS256, or give introspection=... here"
        )

    def _warn(self, words: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.error("%s", words)


class UsedProofs:
    """DPoP proofs that were used in this process. RFC 9449 section 11.1."""

    def __init__(self, most: int = MOST_PROOFS) -> None:
        self._most = most
        self._used: OrderedDict[tuple[str, str], datetime] = OrderedDict()

    def claim(self, proof: Proof, now: datetime) -> None:
        """Use a proof up.

        Raises:
            InvalidDPoPProof: it was used before.
            TemporarilyUnavailable: there are too many to remember another.
        """
        used, this = self._used, (proof.jkt, proof.jti)
        # They come about in the order in which they end; one that is kept longer does no harm.
        while used and next(iter(used.values())) < now:
            used.popitem(last=False)
        if this in used:
            raise DPoPProofUsed
        if len(used) >= self._most:
            raise TemporarilyUnavailable(detail="too many DPoP proofs in a minute")
        used[this] = proof.expires_at


class _Background:
    """What runs in one event loop: the connections to the issuer, and the follower.

    One task owns both, so that they end with the loop, whoever stops it.
    """

    def __init__(self, follower: RevocationFollower | None) -> None:
        self.calls = IssuerCalls()
        self.attempt_ended = asyncio.Event()
        self._follower = follower
        # An empty context: the deadlines and traces of whoever came first are not this task's.
        self.task = asyncio.get_running_loop().create_task(
            self._run(), context=contextvars.Context()
        )

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    async def _run(self) -> None:
        async with self.calls:
            if self._follower is not None:
                await self._follower.run(self.calls, self.attempt_ended)
            await asyncio.Event().wait()


def _no_feed() -> ConfigurationError:
    return ConfigurationError(
        "the issuer has no revocation feed: set revocations=False, and tokens are good here until "
        "they expire, or give introspection=..."
    )
