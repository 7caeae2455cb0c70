"""Client assertions: a client signs who it is, and no secret ever travels. RFC 7523, RFC 7521.

Plain functions of values. Where the keys come from is for `client_keys`; that an assertion is used
once is for whoever holds the collection of used ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from _oauth2_m2m.compact_tokens import (
    CompactToken,
    audience_claim,
    claim,
    moment_claim,
    parse_compact,
    text_claim,
)
from _oauth2_m2m.errors import InvalidClient
from _oauth2_m2m.rules import Broken, Rule
from _oauth2_m2m.signatures import VerifyingKey, new_private_key, private_signing_key

#: `client_assertion_type`. RFC 7523 section 2.2.
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
#: How far ahead `exp` may lie. What is used once must be remembered so long.
LONGEST_ASSERTION_LIFETIME = timedelta(minutes=5)
#: The client's clock may run ahead so far. FAPI 2.0 Security Profile section 5.3.2.1 asks for 10 s.
LONGEST_ASSERTION_LEAD = timedelta(seconds=30)
MOST_ASSERTION_AUDIENCES = 10
#: Without a `kid`; enough for a key and its successor, and little enough to tell nobody of them.
MOST_KEYS_TRIED = 3

#: RFC 7519 section 5.1, and draft-ietf-oauth-rfc7523bis; most libraries send the first.
_TYPES = ("jwt", "client-authentication+jwt")


@dataclass(frozen=True, slots=True)
class Assertion:
    """What is left to do about a good assertion: to use it up.

    Attributes:
        jti: its id, unique among its client's assertions.
        expires_at: from when on it is refused anyway.
    """

    jti: str
    expires_at: datetime


class UnknownClientKey(InvalidClient):
    """None of the keys at hand signed it: the client may have newer ones."""

    rule = Rule.ASSERTION_SIGNATURE


def claimed_client_id(text: str) -> str:
    """The client that an assertion says it comes from, before anything of it is proved.

    Raises:
        InvalidClient: it says nothing that could be proved. RFC 7523 section 3, (1) and (2).
    """
    try:
        return _client_id(parse_compact(text).unverified_claims())
    except ValueError as fault:
        raise InvalidClient(detail=f"client assertion: {fault}") from None


def read_assertion(
    text: str,
    *,
    client_id: str,
    keys: Sequence[VerifyingKey],
    audiences: Collection[str],
    algorithms: Collection[str],
    now: datetime,
    fapi2: bool = False,
) -> Assertion:
    """Read an assertion and check all of it that can be checked without the database.

    Args:
        text: the parameter `client_assertion`.
        client_id: the client that must have made it.
        keys: that client's public keys, no two with the same `kid`.
        audiences: our names, of which it must name one.
        algorithms: what it may be signed with.
        now: the moment to judge at.
        fapi2: whether `aud` must be one text. FAPI 2.0 Security Profile section 5.3.2.1.

    Raises:
        UnknownClientKey: none of these keys signed it, but a newer one could have.
        InvalidClient: it is not good. `detail` says why, and quotes nothing of it.
    """
    try:
        return _read(text, client_id, keys, audiences, algorithms, now, fapi2)
    except ValueError as fault:
        refused = InvalidClient(detail=f"client assertion: {fault}")
        raise refused.because(fault, Rule.ASSERTION_CLAIMS) from None


def judge_nobody(text: str, algorithms: Collection[str], now: datetime) -> None:
    """Do what a refusal takes, for a client that does not exist or may not sign.

    Args:
        text: the parameter `client_assertion`, which is read like any other.
        algorithms: what it may be signed with.
        now: the moment to judge at.
    """
    with suppress(InvalidClient):
        read_assertion(text, client_id="", keys=(), audiences=(), algorithms=algorithms, now=now)


def _read(
    text: str,
    client_id: str,
    keys: Sequence[VerifyingKey],
    audiences: Collection[str],
    algorithms: Collection[str],
    now: datetime,
    fapi2: bool,
) -> Assertion:
    # (1) One well-formed JWT, for this purpose as far as it says.
    assertion = parse_compact(text)
    assertion.unverified_claims()  # malformed ones are no matter of keys
    _check_type(assertion.header)

    # (2) The client's key chooses the algorithm; the header only names it. RFC 8725 section 3.1
    claims = _verified(assertion, keys, algorithms)

    # (3) Made by the client about itself. RFC 7523 section 3, (1) and (2)
    if _client_id(claims) != client_id:
        raise ValueError("iss and sub are not the client")

    # (4) Made for us. RFC 7523 section 3, (3); RFC 9700 section 2.5 says why it matters
    audience = audience_claim(claims, MOST_ASSERTION_AUDIENCES)
    if fapi2 and not isinstance(claims["aud"], str):
        raise Broken(Rule.ASSERTION_CLAIMS, "aud is not a single text", wanted=audiences)
    if not any(name in audiences for name in audience):
        raise Broken(
            Rule.ASSERTION_CLAIMS, "aud is not this server", had=audience, wanted=audiences
        )

    # (5) Now, and not for long. RFC 7523 section 3, (4) to (6)
    expires_at = moment_claim(claims, "exp", fractions=True)
    if expires_at <= now:
        raise Broken(Rule.ASSERTION_CLAIMS, "expired", expired_at=expires_at)
    if expires_at > now + LONGEST_ASSERTION_LIFETIME + LONGEST_ASSERTION_LEAD:
        raise ValueError("exp is too far ahead")
    latest = now + LONGEST_ASSERTION_LEAD
    for name in {"nbf", "iat"} & claims.keys():
        if moment_claim(claims, name, fractions=True) > latest:
            raise ValueError(f"{name} is in the future")

    # (6) Once. RFC 7523 section 3, (7)
    return Assertion(text_claim(claims, "jti"), expires_at)


def _check_type(header: Mapping[str, Any]) -> None:
    """Whether `typ` is one of ours: a media type, in any case. RFC 7515 section 4.1.9."""
    if "typ" in header and claim(header, "typ", str).lower() not in _TYPES:
        raise ValueError("typ is not that of a client assertion")


def _verified(
    assertion: CompactToken, keys: Sequence[VerifyingKey], algorithms: Collection[str]
) -> dict[str, Any]:
    """The claims under a signature that one of the client's keys made: at least one is tried."""
    algorithm = claim(assertion.header, "alg", str)
    kid = claim(assertion.header, "kid", str) if "kid" in assertion.header else None
    candidates = [
        key for key in keys if key.algorithm == algorithm and (kid is None or kid == key.kid)
    ]
    if algorithm not in algorithms or not candidates:
        nobody, message, signature = _nobody()
        nobody.verify(message, signature)
    if algorithm not in algorithms:
        raise Broken(
            Rule.ASSERTION_SIGNATURE, "alg is none that is accepted here", wanted=algorithms
        )
    for key in candidates[:MOST_KEYS_TRIED]:
        try:
            return assertion.claims_verified_by(key)
        except ValueError:
            continue
    raise UnknownClientKey(detail="client assertion: signed by none of the client's keys")


def _client_id(claims: Mapping[str, Any]) -> str:
    client_id = text_claim(claims, "iss")
    if text_claim(claims, "sub") != client_id:
        raise ValueError("iss and sub differ")
    return client_id


@lru_cache(maxsize=1)
def _nobody() -> tuple[VerifyingKey, bytes, bytes]:
    """A key that nobody has, and a signature of it to verify."""
    key = private_signing_key(new_private_key("ES256"), "ES256")
    message = b"nobody"
    return key, message, key.sign(message)
