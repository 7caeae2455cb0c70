"""DPoP: a token that is worth something only to the holder of a key. RFC 9449.

The holder signs a proof for each request: this method, this address, this access token, now. Here
proofs are read, and nothing is remembered: that one is used once is for `single_use`, and that its
key is the one in the access token is for the room that asks.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from _oauth2_m2m.compact_tokens import CompactToken, claim, moment_claim, parse_compact, text_claim
from _oauth2_m2m.errors import InvalidDPoPProof, UseDPoPNonce
from _oauth2_m2m.signatures import (
    ASYMMETRIC_ALGORITHMS,
    VerifyingKey,
    b64url_encode,
    public_key_from_jwk,
    thumbprint,
)

PROOF_TYPE = "dpop+jwt"
#: A proof may be this old, the caller's clock and the way included.
LONGEST_AGE = timedelta(seconds=60)
#: The caller's clock may run ahead so far.
LONGEST_LEAD = timedelta(seconds=30)
#: A nonce is good for the rest of its window and for the next.
NONCE_SECONDS = 60
_NONCE_BYTES = 16

_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNRESERVED = re.compile(r"[\w.~-]", re.ASCII)
#: RFC 3986 appendix A, as far as `http` and `https` go: no user, a path of its characters.
_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>[\w.~-]+|\[[\da-f:.]+\])(?::(?P<port>\d{0,5}))?"
    r"(?P<path>(?:/(?:[/\w.~!$&'()*+,;=:@-]|%[\da-f]{2})*)?)"
    r"(?:[?#][!-~]*)?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof that fits its request.

    Attributes:
        jkt: the thumbprint of the key that its maker has. RFC 7638.
        jti: its id, unique among the proofs of that key.
        expires_at: from when on it is too old to be taken, so that its single-use mark may go.
        nonce: the nonce that it holds, if any.
    """

    jkt: str
    jti: str
    expires_at: datetime
    nonce: str | None = None


class Nonces:
    """Nonces that every worker can make and judge, for they are a function of the time.

    With them a proof shows that it was made just now, and not long ahead by somebody who had the
    key for a moment. RFC 9449 sections 8 and 11.2.

    Args:
        secret: what they are made from; the same on every worker.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret: Final = secret

    def current(self, now: datetime) -> str:
        """The nonce to hand out."""
        return self._of(_window(now))

    def check(self, proof: Proof, now: datetime) -> None:
        """Whether a proof holds a fresh nonce.

        Raises:
            UseDPoPNonce: it does not; the error names the one to use.
        """
        if proof.nonce is None or not self.accepts(proof.nonce, now):
            raise UseDPoPNonce(self.current(now))

    def accepts(self, nonce: str, now: datetime) -> bool:
        """Whether it is the nonce of this window, of the last, or of a host that is ahead."""
        window = _window(now)
        good = [self._of(window + step).encode() for step in (-1, 0, 1)]
        matches = [hmac.compare_digest(each, nonce.encode()) for each in good]
        return any(matches)

    def _of(self, window: int) -> str:
        message = b"oauth2-m2m DPoP nonce\0%d" % window
        digest = hmac.digest(self._secret, message, "sha256")[:_NONCE_BYTES]
        return b64url_encode(digest).decode("ascii")


def proof_header(values: Sequence[str]) -> str | None:
    """The proof among the values of the header `DPoP`; `None` when there is none.

    Raises:
        InvalidDPoPProof: there are several, or one that is empty. RFC 9449 section 4.3, (1).
    """
    if not values:
        return None
    if len(values) > 1:
        raise InvalidDPoPProof("More than one DPoP header: send one proof with each request")
    if not values[0].strip():
        raise InvalidDPoPProof("The DPoP header is empty")
    return values[0]


def read_proof(
    text: str,
    *,
    method: str,
    urls: Collection[str],
    now: datetime,
    access_token: str | None = None,
    jkt: str | None = None,
    algorithms: Collection[str] = ASYMMETRIC_ALGORITHMS,
) -> Proof:
    """Read a DPoP proof and check everything that can be checked without the database.

    Args:
        text: the value of the header `DPoP`, from `proof_header`.
        method: the method of the request.
        urls: the addresses that the request may have been sent to, from `own_urls`.
        now: the moment to judge it at.
        access_token: the access token that it came with, if it did.
        jkt: the thumbprint that its key must have, if the token is bound already.
        algorithms: what it may be signed with, of `ASYMMETRIC_ALGORITHMS`.

    Returns:
        The proof. Using its `jti` up, and asking for a fresh nonce, is for the caller.

    Raises:
        InvalidDPoPProof: it is malformed, or made for another request; `description` says which,
            and quotes nothing.
    """
    try:
        return _read(text, method, urls, now, access_token, jkt, algorithms)
    except ValueError as fault:
        raise InvalidDPoPProof(f"The DPoP proof is not accepted: {fault}") from None


def own_urls(base: str, path: str) -> frozenset[str]:
    """The addresses under which a request for this path may be meant, normalised.

    They are made from the configuration and never from the header `Host`, which whoever sends the
    request chooses: an attacker who was given a proof for a server of his own could name that
    server in `Host`, and use it here. RFC 9449 section 11.1.

    Args:
        base: the address of the service: its issuer, or its audience where that is an address.
        path: the path of the request, as it was sent: percent-encoded, without the query.

    Returns:
        The path at the base's origin, and the path below the base, for a gateway may have taken the
        base's own path away. None when the base is no address, or the path is none.
    """
    try:
        root = normalised_url(base)
        origin = "/".join(root.split("/", 3)[:3])
        return frozenset(normalised_url(start + path) for start in (origin, root.rstrip("/")))
    except ValueError:
        return frozenset()


def normalised_url(text: str) -> str:
    """The one spelling of an address, without query and fragment. RFC 3986 sections 6.2.2, 6.2.3.

    Raises:
        ValueError: it is not one of `http` or `https`, or names a user.
    """
    found = _URL.fullmatch(text)
    if found is None:
        raise ValueError("not an http or https address")
    scheme, host = found["scheme"].lower(), found["host"].lower()
    port = int(found["port"] or _DEFAULT_PORTS[scheme])
    authority = host if port == _DEFAULT_PORTS[scheme] else f"{host}:{port}"
    path = re.sub("%(..)", lambda code: _encoded(int(code[1], 16)), found["path"])
    return f"{scheme}://{authority}{_without_dots(path)}"


def _read(
    text: str,
    method: str,
    urls: Collection[str],
    now: datetime,
    access_token: str | None,
    jkt: str | None,
    algorithms: Collection[str],
) -> Proof:
    # The numbers are those of RFC 9449 section 4.3; (1) is `proof_header`, (3) is in each claim.
    # (2) A single and well-formed JWT, (4) of this type.
    proof = parse_compact(text)
    if proof.header.get("typ") != PROOF_TYPE:
        raise ValueError("typ is not dpop+jwt")

    # (5) (7) The header's key is public, and of an asymmetric algorithm that is welcome.
    key = _key(proof, algorithms)

    # (6) The signature is that key's, made with that key's algorithm.
    claims = proof.claims_verified_by(key)

    # (8) (9) Made for this request.
    if claim(claims, "htm", str) != method:
        raise ValueError("htm is not the method of this request")
    if _address(claims) not in urls:
        raise ValueError("htu is not the address of this request")

    # (11) Made just now.
    issued_at = moment_claim(claims, "iat", fractions=True)
    _check_time(claims, issued_at, now)

    # (12) Made for this access token, with the key that it is bound to.
    if access_token is not None and claim(claims, "ath", str) != _hash(access_token):
        raise ValueError("ath is not the hash of the access token")
    if jkt is not None and thumbprint(key.public_jwk) != jkt:
        raise ValueError("it is not made with the key of the token")
    jti = text_claim(claims, "jti")

    # (10) Whether a nonce is asked for, and is fresh, is for the caller: it asks last, for with
    #      another fault the proof would be made anew in vain.
    nonce = claims.get("nonce")
    return Proof(
        thumbprint(key.public_jwk),
        jti,
        issued_at + LONGEST_AGE,
        nonce if isinstance(nonce, str) else None,
    )


def _key(proof: CompactToken, algorithms: Collection[str]) -> VerifyingKey:
    jwk = proof.header.get("jwk")
    if not isinstance(jwk, dict):
        raise ValueError("jwk is missing or of the wrong type")
    return public_key_from_jwk(jwk, algorithms)


def _address(claims: Mapping[str, Any]) -> str:
    htu = claim(claims, "htu", str)
    try:
        return normalised_url(htu)
    except ValueError:
        raise ValueError("htu is not an address") from None


def _check_time(claims: Mapping[str, Any], issued_at: datetime, now: datetime) -> None:
    if now - issued_at > LONGEST_AGE:
        raise ValueError("iat is too long ago")
    if issued_at - now > LONGEST_LEAD:
        raise ValueError("iat is in the future")
    # Nobody has to send these two, and whoever does means them. RFC 7519 sections 4.1.4, 4.1.5.
    if "exp" in claims and now >= moment_claim(claims, "exp", fractions=True):
        raise ValueError("exp has passed")
    if "nbf" in claims and moment_claim(claims, "nbf", fractions=True) - now > LONGEST_LEAD:
        raise ValueError("nbf is in the future")


def _hash(access_token: str) -> str:
    """RFC 9449 section 4.2, `ath`."""
    return b64url_encode(hashlib.sha256(access_token.encode()).digest()).decode("ascii")


def _window(now: datetime) -> int:
    return int(now.timestamp()) // NONCE_SECONDS


def _encoded(code: int) -> str:
    """A character as a path holds it: plain if it need not be encoded. RFC 3986 section 6.2.2.2."""
    return chr(code) if _UNRESERVED.fullmatch(chr(code)) else f"%{code:02X}"


def _without_dots(path: str) -> str:
    """A path without `.` and `..`, and never empty. RFC 3986 sections 5.2.4, 6.2.3."""
    segments: list[str] = []
    for segment in path.split("/")[1:]:
        if segment == "..":
            segments[-1:] = []
        elif segment != ".":
            segments.append(segment)
    if path.endswith(("/.", "/..")):
        segments.append("")
    return "/" + "/".join(segments)
