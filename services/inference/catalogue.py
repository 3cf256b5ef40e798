"""Model catalogue: Groq's model list with aliases, fallbacks and restrictions.

The list is refreshed in the background, so requests never wait for it. While Groq is unavailable, the last list is
used, or a built-in one until Groq has answered once. Aliases apply to names that Groq does not list. Fallbacks replace
models that are unavailable. An API key can be restricted to some models; the others are refused, not used as fallbacks
and not listed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from services.common.errors import ErrorDetails, NotFound, PermissionDenied, ServiceError
from services.common.wildcards import permits
from services.inference.chat import JSONObject
from services.inference.groq.built_in_models import BUILT_IN_MODELS

_log = logging.getLogger(__name__)
_REFRESH_SECONDS = 60.0
_RETRY_SECONDS = 2.0
_NAME_CHARACTERS_MAX = 256
"""Maximum length of a model's name; the same as the ledger's columns."""


class Lister(Protocol):
    """Port to the source of the model list."""

    async def list_models(self) -> list[JSONObject]:
        """Return the models that Groq serves.

        Raises:
            ServiceError: The list cannot be read.
        """


class Catalogue:
    """A cache of Groq's model list, with aliases, fallbacks and restrictions."""

    def __init__(
        self,
        lister: Lister,
        aliases: Mapping[str, str],
        *,
        allowed: Sequence[str] = (),
        fallbacks: Mapping[str, Sequence[str]] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Create a catalogue with the built-in list.

        Args:
            lister: Source of the list.
            aliases: Model name → Groq model to use instead.
            allowed: Names of the permitted models, or patterns with `*`; empty permits all.
            fallbacks: Model name → models to try, in order, if the model is unavailable.
            sleep: Sleeps for a number of seconds.
        """
        self._lister = lister
        self._aliases = aliases
        self._allowed = tuple(allowed)
        self._fallbacks = fallbacks or {}
        self._sleep = sleep
        self._models: Mapping[str, JSONObject] = {str(model["id"]): model for model in BUILT_IN_MODELS}

    async def refresh_periodically(self) -> None:
        """Refresh the list every minute until cancelled; after a failure, retry with exponential backoff."""
        retry_seconds = _RETRY_SECONDS
        while True:
            if await self.refresh():
                retry_seconds = _RETRY_SECONDS
                await self._sleep(_REFRESH_SECONDS)
            else:
                await self._sleep(retry_seconds)
                retry_seconds = min(2 * retry_seconds, _REFRESH_SECONDS)

    async def refresh(self) -> bool:
        """Refresh the list and return whether that succeeded. The old list is kept on failure."""
        try:
            models = await self._lister.list_models()
        except ServiceError as exc:
            _log.warning("The model list could not be refreshed. Retrying.", extra={"reason": exc.reason})
            return False
        self._models = {str(model.get("id")): model for model in models}
        return True

    def list_models(self, *, permitted: Sequence[str] = ()) -> list[JSONObject]:
        """Return the permitted models: Groq's, and aliases with the details of their models, which `root` names.

        Args:
            permitted: Same as for `candidates`.
        """
        aliases = {
            alias: {**self._models[target], "id": alias, "root": target}
            for alias, target in self._aliases.items()
            if alias not in self._models and target in self._models
        }
        models = {**self._models, **aliases}
        return [
            model
            for name, model in models.items()
            if self._matches(name, self._allowed) and self._matches(name, permitted)
        ]

    def candidates(self, name: str, *, permitted: Sequence[str] = ()) -> list[str]:
        """Return the Groq models to try for a requested model, in order.

        Args:
            name: Requested model.
            permitted: Names of the models permitted to the API key, or patterns with `*`; empty permits all. Aliases
                and fallbacks match by their own name or their model's.

        Raises:
            NotFound: The operator does not permit the model.
            PermissionDenied: The API key is restricted to other models.
        """
        if len(name) > _NAME_CHARACTERS_MAX or not self._matches(name, self._allowed):
            message = f"The model `{_shortened(name)}` does not exist or you do not have access to it."
            raise NotFound(message, reason="model_not_found", details=ErrorDetails(code="model_not_found"))
        if not self._matches(name, permitted):
            raise _not_permitted(name)
        target = self.resolve(name)
        fallbacks = self._fallbacks.get(name) or self._fallbacks.get(target, ())
        others = [self.resolve(fallback) for fallback in fallbacks if self._matches(fallback, permitted)]
        return list(dict.fromkeys([target, *others]))

    def resolve(self, name: str) -> str:
        """Return `name` if Groq lists it or it has no alias, otherwise the alias' model."""
        return name if name in self._models else self._aliases.get(name, name)

    def _matches(self, name: str, patterns: Sequence[str]) -> bool:
        """Return whether a model matches a pattern, by its own name or its alias' model; no patterns match all."""
        return permits(patterns, name, self.resolve(name))


def _not_permitted(name: str) -> PermissionDenied:
    message = (
        f"This API key does not have access to the model `{_shortened(name)}`. Use a model listed by "
        "GET /api/v1/models, or an API key that has access."
    )
    return PermissionDenied(message, reason="model_not_allowed")


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_CHARACTERS_MAX else f"{name[:_NAME_CHARACTERS_MAX]}…"
