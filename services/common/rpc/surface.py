"""Conversion between `Surface` and protobuf's enum, for all services."""

from services.common.surface import Surface
from stack.common.v1 import surface_pb2

_TO_PROTO = {
    Surface.CHAT: surface_pb2.SURFACE_CHAT,
    Surface.COMPLETIONS: surface_pb2.SURFACE_COMPLETIONS,
    Surface.RESPONSES: surface_pb2.SURFACE_RESPONSES,
    Surface.MESSAGES: surface_pb2.SURFACE_MESSAGES,
    None: surface_pb2.SURFACE_UNSPECIFIED,
}
_FROM_PROTO: dict[int, Surface | None] = {value: surface for surface, value in _TO_PROTO.items()}


def surface_to_proto(surface: Surface | None) -> surface_pb2.Surface.ValueType:
    """Return a surface's protobuf value; None becomes unspecified."""
    return _TO_PROTO[surface]


def surface_from_proto(value: surface_pb2.Surface.ValueType) -> Surface | None:
    """Return the surface of a protobuf value; None if it is unspecified, or if only a newer version knows it."""
    return _FROM_PROTO.get(value)
