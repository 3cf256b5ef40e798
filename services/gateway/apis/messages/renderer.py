"""Renders chat completions and their chunks as messages."""

from collections.abc import Mapping

from msgspec.json import Encoder

from services.gateway.apis.messages.answer import content_blocks, message_id, stop_reason, usage_of
from services.gateway.apis.messages.errors import error, error_object
from services.gateway.apis.messages.events import MESSAGE_STOP, PING, event
from services.gateway.apis.messages.stream import ContentStream
from services.gateway.apis.messages.thinking import Thinking
from services.gateway.apis.surface import CUT_STREAM
from services.gateway.apis.translation.chunks import Choice, ChunkUsage, Message, read_chunk
from services.gateway.apis.translation.tool_names import ToolNames
from services.gateway.http.errors import HTTPError
from services.gateway.requests import sse
from services.gateway.requests.surface import ErrorResponse
from services.gateway.requests.types import JSONObject

_encode = Encoder().encode
_BYTES_PER_TOKEN = 4
_NO_USAGE = {
    "input_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "output_tokens": 0,
}


class MessagesRenderer:
    """Renders the answer to one request."""

    def __init__(
        self,
        model: str,
        names: ToolNames[str],
        thinking: Thinking = Thinking.SHOWN,
        *,
        body_bytes: int = 0,
        context_window: int | None = None,
    ) -> None:
        """Create a renderer.

        Args:
            model: The model's name in the request.
            names: Names of the request's tools.
            thinking: How the answer contains reasoning.
            body_bytes: Size of the request, to estimate its tokens in errors.
            context_window: Tokens that the model accepts; None means not known.
        """
        self._model = model
        self._names = names
        self._thinking = thinking
        self._prompt_tokens = -(-body_bytes // _BYTES_PER_TOKEN)
        self._context_window = context_window
        self._request_id = ""
        self._is_started = False
        self._finish_reason: str | None = None
        self._usage: ChunkUsage | None = None
        self._content = ContentStream(names, thinking, "")

    @property
    def headers(self) -> Mapping[str, str]:
        """The header from which Anthropic's clients read the request id."""
        return {"request-id": self._request_id}

    def begin(self, request_id: str, now: float) -> None:
        """Prepare for the first output. Messages contain no time."""
        self._request_id = request_id
        self._content = ContentStream(self._names, self._thinking, request_id)

    def completion(self, body: bytes) -> bytes:
        """Return the message for a chat completion.

        Raises:
            Unavailable: The completion is not a JSON object.
        """
        chunk = read_chunk(body)
        choice = chunk.choice or Choice()
        message = choice.message or Message()
        content = content_blocks(message, self._names, self._thinking, request_id=self._request_id)
        reason = stop_reason(choice.finish_reason, has_calls=bool(message.tool_calls))
        return _encode(self._message(content, reason, usage_of(chunk.reported_usage)))

    def events(self, texts: list[bytes]) -> bytes:
        """Return the events for chat chunks that arrived together.

        Raises:
            Unavailable: A chunk is not a JSON object.
        """
        # A chunk that cannot be read raises before the message starts, while the answer can still be an HTTP error.
        out = b"".join([self._events_of(text) for text in texts])
        return out if self._is_started else self._start() + out

    def end(self) -> bytes:
        """Return the last events of a stream. One without a finish reason was cut, and ends with an error event."""
        if self._finish_reason is None:
            return self.stream_error(CUT_STREAM)
        start = b"" if self._is_started else self._start()
        content = self._content.end()
        reason = stop_reason(self._finish_reason, has_calls=self._content.has_calls)
        delta = {"stop_reason": reason, "stop_sequence": None}
        last = event("message_delta", {"delta": delta, "usage": usage_of(self._usage)})
        return start + content + last + MESSAGE_STOP

    def stream_error(self, failure: HTTPError) -> bytes:
        """Return the error event, the last one of a stream that failed."""
        return event("error", {"error": self._error_object(failure), "request_id": self._request_id})

    def error(self, failure: HTTPError) -> ErrorResponse:
        """Return the response to a request that failed before its first output."""
        return error(
            failure,
            request_id=self._request_id,
            prompt_tokens=self._prompt_tokens,
            context_window=self._context_window,
        )

    def heartbeat(self) -> bytes:
        """Return a ping, or a comment before the message has started, since nothing may precede its start."""
        return PING if self._is_started else sse.HEARTBEAT

    def _start(self) -> bytes:
        self._is_started = True
        return event("message_start", {"message": self._message([], None, _NO_USAGE)})

    def _message(self, content: list[JSONObject], reason: str | None, usage: JSONObject) -> JSONObject:
        return {
            "id": message_id(self._request_id),
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": usage,
        }

    def _error_object(self, failure: HTTPError) -> JSONObject:
        return error_object(failure, prompt_tokens=self._prompt_tokens, context_window=self._context_window)

    def _events_of(self, text: bytes) -> bytes:
        chunk = read_chunk(text)
        self._usage = chunk.reported_usage or self._usage
        choice = chunk.choice
        if choice is None:
            return b""
        self._finish_reason = choice.finish_reason or self._finish_reason
        return self._delta_events(choice.delta) if choice.delta else b""

    def _delta_events(self, delta: Message) -> bytes:
        content = self._content
        out = content.reasoning(delta.reasoning) if delta.reasoning else b""
        if delta.content:
            out += content.text(delta.content)
        for piece in delta.tool_calls or ():
            out += content.call(piece)
        return out
