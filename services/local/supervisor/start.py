"""The start of the supervisor. Other processes read the settings and load the first worker while it loads itself."""

import asyncio
import os
import pickle
import sys

from services.common.errors import StartError
from services.common.runtime.stop_signal import stop_signal
from services.local.configuration import Configuration
from services.local.supervisor.python import kill, start_python


def main() -> None:
    """Run the stack until a signal. If it cannot start, print the reason to stderr and exit with code 1."""
    os.umask(0o077)  # Inherited by Valkey, which does not set the modes of its files.
    try:
        asyncio.run(_run())
    except StartError as exc:
        sys.exit(f"stack: {exc}")


async def _run() -> None:
    stopping = stop_signal()
    reading = await start_python("services.local.settings", has_input=False)
    # Loading takes most of a worker's start, and needs no settings.
    has_workers = os.environ.get("STACK_WORKERS") != "0"
    worker = await start_python("services.local.worker", "--preload", has_output=False) if has_workers else None
    try:
        from services.local.supervisor.run import run

        output, _ = await reading.communicate()
        if reading.returncode:
            sys.exit(reading.returncode)  # It has printed the reason.
        settings: Configuration = pickle.loads(output)
        if worker is not None and not settings.workers:
            await kill(worker)
        await run(settings, stopping, worker)
    finally:
        await kill(reading)
        if worker is not None:
            await kill(worker)
