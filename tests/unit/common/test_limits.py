"""Limits: their short text, the combinations that are allowed, and protobuf."""

import pytest

from services.common.errors import InvalidRequest
from services.common.limits import (
    WINDOWS,
    Limit,
    Scope,
    Unit,
    Window,
    checked_limits,
    effective_limits,
    parse_limit,
    parse_limits,
)
from services.common.rpc.limits import limit_from_proto, limit_to_proto, limits_from_proto
from stack.common.v1 import limits_pb2

ALL = [Limit(scope, unit, window, 7) for scope in Scope for unit in Unit for window in WINDOWS[unit]]


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("account:tokens:day=200000", Limit(Scope.ACCOUNT, Unit.TOKENS, Window.DAY, 200_000)),
        ("key:tokens:minute=6000", Limit(Scope.KEY, Unit.TOKENS, Window.MINUTE, 6_000)),
        ("key:cost:month=5000000", Limit(Scope.KEY, Unit.COST, Window.MONTH, 5_000_000)),
        ("key:cost:month=$5", Limit(Scope.KEY, Unit.COST, Window.MONTH, 5_000_000)),
        ("key:cost:day=$0.000001", Limit(Scope.KEY, Unit.COST, Window.DAY, 1)),
        ("account:concurrent_requests=20", Limit(Scope.ACCOUNT, Unit.CONCURRENT_REQUESTS, None, 20)),
        (" key:requests:minute=0 ", Limit(Scope.KEY, Unit.REQUESTS, Window.MINUTE, 0)),
    ],
)
def test_a_text_describes_a_limit(text: str, limit: Limit) -> None:
    assert parse_limit(text) == limit


@pytest.mark.parametrize("limit", ALL, ids=str)
def test_a_limit_survives_its_text_and_protobuf(limit: Limit) -> None:
    assert parse_limit(str(limit)) == limit
    assert limit_from_proto(limit_to_proto(limit)) == limit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a limit"),
        ("key:tokens:minute", "is not a limit"),
        ("key:tokens:minute=-1", "is not a limit"),
        ("key:tokens:minute=1e3", "is not a limit"),
        ("key:tokens:minute=٣", "is not a limit"),
        ("key:tokens:minute=1.5", "not a whole number"),
        ("key:cost:month=$0.0000001", "is not a limit"),
        ("key:cost:month=1.5", "not a whole number"),
        ("key:tokens:day=$5", "Remove the $"),
        ("user:tokens:day=5", "'user' is not a valid Scope"),
        ("key:images:day=5", "'images' is not a valid Unit"),
        ("key:tokens:hour=5", "'hour' is not a valid Window"),
        ("key:tokens:month=5", "Limits of tokens are per minute or day."),
        ("key:cost:minute=5", "Limits of cost are per day or month."),
        ("key:requests=5", "Limits of requests are per minute or day."),
        ("key:concurrent_requests:day=5", "Limits of concurrent_requests have no window."),
        ("key:tokens:day=1000000000000001", "It must be 0 to 1000000000000000."),
        ("key:cost:month=$1000000001", "It must be 0 to 1000000000000000."),
    ],
)
def test_a_text_that_is_no_limit_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message.replace("$", r"\$")) as refused:
        parse_limit(text)
    assert refused.value.reason == "invalid_limit"


def test_something_is_limited_once() -> None:
    once = parse_limits(["key:tokens:minute=6000", "account:tokens:minute=6000"])
    assert [limit.name for limit in checked_limits(once)] == ["account:tokens:minute", "key:tokens:minute"]
    with pytest.raises(InvalidRequest, match="key:tokens:minute is given twice"):
        checked_limits([*once, parse_limit("key:tokens:minute=1")])


def test_a_key_overrides_limits_of_its_plan() -> None:
    plan = parse_limits(["account:tokens:day=100", "key:tokens:minute=6000"])
    key = parse_limits(["key:cost:day=5", "key:tokens:minute=10"])
    assert [str(limit) for limit in effective_limits(plan, key)] == [
        "account:tokens:day=100",
        "key:cost:day=5",
        "key:tokens:minute=10",
    ]


def test_limits_of_a_newer_version_are_left_out() -> None:
    known = parse_limit("key:tokens:minute=6000")
    newer = limits_pb2.Limit(scope=limits_pb2.SCOPE_KEY, unit=99, limit=1)  # type: ignore[arg-type]
    assert limits_from_proto([newer, limit_to_proto(known), limits_pb2.Limit()]) == (known,)
