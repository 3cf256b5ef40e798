"""Texts of answers, and token counting.

An answer has one token per word, or per 12 characters of a longer word. A prompt has one token per 4 characters.
"""

import re
from itertools import cycle, islice

_PIECE = re.compile(r"\s*\S{1,12}|\s+")
_ECHO_CHARACTERS = 200
_CHARACTERS_PER_TOKEN = 4

_THOUGHTS = ("The", "user", "wants", "an", "answer", "and", "I", "am", "only", "a", "stand-in.")
_FILLER = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
UNICODE = 'Grüße aus Łódź: 日本語のテキスト, עברית, <b>bold & "quoted"</b>, \u2028 and emoji 🦔🚀👩‍🚀 — ÿes.'
"""Text that reveals split characters, missing escapes and bytes counted as characters."""


def pieces(text: str) -> tuple[str, ...]:
    """Split `text` into tokens."""
    return tuple(_PIECE.findall(text))


def count_tokens(text: str) -> int:
    """Return the tokens of a prompt text: one per four characters, rounded up; 0 for an empty text."""
    return -(-len(text) // _CHARACTERS_PER_TOKEN)


def greeting(question: str) -> str:
    """Return the default answer, which repeats at most 200 characters of the question."""
    opening = "Hello from the local Groq stand-in; no model is running here."
    said = " ".join(question.split())
    if not said:
        return f"{opening} You said nothing."
    shown = said if len(said) <= _ECHO_CHARACTERS else said[:_ECHO_CHARACTERS] + "…"
    return f"{opening} You said: {shown}"


def thoughts(count: int) -> tuple[str, ...]:
    """Return exactly `count` tokens of reasoning."""
    return _words(_THOUGHTS, count)


def filler(count: int) -> tuple[str, ...]:
    """Return exactly `count` tokens of content."""
    return _words(_FILLER, count)


def bulk(size_bytes: int, piece_bytes: int) -> tuple[str, ...]:
    """Return ASCII text of exactly `size_bytes` in pieces of `piece_bytes`. The last piece may be shorter."""
    whole, rest = divmod(size_bytes, piece_bytes)
    line = "x" * (piece_bytes - 1) + " "
    return (line,) * whole + ((line[:rest],) if rest else ())


def _words(words: tuple[str, ...], count: int) -> tuple[str, ...]:
    chosen = islice(cycle(words), count)
    return tuple(word if index == 0 else f" {word}" for index, word in enumerate(chosen))
