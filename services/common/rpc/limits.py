"""Conversion between `Limit` and protobuf's message, for all services."""

from collections.abc import Iterable
from functools import lru_cache

from services.common.limits import Limit, Scope, Slot, Unit, Window
from stack.common.v1 import limits_pb2

_LIMITS_MAX = 1_000
"""Each reserve sends the limits of its key."""
_SCOPES = {Scope.KEY: limits_pb2.SCOPE_KEY, Scope.ACCOUNT: limits_pb2.SCOPE_ACCOUNT}
_UNITS: dict[Unit, limits_pb2.Unit.ValueType] = {
    Unit.REQUESTS: limits_pb2.UNIT_REQUESTS,
    Unit.TOKENS: limits_pb2.UNIT_TOKENS,
    Unit.COST: limits_pb2.UNIT_COST,
    Unit.CONCURRENT_REQUESTS: limits_pb2.UNIT_CONCURRENT_REQUESTS,
}
_WINDOWS: dict[Window | None, limits_pb2.Window.ValueType] = {
    None: limits_pb2.WINDOW_UNSPECIFIED,
    Window.MINUTE: limits_pb2.WINDOW_MINUTE,
    Window.DAY: limits_pb2.WINDOW_DAY,
    Window.MONTH: limits_pb2.WINDOW_MONTH,
}
_SCOPE_OF: dict[int, Scope] = {value: scope for scope, value in _SCOPES.items()}
_UNIT_OF: dict[int, Unit] = {value: unit for unit, value in _UNITS.items()}
_WINDOW_OF: dict[int, Window | None] = {value: window for window, value in _WINDOWS.items()}


def limit_to_proto(limit: Limit) -> limits_pb2.Limit:
    """Return a limit as a message."""
    return limits_pb2.Limit(
        scope=_SCOPES[limit.scope], unit=_UNITS[limit.unit], window=_WINDOWS[limit.window], limit=limit.limit
    )


def limit_from_proto(message: limits_pb2.Limit) -> Limit | None:
    """Return the limit of a message; None if only a newer version knows its scope, unit or window.

    Raises:
        InvalidRequest: The unit does not have the window, or the limit is out of range.
    """
    return limit_from_values(message.scope, message.unit, message.window, message.limit)


@lru_cache(maxsize=_LIMITS_MAX)
def limit_from_values(scope: int, unit: int, window: int, limit: int) -> Limit | None:
    """Return the limit of a message's values; see `limit_from_proto`."""
    if scope not in _SCOPE_OF or unit not in _UNIT_OF or window not in _WINDOW_OF:
        return None
    return Limit(_SCOPE_OF[scope], _UNIT_OF[unit], _WINDOW_OF[window], limit)


def limits_from_proto(messages: Iterable[limits_pb2.Limit]) -> tuple[Limit, ...]:
    """Return the limits of messages, without those that only a newer version knows; see `limit_from_proto`."""
    limits = (limit_from_proto(message) for message in messages)
    return tuple(limit for limit in limits if limit is not None)


def slot_to_proto(slot: Slot | None) -> limits_pb2.Slot | None:
    """Return a slot as a message; None stays None."""
    if slot is None:
        return None
    return limits_pb2.Slot(number=slot.number, limit=slot.limit, scope=_SCOPES[slot.scope])


def slot_from_proto(message: limits_pb2.Slot) -> Slot | None:
    """Return the slot of a message; None if it is empty, or if only a newer version knows its scope."""
    scope = _SCOPE_OF.get(message.scope)
    return None if scope is None else Slot(message.number, message.limit, scope)


def unit_to_proto(unit: Unit) -> limits_pb2.Unit.ValueType:
    """Return a unit's protobuf value."""
    return _UNITS[unit]


def unit_from_proto(value: limits_pb2.Unit.ValueType) -> Unit | None:
    """Return the unit of a protobuf value; None if it is unspecified, or if only a newer version knows it."""
    return _UNIT_OF.get(value)


def window_to_proto(window: Window | None) -> limits_pb2.Window.ValueType:
    """Return a window's protobuf value."""
    return _WINDOWS[window]


def window_from_proto(value: limits_pb2.Window.ValueType) -> Window | None:
    """Return the window of a protobuf value; None if it is unspecified, or if only a newer version knows it."""
    return _WINDOW_OF.get(value)
