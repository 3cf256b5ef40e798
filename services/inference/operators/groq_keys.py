"""The state of the operator's Groq keys, and what is left of their rate limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.inference.allowance.model import AllowanceReader, Window
from services.inference.key_pool.check import KeyState
from services.inference.metrics import KeyStates


class KeyChecks(Protocol):
    """Port to the last checks of the keys."""

    @property
    def states(self) -> Sequence[KeyState]:
        """State of each key, in the order of the settings."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a rate limit of Groq."""

    model: str
    window: Window
    limit: int
    left: int


@dataclass(frozen=True, slots=True)
class GroqKey:
    """The state of one key."""

    number: int
    """Number in the settings, from 1."""
    state: KeyState
    is_usable: bool
    cooldowns: int
    allowances: Sequence[Allowance]
    """Ordered by model and window."""


class GroqKeys:
    """Reads the state of all keys, as this replica knows it."""

    def __init__(self, keys: KeyStates, checks: KeyChecks, allowance: AllowanceReader) -> None:
        self._keys = keys
        self._checks = checks
        self._allowance = allowance

    @property
    def is_shared(self) -> bool:
        """Whether what is left follows the view of all replicas."""
        return self._allowance.is_shared

    def read(self) -> list[GroqKey]:
        """Return all keys, in the order of the settings."""
        allowances: list[list[Allowance]] = [[] for _ in range(len(self._keys))]
        for key, model, window, limit, left in self._allowance.allowances():
            allowances[key].append(Allowance(model, window, limit, int(left)))
        return [
            GroqKey(
                number=key + 1,
                state=self._checks.states[key],
                is_usable=self._keys.is_accepted(key),
                cooldowns=self._keys.cooling_models(key),
                allowances=sorted(allowances[key], key=lambda one: (one.model, one.window)),
            )
            for key in range(len(self._keys))
        ]
