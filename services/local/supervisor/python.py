"""Python modules of the product as child processes that end with their parent."""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process

from services.local.supervisor.child import die_with_parent


async def start_python(module: str, *arguments: str, has_input: bool = True, has_output: bool = True) -> Process:
    """Start `python -m module arguments`, with pipes for its input and output if it has them."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdin=PIPE if has_input else DEVNULL,
        stdout=PIPE if has_output else None,
        start_new_session=True,  # Ctrl-C reaches only the parent.
        preexec_fn=die_with_parent if sys.platform == "linux" else None,
    )


async def kill(process: Process) -> None:
    """Kill a process if it has not ended, and wait for its end."""
    if process.returncode is None:
        process.kill()
    await process.wait()
