"""The interface between the request handler and an API surface, such as `/v1/responses`.

A surface is a package with three functions. They perform no I/O and read no clock except the one in `Context`.

    parse(body, context)              Return the chat request that the body means, and the renderer of its answer.
    error(error, *, request_id)       Return an error in the surface's envelope.
    schema(limits)                    Return the JSON Schema of a request body.

The order of calls to a renderer is `begin`, then either `completion`, or `events` any number of times followed by
`end` or `stream_error`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from services.gateway.apis.chat_completions.limits import DEFAULT_LIMITS, ChatLimits
from services.gateway.apis.model_aliases import ModelAliases
from services.gateway.http.errors import HTTPError
from services.gateway.requests.types import Chat

CUT_STREAM = HTTPError(
    502,
    "The model provider ended the answer without a finish reason. Send the request again.",
    "internal_error",
    code="upstream_cut",
)
"""The error of a stream that ended without a finish reason, which must not look complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the model list says about one model."""

    max_output_tokens: int | None = None
    """Groq answers 400 to a larger `max_completion_tokens`. None means not known."""
    context_window: int | None = None
    """Tokens of prompt and answer together. None means not known."""
    reasons: bool = False
    """Whether the model accepts `reasoning_effort`."""
    reads_images: bool | None = None
    """Whether the model accepts images: `input_modalities` in Groq's list. None means not known."""
    id: str | None = None
    """Groq's id of the model, if it was looked up by an alias. None means that the name is the id."""


def served_model(name: str, facts: ModelFacts | None) -> str:
    """Return Groq's id of the model that a client calls `name`."""
    return (facts.id if facts else None) or name


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a parser may know besides the body."""

    limits: ChatLimits = DEFAULT_LIMITS
    """Size limits, the same as for chat."""
    models: Mapping[str, ModelFacts] = field(default_factory=dict)
    """Facts by model name. Models may be missing."""
    aliases: ModelAliases = ModelAliases()  # noqa: RUF009 - immutable
    """Models that answer under other names."""
    clock: Callable[[], float] = time.time
    """Returns Unix seconds."""

    def model(self, name: str) -> ModelFacts | None:
        """Return the facts about a model, or None if it is not known."""
        return self.models.get(name)


class Renderer(Protocol):
    """Renders the answer to one request. An instance serves one request only."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Additional response headers, valid after `begin`."""

    def begin(self, request_id: str, now: float) -> None:
        """Prepare for the first output.

        Args:
            request_id: The final id of the request, `req_…`. The ids in the answer derive from it.
            now: Unix seconds at which the request was admitted.
        """

    def completion(self, body: bytes) -> bytes:
        """Return the whole answer for a chat completion. Both are JSON texts.

        Raises:
            Unavailable: The completion is not a JSON object.
        """

    def events(self, texts: list[bytes]) -> bytes:
        """Return the server-sent events for chat chunks that arrived together; may be empty.

        Raises:
            Unavailable: A chunk is not a JSON object.
        """

    def end(self) -> bytes:
        """Return the last events of a successful stream."""

    def stream_error(self, error: HTTPError) -> bytes:
        """Return the last events of a stream that failed."""

    def heartbeat(self) -> bytes:
        """Return what is sent while no events arrive."""


@dataclass(frozen=True, slots=True)
class SurfaceRequest:
    """A parsed request."""

    chat: Chat
    """The request in Groq's form, as `parse_chat` returns it."""
    renderer: Renderer
    """Renders its answer."""


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """An HTTP error in the envelope of a surface."""

    status: int
    body: bytes
    """JSON text."""
    headers: Mapping[str, str]
