"""The client's address: the peer of the connection, or what a trusted proxy forwards."""

import json

import httpx
import pytest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from services.gateway.http.bearer import client_address
from services.gateway.settings import GatewaySettings


async def _client(trusted: list[str], *, peer: str = "10.1.2.3", **headers: str) -> str:
    async def echo(request: Request) -> Response:
        return PlainTextResponse(f"{client_address(request)} {request.url.scheme}")

    settings = GatewaySettings(trusted_proxies=trusted)
    proxies = Middleware(ProxyHeadersMiddleware, trusted_hosts=settings.trusted_proxies)
    app = Starlette(routes=[Route("/", echo)], middleware=[proxies])
    transport = httpx.ASGITransport(app, client=(peer, 1234))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return (await client.get("/", headers={name.replace("_", "-"): value for name, value in headers.items()})).text


@pytest.mark.parametrize(
    ("trusted", "forwarded", "expected"),
    [
        ([], "192.0.2.1", "10.1.2.3 http"),
        (["10.9.9.9"], "192.0.2.1", "10.1.2.3 http"),
        (["10.1.2.3"], "192.0.2.1", "192.0.2.1 https"),
        (["10.0.0.0/8"], "192.0.2.1", "192.0.2.1 https"),
        (["10.0.0.0/8"], "6.6.6.6, 192.0.2.1, 10.7.7.7", "192.0.2.1 https"),
        (["10.0.0.0/8"], "2001:db8::1", "2001:db8::1 https"),
    ],
)
async def test_forwarded_headers_are_trusted_only_from_trusted_proxies(
    trusted: list[str], forwarded: str, expected: str
) -> None:
    assert await _client(trusted, x_forwarded_for=forwarded, x_forwarded_proto="https") == expected


@pytest.mark.parametrize("value", ["*", "ingress", "10.0.0.1/8", "10.0.0.0/33", ""])
def test_an_invalid_proxy_address_stops_the_start(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TRUSTED_PROXIES", json.dumps([value]))
    with pytest.raises(ValidationError, match="trusted_proxies"):
        GatewaySettings()
