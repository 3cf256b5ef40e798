"""Turns of a scripted model: what it answers to each request of a conversation, tool calls included.

The script is in the conversation itself, in a user message, so that clients can run at the same time and a repeated
request gets the same turn:

    [[standin:play turns=%5B{"calls":%5B{"name":"add","arguments":{"a":1}}%5D},{"content":"Done."}%5D]]

`turns` is a JSON array, percent-encoded because a marker contains no spaces and brackets.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote

import msgspec

_PLAY = "[[standin:play "


class Call(msgspec.Struct, forbid_unknown_fields=True):
    """A call of a function, which need not be in the request."""

    name: str
    arguments: dict[str, Any] | str = msgspec.field(default_factory=dict)
    """An object, or text that need not be JSON."""

    @property
    def arguments_json(self) -> str:
        """The arguments as in an answer."""
        return self.arguments if isinstance(self.arguments, str) else msgspec.json.encode(self.arguments).decode()


class Turn(msgspec.Struct, forbid_unknown_fields=True):
    """One answer."""

    reasoning: str = ""
    content: str = ""
    calls: list[Call] = msgspec.field(default_factory=list)
    finish_reason: str | None = None
    """None means `tool_calls` with calls, otherwise `stop`."""


_decoder = msgspec.json.Decoder(tuple[Turn, ...])


def marker(*turns: Turn) -> str:
    """Return the marker that plays `turns`."""
    text = msgspec.json.encode(turns).decode()
    return f"{_PLAY}turns={quote(text, safe='{}:,')}]]"


def parsed(text: str) -> tuple[Turn, ...]:
    """Return the turns of a marker's parameter.

    Raises:
        msgspec.DecodeError: The text is not a JSON array of turns.
    """
    return _decoder.decode(unquote(text))


def position(messages: Sequence[tuple[str, str]]) -> tuple[str, int] | None:
    """Return the last user message that plays turns, and the number of answers since; None if there is none.

    Args:
        messages: The role and text of each message.
    """
    answers = 0
    for role, text in reversed(messages):
        if role == "user" and _PLAY in text:
            return text, answers
        answers += role == "assistant"
    return None
