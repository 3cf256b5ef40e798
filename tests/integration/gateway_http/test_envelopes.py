"""Errors that the server sends itself have the envelope of the surface to which the request's path belongs."""

import socket
from typing import Any, cast

import pytest
from starlette.requests import Request
from starlette.responses import Response as StarletteResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.apis.plan_webhook import PlanWebhook
from services.gateway.apis.receipts import Receipts
from services.gateway.apis.routes import API
from services.gateway.apis.signed_receipts import SignedReceipts
from services.gateway.apis.stored_responses import StoredResponses
from services.gateway.apis.usage_export import UsageExport
from services.gateway.apis.usage_webhook import UsageWebhookEndpoint
from services.gateway.dependencies import Dependencies
from services.gateway.http.cors import CORSPolicy
from services.gateway.http_server.limits import Limits
from services.gateway.requests.in_flight import RequestsInFlight
from services.gateway.server import Readiness, build_app
from tests.integration.gateway_http.server import Response, get, post, serving, until

_LIMIT = 65_536
_BRIEF = Limits(head_seconds=1, body_idle_seconds=1)
_ANTHROPICS = (
    "/v1/messages",
    "/api/v1/messages",
    "/openai/v1/messages?beta=true",
    "/v1/messages/count_tokens",
    "/v1/messages/batches/1",
    "/v1/%6dessages/",
    "http://test/v1/messages",
)
_OPENAIS = ("/v1/chat/completions", "/v1/responses", "/openai/v1/responses/resp_1", "/v1/messagesx", "/messages", "/a")
_CHUNKED = "transfer-encoding: chunked"


def _head(path: str, *lines: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"POST {path} HTTP/{version}", *lines, "", ""]).encode()


def _invalid_requests(path: str) -> dict[str, tuple[bytes, int, str]]:
    """Return requests that the server refuses, with the status and the `code` in OpenAI's envelope."""
    host, too_large = "host: test", "request_headers_too_large"
    separator = "&" if "?" in path else "?"
    return {
        "one large field": (_head(path, host, f"x: {'a' * _LIMIT}"), 431, too_large),
        "many fields": (_head(path, host, *(f"x{number}: a" for number in range(100))), 431, too_large),
        "target": (_head(f"{path}{separator}x={'a' * _LIMIT}", host), 414, "uri_too_long"),
        "malformed field": (_head(path, host, "bad field: 1"), 400, "malformed_request"),
        "no host": (_head(path), 400, "malformed_request"),
        "length": (_head(path, host, f"content-length: {'1' * 30}"), 400, "malformed_request"),
        "codings": (_head(path, host, "transfer-encoding: gzip, chunked"), 501, "unsupported_transfer_encoding"),
        "version": (_head(path, host, version="2.0"), 505, "http_version_not_supported"),
        "chunk": (_head(path, host, _CHUNKED) + b"nonsense\r\n", 400, "malformed_request"),
        "trailers": (
            _head(path, host, _CHUNKED) + b"0\r\n" + b"".join(b"t%d: a\r\n" % number for number in range(110)),
            431,
            too_large,
        ),
    }


_KINDS = tuple(_invalid_requests("/"))


def _assert_anthropics(response: Response, status: int, kind: str = "invalid_request_error") -> None:
    error: dict[str, Any] = response.json
    assert (response.status, response.headers["content-type"]) == (status, "application/json")
    assert set(error) == {"type", "error", "request_id"}
    assert error["type"] == "error"
    assert error["error"]["type"] == kind
    assert error["error"]["message"]
    assert error["request_id"] == response.headers["request-id"] == response.headers["x-request-id"] != ""


def _assert_openais(response: Response, status: int, code: str) -> None:
    assert response.status == status
    assert set(response.json) == {"error"}
    assert set(response.json["error"]) == {"message", "type", "param", "code"}
    assert response.json["error"]["code"] == code
    assert "request-id" not in response.headers


@pytest.mark.parametrize("kind", _KINDS)
def test_a_refused_request_of_messages_has_anthropics_envelope(kind: str) -> None:
    with serving() as server:
        for path in _ANTHROPICS:
            sent, status, _ = _invalid_requests(path)[kind]
            for parts in ([sent], [sent[:1000], sent[1000:]]):
                with server.connect() as client:
                    client.send(*filter(None, parts))
                    _assert_anthropics(client.read(), status, "api_error" if status >= 500 else "invalid_request_error")
                    assert client.is_closed()


@pytest.mark.parametrize(
    "sent",
    [
        b"HEAD /v1/models HTTP/1.1\r\nhost: test\r\nx: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HEAD /v1/messages HTTP/1.1\r\nhost: test\r\nbad field: 1\r\n\r\n",
        b"HEAD /v1/models HTTP/1.1\r\nhost: test\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
    ],
)
def test_a_refused_head_request_gets_no_body(sent: bytes) -> None:
    with serving() as server, socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(sent)
        received = b"".join(iter(lambda: client.recv(65_536), b""))
    assert received.startswith(b"HTTP/1.1 ")
    assert received.endswith(b"\r\n\r\n")


def test_a_target_that_is_too_long_to_parse_has_anthropics_envelope() -> None:
    with serving() as server, server.connect() as client:
        client.send(_head(f"http://test/v1/messages/{'a' * 68_000}", "host: test"))
        _assert_anthropics(client.read(), 414)


@pytest.mark.parametrize("kind", _KINDS)
def test_a_refused_request_of_any_other_path_has_openais_envelope(kind: str) -> None:
    with serving() as server:
        for path in _OPENAIS:
            sent, status, code = _invalid_requests(path)[kind]
            with server.connect() as client:
                client.send(sent)
                _assert_openais(client.read(), status, code)


@pytest.mark.parametrize(
    ("sent", "is_known"),
    [
        (b"POST /v1/mess", False),
        (b"POST /v1/messages HTTP/1.1\r\nx: 1\r\n", True),
        (b"POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc", True),
    ],
    ids=["in the request line", "in the head", "in the body"],
)
def test_a_time_out_has_anthropics_envelope_when_the_request_line_has_been_read(sent: bytes, is_known: bool) -> None:
    with serving(_BRIEF) as server, server.connect() as client:
        client.send(sent)
        response = client.read()
    if is_known:
        _assert_anthropics(response, 408)
    else:
        _assert_openais(response, 408, "request_timeout")


@pytest.mark.parametrize("version", ["2023-06-01", None])
def test_a_refused_request_of_models_has_the_envelope_of_the_clients_api(version: str | None) -> None:
    fields = [f"anthropic-version: {version}"] if version else []
    with serving() as server, server.connect() as client:
        client.send(get("/v1/models", *fields, "x: 1", "bad field: 1"))
        response = client.read()
    if version:
        _assert_anthropics(response, 400)
    else:
        _assert_openais(response, 400, "malformed_request")


def test_input_after_a_request_does_not_belong_to_it() -> None:
    with serving() as server, server.connect() as client:
        client.send(post("/v1/messages", b"{}", "origin: https://app.example"))
        assert client.read().status == 200
        client.send(b"\x00nonsense\r\n\r\n")
        response = client.read()
    _assert_openais(response, 400, "malformed_request")
    assert "access-control-allow-origin" not in response.headers


class _Failing:
    """Fails before or after it starts its response."""

    def __init__(self, *, starts: bool) -> None:
        self._starts = starts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._starts:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("a defect")


class _Handlers:
    """Handlers whose responses fail."""

    def __init__(self, *, starts: bool) -> None:
        self._response = _Failing(starts=starts)

    def __getattr__(self, name: str) -> Any:
        async def handler(request: Request) -> StarletteResponse:
            return cast(StarletteResponse, self._response)

        return handler


def _gateway(*, starts: bool, origins: tuple[str, ...] = ("*",)) -> ASGIApp:
    handlers = _Handlers(starts=starts)
    return build_app(
        cast(API, handlers),
        cast(Receipts, handlers),
        cast(SignedReceipts, handlers),
        cast(UsageExport, handlers),
        cast(UsageWebhookEndpoint, handlers),
        cast(StoredResponses, handlers),
        cast(PlanWebhook, handlers),
        Readiness(Dependencies([])),
        cors=CORSPolicy(origins),
        requests=RequestsInFlight(),
    )


def _logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the ids of the requests in the log."""
    return [record.__dict__["request_id"] for record in caplog.records if record.getMessage() == "request"]


@pytest.mark.parametrize("starts", [False, True])
def test_a_response_that_fails_before_its_first_part_is_a_500_in_the_surfaces_envelope(
    starts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "services.gateway.http.middleware")
    with serving(app=_gateway(starts=starts)) as server:
        for path in ("/v1/messages", "/api/v1/messages", "/openai/v1/messages/count_tokens"):
            with server.connect() as client:
                # The next request is parsed early, and is another one.
                client.send(post(path, b"{}", "origin: https://app.example") + get("/v1/models"))
                response = client.read()
            _assert_anthropics(response, 500, "api_error")
            assert response.headers["access-control-allow-origin"] == "*"
            until(lambda request_id=response.json["request_id"]: request_id in _logged(caplog))  # type: ignore[misc]
        for path in ("/v1/responses", "/v1/chat/completions"):
            with server.connect() as client:
                client.send(post(path, b"{}"))
                _assert_openais(client.read(), 500, "internal_error")


def test_every_other_error_below_messages_has_anthropics_envelope() -> None:
    preflight = ("origin: https://app.example", "access-control-request-method: PUT")
    with serving(app=_gateway(starts=False)) as server:
        for path in ("/v1/messages", "/openai/v1/messages", "/api/v1/messages/count_tokens"):
            for request, status, kind in (
                (get(path), 405, "invalid_request_error"),
                (get(f"{path}/batches"), 404, "not_found_error"),
                (get(path, *preflight).replace(b"GET", b"OPTIONS"), 400, "invalid_request_error"),
            ):
                with server.connect() as client:
                    client.send(request)
                    _assert_anthropics(client.read(), status, kind)
