"""Memory of large requests, returned to the system when they have ended."""

import asyncio
import ctypes
from collections.abc import Callable
from functools import cache

_TRIM_BYTES = 16 * 1024 * 1024
_TRIM_DELAY_SECONDS = 1.0
"""What was noted as freed is often freed a moment later, and a burst of requests may still go on."""


class Trimmer:
    """Asks the C library to return freed memory, once enough of it was freed.

    glibc keeps freed blocks that lie between used ones. After a burst of large requests that is most of the burst.
    """

    def __init__(self) -> None:
        """Create a trimmer that has nothing to do."""
        self._freed = 0
        self._is_scheduled = False

    def note_freed(self, size: int) -> None:
        """Note that a request of `size` bytes has ended."""
        self._freed += size
        if self._freed >= _TRIM_BYTES and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_later(_TRIM_DELAY_SECONDS, self._trim)

    def _trim(self) -> None:
        self._freed, self._is_scheduled = 0, False
        if trim := _malloc_trim():
            trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None  # Not glibc: musl and macOS have no such function.
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim
