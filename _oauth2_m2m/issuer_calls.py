"""Calls to an issuer's endpoints, bounded, over connections that are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_plus

from _oauth2_m2m.config import Secret
from _oauth2_m2m.forms import parse_json
from _oauth2_m2m.remote_documents import body_of, trusted_authorities

if TYPE_CHECKING:
    import httpx

#: One call, from connecting to the last byte.
CALL_SECONDS = 3.0
LARGEST_ANSWER_BYTES = 1024 * 1024
MOST_CONNECTIONS = 20
#: Shorter than uvicorn keeps an idle connection, so that it is not closed under a call.
_IDLE_SECONDS = 4.0


class CallFailed(Exception):
    """There is no good answer; the message says why, and quotes nothing of it.

    Attributes:
        status_code: the status of the answer, if there was one.
    """

    def __init__(self, reason: str, status_code: int | None = None) -> None:
        super().__init__(reason)
        self.status_code: Final = status_code


class IssuerCalls:
    """An HTTP client for one event loop: `async with IssuerCalls() as calls:`."""

    def __init__(self) -> None:
        import httpx  # it takes a tenth of a second, which those who call nobody need not pay

        limits = httpx.Limits(max_connections=MOST_CONNECTIONS, keepalive_expiry=_IDLE_SECONDS)
        # Time is bounded for each call as a whole. Proxies of the environment are not asked.
        self._http = httpx.AsyncClient(
            verify=trusted_authorities(),
            trust_env=False,
            limits=limits,
            timeout=httpx.Timeout(CALL_SECONDS),
        )

    async def __aenter__(self) -> IssuerCalls:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def get(self, url: str, **parameters: str) -> Any:
        """Get JSON. There are no redirects.

        Raises:
            CallFailed: there is none within 3 s and 1 MiB.
        """
        import httpx

        target = httpx.URL(url).copy_merge_params(parameters)
        return await self._call(self._http.build_request("GET", target))

    async def post(
        self, url: str, form: Mapping[str, str], client_id: str, client_secret: Secret
    ) -> Any:
        """Post a form as a client that authenticates by Basic. RFC 6749 section 2.3.1.

        Raises:
            CallFailed: there is no JSON within 3 s and 1 MiB.
        """
        import httpx

        basic = httpx.BasicAuth(quote_plus(client_id), quote_plus(client_secret.value))
        request = self._http.build_request("POST", url, data=dict(form))
        return await self._call(next(basic.auth_flow(request)))

    async def _call(self, request: httpx.Request) -> Any:
        import httpx

        request.headers.update(
            {
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Cache-Control": "no-cache",
            }
        )
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return parse_json(await self._send(request))
        except TimeoutError:
            raise CallFailed(f"no answer within {CALL_SECONDS:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise CallFailed(f"the call failed ({type(error).__name__})") from None
        except ValueError as fault:
            raise CallFailed(f"the answer is {fault}") from None

    async def _send(self, request: httpx.Request) -> bytes:
        response = await self._http.send(request, stream=True, follow_redirects=False)
        try:
            return await body_of(response, LARGEST_ANSWER_BYTES)
        except ValueError as fault:
            raise CallFailed(str(fault), response.status_code) from None
