"""Anthropic's own client reads what is rendered, over a real socket."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import anthropic
import pytest

from services.gateway.apis.messages.errors import error
from services.gateway.apis.messages.model_list import model_list
from services.gateway.apis.messages.renderer import MessagesRenderer
from services.gateway.apis.messages.request import parse
from services.gateway.apis.messages.token_counts import count_tokens
from services.gateway.apis.surface import Context
from services.gateway.http.errors import HTTPError, http_error
from services.gateway.requests.surface import ErrorResponse
from services.gateway.requests.types import LimitReached, RateLimit

_JSON = "application/json"
_SSE = "text/event-stream; charset=utf-8"
_Answer = Callable[[bytes], tuple[int, str, dict[str, str], bytes]]
_TOOLS: list[anthropic.types.ToolParam] = [{"name": "get weather", "input_schema": {"type": "object"}}]


@contextmanager
def _client(answer: _Answer) -> Iterator[tuple[anthropic.Anthropic, list[str]]]:
    """Yield a client of a server that answers as `answer` says, and the paths that it asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            paths.append(self.path)
            status, kind, headers, body = answer(self.rfile.read(int(self.headers.get("content-length") or 0)))
            self.send_response(status)
            for name, value in {"content-type": kind, "content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with anthropic.Anthropic(base_url=url, api_key="k", max_retries=2) as client:
            yield client, paths
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _renderer(body: bytes) -> MessagesRenderer:
    renderer = parse(body, Context()).renderer
    assert isinstance(renderer, MessagesRenderer)
    renderer.begin("req_A", 0)
    return renderer


def _chunks(renderer: MessagesRenderer) -> bytes:
    call = {"index": 0, "id": "call_1", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}
    deltas = [{"reasoning": "Look."}, {"content": "I look."}, {"tool_calls": [call]}]
    events = [renderer.events([json.dumps({"choices": [{"delta": delta}]}).encode()]) for delta in deltas]
    usage = b'{"choices":[{"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":11,"completion_tokens":5}}'
    return renderer.heartbeat().join([*events, renderer.events([usage])])


def test_a_stream_with_pings() -> None:
    def answer(body: bytes) -> tuple[int, str, dict[str, str], bytes]:
        renderer = _renderer(body)
        stream = renderer.heartbeat() + _chunks(renderer) + renderer.end()
        return 200, _SSE, dict(renderer.headers), stream

    with (
        _client(answer) as (client, paths),
        client.messages.stream(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}], tools=_TOOLS
        ) as stream,
    ):
        assert "".join(stream.text_stream) == "I look."
        message = stream.get_final_message()
        assert stream.request_id == "req_A"
    assert paths == ["/v1/messages"]
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    call = message.content[2]
    assert isinstance(call, anthropic.types.ToolUseBlock)
    assert (call.id, call.name, call.input) == ("call_1", "get weather", {"city": "Paris"})
    assert message.stop_reason == "tool_use"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (11, 5)


def test_a_failed_stream_raises() -> None:
    def answer(body: bytes) -> tuple[int, str, dict[str, str], bytes]:
        renderer = _renderer(body)
        failure = HTTPError(502, "The answer was cut.", "internal_error", code="upstream_cut")
        return 200, _SSE, {}, _chunks(renderer) + renderer.stream_error(failure)

    with (
        _client(answer) as (client, _),
        pytest.raises(anthropic.APIStatusError, match="The answer was cut"),
        client.messages.stream(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}], tools=_TOOLS
        ) as stream,
    ):
        stream.get_final_message()


def _error_answer(response: ErrorResponse) -> _Answer:
    return lambda _: (response.status, _JSON, dict(response.headers), response.body)


def test_the_daily_limit_is_one_request() -> None:
    limit = LimitReached(RateLimit(limit=1, charged=1, held=0, reset_at=3_600))
    answer = _error_answer(error(http_error(limit, now=0), request_id="req_A"))
    with _client(answer) as (client, paths), pytest.raises(anthropic.RateLimitError, match="Resets at 00:00") as raised:
        client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "hi"}])
    assert len(paths) == 1
    assert raised.value.request_id == "req_A"


def test_an_invalid_key_is_one_request() -> None:
    failure = HTTPError(401, "Incorrect API key.", "authentication_error", code="invalid_api_key")
    with (
        _client(_error_answer(error(failure, request_id="req_A"))) as (client, paths),
        pytest.raises(anthropic.AuthenticationError, match="Incorrect API key"),
    ):
        client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "hi"}])
    assert len(paths) == 1


def test_tokens_are_counted() -> None:
    with _client(lambda body: (200, _JSON, {}, count_tokens(body, Context()))) as (client, paths):
        counted = client.messages.count_tokens(model="m", messages=[{"role": "user", "content": "hi"}], tools=_TOOLS)
    assert counted.input_tokens > 1
    assert paths == ["/v1/messages/count_tokens"]


def test_models_are_listed() -> None:
    listed = model_list([{"id": "openai/gpt-oss-20b", "created": 1754407957}])
    with _client(lambda _: (200, _JSON, {}, listed)) as (client, _):
        assert [model.display_name for model in client.models.list(limit=1_000)] == ["openai/gpt-oss-20b"]
