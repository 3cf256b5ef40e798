"""Names of tools in the form that Groq accepts, and their keys."""

import re
from collections.abc import Hashable
from hashlib import sha256
from typing import Generic, TypeVar

_CHARACTERS_MAX = 64
_HASH_CHARACTERS = 8
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_-]")

Key = TypeVar("Key", bound=Hashable)


class ToolNames(Generic[Key]):
    """The tool names of one request: 1 to 64 of the characters `A-Za-z0-9_-`, each used once.

    A key identifies a tool for the client, such as its name, or its namespace and name.
    """

    def __init__(self) -> None:
        self._names: dict[Key, str] = {}
        self._keys: dict[str, Key] = {}

    def add(self, key: Key, name: str) -> str:
        """Return the name to send to Groq for the tool `key`.

        A key has the same name each time. A name that is valid and free is kept; otherwise it is cut and gets a hash.
        Add the tools of a request before the calls of its history, so that tools keep their names.
        """
        known = self._names.get(key)
        if known is not None:
            return known
        valid = _NOT_ALLOWED.sub("_", name[: _CHARACTERS_MAX + 1])
        if not valid or len(name) > _CHARACTERS_MAX or valid in self._keys:
            valid = self._hashed(valid, name, key)
        self._names[key] = valid
        self._keys[valid] = key
        return valid

    def key(self, name: str) -> Key | None:
        """Return the key of a name that the model used, or None if the name is not in the table."""
        return self._keys.get(name)

    def _hashed(self, valid: str, name: str, key: Key) -> str:
        attempt = 0
        while True:
            digest = sha256(f"{name}\0{key!r}\0{attempt}".encode("utf-8", "surrogatepass")).hexdigest()
            hashed = f"{valid[: _CHARACTERS_MAX - _HASH_CHARACTERS - 1]}_{digest[:_HASH_CHARACTERS]}"
            if hashed not in self._keys:
                return hashed
            attempt += 1
