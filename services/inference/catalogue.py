"""The models that can be asked for: Groq's list, kept fresh, within what the operator allows.

Requests never wait for the list: it is refreshed beside them, an old one serves while Groq does not answer, and a
built-in one until Groq has answered for the first time. Aliases stand for names that Groq does not list, fallbacks for
models that cannot be had at the moment. A key may be limited to some models: it is refused the others, does not fall
back to them, and does not see them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from services.common.errors import NotFound, PermissionDenied, ServiceError
from services.common.wildcards import permits
from services.inference.chat import JSONObject
from services.inference.groq.built_in_models import BUILT_IN_MODELS

_log = logging.getLogger(__name__)
_FRESH_SECONDS = 60.0
_RETRY_SECONDS = 2.0
_NAME_CHARACTERS_MAX = 256
"""Longest name of a model, also in the ledger (tables.py)."""


class Lister(Protocol):
    """Source of the list."""

    async def list_models(self) -> list[JSONObject]:
        """Return the models that are served now; raises errors of the service tree."""


class Catalogue:
    """Answers from a copy of Groq's list."""

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
            aliases: Names and what to ask Groq for instead.
            allowed: Names, or patterns with `*`, of the models that may be asked for; none allows all.
            fallbacks: Models and what to ask for, in order, when they cannot be had.
            sleep: Waits.
        """
        self._lister = lister
        self._aliases = aliases
        self._allowed = tuple(allowed)
        self._fallbacks = fallbacks or {}
        self._sleep = sleep
        self._models: Mapping[str, JSONObject] = {str(model["id"]): model for model in BUILT_IN_MODELS}

    async def keep_fresh(self) -> None:
        """Refresh the list every minute until cancelled, and sooner after a failure."""
        retry_seconds = _RETRY_SECONDS
        while True:
            if await self.refresh():
                retry_seconds = _RETRY_SECONDS
                await self._sleep(_FRESH_SECONDS)
            else:
                await self._sleep(retry_seconds)
                retry_seconds = min(2 * retry_seconds, _FRESH_SECONDS)

    async def refresh(self) -> bool:
        """Ask for the list; return whether Groq answered. The old list stays when it did not."""
        try:
            models = await self._lister.list_models()
        except ServiceError as exc:
            _log.warning("The model list could not be refreshed.", extra={"reason": exc.reason})
            return False
        self._models = {str(model.get("id")): model for model in models}
        return True

    def listed(self, *, permitted: Sequence[str] = ()) -> list[JSONObject]:
        """Return the models that may be asked for: Groq's, and aliases with what is known of their models.

        Args:
            permitted: As for `candidates`.
        """
        aliases = {
            alias: {**self._models[target], "id": alias}
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
        """Return what to ask Groq for when asked for `name`, in order.

        Args:
            name: The model asked for.
            permitted: Names, or patterns with `*`, that the caller is limited to; none permits all. An alias matches by
                its own name or its model's, and so does a fallback.

        Raises:
            NotFound: The model may not be asked for.
            PermissionDenied: This caller may not ask for it.
        """
        if len(name) > _NAME_CHARACTERS_MAX or not self._matches(name, self._allowed):
            message = f"The model `{_shown(name)}` does not exist or you do not have access to it."
            raise NotFound(message, reason="model_not_found", metadata={"code": "model_not_found"})
        if not self._matches(name, permitted):
            raise _not_permitted(name)
        target = self.resolve(name)
        fallbacks = self._fallbacks.get(name) or self._fallbacks.get(target, ())
        others = [self.resolve(one) for one in fallbacks if self._matches(one, permitted)]
        return list(dict.fromkeys([target, *others]))

    def resolve(self, name: str) -> str:
        """Return the name to ask Groq for: `name` itself, or what its alias stands for when Groq does not list it."""
        return name if name in self._models else self._aliases.get(name, name)

    def _matches(self, name: str, patterns: Sequence[str]) -> bool:
        """Return whether a model is one of some patterns, by its own name or what it stands for; none match all."""
        return permits(patterns, name, self.resolve(name))


def _not_permitted(name: str) -> PermissionDenied:
    message = (
        f"This API key may not ask for the model `{_shown(name)}`. Ask for one that GET /api/v1/models lists, or use a "
        "key that is not limited to other models."
    )
    return PermissionDenied(message, reason="model_not_allowed")


def _shown(name: str) -> str:
    return name if len(name) <= _NAME_CHARACTERS_MAX else f"{name[:_NAME_CHARACTERS_MAX]}…"
