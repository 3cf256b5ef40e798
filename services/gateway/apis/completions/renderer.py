"""Rendering of chat completions and chat chunks as legacy text completions."""

from collections.abc import Mapping

import msgspec

from services.gateway.apis.chat_completions.surface import error
from services.gateway.apis.surface import CUT_STREAM
from services.gateway.apis.translation.chunks import Chunk, ChunkUsage, read_chunk
from services.gateway.http.errors import HTTPError
from services.gateway.requests import sse
from services.gateway.requests.surface import ErrorResponse
from services.gateway.requests.types import JSONObject

_encode = msgspec.json.Encoder().encode
_FINISH_REASONS = frozenset({"stop", "length", "content_filter"})
_NO_HEADERS: Mapping[str, str] = {}


class CompletionsRenderer:
    """Renders the answer to one completion request. Reasoning is dropped. See `Renderer`."""

    def __init__(self, *, model: str | None, echo: str, includes_usage: bool) -> None:
        """Create a renderer.

        Args:
            model: The model asked for; None is the one that answers.
            echo: Text before the completion.
            includes_usage: Whether a stream has a chunk with the usage.
        """
        self._model = model
        self._echo = echo
        self._includes_usage = includes_usage
        self._id = ""
        self._created = 0
        self._head = b""
        self._finish_reason: str | None = None
        self._usage: ChunkUsage | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """No additional headers."""
        return _NO_HEADERS

    def begin(self, request_id: str, now: float) -> None:
        """Prepare for the first output."""
        self._id = f"cmpl-{request_id.partition('_')[2] or request_id}"
        self._created = int(now)

    def completion(self, body: bytes) -> bytes:
        """Return the text completion for a chat completion."""
        completion = read_chunk(body)
        self._read(completion)
        message = completion.choice.message if completion.choice else None
        text = self._echo + ((message.content if message else None) or "")
        choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": self._shown_finish_reason}
        return _encode(self._members() | {"choices": [choice], "usage": _usage_members(self._usage)})

    def events(self, texts: list[bytes]) -> bytes:
        """Return one chunk with the text that arrived; none for other pieces."""
        pieces = []
        for text in texts:
            chunk = read_chunk(text)
            self._read(chunk)
            delta = chunk.choice.delta if chunk.choice else None
            if delta is not None and delta.content:
                pieces.append(delta.content)
        return self._chunk("".join(pieces), b"null") if pieces else b""

    def end(self) -> bytes:
        """Return the last events of a stream. One without a finish reason was cut, and fails."""
        if self._finish_reason is None:
            return self.stream_error(CUT_STREAM)
        last = self._chunk("", _encode(self._shown_finish_reason))
        return last + (self._usage_chunk() if self._includes_usage else b"") + sse.DONE

    def error(self, failure: HTTPError) -> ErrorResponse:
        """Return the error in the surface's envelope."""
        return error(failure, request_id="")

    def stream_error(self, error: HTTPError) -> bytes:
        """Return the error event of a stream that failed."""
        return sse.events([error.body])

    def heartbeat(self) -> bytes:
        """Return a comment, which clients ignore."""
        return sse.HEARTBEAT

    @property
    def _shown_finish_reason(self) -> str:
        return self._finish_reason if self._finish_reason in _FINISH_REASONS else "stop"

    def _read(self, chunk: Chunk) -> None:
        self._model = self._model or chunk.model
        self._usage = chunk.reported_usage or self._usage
        if chunk.choice is not None:
            self._finish_reason = chunk.choice.finish_reason or self._finish_reason

    def _members(self) -> JSONObject:
        return {"id": self._id, "object": "text_completion", "created": self._created, "model": self._model or ""}

    def _chunk(self, text: str, finish_reason: bytes) -> bytes:
        if not self._head:
            self._head = b"data: " + _encode(self._members())[:-1] + b',"choices":['
            text = self._echo + text
        usage = b',"usage":null' if self._includes_usage else b""
        choice = b'{"text":%b,"index":0,"logprobs":null,"finish_reason":%b}' % (_encode(text), finish_reason)
        return b"%b%b]%b}\n\n" % (self._head, choice, usage)

    def _usage_chunk(self) -> bytes:
        return b'%b],"usage":%b}\n\n' % (self._head, _encode(_usage_members(self._usage)))


def _usage_members(usage: ChunkUsage | None) -> JSONObject | None:
    """Return token counts in OpenAI's form, or None if they are not known."""
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total_tokens or usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
