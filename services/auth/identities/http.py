"""Bounded HTTP requests to identity providers: in time, in size, and without redirects."""

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import httpx

from services.auth.identities.provider import provider_unavailable

_SECONDS_MAX = 4.0
_BYTES_MAX = 256 * 1024
_USER_AGENT = "stack-auth"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JSONResponse:
    """A response with a JSON body."""

    status: int
    body: Any

    @property
    def members(self) -> Mapping[str, Any]:
        """The body if it is an object, or else no members."""
        return self.body if isinstance(self.body, dict) else {}


class ProviderHTTP:
    """Sends requests to one provider."""

    def __init__(self, client: httpx.AsyncClient, label: str) -> None:
        """Use `client`, which must come from `open_http`. `label` names the provider in errors."""
        self._client = client
        self._label = label

    async def get(self, url: str, *, headers: Mapping[str, str] | None = None) -> JSONResponse:
        """Return the response to a GET request.

        Raises:
            Unavailable: There is no response in time, its status is 5xx, or its body is too large or not JSON.
        """
        return await self._request("GET", url, headers or {}, None)

    async def post(self, url: str, *, headers: Mapping[str, str], body: str) -> JSONResponse:
        """Return the response to a POST request. Raises the exceptions of `get`."""
        return await self._request("POST", url, headers, body)

    async def _request(self, method: str, url: str, headers: Mapping[str, str], body: str | None) -> JSONResponse:
        sent = {"Accept": "application/json", **headers}
        try:
            async with (
                asyncio.timeout(_SECONDS_MAX),
                self._client.stream(method, url, headers=sent, content=body) as response,
            ):
                if response.status_code >= 500:
                    raise ValueError(f"status {response.status_code}")
                return JSONResponse(response.status_code, json.loads(await _read(response)))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, RecursionError) as exc:
            _log.warning(
                "An identity provider sent no usable response.",
                extra={"provider": self._label, "method": method, "url": url, "reason": f"{type(exc).__name__}: {exc}"},
            )
            raise provider_unavailable(self._label) from exc


def open_http() -> httpx.AsyncClient:
    """Return a client for `ProviderHTTP`. It uses the proxy of the environment, and keeps no cookies."""
    client = httpx.AsyncClient(
        timeout=_SECONDS_MAX,
        follow_redirects=False,
        headers={"Accept-Encoding": "identity", "User-Agent": _USER_AGENT},
    )
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return client


async def _read(response: httpx.Response) -> bytes:
    """Return the body as it was sent. A compressed one, which was not asked for, is not JSON."""
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > _BYTES_MAX:
            raise ValueError(f"more than {_BYTES_MAX} bytes")
    return bytes(content)
