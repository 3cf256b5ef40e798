"""Last known states of the services' external dependencies (Groq, Redis), shown in the body of `GET /readyz`.

An unavailable dependency does not make the gateway unready: other replicas have the same dependency, and requests
already get a specific error.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from services.common.errors import ServiceError

_PAUSE_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.25
"""Pause while a state is unknown."""
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Dependency:
    """The state of one dependency."""

    name: str
    state: str
    """`ok`, `rejected`, `unreachable`, or `unknown` before the first check."""
    message: str
    """The problem and how to solve it; empty if there is none."""


Source = Callable[[], Awaitable[Sequence[Dependency]]]
"""Returns the dependencies of a service, or raises `ServiceError`."""


class Dependencies:
    """Polls the services for the states of their dependencies."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._latest: Sequence[Dependency] = ()

    def members(self) -> dict[str, dict[str, str]]:
        """Return the dependencies by name, as JSON objects. `message` is omitted if there is no problem."""
        return {
            one.name: {"state": one.state, **({"message": one.message} if one.message else {})} for one in self._latest
        }

    async def poll(self) -> None:
        """Poll the services forever."""
        while True:
            answers = await asyncio.gather(*(self._fetch(source) for source in self._sources))
            self._latest = [one for answer in answers for one in answer]
            is_known = all(answers) and all(one.state != UNKNOWN for one in self._latest)
            await asyncio.sleep(_PAUSE_SECONDS if is_known else _FIRST_PAUSE_SECONDS)

    async def _fetch(self, source: Source) -> Sequence[Dependency]:
        """Return the dependencies of a service; empty if it does not answer or does not support the call."""
        try:
            return await source()
        except ServiceError:
            return ()
