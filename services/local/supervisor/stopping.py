"""Stop the programs in order: callers before what they call, so that requests in flight finish and are settled."""

import asyncio
import re
import signal
import time
from collections.abc import Sequence

import httpx

from services.common.runtime.process import StopSignal
from services.local.console import Console
from services.local.settings import LocalSettings
from services.local.supervisor import ready
from services.local.supervisor.child import Child

_ORDER = (("gateway", "stack"), ("auth", "quota", "inference"), ("groq", "valkey"))
_SERVICES = frozenset({"gateway", "stack", "auth", "quota", "inference"})
_END_SECONDS = 5.0
"""From the cut to the end: streams get their error event, and the ledger its rows."""
_ASK_SECONDS = 0.3
_IN_FLIGHT = re.compile(r"^stack_http_requests_in_flight (\S+)$", re.MULTILINE)


async def stop_all(parts: Sequence[Child], settings: LocalSettings, stopping: StopSignal, console: Console) -> None:
    """Stop what was started, and say what is waited for.

    Requests in flight have GRACE_SECONDS in all; then, or when the stop becomes urgent, they are cut.
    """
    if stopping.is_set():
        console.say(f"\n{_what_is_waited_for(await _requests_in_flight(settings), settings.stop_seconds)}")
    ends = time.monotonic() + settings.stop_seconds
    for kinds in _ORDER:
        group = [child for child in parts if _kind(child) in kinds and child.is_running()]
        await asyncio.gather(*(_stop(child, stopping, ends) for child in group))


async def _stop(child: Child, stopping: StopSignal, ends: float) -> None:
    child.signal(signal.SIGTERM)
    ended = asyncio.ensure_future(child.wait())
    if _kind(child) in _SERVICES:
        await stopping.wait_for(ended, seconds=max(0.0, ends - time.monotonic()))
        # Another signal than the first: two of the same kind that arrive together are one.
        child.signal(signal.SIGINT)
    await asyncio.wait({ended}, timeout=_END_SECONDS)
    child.signal(signal.SIGKILL)
    await ended


def _kind(child: Child) -> str:
    return child.program.name.partition("-")[0]


def _what_is_waited_for(requests: int | None, seconds: float) -> str:
    if requests == 0 or seconds == 0:
        return "Stopping ..."
    what = {None: "requests", 1: "1 request"}.get(requests, f"{requests} requests")
    return f"Stopping: waiting up to {seconds:g} s for {what} in flight. Press Ctrl-C again to stop at once."


async def _requests_in_flight(settings: LocalSettings) -> int | None:
    """Return how many requests the gateways are answering; None when they do not say."""
    metrics = settings.metrics
    addresses = [metrics[name] for name in (settings.worker_names if settings.workers else ("gateway",))]
    if not all(addresses):
        return None
    async with ready.local_http(_ASK_SECONDS) as client:
        try:
            answers = await asyncio.gather(*(client.get(f"http://{address}/metrics") for address in addresses))
        except httpx.HTTPError:
            return None
    found = [_IN_FLIGHT.search(answer.text) for answer in answers]
    return sum(int(float(one[1])) for one in found if one)
