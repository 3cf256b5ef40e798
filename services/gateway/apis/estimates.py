"""An upper bound of the tokens and the cost of a chat, which limits of tokens and cost hold before the call.

A bound that is too low would charge less than was used, so each part is counted high:

- A text has at most as many tokens as bytes. If the model's tokenizer is installed, it counts the tokens.
- The model's chat template adds tokens to each message and tool, and to the prompt as a whole.
- An image has at most the tokens of the model's largest image.
- The output has at most `max_completion_tokens`: what the client requests, or the operator's default.

The systems `groq/compound*` call models several times, so no bound of theirs is known. Quota charges at most what it
holds.
"""

from collections.abc import Iterator, Mapping
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

    def estimate(self, chat: Chat) -> Estimate:
        """Return the upper bound of a chat in Groq's form."""
        name = chat.members.get("model") or ""
        facts = self._models.facts.get(name)
        model = served_model(name, facts)
        prompt_tokens = _prompt_tokens(chat.members, model)
        price = self._prices.find(model) or self._prices.highest
        return Estimate(
            prompt_tokens,
            self._output_tokens(chat.members, facts) * (chat.members.get("n") or 1),
            -(-prompt_tokens * price.input // 1_000_000),
            price.output,
        )

    def _output_tokens(self, members: JSONObject, facts: ModelFacts | None) -> int:
        if requested := members.get("max_completion_tokens") or members.get("max_tokens"):
            return int(requested)
        most = facts.max_output_tokens if facts else None
        return min(self._default_output_tokens, most or self._default_output_tokens)


def _prompt_tokens(members: JSONObject, model: str) -> int:
    messages, tools = members.get("messages") or [], members.get("tools") or []
    images = 0
    size = 0
    for part in _prompt_parts(members):
        if isinstance(part, dict) and part.get("type") == "image_url":
            images += 1
        else:
            text = _encode(part)
            exact = exact_tokens(model, text.decode())
            size += len(text) if exact is None else exact
    framing = _MESSAGE_TOKENS * (len(messages) + len(tools))
    return size + _IMAGE_TOKENS_MAX * images + framing + _PROMPT_TOKENS


def _prompt_parts(members: JSONObject) -> Iterator[object]:
    """Yield everything that becomes part of the prompt; images separately, since they may be large data URLs."""
    for message in members.get("messages") or ():
        content = message.get("content")
        yield {name: value for name, value in message.items() if name != "content"}
        yield from content if isinstance(content, list) else (content,)
    yield {name: members[name] for name in ("tools", "response_format", "documents") if members.get(name)}
