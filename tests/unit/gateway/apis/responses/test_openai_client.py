"""OpenAI's own client reads what is rendered, over a real socket."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseFunctionToolCall
from pydantic import BaseModel

from services.common.errors import InvalidRequest, NotFound
from services.gateway.apis import completions, responses
from services.gateway.apis.surface import Context
from services.gateway.http.errors import HTTPError, http_error
from services.gateway.requests.surface import SurfaceRequest
from services.gateway.requests.types import JSONObject, LimitReached, RateLimit
from tests.unit.gateway.apis.responses.answers import MODEL, call, chunk, completion, usage

_COUNTS = usage(11, 5, cached=3, reasoning=2)
_WEATHER: Any = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}, "strict": False}
_CALLS = [call(0, "c1", "get_weather", '{"city":"Paris"}'), call(1, "c2", "get_weather", '{"city":"Rome"}')]


class Server:
    """A server with a scripted model: it parses requests, and renders one answer to each.

    Attributes:
        message: The members of the model's message.
        finish: Its finish reason; None cuts streams.
        error: The error to answer with instead.
        chats: The chat requests that it received.
    """

    def __init__(self) -> None:
        self.message: JSONObject = {"content": "Hello there."}
        self.finish: str | None = "stop"
        self.error: HTTPError | None = None
        self.chats: list[JSONObject] = []
        self.requests = 0

    def answer(self, path: str, body: bytes) -> tuple[int, str, dict[str, str], bytes]:
        """Return status, content type, headers and body."""
        self.requests += 1
        surface: Any = responses if path == "/v1/responses" else completions
        try:
            request = surface.parse(body, Context())
        except (InvalidRequest, NotFound) as exc:
            return self._error(surface, http_error(exc, now=0))
        if self.error is not None:
            return self._error(surface, self.error)
        return 200, *self._answer(request)

    def _answer(self, request: SurfaceRequest) -> tuple[str, dict[str, str], bytes]:
        self.chats.append(request.chat.members)
        renderer = request.renderer
        renderer.begin("req_A", 1_795_900_000)
        if not request.chat.stream:
            body = renderer.completion(completion(finish=self.finish, usage=_COUNTS, **self.message))
            return "application/json", {}, body
        deltas = [chunk(**{name: value}) for name, value in self.message.items()]
        events = [renderer.events([one]) for one in [*deltas, chunk(finish=self.finish, usage=_COUNTS)]]
        return "text/event-stream", {}, b"".join([renderer.heartbeat(), *events, renderer.end()])

    def _error(self, surface: Any, error: HTTPError) -> tuple[int, str, dict[str, str], bytes]:
        answer = surface.error(error, request_id="req_A")
        return answer.status, "application/json", dict(answer.headers), answer.body


@contextmanager
def _listening(answer: Callable[[str, bytes], tuple[int, str, dict[str, str], bytes]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status, kind, headers, answered = answer(self.path, body)
            self.send_response(status)
            for name, value in {"content-type": kind, "content-length": str(len(answered)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answered)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with _listening(server.answer) as url, openai.OpenAI(base_url=url, api_key="k", max_retries=2) as client:
        yield client


def test_text(client: openai.OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="hi")
    assert response.output_text == "Hello there."
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens == 2
    assert response.usage.input_tokens_details.cached_tokens == 3


def test_streamed_text(client: openai.OpenAI) -> None:
    with client.responses.stream(model=MODEL, input="hi") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        response = stream.get_final_response()
    assert "".join(deltas) == response.output_text == "Hello there."
    assert response.id == "resp_A"


@pytest.mark.parametrize("stream", [False, True])
def test_parallel_calls_and_a_second_turn(client: openai.OpenAI, server: Server, stream: bool) -> None:
    server.message, server.finish = {"reasoning": "Look.", "content": "I look.", "tool_calls": _CALLS}, "tool_calls"
    if stream:
        with client.responses.stream(model=MODEL, input="hi", tools=[_WEATHER]) as events:
            events.until_done()
            first: Any = events.get_final_response()
    else:
        first = client.responses.create(model=MODEL, input="hi", tools=[_WEATHER])
    calls = [item for item in first.output if item.type == "function_call"]
    assert all(isinstance(one, ResponseFunctionToolCall) for one in calls)
    assert [(one.call_id, json.loads(one.arguments)["city"]) for one in calls] == [("c1", "Paris"), ("c2", "Rome")]
    outputs = [{"type": "function_call_output", "call_id": one.call_id, "output": "sunny"} for one in calls]
    turn: Any = [{"role": "user", "content": "hi"}, *first.output, *outputs]
    client.responses.create(model=MODEL, input=turn, tools=[_WEATHER])
    assert server.chats[-1]["messages"] == [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning": "Look.",
            "tool_calls": [{name: value for name, value in one.items() if name != "index"} for one in _CALLS],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "c2", "content": "sunny"},
    ]


class City(BaseModel):
    """A structured answer."""

    name: str


def test_structured_output(client: openai.OpenAI, server: Server) -> None:
    server.message = {"content": '{"name":"Paris"}'}
    response = client.responses.parse(model=MODEL, input="hi", text_format=City)
    assert response.output_parsed == City(name="Paris")
    assert server.chats[0]["response_format"]["json_schema"]["name"] == "City"


def test_incomplete_answers(client: openai.OpenAI, server: Server) -> None:
    server.finish = "length"
    response = client.responses.create(model=MODEL, input="hi")
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


def test_a_cut_stream_fails(client: openai.OpenAI, server: Server) -> None:
    server.finish = None
    events = list(client.responses.create(model=MODEL, input="hi", stream=True))
    assert events[-1].type == "response.failed"
    with client.responses.stream(model=MODEL, input="hi") as stream, pytest.raises(RuntimeError):
        stream.get_final_response()


def test_the_daily_limit_is_one_request(client: openai.OpenAI, server: Server) -> None:
    limit = RateLimit(limit=5, charged=5, held=0, reset_at=1_795_910_400)
    server.error = http_error(LimitReached(limit), now=1_795_900_000)
    with pytest.raises(openai.RateLimitError) as raised:
        client.responses.create(model=MODEL, input="hi")
    assert server.requests == 1
    assert raised.value.type == "usage_limit_reached"


def test_refusals(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input="hi", previous_response_id="resp_x")
    assert refused.value.code == "previous_response_not_found"
    reference: Any = [{"type": "item_reference", "id": "msg_x"}]
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=MODEL, input=reference)


def test_legacy_completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=MODEL, prompt="hi", echo=True)
    assert whole.choices[0].text == "hiHello there."
    chunks = list(
        client.completions.create(model=MODEL, prompt="hi", stream=True, stream_options={"include_usage": True})
    )
    assert "".join(one.choices[0].text for one in chunks if one.choices) == "Hello there."
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 16
