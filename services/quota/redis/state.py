"""Tracks whether Redis is usable and logs changes."""

import logging
from enum import StrEnum

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    ReadOnlyError,
    ResponseError,
)

from services.quota.metrics import REDIS_UP

_log = logging.getLogger(__name__)
_REJECTIONS = ("WRONGPASS", "NOAUTH", "invalid username-password pair", "invalid password")


class State(StrEnum):
    """Whether Redis is usable."""

    UNKNOWN = "unknown"
    """No command was sent yet."""
    OK = "ok"
    """The last command succeeded."""
    REJECTED = "rejected"
    """Redis rejected the user name or password."""
    UNREACHABLE = "unreachable"
    """Redis does not reply, or cannot serve requests."""


class RedisState:
    """State of a Redis server, or of all nodes of a cluster."""

    def __init__(self) -> None:
        self.state = State.UNKNOWN
        self.message = ""
        """What is wrong and what to do about it; empty when Redis is usable or was not called yet."""
        self.refuses_writes = False
        """Whether Redis refused the last write. Reads do not show this."""

    def record_success(self) -> None:
        """Record a successful command; ignored while writes are refused."""
        if self.state is State.OK or self.refuses_writes:
            return
        if self.message:
            _log.warning("Redis is available again.")
        self.state, self.message = State.OK, ""
        REDIS_UP.set(1)

    def record_write(self) -> None:
        """Record a successful write."""
        self.refuses_writes = False
        self.record_success()

    def record_failure(self, exc: BaseException) -> None:
        """Record a failed command; log it unless the same failure was logged last."""
        state, message = _classify(exc)
        if message != self.message:
            _log.error(message, extra={"error": type(exc).__name__})
        self.state, self.message = state, message
        self.refuses_writes = message in (_WRITE_REFUSED, _READ_ONLY)
        REDIS_UP.set(0)


_REJECTED = "Redis rejected the user name or password. Check QUOTA_REDIS_USER and QUOTA_REDIS_PASSWORD."
_READ_ONLY = "Redis is a read-only replica. Wait for the failover, or check QUOTA_REDIS_URL."
_LOADING = "Redis is loading its data. Wait until it has finished."
_WRITE_REFUSED = "Redis refused a write. Check Redis' log; the usual causes are memory, disk space and replicas."
_UNREACHABLE = "Redis is unreachable. Check that Redis is running and that QUOTA_REDIS_URL is correct."


def _classify(exc: BaseException) -> tuple[State, str]:
    if isinstance(exc, AuthenticationError | AuthorizationError | NoPermissionError) or _is_rejection(exc):
        return State.REJECTED, _REJECTED
    if isinstance(exc, ReadOnlyError):
        return State.UNREACHABLE, _READ_ONLY
    if isinstance(exc, BusyLoadingError):
        return State.UNREACHABLE, _LOADING
    return State.UNREACHABLE, _WRITE_REFUSED if isinstance(exc, ResponseError) else _UNREACHABLE


def _is_rejection(exc: BaseException) -> bool:
    return any(text in str(exc) for text in _REJECTIONS)
