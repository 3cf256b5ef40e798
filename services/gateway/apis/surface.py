"""The interface between the request handler and an API surface, such as `/v1/responses`.

A surface is a package with three functions. They perform no I/O and read no clock except the one in `Context`.

    parse(body, context)              Return the chat request that the body means, and the renderer of its answer.
    error(error, *, request_id)       Return an error in the surface's envelope.
    schema(limits)                    Return the JSON Schema of a request body.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from services.gateway.apis.chat_completions.limits import DEFAULT_LIMITS, ChatLimits
from services.gateway.apis.model_aliases import ModelAliases
from services.gateway.http.errors import HTTPError

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
    """Groq's id of the model, if its name is an alias: `root` in the list. None means that the name is the id."""


def served_model(name: str, facts: ModelFacts | None) -> str:
    """Return Groq's id of the model that a client calls `name`.

    Decisions about a model use this id. Requests keep the name: inference resolves it, and it selects the model's
    fallbacks, the API keys that may use it, and the ledger's rows.
    """
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
