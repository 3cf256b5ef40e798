"""Return freed memory to the system after large requests."""

import asyncio
import ctypes
from collections.abc import Callable
from functools import cache

_TRIM_BYTES = 16 * 1024 * 1024
_TRIM_DELAY_SECONDS = 1.0
"""Memory is often freed shortly after `note_freed`, and a burst of requests may still be in progress."""


class Trimmer:
    """Calls glibc's `malloc_trim` after a certain amount of memory has been freed.

    glibc keeps free blocks between used ones, which can be most of the memory of a burst of large requests.
    """

    def __init__(self) -> None:
        self._freed = 0
        self._is_scheduled = False

    def note_freed(self, size: int) -> None:
        """Note that a request of `size` bytes has finished."""
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
        return None  # musl and macOS do not have it.
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim
