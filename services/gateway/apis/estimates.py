"""An upper bound of the tokens and the cost of a chat, which limits of tokens and cost hold before the call.

A bound that is too low would charge less than was used, so each part is counted high:

- A text has at most as many tokens as bytes. If the model's tokenizer is installed, it counts the tokens. All that is
  passed on counts as text, except the data of images.
- The model's chat template adds tokens to each message and tool, and to the prompt as a whole.
- An image has at most the tokens of the model's largest image.
- The output has at most `max_completion_tokens`: what the client requests, or the operator's default.

The systems `groq/compound*` call models several times, so no bound of theirs is known. Quota charges at most what it
holds.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec.json import Encoder

from services.common.estimate import Estimate
from services.common.prices import Prices
from services.gateway.apis.surface import ModelFacts, served_model
from services.gateway.apis.tokenizers import exact_tokens
from services.gateway.requests.types import Chat, JSONObject

_encode = Encoder().encode
_IMAGE_TOKENS_MAX = 3_000
"""Llama 4 splits an image into at most 16 tiles of 144 tokens and an overview; Qwen 3 counts at most 2,900."""
_PROMPT_TOKENS = 300
"""What the template of a model adds to a prompt, such as gpt-oss' system message."""
_MESSAGE_TOKENS = 16
"""What a template adds to a message or a tool, in addition to the bytes of its JSON."""
_OUTPUT_TOKENS_MAX = 1_000_000
"""More than any model generates; Groq refuses a request for more than the model's maximum."""
_CHOICES_MAX = 128
_INLINE_BYTES_MAX = 32_768
"""Counting the tokens of this many bytes takes a millisecond, and of letters without blanks ten."""
_THREADS_MAX = 2


class Models(Protocol):
    """Facts about the models."""

    @property
    def facts(self) -> Mapping[str, ModelFacts]:
        """The facts by model name. Models may be missing."""


class Estimator:
    """Estimates chats."""

    def __init__(self, models: Models, prices: Prices, *, default_output_tokens: int) -> None:
        """Create an estimator.

        Args:
            models: Facts about the models.
            prices: Their prices. A chat whose model has none, or that names no model, is held at the highest price.
            default_output_tokens: Tokens of output of a chat that does not limit them.
        """
        self._models = models
        self._prices = prices
        self._default_output_tokens = default_output_tokens
        self._counting = asyncio.Semaphore(_THREADS_MAX)

    async def estimate(self, chat: Chat) -> Estimate:
        """Return the upper bound of a chat in Groq's form."""
        name = chat.members.get("model") or ""
        facts = self._models.facts.get(name)
        model = served_model(name, facts)
        images, texts = _prompt_texts(chat.members)
        prompt_tokens = await self._text_tokens(model, texts) + _IMAGE_TOKENS_MAX * images + _framing(chat.members)
        price = self._prices.find(model) or self._prices.highest
        return Estimate(
            prompt_tokens,
            self._output_tokens(chat.members, facts) * _choices(chat.members),
            -(-(prompt_tokens * price.input + images * price.image) // 1_000_000),
            price.output,
        )

    async def _text_tokens(self, model: str, texts: Sequence[bytes]) -> int:
        """Return the number of tokens of texts, at most."""
        size = sum(map(len, texts))
        if size <= _INLINE_BYTES_MAX:
            return _count(model, texts)
        # A long text takes a tokenizer up to a second. When all threads for that are taken, bytes are the bound.
        if self._counting.locked():
            return size
        async with self._counting:
            return await asyncio.to_thread(_count, model, texts)

    def _output_tokens(self, members: JSONObject, facts: ModelFacts | None) -> int:
        if requested := members.get("max_completion_tokens") or members.get("max_tokens"):
            return min(int(requested), _OUTPUT_TOKENS_MAX)
        most = facts.max_output_tokens if facts else None
        return min(self._default_output_tokens, most or self._default_output_tokens)


def _choices(members: JSONObject) -> int:
    """Return the number of answers that a chat requests."""
    return min(int(members.get("n") or 1), _CHOICES_MAX)


def _count(model: str, texts: Sequence[bytes]) -> int:
    exact = [exact_tokens(model, text.decode()) for text in texts]
    return sum(len(text) if tokens is None else tokens for text, tokens in zip(texts, exact, strict=True))


def _framing(members: JSONObject) -> int:
    parts = sum(len(members.get(name) or ()) for name in ("messages", "tools", "functions"))
    return _PROMPT_TOKENS + _MESSAGE_TOKENS * parts


def _prompt_texts(members: JSONObject) -> tuple[int, list[bytes]]:
    """Return the number of images, and the JSON of everything else: any member may become part of the prompt."""
    messages = members.get("messages") or ()
    if all(isinstance(message.get("content"), str) for message in messages):
        return 0, [_encode(members)]
    images = 0
    texts = [_encode({name: value for name, value in members.items() if name != "messages"})]
    for message in messages:
        content = message.get("content")
        texts.append(_encode({name: value for name, value in message.items() if name != "content"}))
        for part in content if isinstance(content, list) else (content,):
            is_image = isinstance(part, dict) and part.get("type") == "image_url"
            images += is_image
            texts.append(_encode(_without_url(part) if is_image else part))
    return images, texts


def _without_url(part: JSONObject) -> JSONObject:
    """Return an image without its data, which is not text."""
    image = part.get("image_url")
    rest = {name: value for name, value in image.items() if name != "url"} if isinstance(image, dict) else {}
    return {**part, "image_url": rest}
