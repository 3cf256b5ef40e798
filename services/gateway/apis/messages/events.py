"""Events of a message stream as bytes. Each has an `event:` line, which Anthropic's clients require."""

from msgspec.json import Encoder

from services.gateway.requests.types import JSONObject

_encode = Encoder().encode
_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
_DELTA_END = b"}}\n\n"
_STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
"""Sent while no events arrive."""
MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
"""The last event of a successful stream."""


def event(kind: str, members: JSONObject) -> bytes:
    """Return an event."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode({"type": kind, **members}))


def delta_prefix(index: int, kind: bytes, member: bytes) -> bytes:
    """Return the first part of the delta events of a block, which `delta` completes."""
    return _DELTA % (index, kind, member)


def delta(prefix: bytes, piece: str) -> bytes:
    """Return a delta event of a block."""
    return b"%b%b%b" % (prefix, _encode(piece), _DELTA_END)


def block_stop(index: int) -> bytes:
    """Return the event that closes a block."""
    return _STOP % index
