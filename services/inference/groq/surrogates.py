"""Repair of surrogates, which UTF-8 cannot encode.

In JSON's `\\u` notation, a character outside the Basic Multilingual Plane, such as an emoji, is a pair of surrogates.
If a stream is split between the two, each chunk contains one lone surrogate.
"""

from collections.abc import Iterator
from typing import Any

from services.inference.chat import JSONObject
from services.inference.groq.errors import UpstreamInvalid

_Path = tuple[Any, ...]
_EMPTY: dict[str, Any] = {"tool_calls": []}
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def without_surrogates(value: Any) -> Any:
    """Return a JSON value with surrogate pairs joined and lone surrogates replaced by U+FFFD."""
    if isinstance(value, str):
        return value if value.isascii() else _joined(value)
    if isinstance(value, list):
        return [without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {without_surrogates(name): without_surrogates(member) for name, member in value.items()}
    return value


class SurrogateJoiner:
    """Joins surrogate pairs across the chunks of one stream, field by field."""

    def __init__(self) -> None:
        self._waiting: dict[_Path, str] = {}
        """High surrogates at the end of a field's text, by the field's path."""

    @property
    def is_waiting(self) -> bool:
        """Whether the next chunk may contain the second half of a pair."""
        return bool(self._waiting)

    def forget(self) -> None:
        """Drop the halves that wait."""
        self._waiting.clear()

    def join(self, chunk: JSONObject) -> None:
        """Make every string of a chunk encodable, in place.

        The first half of a pair is held back until the chunk with the second half. If its choice finishes without one,
        U+FFFD is added to the finishing chunk.

        Raises:
            UpstreamInvalid: An index is an array or an object.
            RecursionError: The chunk is nested too deeply.
        """
        choices = chunk.pop("choices", None)
        others = without_surrogates(chunk)
        chunk.clear()
        chunk.update(others)
        if not isinstance(choices, list):
            return
        for choice in choices:
            if isinstance(choice, dict):
                self._join_choice(choice)
        chunk["choices"] = [without_surrogates(choice) for choice in choices]

    def _join_choice(self, choice: JSONObject) -> None:
        index = _checked_index(choice.get("index"))
        delta = choice.get("delta")
        if isinstance(delta, dict):
            choice["delta"] = self._joined_value((index,), delta)
        if choice.get("finish_reason"):
            self._flush(index, choice)

    def _joined_value(self, path: _Path, value: Any) -> Any:
        if isinstance(value, str):
            return self._joined_text(path, value)
        if isinstance(value, dict):
            return {name: self._joined_value((*path, name), member) for name, member in value.items()}
        if isinstance(value, list):
            return [self._joined_value((*path, key), item) for key, item in _keyed(value)]
        return value

    def _joined_text(self, path: _Path, text: str) -> str:
        text = self._waiting.pop(path, "") + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._waiting[path] = text[-1]
            text = text[:-1]
        return _joined(text)

    def _flush(self, index: Any, choice: JSONObject) -> None:
        for path in [path for path in self._waiting if path[0] == index]:
            del self._waiting[path]
            if not isinstance(choice.get("delta"), dict):
                choice["delta"] = {}
            _append(choice["delta"], path[1:])


def _joined(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _keyed(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield (key, item), where the key identifies the item across chunks: its `index`, or else its position."""
    for position, item in enumerate(items):
        yield (_checked_index(item.get("index", position)) if isinstance(item, dict) else position), item


def _checked_index(index: Any) -> Any:
    if isinstance(index, list | dict):
        raise UpstreamInvalid
    return index


def _append(delta: JSONObject, path: _Path) -> None:
    """Append the replacement character to the text at a path, such as `("tool_calls", 0, "function", "arguments")`."""
    *parents, name = path
    parent: Any = delta
    for key in parents:
        parent = _item(parent, key) if isinstance(parent, list) else parent.setdefault(key, _EMPTY.get(key, {}).copy())
        if not isinstance(parent, dict | list):
            return  # The last chunk has a different structure without this path.
    if isinstance(parent, dict):
        parent[name] = f"{parent.get(name) or ''}{_REPLACEMENT}"


def _item(items: list[Any], index: Any) -> JSONObject:
    found = next((item for item in items if isinstance(item, dict) and item.get("index") == index), None)
    if found is None:
        items.append(found := {"index": index})
    return found
