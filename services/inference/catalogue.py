"""The models that can be asked for: Groq's list, kept fresh, within what the operator allows.

Aliases stand for names that Groq no longer lists, fallbacks for models that cannot be had just now. A key may be bound
to some of the models: it is refused the others, and does not fall back to them.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from services.common.clock import Clock
from services.common.errors import NotFound, PermissionDenied, ServiceError
from services.common.wildcards import permits
from services.inference.chat import Members

_log = logging.getLogger(__name__)
_FRESH_SECONDS = 60.0
_RETRY_SECONDS = 2.0
_SHOWN_CHARACTERS_MAX = 256
"""Of a name in a message: gRPC's bound for what goes with a failure is 8 KiB, and a failure beyond it says nothing."""


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
        self._allowed = tuple(allowed)
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
        allowed = self._allowed
        listed = [model for name, model in models.items() if permits(allowed, name)]
        return listed + [model for alias, model in aliases.items() if permits(allowed, alias, self._aliases[alias])]

    async def candidates(self, name: str, *, permitted: Sequence[str] = ()) -> list[str]:
        """Return what to ask Groq for when asked for `name`, in order.

        Args:
            name: The model asked for.
            permitted: Names, or patterns with `*`, that the caller is bound to; none permits all. An alias counts by
                its own name or its model's, and so does a fallback.

        Raises:
            NotFound: The model may not be asked for by anybody.
            PermissionDenied: This caller may not ask for it.
        """
        target = await self.resolve(name)
        if not permits(self._allowed, name, target):
            message = f"The model `{_shown(name)}` does not exist or you do not have access to it."
            raise NotFound(message, reason="model_not_found", metadata={"code": "model_not_found"})
        if not permits(permitted, name, target):
            raise _not_permitted(name)
        fallbacks = self._fallbacks.get(name) or self._fallbacks.get(target, ())
        resolved = [(one, await self.resolve(one)) for one in fallbacks]
        return list(dict.fromkeys([target, *[model for one, model in resolved if permits(permitted, one, model)]]))

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
            self._models = await self._lister.list_models()
        except ServiceError as exc:
            self._failure = exc
            self._stale_at = self._clock.monotonic() + _RETRY_SECONDS
            return
        self._failure = None
        self._names = frozenset(str(model.get("id")) for model in self._models)
        self._stale_at = self._clock.monotonic() + _FRESH_SECONDS


def _not_permitted(name: str) -> PermissionDenied:
    message = (
        f"This API key may not ask for the model `{_shown(name)}`. Ask for one that GET /api/v1/models lists, or use a "
        "key that is not bound to other models."
    )
    return PermissionDenied(message, reason="model_not_allowed")


def _shown(name: str) -> str:
    return name if len(name) <= _SHOWN_CHARACTERS_MAX else f"{name[:_SHOWN_CHARACTERS_MAX]}…"
