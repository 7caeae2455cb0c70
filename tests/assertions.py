"""Client assertions as other people's software makes them: none of our signing code."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.proofs import MISSING, Key, changed, compact, key

Document = dict[str, Any]

#: RFC 7523 section 2.2.
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
#: Any value of a member or claim that is to be left out.
ABSENT: Any = MISSING


@dataclass(frozen=True)
class ClientKey:
    """A client's key pair, and what the client calls it, if it calls it anything."""

    pair: Key
    kid: str | None = None

    @property
    def algorithm(self) -> str:
        """The one algorithm that it signs with."""
        return self.pair.algorithm

    def jwk(self, **changes: Any) -> Document:
        """The public key as a JWK, some members changed or `ABSENT`."""
        return changed(self.pair.jwk, {"kid": self.kid or ABSENT, **changes})

    def sign(self, message: bytes) -> bytes:
        """The JWS signature."""
        return self.pair.sign(message)

    def token(self, header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
        """A token in compact serialization, whatever it says."""
        return compact(header, claims, self.pair)

    def assertion(
        self,
        client_id: str,
        audience: str | list[str],
        *,
        header: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> str:
        """A client assertion that is good for a minute, but for these changes."""
        now = int(time.time())
        good = {
            "iss": client_id,
            "sub": client_id,
            "aud": audience,
            "iat": now,
            "exp": now + 60,
            "jti": uuid.uuid4().hex,
        }
        head = {"alg": self.algorithm, "typ": "JWT", "kid": self.kid or ABSENT}
        return self.token(changed(head, header or {}), changed(good, changes))


def es256_key(kid: str) -> ClientKey:
    """A key on the curve P-256, made once for each name."""
    return ClientKey(key(kid), kid)


def rs256_key(kid: str, bits: int = 2048) -> ClientKey:
    """A new RSA key."""
    return ClientKey(Key("RS256", bits=bits), kid)


def jwks(*keys: ClientKey | Mapping[str, Any]) -> Document:
    """A JWK Set of these keys."""
    return {"keys": [key.jwk() if isinstance(key, ClientKey) else dict(key) for key in keys]}


def fields(assertion: str, **more: str) -> dict[str, str]:
    """The parameters of a form that present an assertion."""
    return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion, **more}
