"""The response object. The members that repeat the request are encoded once."""

from typing import Any

import msgspec

from services.gateway.apis.translation.chunks import ChunkUsage
from services.gateway.requests.types import JSONObject

_encode = msgspec.json.Encoder().encode
_SUMMARIES = ("auto", "concise", "detailed")
COMPLETED, INCOMPLETE, FAILED, IN_PROGRESS = b"completed", b"incomplete", b"failed", b"in_progress"
NULL = b"null"


class ResponseTemplate:
    """The response object of one request, except for the members that depend on the answer."""

    def __init__(self, request: JSONObject, *, is_stored: bool = False) -> None:
        """Encode the members that repeat the request.

        Args:
            request: Its checked members, without null members.
            is_stored: Whether the response is stored.
        """
        self._request = request
        self._is_stored = is_stored
        self._model: str | None = request.get("model")
        self._start = self._before_output = self._after_output = self._end = b""

    def begin(self, response_id: str, created_at: int, model: str | None) -> None:
        """Set the id, and the model if the request named none."""
        request = self._request
        self._start = b'{"id":%b,"object":"response","created_at":%d,"completed_at":' % (
            _encode(response_id),
            created_at,
        )
        self._before_output = b"," + _members(
            instructions=request.get("instructions"),
            max_output_tokens=request.get("max_output_tokens"),
            max_tool_calls=request.get("max_tool_calls"),
            model=self._model or model or "",
        )
        self._after_output = b"," + _members(**_after_output(request, is_stored=self._is_stored))
        metadata = {name: value for name, value in request.get("metadata", {}).items() if value is not None}
        self._end = b"," + _members(user=None, metadata=metadata) + b"}"

    def render(
        self,
        status: bytes,
        *,
        output: bytes = b"",
        completed_at: int | None = None,
        error: bytes = NULL,
        incomplete_details: bytes = NULL,
        usage: bytes = NULL,
    ) -> bytes:
        """Return the object as JSON text. The arguments are JSON texts; `output` is the items without brackets."""
        completed = NULL if completed_at is None else b"%d" % completed_at
        return b"".join(
            (
                self._start,
                completed,
                b',"status":"',
                status,
                b'","background":false,"error":',
                error,
                b',"incomplete_details":',
                incomplete_details,
                self._before_output,
                b',"output":[',
                output,
                b"]",
                self._after_output,
                b',"usage":',
                usage,
                self._end,
            )
        )


def usage_json(usage: ChunkUsage | None) -> bytes:
    """Return token counts in the form of Responses, or null if they are not known."""
    if usage is None:
        return NULL
    return _encode(
        {
            "input_tokens": usage.input,
            "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
            "output_tokens": usage.output,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.total_tokens or usage.input + usage.output,
        }
    )


def _members(**members: Any) -> bytes:
    """Return members of an object without its braces."""
    return _encode(members)[1:-1]


def _after_output(request: JSONObject, *, is_stored: bool) -> JSONObject:
    reasoning, text = request.get("reasoning", {}), request.get("text", {})
    summary = reasoning.get("summary")
    return {
        "parallel_tool_calls": request.get("parallel_tool_calls", True),
        "previous_response_id": request.get("previous_response_id"),
        "prompt_cache_key": request.get("prompt_cache_key"),
        "reasoning": {
            "effort": reasoning.get("effort"),
            "summary": summary if summary in _SUMMARIES else None,
        },
        "safety_identifier": request.get("safety_identifier"),
        "service_tier": "default",
        "store": is_stored,
        "temperature": request.get("temperature", 1),
        "text": {
            "format": text.get("format") or {"type": "text"},
            "verbosity": text.get("verbosity") or "medium",
        },
        "tool_choice": request.get("tool_choice", "auto"),
        "tools": [_tool(tool) for tool in request.get("tools", ())],
        "top_logprobs": 0,
        "top_p": request.get("top_p", 1),
        "presence_penalty": request.get("presence_penalty", 0),
        "frequency_penalty": request.get("frequency_penalty", 0),
        "truncation": request.get("truncation", "disabled"),
    }


def _tool(tool: JSONObject) -> JSONObject:
    """Return a tool as it was sent. Functions always have all of their members, which may be null."""
    if tool["type"] != "function":
        return tool
    return {name: tool.get(name) for name in ("type", "name", "description", "parameters", "strict")}
