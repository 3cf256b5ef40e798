"""Prices of models, and the cost of a request in integer microdollars (millionths of a US dollar).

A price is an integer too: microdollars per million units. A unit is a token, a second of audio or an image. A cost is
computed exactly and rounded up once per request.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from services.common.wildcards import matches

_MILLION = 1_000_000
_CACHED_MODELS_MAX = 1_024
"""Callers choose the names of models."""


class TokenCounts(Protocol):
    """Token counts of one call to a model."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, including cached ones."""

    @property
    def completion_tokens(self) -> int:
        """Generated tokens, including reasoning."""

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens from the upstream's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPrice:
    """Prices of one model, each in microdollars per million units."""

    input: int = 0
    """Per million prompt tokens that are not cached."""
    cached_input: int = 0
    """Per million cached prompt tokens; at most `input`, so that `input` bounds the cost of any prompt."""
    output: int = 0
    """Per million generated tokens."""
    audio_second: int = 0
    """Per million seconds of audio."""
    image: int = 0
    """Per million images, in addition to the tokens that the upstream counts for them."""

    def picodollars(self, tokens: TokenCounts, *, audio_seconds: int = 0, images: int = 0) -> int:
        """Return the exact cost of one call in picodollars, millionths of a microdollar."""
        cached = min(tokens.cached_tokens, tokens.prompt_tokens)
        return (
            (tokens.prompt_tokens - cached) * self.input
            + cached * self.cached_input
            + tokens.completion_tokens * self.output
            + audio_seconds * self.audio_second
            + images * self.image
        )


@dataclass(frozen=True, slots=True)
class PricedCall:
    """What one call to a model used."""

    model: str
    """Upstream model."""
    tokens: TokenCounts
    audio_seconds: int = 0
    images: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was used."""
        return not (self.tokens.prompt_tokens or self.tokens.completion_tokens or self.audio_seconds or self.images)


class Prices:
    """A price table."""

    def __init__(self, models: Mapping[str, ModelPrice]) -> None:
        """Create a table.

        Args:
            models: Prices by upstream model. A name with `*` is a pattern. An exact name takes precedence over
                patterns, and an earlier pattern over a later one, so that `*` at the end prices all other models.
        """
        self._models = {name: price for name, price in models.items() if "*" not in name}
        self._patterns = [(name, price) for name, price in models.items() if "*" in name]
        self.highest = ModelPrice(
            input=max((price.input for price in models.values()), default=0),
            output=max((price.output for price in models.values()), default=0),
            image=max((price.image for price in models.values()), default=0),
        )
        """An upper bound of the prices of all models."""
        self.has_image_prices = any(price.image for price in models.values())
        """Whether images must be counted."""
        self.find = lru_cache(maxsize=_CACHED_MODELS_MAX)(self._find)
        """Return the prices of a model; None if it has none."""

    def input_price(self, model: str) -> int | None:
        """Return the price of a prompt token in microdollars per million; None if the model has no price."""
        price = self.find(model)
        return None if price is None else price.input

    def output_price(self, model: str) -> int | None:
        """Return the price of a generated token in microdollars per million; None if the model has no price."""
        price = self.find(model)
        return None if price is None else price.output

    def cost(self, model: str, tokens: TokenCounts, *, audio_seconds: int = 0, images: int = 0) -> int | None:
        """Return the cost of a call in microdollars, rounded up; None if the model has no price.

        Args:
            model: Upstream model that answered.
            tokens: Token counts of the call.
            audio_seconds: Seconds of audio in the call.
            images: Images in the call.
        """
        return self.total_cost([PricedCall(model, tokens, audio_seconds, images)])

    def total_cost(self, calls: Iterable[PricedCall]) -> int | None:
        """Return the cost of all calls of one request in microdollars, rounded up once.

        Returns 0 if nothing was used, and None if a model that was used has no price.
        """
        total = 0
        for call in calls:
            if call.is_empty:
                continue
            price = self.find(call.model)
            if price is None:
                return None
            total += price.picodollars(call.tokens, audio_seconds=call.audio_seconds, images=call.images)
        return -(-total // _MILLION)

    def _find(self, model: str) -> ModelPrice | None:
        if (price := self._models.get(model)) is not None:
            return price
        return next((price for pattern, price in self._patterns if matches(pattern, model)), None)


def dollars(microdollars: int) -> str:
    """Return an amount as an exact decimal number of US dollars with at least two decimals, such as `0.001234`."""
    whole, fraction = divmod(microdollars, _MILLION)
    decimals = f"{fraction:06}"
    return f"{whole}.{decimals[:2]}{decimals[2:].rstrip('0')}"
