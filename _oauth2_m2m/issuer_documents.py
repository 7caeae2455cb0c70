"""What an issuer publishes about itself: its metadata and its keys. RFC 8414, RFC 7517.

For services that know an issuer by name alone. Both documents live on their last good copy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from _oauth2_m2m.config import LONGEST_ACCESS_TOKEN_LIFETIME
from _oauth2_m2m.errors import ConfigurationError
from _oauth2_m2m.key_sets import public_keys_from
from _oauth2_m2m.remote_documents import FetchRules, RemoteDocument, place_of
from _oauth2_m2m.signatures import VerifyingKey

#: Endpoints hardly ever move.
METADATA_FRESH_SECONDS = 3600.0
#: A burned key is refused by the revocation feed at once; here is when it is forgotten.
KEYS_FRESH_SECONDS = 300.0
#: A key that nobody here has seen is looked for once in so long, whatever is presented.
COOL_DOWN_SECONDS = 1.0
#: Keys that were not seen for so long are no knowledge: no token is older, and the revocation feed
#: names a burned key for little longer.
KEYS_KEPT_SECONDS = LONGEST_ACCESS_TOKEN_LIFETIME.total_seconds()
_WELL_KNOWN = "/.well-known/oauth-authorization-server"

Keys = Mapping[str, VerifyingKey]
_NO_KEYS: Keys = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class IssuerMetadata:
    """Where an issuer's endpoints are; `None` for what it has not. RFC 8414 section 2."""

    jwks_uri: str | None
    revocations_endpoint: str | None
    introspection_endpoint: str | None


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Where the metadata of an issuer may be.

    Its well-known path stands before the issuer's own (RFC 8414 section 3.1). An app that lives
    below a path cannot serve that, so it is looked for behind the path too, as OpenID Connect does.
    """
    place = place_of(issuer)
    path = place.path.rstrip("/")
    origin = f"{place.scheme}://{place.host_header}"
    return tuple(dict.fromkeys([origin + _WELL_KNOWN + path, origin + path + _WELL_KNOWN]))


def metadata_from(document: object, issuer: str, *, allow_http: bool) -> IssuerMetadata:
    """Read a metadata document.

    Args:
        document: what was read from JSON.
        issuer: whose it must be.
        allow_http: whether endpoints may be without TLS.

    Raises:
        ValueError: it is none, or another issuer's (RFC 8414 section 3.3).
    """
    if not isinstance(document, Mapping):
        raise ValueError("not a JSON object")
    if document.get("issuer") != issuer:
        raise ValueError("it names another issuer")
    names = ("jwks_uri", "revocations_endpoint", "introspection_endpoint")
    return IssuerMetadata(*(_endpoint(document, name, allow_http) for name in names))


def _endpoint(document: Mapping[str, Any], name: str, allow_http: bool) -> str | None:
    url = document.get(name)
    if url is None:
        return None
    if not isinstance(url, str):
        raise ValueError(f"{name} is no URL")
    if place_of(url).scheme != "https" and not allow_http:
        raise ValueError(f"{name} is not https")
    return url


def keys_by_id(jwk_set: object) -> Keys:
    """The keys of a JWK Set that verify signatures here, by their `kid`."""
    return MappingProxyType({key.kid: key for key in public_keys_from(jwk_set)})


class IssuerDocuments:
    """The documents of one issuer.

    Args:
        issuer: its identifier, exactly as it stands in its tokens.
        allow_http: whether TLS may be missing, for development.

    Raises:
        ConfigurationError: the issuer is no URL of a kind that is allowed.
    """

    def __init__(self, issuer: str, *, allow_http: bool) -> None:
        try:
            urls = metadata_urls(issuer)
        except ValueError as fault:
            raise ConfigurationError(f"the issuer {issuer!r} cannot be used: {fault}") from None
        if not issuer.startswith("https://") and not allow_http:
            raise ConfigurationError(f"the issuer {issuer!r} must be https in production")
        self.issuer: Final = issuer
        self._candidates = [
            RemoteDocument(
                url,
                lambda document: metadata_from(document, issuer, allow_http=allow_http),
                _rules(allow_http),
                fresh_seconds=METADATA_FRESH_SECONDS,
                cool_down_seconds=COOL_DOWN_SECONDS,
            )
            for url in urls
        ]
        self._allow_http = allow_http
        self._publishes_none = False
        self._key_set: RemoteDocument[Keys] | None = None
        self._source: RemoteDocument[Keys] | None = None  # of the keys that are at hand
        self._fetched: Keys | None = None
        self._keys: Keys | None = None

    @property
    def keys_age(self) -> float:
        """Seconds since the keys were last seen; infinite before."""
        return math.inf if self._key_set is None else self._key_set.age

    @property
    def were_seen(self) -> bool:
        """Whether it is known which keys there are, if any; that is good for a day."""
        if self._publishes_none:
            return True
        return self._source is not None and self._source.age <= KEYS_KEPT_SECONDS

    @property
    def knows_keys(self) -> bool:
        """Whether there is a key at hand."""
        return self.were_seen and bool(self._keys)

    @property
    def fault(self) -> str | None:
        """Why the last fetch of the keys failed, if it did."""
        return None if self._key_set is None else self._key_set.fault

    async def metadata(self) -> IssuerMetadata:
        """Where the endpoints are.

        Raises:
            ValueError: nobody knows yet; the message says why.
        """
        *others, last = self._candidates
        for candidate in others:
            try:
                metadata = await candidate.get()
            except ValueError:
                continue
            self._candidates = [candidate]
            return metadata
        metadata = await last.get()
        self._candidates = [last]
        return metadata

    async def keys(self, *, newer: bool = False) -> Keys:
        """The keys that may have signed a token; the same object as long as they are the same.

        Args:
            newer: fetch them again, for one is missing. It takes up to a second more, so that
                there is one fetch a second, however many ask.

        Returns:
            The keys; none when the issuer publishes none, for it signs with a shared secret.

        Raises:
            ValueError: they were never had, or not for a day.
        """
        url = (await self.metadata()).jwks_uri
        self._publishes_none = url is None
        if url is None:
            return _NO_KEYS
        if self._key_set is None or self._key_set.url != url:
            self._key_set = RemoteDocument(
                url,
                keys_by_id,
                _rules(self._allow_http),
                fresh_seconds=KEYS_FRESH_SECONDS,
                cool_down_seconds=COOL_DOWN_SECONDS,
            )
        fetched: Keys | None = None
        try:
            fetched = await (self._key_set.newer(wait=True) if newer else self._key_set.get())
        except ValueError:
            if self._keys is None:
                raise  # else those of the address before
        else:
            self._source = self._key_set
        if self._source is not None and self._source.age > KEYS_KEPT_SECONDS:
            raise ValueError("the keys were not seen for a day")
        if fetched is not None and fetched is not self._fetched:
            if self._keys is None or not _are_same(fetched, self._keys):
                self._keys = fetched
            self._fetched = fetched
        return self._keys or _NO_KEYS


def _rules(allow_http: bool) -> FetchRules:
    # The operator names the issuer, which may well live in the same private network.
    return FetchRules(allow_http=allow_http, allow_private=True)


def _are_same(some: Keys, others: Keys) -> bool:
    return {kid: key.public_jwk for kid, key in some.items()} == {
        kid: key.public_jwk for kid, key in others.items()
    }
