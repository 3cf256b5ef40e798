"""Memory that was needed for a moment, given back to the system."""

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Have the C library return what it keeps of freed memory; where it cannot be asked, nothing happens.

    glibc keeps freed blocks between used ones for later. After a burst of large requests that is most of the burst.
    """
    if trim := _trim():
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None  # Not glibc: musl and macOS have no such function.
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim
