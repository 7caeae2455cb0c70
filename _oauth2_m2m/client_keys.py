"""The public keys of a client now: those in its document, or those that it publishes itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from _oauth2_m2m.client_documents import Client
from _oauth2_m2m.config import Environment, Settings
from _oauth2_m2m.errors import InvalidClient
from _oauth2_m2m.key_sets import public_keys_from
from _oauth2_m2m.newest import Newest
from _oauth2_m2m.remote_documents import FetchRules, RemoteDocument, Resolve, resolve_by_system
from _oauth2_m2m.rules import Rule
from _oauth2_m2m.signatures import VerifyingKey

Keys = tuple[VerifyingKey, ...]

#: A key that its client removed is forgotten so long after.
FRESH_SECONDS = 300.0
#: A key that is not known yet is looked for so often, whatever is presented.
COOL_DOWN_SECONDS = 30.0
_MOST_REMEMBERED = 1000


class ClientKeys:
    """Remembers what was published at each `jwks_uri`.

    Args:
        environment: in development a `jwks_uri` may be http.
        resolve: who knows the addresses of names.
    """

    def __init__(self, environment: Environment, resolve: Resolve = resolve_by_system) -> None:
        self._allow_http = environment is Environment.DEVELOPMENT
        self._resolve = resolve
        self._published: Newest[tuple[str, FetchRules], RemoteDocument[Keys]] = Newest(
            _MOST_REMEMBERED
        )

    async def known(self, client: Client, settings: Settings) -> Keys:
        """The keys at hand; fetched when they are not, or have been for 5 minutes.

        Raises:
            InvalidClient: there are none to be had; `detail` says why.
        """
        return await self._had(client, settings, RemoteDocument.get)

    async def newer(self, client: Client, settings: Settings) -> Keys:
        """The keys, looked for again since one is missing: once in 30 s, however many ask.

        Raises:
            InvalidClient: there are none to be had; `detail` says why.
        """
        return await self._had(client, settings, RemoteDocument.newer)

    async def _had(
        self,
        client: Client,
        settings: Settings,
        get: Callable[[RemoteDocument[Keys]], Awaitable[Keys]],
    ) -> Keys:
        if client.jwks_uri is None:
            return client.jwks
        try:
            return await get(self._document(client.jwks_uri, settings))
        except ValueError as fault:
            unknown = InvalidClient(detail=f"jwks_uri: {fault}")
            raise unknown.breaking(Rule.CLIENT_KEYS, wanted=client.jwks_uri) from None

    def _document(self, url: str, settings: Settings) -> RemoteDocument[Keys]:
        rules = FetchRules(self._allow_http, settings.jwks_uri_private_addresses)
        document = self._published.get((url, rules))
        if document is None:
            document = self._published[url, rules] = RemoteDocument(
                url,
                public_keys_from,
                rules,
                fresh_seconds=FRESH_SECONDS,
                cool_down_seconds=COOL_DOWN_SECONDS,
                resolve=self._resolve,
            )
        self._published.move_to_end((url, rules))
        return document
