"""Shutdown of the programs in order: callers before their dependencies, so that requests in flight are settled."""

import asyncio
import re
import signal
import time
from collections.abc import Sequence

from services.common.runtime.stop_signal import StopSignal
from services.local.configuration import Configuration
from services.local.supervisor import ready
from services.local.supervisor.child import Child
from services.local.terminal import Terminal

_ORDER = (("operator",), ("gateway", "stack"), ("auth", "quota", "inference"), ("groq", "valkey"))
_SERVICES = frozenset({"operator", "gateway", "stack", "auth", "quota", "inference"})
_KILL_SECONDS = 5.0
"""Time between cancelling requests and SIGKILL, for error events of streams and writes to the ledger."""
_METRICS_TIMEOUT_SECONDS = 0.3
_IN_FLIGHT = re.compile(r"^stack_http_requests_in_flight (\S+)$", re.MULTILINE)


async def stop_all(
    children: Sequence[Child], settings: Configuration, stopping: StopSignal, terminal: Terminal
) -> None:
    """Stop all programs and print the requests in flight.

    Requests in flight are cancelled after `settings.stop_seconds`, or when a second stop signal arrives.
    """
    if stopping.is_set():
        terminal.print(f"\n{_stop_message(await _requests_in_flight(settings), settings.stop_seconds)}")
    deadline = time.monotonic() + settings.stop_seconds
    for kinds in _ORDER:
        group = [child for child in children if _kind(child) in kinds and child.is_running()]
        await asyncio.gather(*(_stop(child, stopping, deadline) for child in group))


async def _stop(child: Child, stopping: StopSignal, deadline: float) -> None:
    child.signal(signal.SIGTERM)
    ended = asyncio.ensure_future(child.wait())
    if _kind(child) in _SERVICES:
        await stopping.wait_for(ended, seconds=max(0.0, deadline - time.monotonic()))
        # A different signal from the first, because pending signals of the same kind are merged.
        child.signal(signal.SIGINT)
    await asyncio.wait({ended}, timeout=_KILL_SECONDS)
    child.signal(signal.SIGKILL)
    await ended


def _kind(child: Child) -> str:
    return child.program.name.partition("-")[0]


def _stop_message(requests: int | None, seconds: float) -> str:
    if requests == 0 or seconds == 0:
        return "Stopping ..."
    what = {None: "requests", 1: "1 request"}.get(requests, f"{requests} requests")
    return f"Stopping: waiting up to {seconds:g} s for {what} in flight. Press Ctrl-C again to stop immediately."


async def _requests_in_flight(settings: Configuration) -> int | None:
    """Return the number of requests in flight at the gateways; None if it is not available."""

    metrics = settings.metrics
    addresses = [metrics[name] for name in (settings.worker_names if settings.workers else ("gateway",))]
    if not all(addresses):
        return None
    pages = await asyncio.gather(
        *(ready.http_get(f"http://{address}/metrics", timeout=_METRICS_TIMEOUT_SECONDS) for address in addresses)
    )
    if not all(pages):
        return None
    found = [_IN_FLIGHT.search((page or b"").decode()) for page in pages]
    return sum(int(float(match[1])) for match in found if match)
