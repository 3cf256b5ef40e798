"""Forms are read completely before anything else happens, and parsed strictly."""

import asyncio
from collections.abc import Mapping

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from services.common.errors import InvalidRequest, TooLarge
from services.common.web import forms
from services.common.web.forms import BufferedForms, read_fields

_FORM = "application/x-www-form-urlencoded"


async def _answer(request: Request) -> Response:
    try:
        return JSONResponse(dict(await read_fields(request)))
    except (InvalidRequest, TooLarge) as exc:
        return Response(type(exc).__name__, status_code=413 if isinstance(exc, TooLarge) else 400)


_APP = BufferedForms(Starlette(routes=[Route("/", _answer, methods=["POST"])]))


async def _post(content: bytes, headers: Mapping[str, str]) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(_APP), base_url="http://console") as client:
        return await client.post("/", content=content, headers=dict(headers))


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"", {}),
        (b"a=1&b=two+words&c=", {"a": "1", "b": "two words", "c": ""}),
        (b"a=%C3%A9&a=last", {"a": "last"}),
        (b"password=e%CC%81%00", {"password": "e\u0301\0"}),
    ],
)
async def test_fields_are_parsed_as_typed(body: bytes, fields: dict[str, str]) -> None:
    answer = await _post(body, {"content-type": f"{_FORM}; charset=UTF-8"})
    assert (answer.status_code, answer.json()) == (200, fields)


@pytest.mark.parametrize(
    "body",
    [b"a=%FF", b"a=\xff", b"a=%ED%A0%80", b"%C3=1", b"&".join(b"f%d=x" % number for number in range(101))],
)
async def test_fields_that_are_not_valid_text_are_refused_instead_of_replaced(body: bytes) -> None:
    """Two different passwords of invalid bytes were equal before."""
    answer = await _post(body, {"content-type": _FORM})
    assert (answer.status_code, answer.text) == (400, "InvalidRequest")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json"}, 400),
        ({"content-type": "multipart/form-data; boundary=x"}, 400),
        ({}, 400),
        ({"content-type": _FORM, "content-length": "65537"}, 413),
        ({"content-type": _FORM, "content-length": "many"}, 400),
    ],
)
async def test_other_content_types_are_refused_without_reading_the_body(headers: dict[str, str], status: int) -> None:
    assert (await _post(b"a=1", headers)).status_code == status


async def _send_half() -> tuple[list[Message], bool]:
    """Send half a form; return the response, and whether the app behind was reached."""
    sent: list[Message] = []
    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "headers": [(b"content-type", _FORM.encode()), (b"content-length", b"10")],
    }
    messages: list[Message] = [{"type": "http.request", "body": b"a=", "more_body": True}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    reached = False

    async def behind(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal reached
        reached = True

    await BufferedForms(behind)(scope, receive, send)
    return sent, reached


async def test_an_incomplete_form_times_out_and_never_takes_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "_SECONDS_MAX", 0.05)
    sent, reached = await _send_half()
    assert (sent[0]["status"], reached) == (408, False)
