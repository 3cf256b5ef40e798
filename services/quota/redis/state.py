"""Whether Redis can be used, as its last answers and failures told; said once when it changes."""

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
    """What is known of Redis."""

    UNKNOWN = "unknown"
    """It was not asked yet."""
    OK = "ok"
    REJECTED = "rejected"
    """It answers and does not accept our user or password."""
    UNREACHABLE = "unreachable"
    """It does not answer, or cannot serve now."""


class RedisState:
    """The state of one Redis, or of the nodes of a cluster."""

    def __init__(self) -> None:
        self.state = State.UNKNOWN
        self.message = ""
        """What is wrong and what to do; empty when nothing is."""
        self.refuses_writes = False
        """Whether it answers and refused the last write: reads say nothing about that."""

    def answered(self) -> None:
        """Note an answer; while writes are refused, it counts for nothing."""
        if self.state is State.OK or self.refuses_writes:
            return
        if self.message:
            _log.warning("redis answers again")
        self.state, self.message = State.OK, ""
        REDIS_UP.set(1)

    def wrote(self) -> None:
        """Note a write that succeeded."""
        self.refuses_writes = False
        self.answered()

    def failed(self, exc: BaseException) -> None:
        """Note a failure; only what is new is logged."""
        state, message = _meaning(exc)
        if message != self.message:
            _log.error(message, extra={"error": type(exc).__name__})
        self.state, self.message = state, message
        self.refuses_writes = message in (_REFUSES, _READ_ONLY)
        REDIS_UP.set(0)


_REJECTED = "Redis rejects our user or password. Set QUOTA_REDIS_USER and QUOTA_REDIS_PASSWORD."
_READ_ONLY = "Redis is a read-only replica. Wait for the failover, or check QUOTA_REDIS_URL."
_LOADING = "Redis is loading its data. Wait until it is done."
_REFUSES = "Redis refuses to write. See its log: memory, disk and replicas are the usual reasons."
_UNREACHABLE = "Redis is unreachable. Check QUOTA_REDIS_URL and that it runs."


def _meaning(exc: BaseException) -> tuple[State, str]:
    if isinstance(exc, AuthenticationError | AuthorizationError | NoPermissionError) or _rejects(exc):
        return State.REJECTED, _REJECTED
    if isinstance(exc, ReadOnlyError):
        return State.UNREACHABLE, _READ_ONLY
    if isinstance(exc, BusyLoadingError):
        return State.UNREACHABLE, _LOADING
    return State.UNREACHABLE, _REFUSES if isinstance(exc, ResponseError) else _UNREACHABLE


def _rejects(exc: BaseException) -> bool:
    return any(word in str(exc) for word in _REJECTIONS)
