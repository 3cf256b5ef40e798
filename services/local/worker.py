"""All four services in one process, for one machine: `python -m services.local.worker`.

The same services, settings and ports as in four processes; what they ask of one another stays inside
(services/common/rpc/in_process.py). Several workers may share the ports, one for each core.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from services.auth.server import serve as serve_auth
from services.auth.settings import AuthSettings
from services.common.rpc import in_process
from services.common.runtime import process
from services.common.runtime.settings import ServiceSettings
from services.gateway.server import serve as serve_gateway
from services.gateway.settings import GatewaySettings
from services.inference.server import serve as serve_inference
from services.inference.settings import InferenceSettings
from services.quota.server import serve as serve_quota
from services.quota.settings import QuotaSettings


class WorkerSettings(ServiceSettings):
    """What all services of a worker have in common; each reads its own beside."""


async def serve(_: WorkerSettings) -> None:
    """Serve until told to stop; callers stop before what they call.

    Raises:
        StartError: A service cannot start.
    """
    auth, inference = process.read(AuthSettings), process.read(InferenceSettings)
    quota, gateway = process.read(QuotaSettings), process.read(GatewaySettings)
    in_process.share((auth.listen, inference.listen, quota.listen))
    stopping = process.StopSignal()
    async with AsyncExitStack() as stack:
        parts = [
            await stack.enter_async_context(_part(serve_auth(auth), stopping, listen=auth.listen)),
            await stack.enter_async_context(_part(serve_inference(inference), stopping, listen=inference.listen)),
            await stack.enter_async_context(_part(serve_quota(quota), stopping, listen=quota.listen)),
            await stack.enter_async_context(_part(serve_gateway(gateway), stopping)),
        ]
        # Only now: until here a signal ends the start, which may wait long for a database.
        process.stop_signal(stopping)
        await _first([asyncio.ensure_future(stopping.wait()), *parts])


@asynccontextmanager
async def _part(
    work: Coroutine[Any, Any, None], whole: process.StopSignal, *, listen: str = ""
) -> "AsyncIterator[asyncio.Task[None]]":
    """Run one service beside the block and stop it at its end; enters when it takes calls at `listen`.

    Until then there is nothing to stop in order: cancelled, it cancels the service's start.
    """
    stopping = whole.part()
    task = asyncio.get_running_loop().create_task(work, context=process.with_shutdown_event(stopping))
    try:
        if server := in_process.server_at(listen):
            await _first([asyncio.ensure_future(server.until_open()), task])
        if task.done():
            task.result()
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task})
        raise
    try:
        yield task
    finally:
        stopping.set()
        await task


async def _first(tasks: "list[asyncio.Task[Any]]") -> None:
    """Return when one of the tasks is done."""
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


if __name__ == "__main__":
    process.run("stack", WorkerSettings, serve)
