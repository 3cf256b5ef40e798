"""The response object. The members that repeat the request are encoded once."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from services.gateway.apis.responses.tools import hosted_type
from services.gateway.apis.translation.chunks import ChunkUsage
from services.gateway.requests.types import JSONObject

_encode = msgspec.json.Encoder().encode
_SUMMARIES = ("auto", "concise", "detailed")
COMPLETED, INCOMPLETE, FAILED, IN_PROGRESS = b"completed", b"incomplete", b"failed", b"in_progress"
NULL = b"null"
_VERBOSITIES = ("low", "medium", "high")
_SHORT_CHARACTERS_MAX = 256
_REPEATED_BYTES_MAX = 131_072
"""Maximum size of the tools, and of the format, that a response repeats. Larger ones are reduced to types and names."""
_TOOL_CHOICE_MEMBERS = ("type", "name", "namespace", "mode")
_FORMAT_MEMBERS = ("type", "name", "description", "schema", "strict")
_GRAMMAR_MEMBERS = ("type", "syntax", "definition")


class ResponseTemplate:
    """The response object of one request, except for the members that depend on the answer.

    A stream keeps it until its client has read everything, so members that the model never sees are repeated only if
    they are short.
    """

    def __init__(self, request: JSONObject, *, is_stored: bool = False) -> None:
        """Encode the members that repeat the request.

        Args:
            request: Its checked members, without null members.
            is_stored: Whether the response is stored.
        """
        self._model: str | None = request.get("model")
        self._limits = _members(
            instructions=request.get("instructions"),
            max_output_tokens=request.get("max_output_tokens"),
            max_tool_calls=request.get("max_tool_calls"),
        )
        self._after_output = b"," + _members(**_after_output(request, is_stored=is_stored))
        metadata = {name: value for name, value in request.get("metadata", {}).items() if value is not None}
        self._end = b"," + _members(user=None, metadata=metadata) + b"}"
        self._start = self._before_output = b""

    def begin(self, response_id: str, created_at: int, model: str | None) -> None:
        """Set the id, and the model if the request named none."""
        self._start = b'{"id":%b,"object":"response","created_at":%d,"completed_at":' % (
            _encode(response_id),
            created_at,
        )
        self._before_output = b",%b,%b" % (self._limits, _members(model=self._model or model or ""))

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
    summary, verbosity = reasoning.get("summary"), text.get("verbosity")
    return {
        "parallel_tool_calls": request.get("parallel_tool_calls", True),
        "previous_response_id": request.get("previous_response_id"),
        "prompt_cache_key": _short(request.get("prompt_cache_key")),
        "reasoning": {
            "effort": reasoning.get("effort"),
            "summary": summary if summary in _SUMMARIES else None,
        },
        "safety_identifier": _short(request.get("safety_identifier")),
        "service_tier": "default",
        "store": is_stored,
        "temperature": request.get("temperature", 1),
        "text": {
            "format": _format(text.get("format") or {"type": "text"}),
            "verbosity": verbosity if verbosity in _VERBOSITIES else "medium",
        },
        "tool_choice": _tool_choice(request.get("tool_choice", "auto")),
        "tools": _tools(request.get("tools", ())),
        "top_logprobs": 0,
        "top_p": request.get("top_p", 1),
        "presence_penalty": request.get("presence_penalty", 0),
        "frequency_penalty": request.get("frequency_penalty", 0),
        "truncation": request.get("truncation", "disabled"),
    }


def _short(value: Any) -> Any:
    """Return a string that is short enough to be repeated; None for any other value."""
    return value if isinstance(value, str) and len(value) <= _SHORT_CHARACTERS_MAX else None


def _picked(value: JSONObject, names: Iterable[str]) -> JSONObject:
    return {name: value[name] for name in names if name in value}


def _within(value: Any, reduced: Callable[[], Any]) -> msgspec.Raw:
    """Return a value as JSON text, or what `reduced` returns if that text is too large."""
    text = _encode(value)
    return msgspec.Raw(text if len(text) <= _REPEATED_BYTES_MAX else _encode(reduced()))


def _tools(tools: Sequence[JSONObject]) -> msgspec.Raw:
    return _within([_tool(tool) for tool in tools], lambda: [_named(tool) for tool in tools])


def _tool(tool: JSONObject) -> JSONObject:
    """Return a tool with its known members. Functions always have all of theirs, which may be null."""
    match tool["type"]:
        case "function":
            return {name: tool.get(name) for name in ("type", "name", "description", "parameters", "strict")}
        case "custom":
            grammar = tool.get("format")
            repeated = {"format": _picked(grammar, _GRAMMAR_MEMBERS)} if grammar else {}
            return _picked(tool, ("type", "name", "description")) | repeated
        case "namespace":
            children = [_tool(child) for child in tool.get("tools") or ()]
            return _picked(tool, ("type", "name", "description")) | {"tools": children}
        case kind:
            return {"type": hosted_type(kind)}


def _named(tool: JSONObject) -> JSONObject:
    """Return a tool of a valid request with only its type and name, both of which are short."""
    if tool["type"] == "namespace":
        return {**_picked(tool, ("type", "name")), "tools": [_named(child) for child in tool.get("tools") or ()]}
    if tool["type"] == "function":
        return _tool(_picked(tool, ("type", "name")))
    return _picked(tool, ("type", "name")) if tool["type"] == "custom" else _tool(tool)


def _tool_choice(choice: str | JSONObject) -> Any:
    if isinstance(choice, str):
        return choice
    repeated = {name: _short(value) for name, value in _picked(choice, _TOOL_CHOICE_MEMBERS).items()}
    if choice["type"] == "allowed_tools":
        # Their members are not checked: they may have any type.
        tools = [_picked(tool, ("type", "name", "namespace")) for tool in choice["tools"]]
        repeated["tools"] = _within(tools, list)
    return repeated


def _format(given: JSONObject) -> msgspec.Raw:
    names = _FORMAT_MEMBERS if given["type"] == "json_schema" else ("type",)
    return _within(_picked(given, names), lambda: {"type": given["type"]})
