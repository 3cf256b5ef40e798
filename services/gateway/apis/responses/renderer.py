"""Rendering of chat completions and chat chunks as responses and their events."""

from collections.abc import Callable, Mapping

from services.gateway.apis.responses.errors import error, stream_error_json
from services.gateway.apis.responses.events import EventWriter, event_head
from services.gateway.apis.responses.output import Output
from services.gateway.apis.responses.response_object import (
    COMPLETED,
    FAILED,
    IN_PROGRESS,
    INCOMPLETE,
    NULL,
    ResponseTemplate,
    usage_json,
)
from services.gateway.apis.responses.tools import ToolTable
from services.gateway.apis.surface import CUT_STREAM
from services.gateway.apis.translation.chunks import Message, Usage, read_chunk
from services.gateway.http.errors import HTTPError
from services.gateway.requests import sse
from services.gateway.requests.surface import ErrorResponse

_CREATED = event_head("response.created")
_IN_PROGRESS = event_head("response.in_progress")
_LAST = {status: event_head(f"response.{status.decode()}") for status in (COMPLETED, INCOMPLETE, FAILED)}
_INCOMPLETE_DETAILS = {
    "length": b'{"reason":"max_output_tokens"}',
    "content_filter": b'{"reason":"content_filter"}',
}
_NO_HEADERS: Mapping[str, str] = {}


class ResponsesRenderer:
    """Renders the answer to one Responses request. See `Renderer`."""

    def __init__(
        self,
        template: ResponseTemplate,
        table: ToolTable,
        *,
        encrypts_reasoning: bool,
        clock: Callable[[], float],
    ) -> None:
        """Create a renderer.

        Args:
            template: The response object.
            table: Leads from the names in calls to the client's tools.
            encrypts_reasoning: Whether reasoning items have `encrypted_content`.
            clock: Returns Unix seconds.
        """
        self._template = template
        self._table = table
        self._encrypts_reasoning = encrypts_reasoning
        self._clock = clock
        self._events = EventWriter()
        self._id_suffix = ""
        self._created_at = 0
        self._has_begun = False
        self._finish_reason: str | None = None
        self._usage: Usage | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """No additional headers."""
        return _NO_HEADERS

    def begin(self, request_id: str, now: float) -> None:
        """Prepare for the first output."""
        self._id_suffix = request_id.partition("_")[2] or request_id
        self._created_at = int(now)
        self._output = Output(self._events, self._id_suffix, self._table, encrypts_reasoning=self._encrypts_reasoning)

    def completion(self, body: bytes) -> bytes:
        """Return the response for a chat completion."""
        completion = read_chunk(body)
        self._template.begin(f"resp_{self._id_suffix}", self._created_at, completion.model)
        choice = completion.choice
        if choice is not None:
            self._finish_reason = choice.finish_reason
            self._output.add(choice.message or Message())
        self._usage = completion.reported_usage
        status = INCOMPLETE if self._finish_reason in _INCOMPLETE_DETAILS else COMPLETED
        self._output.end(status)
        return self._final(status)

    def events(self, texts: list[bytes]) -> bytes:
        """Return the events for chat chunks that arrived together."""
        for text in texts:
            chunk = read_chunk(text)
            self._usage = chunk.reported_usage or self._usage
            choice = chunk.choice
            if choice is None:
                continue
            self._finish_reason = choice.finish_reason or self._finish_reason
            piece = choice.delta
            if piece is not None and (piece.content or piece.reasoning or piece.tool_calls):
                self._begin_stream(chunk.model)
                self._output.add(piece)
        self._output.flush()
        return self._events.take()

    def end(self) -> bytes:
        """Return the last events of a stream. One without a finish reason was cut, and fails."""
        if self._finish_reason is None:
            return self.stream_error(CUT_STREAM)
        self._begin_stream(None)
        status = INCOMPLETE if self._finish_reason in _INCOMPLETE_DETAILS else COMPLETED
        self._output.end(status)
        self._events.add(_LAST[status], b'"response":' + self._final(status))
        return self._events.take() + sse.DONE

    def error(self, failure: HTTPError) -> ErrorResponse:
        """Return the error in the surface's envelope."""
        return error(failure, request_id="")

    def stream_error(self, error: HTTPError) -> bytes:
        """Return the last events of a stream that failed. The response has the items that were complete."""
        self._begin_stream(None)
        response = self._template.render(
            FAILED, output=self._output.items, error=stream_error_json(error), usage=usage_json(self._usage)
        )
        self._events.add(_LAST[FAILED], b'"response":' + response)
        return self._events.take()

    def heartbeat(self) -> bytes:
        """Return a comment, which clients ignore."""
        return sse.HEARTBEAT

    def _begin_stream(self, model: str | None) -> None:
        if self._has_begun:
            return
        self._has_begun = True
        self._template.begin(f"resp_{self._id_suffix}", self._created_at, model)
        response = b'"response":' + self._template.render(IN_PROGRESS)
        self._events.add(_CREATED, response)
        self._events.add(_IN_PROGRESS, response)

    def _final(self, status: bytes) -> bytes:
        is_completed = status is COMPLETED
        return self._template.render(
            status,
            output=self._output.items,
            completed_at=max(int(self._clock()), self._created_at) if is_completed else None,
            incomplete_details=_INCOMPLETE_DETAILS.get(self._finish_reason or "", NULL),
            usage=usage_json(self._usage),
        )
