"""The surfaces of the API, and the form of a request on each."""

import random
from enum import StrEnum
from typing import Any

_MODEL = "openai/gpt-oss-20b"
"""Model of the surfaces whose requests must name one, or usually do."""
_TOKENS_MAX = 16_384


class Surface(StrEnum):
    """A surface; the value is its path below `/api/v1/`."""

    CHAT = "chat"
    CHAT_COMPLETIONS = "chat/completions"
    COMPLETIONS = "completions"
    MESSAGES = "messages"
    RESPONSES = "responses"

    @property
    def path(self) -> str:
        """The path of its requests."""
        return f"/api/v1/{self}"


def surface_of(seed: int, number: int) -> Surface:
    """Return the surface of a seed's request. Any five requests in a row are one of each, in another order.

    It is independent of the plan's other choices, so that a seed's faults and kinds do not depend on the surfaces.
    """
    turn, place = divmod(number, len(Surface))
    order = list(Surface)
    random.Random(f"surfaces of seed {seed}, turn {turn}").shuffle(order)
    return order[place]


def body(surface: Surface, text: str, *, stream: bool, is_bad: bool = False) -> dict[str, Any]:
    """Return a request with one user message, or one that every surface refuses by 400."""
    messages = [{"role": "robot" if is_bad else "user", "content": text}]
    match surface:
        case Surface.COMPLETIONS:
            prompt = [text, text] if is_bad else text
            return {"prompt": prompt, "stream": stream, "stream_options": {"include_usage": True}}
        case Surface.MESSAGES:
            return {"model": _MODEL, "max_tokens": _TOKENS_MAX, "messages": messages, "stream": stream}
        case Surface.RESPONSES:
            return {"model": _MODEL, "input": messages, "stream": stream}
    return {"messages": messages, "stream": stream, "stream_options": {"include_usage": True}}
