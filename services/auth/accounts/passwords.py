"""Password hashing with argon2id, in two low-priority threads with a bounded queue.

Hashing is slow and uses much memory by design. On the event loop it would block key lookups, and without a limit many
concurrent log-ins would exhaust the memory. Calls beyond the limit, in total or per client, are rejected.
"""

import asyncio
import os
import threading
import unicodedata
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import ARGON2_VERSION

from services.auth.bulkhead import Bulkhead
from services.common.errors import InvalidRequest, PermissionDenied

T = TypeVar("T")

_CHARACTERS_MIN = 10
_CHARACTERS_MAX = 256
_INPUT_CHARACTERS_MAX = 4 * _CHARACTERS_MAX
"""Limit on the input before normalization. Decomposed text can be several times longer than composed text."""
_THREADS = 2
_CALLS_MAX = 32
_NICENESS = 10
# 19 MiB, two passes, one lane: the minimum for argon2id in OWASP's Password Storage Cheat Sheet.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)


class Passwords:
    """Hashes and checks passwords. Safe to use concurrently."""

    def __init__(self, *, calls_max: int = _CALLS_MAX) -> None:
        """Allow at most `calls_max` calls to run or wait."""
        self._threads = ThreadPoolExecutor(_THREADS, "argon2", initializer=_lower_priority)
        self._bulkhead = Bulkhead(calls_max)
        self._dummy_hash = random_hash()

    async def hash(self, password: str, *, client: str) -> str:
        """Return the salted hash of a password, in the PHC string format.

        Raises:
            InvalidRequest: The password is too short or too long.
            Throttled: Too many calls are waiting, in total or from this client.
        """
        checked = checked_password(password)
        return await self._in_thread(lambda: _HASHER.hash(checked), client)

    async def matches(self, password: str, password_hash: str | None, *, client: str) -> bool:
        """Return whether a password matches a hash.

        A `password_hash` of None means that there is no account: nothing matches, and the check takes as long.

        Raises:
            Throttled: Too many calls are waiting, in total or from this client.
        """
        # Check the length first, so that large inputs are not normalized.
        is_short = len(password) <= _INPUT_CHARACTERS_MAX
        expected, candidate = password_hash or self._dummy_hash, password if is_short else ""
        return await self._in_thread(lambda: _matches(expected, candidate), client) and is_short and bool(password_hash)

    def close(self) -> None:
        """Shut the threads down without waiting for them."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[[], T], client: str) -> T:
        with self._bulkhead.enter(client):
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def random_hash() -> str:
    """Return a hash that no password matches, without the time that hashing takes."""
    lengths = (_HASHER.salt_len, _HASHER.hash_len)
    salt, digest = (b64encode(os.urandom(length)).rstrip(b"=").decode() for length in lengths)
    settings = f"m={_HASHER.memory_cost},t={_HASHER.time_cost},p={_HASHER.parallelism}"
    return f"$argon2id$v={ARGON2_VERSION}${settings}${salt}${digest}"


def checked_password(password: str) -> str:
    """Return a valid password, normalized (NFC) for hashing. The length limits apply to the normalized form.

    Some systems enter `é` as one character, others as two. Both are the same password.

    Raises:
        InvalidRequest: The password is too short or too long.
    """
    composed = _composed(password) if len(password) <= _INPUT_CHARACTERS_MAX else ""
    if not _CHARACTERS_MIN <= len(composed) <= _CHARACTERS_MAX:
        raise InvalidRequest(
            f"The password is too short or too long. Choose one of {_CHARACTERS_MIN} to {_CHARACTERS_MAX} characters.",
            reason="invalid_password",
        )
    return composed


def password_wrong() -> PermissionDenied:
    """Return the error for a wrong or outdated password."""
    return PermissionDenied("Incorrect password. Try again.", reason="password_wrong")


def _composed(password: str) -> str:
    return unicodedata.normalize("NFC", password)


def _matches(password_hash: str, password: str) -> bool:
    # Earlier versions hashed passwords without normalization.
    return any(_verifies(password_hash, form) for form in dict.fromkeys((_composed(password), password)))


def _verifies(password_hash: str, password: str) -> bool:
    try:
        return _HASHER.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False


def _lower_priority() -> None:
    """Lower the priority of the current thread where the system supports it per thread (Linux)."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
