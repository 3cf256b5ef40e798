"""Conversion between `Verdict` and protobuf's enum, for all services."""

from services.common.verdict import Verdict
from stack.common.v1 import verdict_pb2

_TO_PROTO = {
    Verdict.CHARGED: verdict_pb2.VERDICT_CHARGED,
    Verdict.RELEASED: verdict_pb2.VERDICT_RELEASED,
    None: verdict_pb2.VERDICT_UNSPECIFIED,
}
_FROM_PROTO: dict[int, Verdict | None] = {value: verdict for verdict, value in _TO_PROTO.items()}


def verdict_to_proto(verdict: Verdict | None) -> verdict_pb2.Verdict.ValueType:
    """Return a verdict's protobuf value; None becomes unspecified."""
    return _TO_PROTO[verdict]


def verdict_from_proto(value: verdict_pb2.Verdict.ValueType) -> Verdict | None:
    """Return the verdict of a protobuf value; None if it is unspecified, or if only a newer version knows it."""
    return _FROM_PROTO.get(value)
