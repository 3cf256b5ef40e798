"""Periodic check of the operator's Groq keys, independent of requests."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

from services.common.errors import ServiceError
from services.inference.groq.errors import KeyRefused
from services.inference.metrics import set_key_check

_log = logging.getLogger(__name__)
_TIMEOUT_SECONDS = 5.0
_INTERVAL_SECONDS = 60.0
_FAILURE_INTERVAL_SECONDS = 15.0
"""Shorter interval during a failure, so that a recovery is noticed soon."""


class KeyState(StrEnum):
    """Result of a key's last check."""

    UNCHECKED = "unchecked"
    """The key was not checked yet."""
    OK = "ok"
    """Groq accepted the key."""
    REJECTED = "rejected"
    """Groq rejected the key."""
    UNREACHABLE = "unreachable"
    """Groq did not respond, or failed."""


class KeyCheck:
    """Checks each key by listing Groq's models, which is free of charge."""

    def __init__(self, check_key: Callable[[int], Awaitable[None]], *, keys_count: int) -> None:
        """Create a check.

        Args:
            check_key: Checks the key with an index; raises `KeyRefused` or another `ServiceError` on failure.
            keys_count: Number of keys.
        """
        self._check_key = check_key
        self._states: Sequence[KeyState] = [KeyState.UNCHECKED] * keys_count

    @property
    def state(self) -> KeyState:
        """State of all keys together: `ok` if Groq accepts at least one key."""
        for state in (KeyState.OK, KeyState.UNCHECKED, KeyState.UNREACHABLE):
            if state in self._states:
                return state
        return KeyState.REJECTED

    @property
    def states(self) -> Sequence[KeyState]:
        """State of each key, in the order of the settings."""
        return self._states

    @property
    def message(self) -> str:
        """What is wrong and what to do about it; empty if nothing is wrong or no check has finished."""
        rejected = Counter(self._states)[KeyState.REJECTED]
        match self.state:
            case KeyState.REJECTED:
                keys = "this key" if len(self._states) == 1 else "all keys"
                remedy = "Create one at https://console.groq.com/keys, set GROQ_API_KEY and restart."
                return f"Groq rejects {keys}. {remedy}"
            case KeyState.UNREACHABLE:
                return "Groq is unreachable. Check the network, HTTPS_PROXY and GROQ_BASE_URL. Retrying."
            case _ if rejected:
                return f"Groq rejects {rejected} of {len(self._states)} keys. See the metric stack_upstream_key_check."
        return ""

    async def run(self) -> None:
        """Check all keys periodically until cancelled."""
        while True:
            before = self._states
            self._states = await asyncio.gather(*(self._check(key) for key in range(len(before))))
            for key, state in enumerate(self._states):
                set_key_check(key, state, list(KeyState))
            if self._states != before and self.message:
                _log.error(self.message)
            await asyncio.sleep(_FAILURE_INTERVAL_SECONDS if self.message else _INTERVAL_SECONDS)

    async def _check(self, key: int) -> KeyState:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await self._check_key(key)
        except KeyRefused:
            return KeyState.REJECTED
        except (ServiceError, TimeoutError):
            return KeyState.UNREACHABLE
        return KeyState.OK
