"""Allow lists of names with `*` wildcards."""

from collections.abc import Sequence


def permits(patterns: Sequence[str], *names: str) -> bool:
    """Return whether a pattern matches any of `names`, which are aliases of each other. No patterns permit all."""
    return not patterns or any(matches(pattern, name) for pattern in patterns for name in names)


def matches(pattern: str, name: str) -> bool:
    """Return whether a name matches a pattern in which each `*` matches any text, including none.

    Implemented without regular expressions, which can backtrack exponentially on patterns with many stars.
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
