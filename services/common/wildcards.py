"""Lists of names that may end in, begin with or hold `*`: what they permit."""

from collections.abc import Sequence


def permits(patterns: Sequence[str], *names: str) -> bool:
    """Whether one of `patterns` fits one of `names`, all of which name the same thing; no patterns permit all."""
    return not patterns or any(_matches(pattern, name) for pattern in patterns for name in names)


def _matches(pattern: str, name: str) -> bool:
    """Whether `*` of a pattern can stand for something that makes it the name.

    No regular expression: one with many stars takes as long as an attacker likes.
    """
    first, *middle = pattern.split("*")
    if not middle:
        return name == pattern
    last = middle.pop()
    position, end = len(first), len(name) - len(last)
    if position > end or not (name.startswith(first) and name.endswith(last)):
        return False
    for part in middle:
        position = name.find(part, position, end)
        if position < 0:
            return False
        position += len(part)
    return True
