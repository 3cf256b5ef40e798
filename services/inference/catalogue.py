"""The models that can be asked for: Groq's list, kept fresh, and aliases for names that Groq no longer lists."""

import asyncio
import logging
from collections.abc import Mapping

from services.common.clock import Clock
from services.common.errors import ServiceError
from services.inference.chat import Members, Provider

_log = logging.getLogger(__name__)
_FRESH_SECONDS = 60.0
_RETRY_SECONDS = 2.0


class Catalogue:
    """Answers from a copy of Groq's list that is at most a minute old while Groq can be asked."""

    def __init__(self, provider: Provider, aliases: Mapping[str, str], clock: Clock) -> None:
        """Ask `provider`; `aliases` maps names to what to ask Groq for instead."""
        self._provider = provider
        self._aliases = aliases
        self._clock = clock
        self._models: list[Members] = []
        self._names: frozenset[str] = frozenset()
        self._stale_at = 0.0
        self._failure: ServiceError | None = None
        self._loading = asyncio.Lock()

    async def models(self) -> list[Members]:
        """Return Groq's models; an old list when Groq cannot be asked now.

        Raises:
            ServiceError: Groq could not be asked, now or ever before.
        """
        if self._is_stale():
            async with self._loading:
                if self._is_stale():
                    await self._load()
        if self._failure is not None and not self._models:
            raise self._failure
        return self._models

    async def resolve(self, name: str) -> str:
        """Return the name to ask Groq for: `name` itself, or its alias when Groq does not list it."""
        alias = self._aliases.get(name)
        if alias is None:
            return name
        try:
            await self.models()
        except ServiceError as exc:
            _log.warning("the model list is not known; using the alias", extra={"error": exc.message})
        return name if name in self._names else alias

    def _is_stale(self) -> bool:
        return self._clock.monotonic() >= self._stale_at

    async def _load(self) -> None:
        try:
            self._models = await self._provider.list_models()
        except ServiceError as exc:
            self._failure = exc
            self._stale_at = self._clock.monotonic() + _RETRY_SECONDS
            return
        self._failure = None
        self._names = frozenset(str(model.get("id")) for model in self._models)
        self._stale_at = self._clock.monotonic() + _FRESH_SECONDS
