"""Legacy completions become chats of one user message, and chat answers become texts."""

import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import Completion

from services.common.errors import ErrorDetails, InvalidRequest, TooLarge, Unavailable
from services.gateway.apis import completions
from services.gateway.apis.surface import Context, ModelFacts
from services.gateway.http.errors import http_error
from services.gateway.requests.surface import Renderer, SurfaceRequest
from services.gateway.requests.types import JSONObject
from tests.unit.gateway.apis.responses.answers import CREATED, MODEL, chunk, completion, usage


def _parse(context: Context | None = None, **members: Any) -> SurfaceRequest:
    body = {"model": "llama", "prompt": "Once"} | members
    return completions.parse(json.dumps(body).encode(), context or Context())


def _chat(context: Context | None = None, **members: Any) -> JSONObject:
    """Return the chat members besides the message and the model."""
    chat = _parse(context, **members).chat.members
    assert chat["messages"] == [{"role": "user", "content": "Once"}]
    return {name: value for name, value in chat.items() if name not in ("messages", "model")}


def _begun(**members: Any) -> Renderer:
    renderer = _parse(**members).renderer
    renderer.begin("req_A", CREATED + 0.9)
    return renderer


def _stream(batches: list[list[bytes]], **members: Any) -> bytes:
    renderer = _begun(stream=True, **members)
    return b"".join([*map(renderer.events, batches), renderer.end()])


def _chunks(stream: bytes) -> list[JSONObject]:
    *blocks, done, rest = stream.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


@pytest.mark.parametrize("prompt", ["Once", ["Once"]])
def test_the_prompt_is_a_user_message(prompt: Any) -> None:
    request = _parse(prompt=prompt, stream=True)
    assert request.chat.members == {"messages": [{"role": "user", "content": "Once"}], "model": "llama"}
    assert request.chat.stream is True


@pytest.mark.parametrize(
    ("members", "chat"),
    [
        ({"temperature": 0.5, "top_p": 1, "seed": 1, "n": 1}, {"temperature": 0.5, "top_p": 1, "seed": 1, "n": 1}),
        ({"presence_penalty": 1, "frequency_penalty": 1}, {"presence_penalty": 1, "frequency_penalty": 1}),
        ({"stop": ["\n"], "user": "u"}, {"stop": ["\n"], "user": "u"}),
        ({"max_tokens": 5}, {"max_completion_tokens": 5}),
        ({"stream_options": {"include_usage": True}}, {"stream_options": {"include_usage": True}}),
        ({"best_of": 1, "echo": False, "suffix": "", "logprobs": None, "logit_bias": {}, "unheard_of": None}, {}),
        ({"model": MODEL}, {"reasoning_effort": "low"}),
        ({"model": MODEL, "reasoning_effort": "xhigh"}, {"reasoning_effort": "high"}),
        ({"model": "qwen/qwen3.8-27b"}, {"reasoning_format": "parsed", "reasoning_effort": "none"}),
    ],
)
def test_parameters_reach_chat_or_are_ignored(members: JSONObject, chat: JSONObject) -> None:
    assert _chat(**members) == chat


def test_output_tokens_are_at_most_the_models() -> None:
    assert _chat(Context(models={"llama": ModelFacts(max_output_tokens=10)}), max_tokens=11) == {
        "max_completion_tokens": 10
    }


def test_a_suffix_asks_for_the_text_between() -> None:
    system, user = _parse(suffix=" end").chat.members["messages"]
    assert system["role"] == "system"
    assert "<FILL>" in system["content"]
    assert user == {"role": "user", "content": "Once<FILL> end"}


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": []}, "prompt", "empty_array"),
        ({"prompt": ["a", "b"]}, "prompt", "unsupported_parameter"),
        ({"prompt": [1, 2]}, "prompt", "unsupported_parameter"),
        ({"prompt": [[1, 2]]}, "prompt", "unsupported_parameter"),
        ({"prompt": {}}, "prompt", "invalid_type"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"logprobs": 1}, "logprobs", "unsupported_parameter"),
        ({"logit_bias": {"1": 1}}, "logit_bias", "unsupported_parameter"),
        ({"n": 2}, "n", "integer_above_max_value"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"echo": "yes"}, "echo", "invalid_type"),
        ({"suffix": 1}, "suffix", "invalid_type"),
        ({"messages": []}, "messages", "unknown_parameter"),
    ],
)
def test_refusals_name_the_parameter(members: JSONObject, param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        _parse(**members)
    assert raised.value.details == ErrorDetails(param=param, code=code)


_COUNTS = usage(3, 2, cached=1, reasoning=1)


def test_a_body() -> None:
    body = json.loads(_begun().completion(completion(content=" upon", reasoning="r", finish="length", usage=_COUNTS)))
    assert body == {
        "id": "cmpl-A",
        "object": "text_completion",
        "created": CREATED,
        "model": "llama",
        "choices": [{"text": " upon", "index": 0, "logprobs": None, "finish_reason": "length"}],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
    }
    Completion.model_validate(body)


def test_a_stream() -> None:
    batches = [
        [chunk(role="assistant", content="")],
        [chunk(reasoning="r")],
        [chunk(content=" up"), chunk(content="on")],
        [chunk(content=" a")],
        [chunk(finish="stop"), json.dumps({"choices": [], "usage": _COUNTS}).encode()],
    ]
    chunks = _chunks(_stream(batches, stream_options={"include_usage": True}))
    assert [(one["choices"][0]["text"], one["choices"][0]["finish_reason"]) for one in chunks[:-1]] == [
        (" upon", None),
        (" a", None),
        ("", "stop"),
    ]
    assert [one["usage"] for one in chunks[:-1]] == [None] * 3
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["total_tokens"]) == ([], 5)
    for one in chunks[-2:]:
        Completion.model_validate(one)
    for one in chunks:
        assert (one["id"], one["object"], one["created"], one["model"]) == (
            "cmpl-A",
            "text_completion",
            CREATED,
            "llama",
        )


def test_usage_is_streamed_only_when_asked_for() -> None:
    chunks = _chunks(_stream([[chunk(content="a")], [chunk(finish="stop", usage=_COUNTS)]]))
    assert all("usage" not in one and one["choices"] for one in chunks)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.lists(st.text(max_size=5), max_size=3), max_size=4),
    st.booleans(),
    st.sampled_from(["stop", "length", "content_filter", "tool_calls"]),
)
def test_a_stream_folds_to_the_body(batches: list[list[str]], echo: bool, finish: str) -> None:
    text = "".join(piece for batch in batches for piece in batch)
    body = json.loads(_begun(echo=echo).completion(completion(content=text, finish=finish, usage=_COUNTS)))
    chunks = _chunks(
        _stream(
            [*([chunk(content=piece) for piece in batch] for batch in batches), [chunk(finish=finish, usage=_COUNTS)]],
            echo=echo,
            stream_options={"include_usage": True},
        )
    )
    choices = [one["choices"][0] for one in chunks[:-1]]
    assert "".join(choice["text"] for choice in choices) == body["choices"][0]["text"] == ("Once" * echo) + text
    assert choices[-1]["finish_reason"] == body["choices"][0]["finish_reason"]
    assert chunks[-1]["usage"] == body["usage"]


@pytest.mark.parametrize("odd", [b"{}", b'{"choices":[null]}', b'{"choices":[{"delta":{"content":5}}],"usage":1}'])
def test_odd_answers(odd: bytes) -> None:
    plain = _stream([[chunk(content="a")], [chunk(finish="stop")]])
    assert _stream([[odd], [chunk(content="a"), odd], [], [chunk(finish="stop")]]) == plain
    body = json.loads(_begun(model=None).completion(odd))
    assert (body["choices"][0]["text"], body["usage"], body["model"]) == ("", None, "")
    with pytest.raises(Unavailable):
        _begun().events([b"[]"])


def test_failed_streams_end_with_an_error_event() -> None:
    renderer = _begun(stream=True)
    error = http_error(Unavailable("The provider failed.", reason="upstream_cut"), now=0)
    assert renderer.stream_error(error) == b"data: " + error.body + b"\n\n"
    cut = b"".join([renderer.events([chunk(content="a")]), renderer.end()])
    assert b'"code":"upstream_cut"' in cut
    assert b"[DONE]" not in cut
    assert renderer.heartbeat() == b": keep-alive\n\n"
    assert renderer.headers == {}


def test_errors_keep_openais_envelope() -> None:
    http = http_error(TooLarge("x"), now=0)
    error = completions.error(http, request_id="req_A")
    assert (error.status, error.body, error.headers) == (413, http.body, http.headers)


def test_refusing_four_megabytes_is_cheap() -> None:
    body = b'{"prompt":[' + b",".join([b"1"] * 99_000) + b'],"suffix":"' + b"x" * 4_000_000 + b'"}'
    taken = []
    for _ in range(5):
        began = time.process_time()
        with pytest.raises(InvalidRequest):
            completions.parse(body, Context())
        taken.append(time.process_time() - began)
    assert min(taken) < 0.04
