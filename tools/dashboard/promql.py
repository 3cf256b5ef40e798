"""The metrics and labels in a PromQL query: enough of the grammar to find names that do not exist."""

import re
from collections.abc import Iterator

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_RANGE = re.compile(r"\[[^\]]*\]")
_SELECTOR = re.compile(r"\{([^}]*)\}")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_NAME = re.compile(r"(?<![\w.])([a-zA-Z_:][\w:]*)\b(?!\s*\()")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_WORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring"}


def metrics(query: str) -> set[str]:
    """Return the names of all series that a query reads."""
    bare = _RANGE.sub("", _SELECTOR.sub("", _GROUPING.sub("", _STRING.sub("", query))))
    return set(_NAME.findall(bare)) - _WORDS


def labels(query: str) -> set[str]:
    """Return the labels in its selectors and groupings."""
    return set(_named(_STRING.sub("", query)))


def _named(bare: str) -> Iterator[str]:
    for selector in _SELECTOR.findall(bare):
        yield from _MATCHER.findall(selector)
    for grouping in _GROUPING.findall(bare):
        yield from (label.strip() for label in grouping.split(",") if label.strip())
