"""Conversion between `Verdict` and protobuf's enum, for all services."""

from collections.abc import Sequence

from services.common.verdict import NOTHING_USED, Amounts, RowVerdict, Verdict
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


def amounts_to_proto(amounts: Amounts | None) -> verdict_pb2.Amounts | None:
    """Return amounts as a message; None stays None."""
    return None if amounts is None else verdict_pb2.Amounts(tokens=amounts.tokens, cost=amounts.cost)


def amounts_from_proto(message: verdict_pb2.Amounts) -> Amounts:
    """Return the amounts of a message."""
    return Amounts(max(0, message.tokens), max(0, message.cost))


def row_verdict_from_proto(value: verdict_pb2.Verdict.ValueType, amounts: verdict_pb2.Amounts) -> RowVerdict | None:
    """Return a verdict with its amounts; None if the verdict is unspecified or unknown."""
    verdict = verdict_from_proto(value)
    return None if verdict is None else RowVerdict(verdict, amounts_from_proto(amounts))


def row_verdicts_from_proto(
    values: Sequence[verdict_pb2.Verdict.ValueType], amounts: Sequence[verdict_pb2.Amounts]
) -> list[RowVerdict | None]:
    """Return verdicts with their amounts; the previous version sends none, and knows no limits of tokens or cost."""
    verdicts = [verdict_from_proto(value) for value in values]
    used = [amounts_from_proto(one) for one in amounts] or [NOTHING_USED] * len(verdicts)
    pairs = zip(verdicts, used, strict=True)
    return [None if verdict is None else RowVerdict(verdict, one) for verdict, one in pairs]


def row_verdict_to_proto(
    verdict: RowVerdict | None,
) -> tuple[verdict_pb2.Verdict.ValueType, verdict_pb2.Amounts | None]:
    """Return the protobuf values of a verdict and its amounts; None is unspecified and has none."""
    if verdict is None:
        return verdict_pb2.VERDICT_UNSPECIFIED, None
    return _TO_PROTO[verdict.verdict], amounts_to_proto(verdict.amounts)


def row_verdicts_to_proto(
    verdicts: Sequence[RowVerdict | None],
) -> tuple[list[verdict_pb2.Verdict.ValueType], list[verdict_pb2.Amounts]]:
    """Return the protobuf values of verdicts and their amounts, in order."""
    pairs = [row_verdict_to_proto(verdict) for verdict in verdicts]
    return [value for value, _ in pairs], [amounts or verdict_pb2.Amounts() for _, amounts in pairs]
