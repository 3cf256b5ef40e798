"""The type of a mode, and the syntax of its marker."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.groq_standin.script import Script

Values = Mapping[str, Any]
"""Parameters of a marker: integers if the default is an integer, else strings."""

MARKER = re.compile(r"\[\[standin:([\w-]+)((?:\s+\w+=[^\s\]]+)*)\s*\]\]")
"""A marker: its name and its parameters."""
_COUNT_MAX = 10_000_000
_BYTES_MAX = 256 * 1024 * 1024


class MarkerError(ValueError):
    """A marker is unknown or malformed, or has an unknown or invalid parameter."""


@dataclass(frozen=True, slots=True)
class Mode:
    """A mode: its parameters with defaults, its description, and its change of the script."""

    name: str
    effect: str
    apply: Callable[[Script, Values], Script]
    defaults: Values = field(default_factory=dict)
    not_streamed: str = "the same"
    """Effect on an answer that is not streamed."""
    choices: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Allowed values, for parameters with a fixed set."""

    @property
    def syntax(self) -> str:
        """The marker with all parameters and their defaults."""
        return f"[[standin:{' '.join([self.name, *(f'{key}={value}' for key, value in self.defaults.items())])}]]"

    def applied(self, script: Script, given: Mapping[str, str]) -> Script:
        """Return the script with this mode's change.

        Raises:
            MarkerError: A parameter is unknown or has an invalid value.
        """
        unknown = given.keys() - self.defaults.keys()
        if unknown:
            raise MarkerError(f"stand-in mode '{self.name}' has no parameter '{min(unknown)}', see GET /modes")
        return self.apply(script, {**self.defaults, **{key: self._value(key, raw) for key, raw in given.items()}})

    def as_wire(self) -> dict[str, object]:
        """Return the element of `GET /modes`."""
        return {
            "name": self.name,
            "syntax": self.syntax,
            "parameters": dict(self.defaults),
            "choices": {key: sorted(values) for key, values in self.choices.items()},
            "effect": self.effect,
            "not_streamed": self.not_streamed,
        }

    def _value(self, key: str, raw: str) -> int | str:
        if isinstance(self.defaults[key], int):
            return _number(key, raw)
        if key in self.choices and raw not in self.choices[key]:
            allowed = ", ".join(sorted(self.choices[key]))
            raise MarkerError(f"stand-in parameter '{key}' must be one of {allowed}, not '{raw}'")
        return raw


def _number(key: str, raw: str) -> int:
    largest = _BYTES_MAX if key in ("bytes", "piece") else _COUNT_MAX
    if not raw.isdecimal() or int(raw) > largest:
        raise MarkerError(f"stand-in parameter '{key}' must be a number from 0 to {largest}, not '{raw}'")
    return int(raw)


def without_markers(text: str) -> str:
    """Return `text` without its markers."""
    return MARKER.sub("", text).strip()
