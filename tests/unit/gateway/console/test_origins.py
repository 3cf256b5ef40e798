"""The origin of a form, and the console's public address, behind all kinds of proxies."""

from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.common.errors import PermissionDenied
from services.common.web.forms import check_site
from services.common.web.forwarded import ForwardedHeaders
from services.common.web.origins import Origin, console_origins, parse_origin

_PUBLIC = "https://console.example.com"
_FORWARDED = {"x-forwarded-host": "console.example.com", "x-forwarded-proto": "https"}


async def _asked(
    headers: dict[str, str], *, public: str = "", trusted: bool = True, url: str = "http://127.0.0.1:8080"
) -> dict[str, Any]:
    """Send a form; return whether it is accepted, why not, and the console's own address as it sees it."""

    async def answer(request: Request) -> Response:
        own = console_origins(request, parse_origin(public))
        try:
            check_site(request, own, setting="AUTH_CONSOLE_URL")
            refusal = ""
        except PermissionDenied as exc:
            refusal = exc.message
        expected = {"refusal": refusal, "current": str(own.current), "for_readers": str(own.for_readers)}
        return JSONResponse(expected)

    app = Starlette(routes=[Route("/", answer, methods=["POST"])])
    proxies = ForwardedHeaders(app, trusted_hosts=["10.1.2.3"] if trusted else [])
    transport = httpx.ASGITransport(proxies, client=("10.1.2.3", 1234))
    async with httpx.AsyncClient(transport=transport, base_url=url) as client:
        expected: dict[str, Any] = (await client.post("/", headers=headers)).json()
        return expected


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://Console.Example.COM", Origin("https", "console.example.com", 443)),
        ("https://console.example.com:443/", Origin("https", "console.example.com", 443)),
        ("http://console.example.com.:8080", Origin("http", "console.example.com", 8080)),
        ("https://[2001:DB8::1]:8443", Origin("https", "2001:db8::1", 8443)),
        ("https://bücher.example", Origin("https", "xn--bcher-kva.example", 443)),
        *((text, None) for text in ("", "null", "console.example.com", "ftp://a.example", "https://", "https://a/b")),
        *((text, None) for text in ("http://[::1", "http://a:port", "http://a:99999", "https://u@a.example")),
        *((text, None) for text in ("https://a.example?x", "https://a.example#x", "http://a\x00b", "http://a b")),
        *((text, None) for text in ("http://" + "a" * 300, "http://ä\x00", "http://a<b>")),
    ],
)
def test_an_origin_is_normalised_and_an_invalid_one_is_no_error(text: str, origin: Origin | None) -> None:
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    ("origin", "headers", "settings"),
    [
        # No proxy.
        ("http://127.0.0.1:8080", {}, {}),
        ("http://localhost:8080", {"host": "localhost:8080"}, {}),
        ("http://gateway.example", {"host": "GATEWAY.example"}, {}),
        ("https://gateway.example", {"host": "gateway.example:443"}, {"trusted": False}),
        # nginx' default: it rewrites Host and adds no headers.
        (_PUBLIC, {}, {"public": _PUBLIC, "trusted": False}),
        (_PUBLIC, {}, {"public": f"{_PUBLIC}:443/", "trusted": True}),
        (_PUBLIC, {"x-forwarded-proto": "https"}, {"public": "https://CONSOLE.example.com"}),
        # A proxy that keeps Host but does not forward the scheme.
        (_PUBLIC, {"host": "console.example.com"}, {"trusted": False}),
        # Proxies that forward all of it, and several in a row.
        (_PUBLIC, _FORWARDED, {}),
        (_PUBLIC, {**_FORWARDED, "x-forwarded-proto": "https, http"}, {}),
        (_PUBLIC, {**_FORWARDED, "x-forwarded-host": "Console.Example.com:443, inner"}, {}),
        (f"{_PUBLIC}:8443", {**_FORWARDED, "x-forwarded-host": "console.example.com:8443"}, {}),
    ],
)
async def test_a_form_of_the_consoles_own_page_is_accepted_behind_any_ordinary_proxy(
    origin: str, headers: dict[str, str], settings: dict[str, Any]
) -> None:
    expected = await _asked({"origin": origin, "sec-fetch-site": "same-origin", **headers}, **settings)
    assert expected["refusal"] == ""


@pytest.mark.parametrize(
    ("headers", "settings", "expected"),
    [
        (
            {"origin": "https://evil.example"},
            {},
            "from https://evil.example, but the address of this console is http://127.0.0.1:8080",
        ),
        (
            {"origin": "https://evil.example"},
            {"public": _PUBLIC},
            f"from https://evil.example, but the address of this console is {_PUBLIC} or http://127.0.0.1:8080",
        ),
        ({"origin": f"{_PUBLIC}.evil"}, {"public": _PUBLIC}, "console.example.com.evil"),
        ({"origin": "http://console.example.com"}, {"public": _PUBLIC}, "from http://console.example.com, but"),
        ({"origin": "http://console.example.com", **_FORWARDED}, {}, "from http://console.example.com, but"),
        ({"origin": "http://127.0.0.1:8081"}, {}, "from http://127.0.0.1:8081, but"),
        ({"origin": "null"}, {}, "from a page without an origin"),
        ({"origin": "http://[::1"}, {}, "from a page without an origin"),
        ({"origin": "http://a:port"}, {}, "from a page without an origin"),
        ({"origin": ""}, {}, "from a page without an origin"),
        ({"origin": _PUBLIC, **_FORWARDED}, {"trusted": False}, f"from {_PUBLIC}, but"),
        ({"sec-fetch-site": "cross-site"}, {}, "Sec-Fetch-Site: cross-site"),
        ({"origin": "http://127.0.0.1:8080", "sec-fetch-site": "same-site"}, {}, "Sec-Fetch-Site: same-site"),
        ({"host": "[::1", "origin": "http://[::1]"}, {}, "but the address of this console is an unknown address"),
    ],
)
async def test_a_form_of_another_site_is_refused_and_the_refusal_names_the_difference(
    headers: dict[str, str], settings: dict[str, Any], expected: str
) -> None:
    refusal = (await _asked(headers, **settings))["refusal"]
    assert expected in refusal
    assert "reload the page" in refusal


@pytest.mark.parametrize(
    ("headers", "settings", "current", "for_readers"),
    [
        ({}, {}, "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        (
            {"host": "localhost:8080"},
            {"public": "http://127.0.0.1:8080"},
            "http://localhost:8080",
            "http://localhost:8080",
        ),
        ({}, {"public": _PUBLIC, "trusted": False}, "http://127.0.0.1:8080", _PUBLIC),
        ({}, {"public": _PUBLIC}, _PUBLIC, _PUBLIC),
        ({"host": "console.example.com"}, {"public": _PUBLIC, "trusted": False}, _PUBLIC, _PUBLIC),
        (_FORWARDED, {}, _PUBLIC, _PUBLIC),
        ({**_FORWARDED, "x-forwarded-proto": "https, http"}, {}, _PUBLIC, _PUBLIC),
        (_FORWARDED, {"trusted": False}, "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ],
)
async def test_the_console_determines_its_public_address(
    headers: dict[str, str], settings: dict[str, Any], current: str, for_readers: str
) -> None:
    expected = await _asked(headers, **settings)
    assert (expected["current"], expected["for_readers"]) == (current, for_readers)
