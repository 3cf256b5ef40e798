"""The fault suite's requests without its faults: refused, interrupted and slow ones, disconnects; each has one right
end.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import aiohttp

from tests.e2e.stack import Key
from tests.faults import clients
from tests.faults.clients import Result
from tests.faults.evidence import Evidence
from tests.faults.kinds import Charge
from tests.faults.schedule import TRAFFIC_SECONDS, Plan, Request, plan
from tests.faults.surfaces import Surface
from tests.rollout.traffic import Balancer

LIMIT = 1_000_000
_SLOWER = 4
"""A plan is dense, for outages of parts of a second; here it is stretched by this factor."""
_NUMBERS = 1_000
"""More than a plan has requests."""
_REFUSALS = {
    # By status and code: an error caused by an absent auth, quota or inference is none of these.
    "429": {(503, "upstream_unavailable")},
    "500": {(503, "upstream_unavailable")},
    "reset": {(503, "upstream_unavailable")},
    "400": {(400, "")},
    "413": {(413, "request_too_large")},
    "bad role": {(400, "invalid_value")},
    "bad json": {(400, "")},
    "endless": {(504, "deadline_exceeded")},
}
_CUT = {(400, "tool_use_failed"), (502, "upstream_cut"), (503, "upstream_unavailable")}
_KINDS = {"plain", "slow stream", "late headers", "cut", "error event", "reset stream", *_REFUSALS}
"""The others test the answers of Groq, not the availability of services."""


@dataclass
class Mixture:
    """Sends plan after plan, and records each client's result."""

    balancer: Balancer
    key: Key
    requests: list[Request] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    is_over: bool = False

    @property
    def evidence(self) -> Evidence:
        """All records so far, for the fault suite's checks."""
        return Evidence(Plan(0, (LIMIT,), tuple(self.requests), ()), [self.key], results=self.results)

    @property
    def unexpected(self) -> list[str]:
        """Every request that ended otherwise than it had to."""
        return [f"{result}: {result.error}" for result in self.results if not is_expected(result)]

    def summary(self) -> str:
        """Return how many requests of each kind ended how."""
        ends = Counter(f"{one.request.kind.name}: {one.status or 'left'} {one.code}".rstrip() for one in self.results)
        return ", ".join(f"{count} {name}" for name, count in sorted(ends.items()))

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Send until the end, and return when all requests have ended."""
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as tasks:
            for seed in itertools.count(1):
                requests = [one for one in plan(seed).requests if one.kind.name in _KINDS]
                for request in sorted(requests, key=lambda one: one.at):
                    at = began + ((seed - 1) * TRAFFIC_SECONDS + request.at) * _SLOWER
                    await asyncio.sleep(at - asyncio.get_running_loop().time())
                    if self.is_over:
                        return
                    number = seed * _NUMBERS + request.number
                    one = replace(request, number=number, key=0, surface=Surface.CHAT_COMPLETIONS)
                    tasks.create_task(self._send(session, one))

    async def _send(self, session: aiohttp.ClientSession, request: Request) -> None:
        self.requests.append(request)
        tag = f"{self.evidence.tag}-{request.number}"
        self.results.append(await clients.send(session, self.balancer.choose(), self.key, request, tag))


def is_expected(result: Result) -> bool:
    """Whether a request ended as its kind must while nothing is broken."""
    if result.has_left:
        return not result.oddities
    if result.is_cut or result.hangs or result.oddities:
        return False
    kind = result.request.kind
    if kind.charge is Charge.YES:
        return result.is_complete
    if kind.charge is Charge.AFTER_OUTPUT and result.request.stream:
        return result.status == 200 and bool(result.error) and not result.is_done
    return (result.status, result.code) in _REFUSALS.get(kind.name, _CUT)


@asynccontextmanager
async def mixture(balancer: Balancer, key: Key) -> AsyncIterator[Mixture]:
    """Send the mixture for the block, and let requests in progress at its end finish."""
    going_on = Mixture(balancer, key)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as tasks:
        tasks.create_task(going_on.run(session))
        try:
            yield going_on
        finally:
            going_on.is_over = True
