"""A cache of what the model list says about each model, so that parsers need no call."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from services.common.errors import ServiceError
from services.common.wildcards import permits
from services.gateway.apis.surface import ModelFacts
from services.gateway.requests.ports import Models
from services.gateway.requests.types import JSONObject

_log = logging.getLogger(__name__)
_REFRESH_SECONDS = 30.0
_RETRY_SECONDS = 1.0
_REASONING_MODELS = ("openai/gpt-oss-*", "qwen/qwen3*")
"""Models that accept `reasoning_effort` (https://console.groq.com/docs/reasoning), if the list has no features."""


class ModelFactsCache:
    """Facts by model name, refreshed in the background; empty until the first refresh.

    Attributes:
        facts: The facts by name. Replaced as a whole.
    """

    def __init__(self, models: Models, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Read the facts from `models`. `sleep` sleeps for a number of seconds."""
        self._models = models
        self._sleep = sleep
        self.facts: Mapping[str, ModelFacts] = {}

    async def poll(self) -> None:
        """Refresh the facts periodically until cancelled. After a failure, the old ones are kept."""
        while True:
            try:
                self.facts = facts_of(await self._models.list_models())
                await self._sleep(_REFRESH_SECONDS)
            except ServiceError as exc:
                _log.warning("The model list could not be read. Retrying.", extra={"reason": exc.reason})
                await self._sleep(_RETRY_SECONDS)


def facts_of(models: Sequence[JSONObject]) -> dict[str, ModelFacts]:
    """Return the facts by model name. Members that are missing or not positive integers count as not known."""
    return {name: _facts(name, model) for model in models if isinstance(name := model.get("id"), str)}


def _facts(name: str, model: JSONObject) -> ModelFacts:
    root = model.get("root")
    served = root if isinstance(root, str) and root else name
    return ModelFacts(
        id=None if served == name else served,
        max_output_tokens=_count(model.get("max_completion_tokens")),
        context_window=_count(model.get("context_window")),
        reasons=_reasons(served, model.get("supported_features")),
        reads_images=_reads_images(model.get("input_modalities")),
    )


def _reasons(served: str, features: object) -> bool:
    return "reasoning" in features if isinstance(features, list) else permits(_REASONING_MODELS, served)


def _reads_images(modalities: object) -> bool | None:
    return "image" in modalities if isinstance(modalities, list) else None


def _count(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
