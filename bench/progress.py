"""Progress messages on standard error."""

import sys
import time

_STARTED = time.monotonic()


def say(text: str) -> None:
    """Print a line, preceded by the minutes and seconds since the start."""
    minutes, seconds = divmod(int(time.monotonic() - _STARTED), 60)
    print(f"[{minutes:02}:{seconds:02}] {text}", file=sys.stderr, flush=True)
