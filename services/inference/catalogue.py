"""The models that can be asked for: Groq's list, kept fresh, within what the operator allows.

Aliases stand for names that Groq no longer lists, fallbacks for models that cannot be had just now.
"""

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from services.common.clock import Clock
from services.common.errors import NotFound, ServiceError
from services.inference.chat import Members

_log = logging.getLogger(__name__)
_FRESH_SECONDS = 60.0
_RETRY_SECONDS = 2.0


class Lister(Protocol):
    """Who knows the models."""

    async def list_models(self) -> list[Members]:
        """Return the models that are served now; raises errors of the service tree."""


class Catalogue:
    """Answers from a copy of Groq's list that is at most a minute old while Groq can be asked."""

    def __init__(
        self,
        lister: Lister,
        aliases: Mapping[str, str],
        clock: Clock,
        *,
        allowed: Sequence[str] = (),
        fallbacks: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Ask `lister` for the list.

        Args:
            lister: Who knows the models.
            aliases: Names and what to ask Groq for instead.
            clock: Where the time comes from.
            allowed: Names, or patterns with `*`, of the models that may be asked for; none allows all.
            fallbacks: Models and what to ask for, in order, when they cannot be had.
        """
        self._lister = lister
        self._aliases = aliases
        self._clock = clock
        self._allowed = re.compile("|".join(".*".join(map(re.escape, one.split("*"))) for one in allowed or ["*"]))
        self._fallbacks = fallbacks or {}
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

    async def listed(self) -> list[Members]:
        """Return the models that may be asked for: of Groq's, and aliases with what is known of their models.

        Raises:
            ServiceError: As `models`.
        """
        models = {str(model.get("id")): model for model in await self.models()}
        aliases = {
            alias: {**models[target], "id": alias}
            for alias, target in self._aliases.items()
            if alias not in models and target in models
        }
        listed = [model for name, model in models.items() if self._is_allowed(name)]
        return listed + [model for alias, model in aliases.items() if self._is_allowed(alias, self._aliases[alias])]

    async def candidates(self, name: str) -> list[str]:
        """Return what to ask Groq for when asked for `name`, in order.

        Raises:
            NotFound: The model may not be asked for.
        """
        target = await self.resolve(name)
        if not self._is_allowed(name, target):
            message = f"The model `{name}` does not exist or you do not have access to it."
            raise NotFound(message, reason="model_not_found", metadata={"code": "model_not_found"})
        fallbacks = self._fallbacks.get(name) or self._fallbacks.get(target, ())
        return list(dict.fromkeys([target, *[await self.resolve(one) for one in fallbacks]]))

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

    def _is_allowed(self, *names: str) -> bool:
        return any(self._allowed.fullmatch(one) is not None for one in names)

    def _is_stale(self) -> bool:
        return self._clock.monotonic() >= self._stale_at

    async def _load(self) -> None:
        try:
            self._models = await self._lister.list_models()
        except ServiceError as exc:
            self._failure = exc
            self._stale_at = self._clock.monotonic() + _RETRY_SECONDS
            return
        self._failure = None
        self._names = frozenset(str(model.get("id")) for model in self._models)
        self._stale_at = self._clock.monotonic() + _FRESH_SECONDS
