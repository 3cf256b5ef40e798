"""The words of the stand-in, and how it counts tokens: a word, or twelve characters of a longer one, is a token."""

import re
from itertools import cycle, islice

_PIECE = re.compile(r"\s*\S{1,12}|\s+")
_ECHO_CHARACTERS = 200
_CHARACTERS_PER_TOKEN = 4

_THOUGHTS = ("The", "user", "wants", "an", "answer", "and", "I", "am", "only", "a", "stand-in.")
_FILLER = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
UNICODE = 'Grüße aus Łódź: 日本語のテキスト, עברית, <b>bold & "quoted"</b>, \u2028 and emoji 🦔🚀👩‍🚀 — ÿes.'
"""Text that breaks whoever cuts bytes, forgets an escape or counts bytes as characters."""


def pieces(text: str) -> tuple[str, ...]:
    """Return the tokens of `text`; joined, they are `text` again."""
    return tuple(_PIECE.findall(text))


def count_tokens(text: str) -> int:
    """Return how many tokens a prompt text costs: four characters each, rounded up; 0 for no text."""
    return -(-len(text) // _CHARACTERS_PER_TOKEN)


def greeting(question: str) -> str:
    """Return the usual answer, which repeats at most 200 characters of the question."""
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
    """Return ASCII text of exactly `size_bytes`, in pieces of `piece_bytes`; the last may be shorter."""
    whole, rest = divmod(size_bytes, piece_bytes)
    line = "x" * (piece_bytes - 1) + " "
    return (line,) * whole + ((line[:rest],) if rest else ())


def _words(words: tuple[str, ...], count: int) -> tuple[str, ...]:
    chosen = islice(cycle(words), count)
    return tuple(word if index == 0 else f" {word}" for index, word in enumerate(chosen))
