"""Callers with unknown keys. No gateway has them cached, so auth is called for each, and each must be a 401."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from services.common import checksummed_token
from services.common.runtime.tasks import running
from tests.e2e.stack import say
from tests.rollout.traffic import Balancer

_PAUSE_SECONDS = 0.25
"""Fewer than an address may send before it is limited."""


@dataclass
class UnknownCallers:
    """Calls repeatedly.

    Attributes:
        refused: How many calls were answered that the key is unknown.
        failures: The other responses.
    """

    balancer: Balancer
    refused: int = 0
    failures: list[str] = field(default_factory=list)

    async def call_repeatedly(self, session: aiohttp.ClientSession) -> None:
        """Call one after the other, until cancelled."""
        while True:
            await self._call_once(session)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _call_once(self, session: aiohttp.ClientSession) -> None:
        headers = {"Authorization": f"Bearer {checksummed_token.mint('sk_stk_')}"}
        url = f"{self.balancer.choose()}/api/v1/chat"
        try:
            async with session.post(url, headers=headers, json=say("hi")) as response:
                text = await response.text()
        except aiohttp.ClientError as exc:
            self.failures.append(f"unknown caller: {exc!r}")
            return
        if response.status == 401:
            self.refused += 1
        else:
            self.failures.append(f"unknown caller: {response.status} {text}")


@asynccontextmanager
async def unknown_callers(balancer: Balancer) -> AsyncIterator[UnknownCallers]:
    """Run callers with unknown keys for the block."""
    going_on = UnknownCallers(balancer)
    # A connection for each: a stopping gateway may close a kept connection while the next request is in transit.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session, running(going_on.call_repeatedly(session)):
        yield going_on
