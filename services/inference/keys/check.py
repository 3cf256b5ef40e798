"""Whether Groq accepts the operator's keys: asked at the start and every minute, whether or not there are requests."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

from services.common.errors import ServiceError
from services.inference.groq.errors import KeyRefused
from services.inference.metrics import note_key_check

_log = logging.getLogger(__name__)
_ASK_SECONDS = 5.0
_OK_SECONDS = 60.0
_TROUBLE_SECONDS = 15.0
"""Pause between checks while something is wrong, so that its end is seen soon."""


class KeyState(StrEnum):
    """What Groq last said to a key."""

    UNCHECKED = "unchecked"
    """It was not asked yet."""
    OK = "ok"
    """Groq accepts it."""
    REJECTED = "rejected"
    """Groq answers and does not accept it."""
    UNREACHABLE = "unreachable"
    """Groq does not answer, or fails."""


class KeyCheck:
    """Asks Groq for its models with each key, which costs nothing, and remembers the answers."""

    def __init__(self, ask: Callable[[int], Awaitable[None]], *, keys_count: int) -> None:
        """Check through `ask`, which asks Groq once with the key of an index and raises `ServiceError` on failure."""
        self._ask = ask
        self._states: Sequence[KeyState] = [KeyState.UNCHECKED] * keys_count

    @property
    def state(self) -> KeyState:
        """The state of Groq as a whole: `ok` when it accepts at least one key."""
        for state in (KeyState.OK, KeyState.UNCHECKED, KeyState.UNREACHABLE):
            if state in self._states:
                return state
        return KeyState.REJECTED

    @property
    def message(self) -> str:
        """What is wrong and what to do; empty when nothing is, or nothing is known yet."""
        rejected = Counter(self._states)[KeyState.REJECTED]
        match self.state:
            case KeyState.REJECTED:
                keys = "this key" if len(self._states) == 1 else "all keys"
                remedy = "Create one at https://console.groq.com/keys, set GROQ_API_KEY and restart."
                return f"Groq rejects {keys}. {remedy}"
            case KeyState.UNREACHABLE:
                return "Groq is unreachable. Check the network, HTTPS_PROXY and GROQ_BASE_URL; it is tried again."
            case _ if rejected:
                return f"Groq rejects {rejected} of {len(self._states)} keys; stack_upstream_key_check says which."
        return ""

    async def run(self) -> None:
        """Check now and then; never returns."""
        while True:
            before = self._states
            self._states = await asyncio.gather(*(self._check(key) for key in range(len(before))))
            for key, state in enumerate(self._states):
                note_key_check(key, state, list(KeyState))
            if self._states != before and self.message:
                _log.error(self.message)
            await asyncio.sleep(_TROUBLE_SECONDS if self.message else _OK_SECONDS)

    async def _check(self, key: int) -> KeyState:
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                await self._ask(key)
        except KeyRefused:
            return KeyState.REJECTED
        except (ServiceError, TimeoutError):
            return KeyState.UNREACHABLE
        return KeyState.OK
