"""What the services need and do not contain (Groq, Redis), as they saw it last; shown in the body of `GET /readyz`.

A dependency that is away makes no gateway unready: requests say so themselves, and another gateway fares no better.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from services.common.errors import ServiceError

_PAUSE_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.25
"""While a service has not checked yet."""
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Dependency:
    """The state of one dependency."""

    name: str
    state: str
    """`ok`, `rejected`, `unreachable`, or `unknown` when it was not checked yet."""
    message: str
    """What is wrong and what to do; empty when nothing is."""


Source = Callable[[], Awaitable[Sequence[Dependency]]]
"""Asks a service for its dependencies; raises `ServiceError`."""


class Dependencies:
    """Asks the services for their dependencies now and then, and remembers the answers."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._known: Sequence[Dependency] = ()

    def members(self) -> dict[str, dict[str, str]]:
        """Return the dependencies by name as JSON; a `message` only where something is wrong."""
        return {
            one.name: {"state": one.state, **({"message": one.message} if one.message else {})} for one in self._known
        }

    async def keep_fresh(self) -> None:
        """Ask again and again; never returns."""
        while True:
            answers = await asyncio.gather(*(self._ask(source) for source in self._sources))
            self._known = [one for answer in answers for one in answer]
            is_known = all(answers) and all(one.state != UNKNOWN for one in self._known)
            await asyncio.sleep(_PAUSE_SECONDS if is_known else _FIRST_PAUSE_SECONDS)

    async def _ask(self, source: Source) -> Sequence[Dependency]:
        """Return a service's dependencies; none while it does not answer, or is of a version that knows none."""
        try:
            return await source()
        except ServiceError:
            return ()
