"""Passwords: hashed with argon2id, by two threads at most, behind a bounded queue.

Hashing is slow and takes memory on purpose. On the event loop it would stop every key look-up, and without a bound a
crowd at the log-in page would take all memory. So it happens in threads of the lowest priority, and a call that finds
too many waiting, in all or of its own client, is refused.
"""

import asyncio
import os
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from services.auth.bulkhead import Bulkhead
from services.common.errors import InvalidRequest, PermissionDenied

T = TypeVar("T")

_CHARACTERS_MIN = 10
_CHARACTERS_MAX = 256
_TYPED_CHARACTERS_MAX = 4 * _CHARACTERS_MAX
"""Decomposed characters are a few times as many."""
_THREADS = 2
_PLACES = 32
_NICENESS = 10
# 19 MiB, two passes, one lane: what OWASP's password storage cheat sheet asks of argon2id at least.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)


class Passwords:
    """Hashes passwords and compares them; safe to use concurrently."""

    def __init__(self, *, places: int = _PLACES) -> None:
        """Let at most `places` calls be in work or in the queue."""
        self._threads = ThreadPoolExecutor(_THREADS, "argon2", initializer=_step_back)
        self._places = Bulkhead(places)
        self._decoy = _HASHER.hash(os.urandom(16).hex())

    async def hash(self, password: str, *, client: str) -> str:
        """Return the hash of a password, salted, in the PHC string format.

        Raises:
            InvalidRequest: The password cannot be accepted.
            Throttled: Too many wait, in all or of this client.
        """
        checked = checked_password(password)
        return await self._in_thread(lambda: _HASHER.hash(checked), client)

    async def matches(self, password: str, password_hash: str | None, *, client: str) -> bool:
        """Whether the password belongs to the hash; where it cannot, the answer takes as long.

        A `password_hash` of None belongs to no password: there is no such account.

        Raises:
            Throttled: Too many wait, in all or of this client.
        """
        # The length first: a text of megabytes is not composed.
        is_short = len(password) <= _TYPED_CHARACTERS_MAX
        against, shown = password_hash or self._decoy, password if is_short else ""
        return await self._in_thread(lambda: _matches(against, shown), client) and is_short and bool(password_hash)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[[], T], client: str) -> T:
        with self._places.enter(client):
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def checked_password(password: str) -> str:
    """Return a password that can be accepted, its characters composed (NFC), as it is hashed and counted.

    Keyboards and systems write `é` as one character or as two; both are the same password.

    Raises:
        InvalidRequest: It is too short, too long, or no text.
    """
    composed = _composed(password) if len(password) <= _TYPED_CHARACTERS_MAX else ""
    if not _CHARACTERS_MIN <= len(composed) <= _CHARACTERS_MAX:
        raise InvalidRequest(
            f"A password has {_CHARACTERS_MIN} to {_CHARACTERS_MAX} characters. Choose another.",
            reason="invalid_password",
        )
    return composed


def password_wrong() -> PermissionDenied:
    """Return the refusal of a password that is not the account's, or not any more."""
    return PermissionDenied("That is not your password. Try again.", reason="password_wrong")


def _composed(password: str) -> str:
    return unicodedata.normalize("NFC", password)


def _matches(password_hash: str, password: str) -> bool:
    # Passwords of earlier versions were hashed as they were typed.
    return any(_verifies(password_hash, form) for form in dict.fromkeys((_composed(password), password)))


def _verifies(password_hash: str, password: str) -> bool:
    try:
        return _HASHER.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False


def _step_back() -> None:
    """Give way to the event loop's thread wherever the system knows priorities of threads (Linux does)."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
