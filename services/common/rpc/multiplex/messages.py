"""What the messages of a multiplexed RPC have in common."""

from collections.abc import Iterable
from typing import Any, Protocol


class Call(Protocol):
    """A call, without its request.

    Attributes:
        id: Id, unique on its stream.
    """

    id: int


class Result(Protocol):
    """A result of a call, without its content.

    Attributes:
        id: Id of the call.
        is_last: Whether the call has no further results.
        status: Serialized `google.rpc.Status` of a call that failed; empty otherwise.
    """

    id: int
    is_last: bool
    status: bytes


class Request(Protocol):
    """A message to the service. If results may be long, it also has `acknowledgements`.

    Attributes:
        calls: The calls to start.
        cancelled_ids: Ids of calls whose results are no longer needed.
    """

    calls: Any
    cancelled_ids: Any


class Response(Protocol):
    """A message from the service.

    Attributes:
        results: Results of any calls; those of one call are in order.
        is_draining: Whether the caller must start no further calls on the stream.
    """

    results: Any
    is_draining: bool


HEARTBEAT_SECONDS = 1.0
"""Interval at which a service sends an empty message while calls are in progress. A client that misses several makes
its next calls elsewhere: gRPC notices a frozen service late, or not at all."""
WINDOW_BYTES = 1024 * 1024
"""Bytes of results of one call that may be sent without an acknowledgement."""
MESSAGE_BYTES = 1024 * 1024
"""Maximum size of a message with several parts, so that no call waits for a large message of others."""


def fitting(sizes: Iterable[int]) -> int:
    """Return how many parts of these sizes in bytes one message may contain: at least one, if there is one.

    A large part gets a message of its own, since gRPC fails the stream of a message that is too large.
    """
    total = count = 0
    for size in sizes:
        total += size
        if count and total > MESSAGE_BYTES:
            break
        count += 1
    return count
