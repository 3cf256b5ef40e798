"""Traffic during restarts of replicas: requests at a fixed rate, and streams that follow each other."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from services.common.runtime.tasks import running
from tests.e2e.stack import Key, connector, say

_PROBE_SECONDS = 0.1


class Balancer:
    """Balances clients like a Kubernetes Service: over ready replicas, in turn.

    Replicas added to the list of gateways, or removed from it, are noticed.
    """

    def __init__(self, gateways: list[str]) -> None:
        self._gateways = gateways
        self._ready: list[str] = []
        self._turns = itertools.count()

    def choose(self) -> str:
        """Return the address of a ready gateway."""
        assert self._ready, "no gateway is ready: two are never stopped at the same time"
        return self._ready[next(self._turns) % len(self._ready)]

    async def probe(self) -> None:
        """Check which gateways are ready, until cancelled."""
        async with aiohttp.ClientSession() as session:
            while True:
                gateways = list(self._gateways)
                answers = await asyncio.gather(*(_is_ready(session, gateway) for gateway in gateways))
                self._ready = [one for one, is_ready in zip(gateways, answers, strict=True) if is_ready]
                await asyncio.sleep(_PROBE_SECONDS)

    async def until_ready(self) -> None:
        """Return when a gateway is ready."""
        while not self._ready:
            await asyncio.sleep(_PROBE_SECONDS / 10)


async def _is_ready(session: aiohttp.ClientSession, gateway: str) -> bool:
    try:
        async with session.get(f"{gateway}/readyz", timeout=aiohttp.ClientTimeout(total=1)) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


@dataclass
class Traffic:
    """Sends requests and reads streams, and records everything but complete answers.

    Attributes:
        answers: Complete answers, by their kind.
        failures: A sentence for everything else.
    """

    balancer: Balancer
    key: Key
    session: aiohttp.ClientSession
    stream_tokens: int
    """Length of a stream; ten a second."""
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    is_over: bool = False

    async def ask_at(self, rate: int) -> None:
        """Send requests at a fixed rate, whether or not earlier ones are answered."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as tasks:
            for number in itertools.count():
                await asyncio.sleep(began + number / rate - loop.time())
                if self.is_over:
                    return
                tasks.create_task(self._noted("request", self._ask()))

    async def listen_with(self, listeners: int) -> None:
        """Keep this many streams open, each listener one after the other."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(listeners):
                tasks.create_task(self._listen_on(after_seconds=self.stream_tokens * number / listeners / 10))

    async def _listen_on(self, *, after_seconds: float) -> None:
        await asyncio.sleep(after_seconds)
        while not self.is_over:
            await self._noted("stream", self._listen())

    async def _noted(self, kind: str, work: Any) -> None:
        try:
            problem = await work
        except (aiohttp.ClientError, TimeoutError) as exc:
            problem = repr(exc)
        if problem:
            self.failures.append(f"{kind}: {problem}")
        else:
            self.answers[kind] += 1

    async def _ask(self) -> str:
        async with self._post(say("hi")) as response:
            text = await response.text()
            return "" if response.status == 200 and json.loads(text)["choices"] else f"{response.status} {text}"

    async def _listen(self) -> str:
        text = f"[[standin:slow token_ms=100]] [[standin:tokens count={self.stream_tokens}]]"
        async with self._post(say(text, stream=True)) as response:
            text = await response.text()
        whole = response.status == 200 and text.rstrip().endswith("data: [DONE]") and '"error"' not in text
        return "" if whole else f"{response.status} …{text[-300:]}"

    def _post(self, body: dict[str, Any]) -> Any:
        url = f"{self.balancer.choose()}/api/v1/chat"
        return self.session.post(url, headers=self.key.headers, json=body, timeout=aiohttp.ClientTimeout(total=30))


@asynccontextmanager
async def traffic(
    gateways: list[str], key: Key, *, rate: int, streams: int, stream_tokens: int
) -> AsyncIterator[Traffic]:
    """Run traffic for the block, and let requests in progress at its end finish."""
    balancer = Balancer(gateways)
    async with running(balancer.probe()), aiohttp.ClientSession(connector=connector(rate + streams)) as session:
        await balancer.until_ready()
        async with asyncio.TaskGroup() as tasks:
            going_on = Traffic(balancer, key, session, stream_tokens)
            tasks.create_task(going_on.ask_at(rate))
            tasks.create_task(going_on.listen_with(streams))
            try:
                yield going_on
            finally:
                going_on.is_over = True
