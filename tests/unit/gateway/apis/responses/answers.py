"""Chat answers as Groq sends them, and what a client builds from the events of a response."""

import json
from typing import Any

from services.gateway.apis import responses
from services.gateway.apis.surface import Context
from services.gateway.requests.surface import Renderer, SurfaceRequest
from services.gateway.requests.types import JSONObject

MODEL = "openai/gpt-oss-20b"
CREATED, COMPLETED = 1_795_900_000, 1_795_900_001
USER = {"role": "user", "content": "hi"}


def parse(context: Context | None = None, **members: Any) -> SurfaceRequest:
    """Parse a request with `members`; without `input`, it is "hi"."""
    body = {"model": MODEL, "input": "hi"} | members
    return responses.parse(json.dumps(body).encode(), context or Context(clock=lambda: COMPLETED + 0.9))


def begun(name: str = "A", **members: Any) -> Renderer:
    """Return the renderer of a request that was admitted."""
    renderer = parse(**members).renderer
    renderer.begin(f"req_{name}", CREATED + 0.9)
    return renderer


def usage(prompt: int, completion: int, *, cached: int | None = None, reasoning: int | None = None) -> JSONObject:
    """Return Groq's token counts."""
    counts: JSONObject = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "total_time": 0.1,
    }
    if cached is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": cached}
    if reasoning is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return counts


def call(index: int | None, call_id: str | None, name: str | None, arguments: str | None) -> JSONObject:
    """Return a tool call, or a piece of it."""
    members = {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {name: value for name, value in members.items() if value is not None}


def chunk(*, finish: str | None = None, usage: JSONObject | None = None, **delta: Any) -> bytes:
    """Return a chunk with a delta."""
    members: JSONObject = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }
    return json.dumps(members | ({"usage": usage} if usage else {})).encode()


def completion(*, finish: str | None = "stop", usage: JSONObject | None = None, **message: Any) -> bytes:
    """Return a whole chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    members = {"id": "chatcmpl-1", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage}
    return json.dumps(members).encode()


def streamed(renderer: Renderer, batches: list[list[bytes]]) -> bytes:
    """Return the whole stream for chunks that arrived in batches."""
    return b"".join([*(renderer.events(batch) for batch in batches), renderer.end()])


def events_of(stream: bytes) -> list[JSONObject]:
    """Return the events of a stream, checked for what all of them have in common."""
    blocks = stream.decode().split("\n\n")
    assert blocks.pop() == ""
    if blocks[-1] == "data: [DONE]":
        blocks.pop()
    events = []
    for number, block in enumerate(blocks):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        events.append(event)
    return events


def fold(stream: bytes) -> JSONObject:
    """Return the response that a strict client builds from a stream.

    The client builds the output from deltas, and compares it with each `done` event and with the last response.
    """
    first, second, *rest, last = events_of(stream)
    assert (first["type"], second["type"]) == ("response.created", "response.in_progress")
    assert first["response"] == second["response"]
    assert first["response"]["status"] == "in_progress"
    output: list[JSONObject] = []
    open_item: JSONObject | None = None
    for event in rest:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert open_item is None
            assert event["output_index"] == len(output)
            open_item = event["item"]
            assert open_item["status"] == "in_progress"
            continue
        assert open_item is not None
        assert event["output_index"] == len(output)
        if kind == "output_item.done":
            sealed = {name: event["item"][name] for name in ("encrypted_content",) if name in event["item"]}
            assert event["item"] == open_item | sealed | {"status": event["item"]["status"]}
            output.append(event["item"])
            open_item = None
            continue
        assert event["item_id"] == open_item["id"]
        _apply(kind, event, open_item)
    assert open_item is None or last["type"] == "response.failed"
    assert last["response"]["output"] == output
    changed = {"status", "output", "usage", "completed_at", "error", "incomplete_details"}
    assert {name: value for name, value in last["response"].items() if name not in changed} == {
        name: value for name, value in first["response"].items() if name not in changed
    }
    assert last["type"] == f"response.{last['response']['status']}"
    response: JSONObject = last["response"]
    return response


def _apply(kind: str, event: JSONObject, item: JSONObject) -> None:
    """Apply an event between `added` and `done` of an item."""
    match kind:
        case "content_part.added":
            assert event["content_index"] == len(item["content"])
            item["content"].append(event["part"])
        case "reasoning_summary_part.added":
            assert event["summary_index"] == len(item["summary"])
            item["summary"].append(event["part"])
        case "output_text.delta":
            item["content"][event["content_index"]]["text"] += event["delta"]
        case "reasoning_summary_text.delta":
            item["summary"][event["summary_index"]]["text"] += event["delta"]
        case "function_call_arguments.delta":
            item["arguments"] += event["delta"]
        case "custom_tool_call_input.delta":
            item["input"] += event["delta"]
        case "output_text.done":
            assert event["text"] == item["content"][event["content_index"]]["text"]
        case "reasoning_summary_text.done":
            assert event["text"] == item["summary"][event["summary_index"]]["text"]
        case "content_part.done":
            assert event["part"] == item["content"][event["content_index"]]
        case "reasoning_summary_part.done":
            assert event["part"] == item["summary"][event["summary_index"]]
        case "function_call_arguments.done":
            assert (event["arguments"], event["name"]) == (item["arguments"], item["name"])
        case "custom_tool_call_input.done":
            assert event["input"] == item["input"]
        case _:
            raise AssertionError(f"unexpected event {kind}")
