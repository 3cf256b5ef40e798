"""The start of a worker that was loaded before its settings were known."""

import json
import os
import sys

from services.common.runtime.private_files import open_private


def receive() -> None:
    """Wait for the environment and the log file of this process, which the supervisor writes to standard input.

    Exits if the supervisor ends first.
    """
    line = sys.stdin.readline()
    if not line:
        sys.exit(1)
    given = json.loads(line)
    os.environ.update(given["environment"])
    _redirect(open_private(given["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT), 1, 2)
    _redirect(os.open(os.devnull, os.O_RDONLY), 0)


def _redirect(descriptor: int, *numbers: int) -> None:
    for number in numbers:
        os.dup2(descriptor, number)
    os.close(descriptor)
