"""The usage page's state is in its address, and whatever an address has, the page shows something and says what."""

from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

import pytest

from services.common.surface import Surface
from services.gateway.console.usage.query import UsageQuery, usage_query
from services.gateway.console.usage.ranges import DAY, DAYS_MAX, FIVE_MINUTES, HOUR
from services.gateway.console.usage.reports import Breakdown

NOW = datetime(2026, 11, 30, 7, 12, 33, tzinfo=UTC).timestamp()
KEY = "key_01KBC000000000000000000000"


def _query(address: str) -> UsageQuery:
    return usage_query(dict(parse_qsl(urlsplit(address).query)), now=NOW)


def _at(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp())  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("address", "start", "end", "step"),
    [
        ("?range=1h", _at(2026, 11, 30, 6, 15), _at(2026, 11, 30, 7, 15), FIVE_MINUTES),
        ("?range=24h", _at(2026, 11, 29, 8), _at(2026, 11, 30, 8), HOUR),
        ("?range=7d", _at(2026, 11, 24), _at(2026, 12, 1), DAY),
        ("", _at(2026, 11, 1), _at(2026, 12, 1), DAY),
        ("?range=30d", _at(2026, 11, 1), _at(2026, 12, 1), DAY),
        ("?from=2026-11-29", _at(2026, 11, 29), _at(2026, 12, 1), HOUR),
        ("?from=2026-11-27&to=2026-11-27", _at(2026, 11, 27), _at(2026, 11, 28), HOUR),
        ("?from=2026-11-27&to=2026-11-25&range=1h", _at(2026, 11, 25), _at(2026, 11, 28), DAY),
        ("?from=2026-10-01&to=2026-10-01", _at(2026, 10, 1), _at(2026, 10, 2), DAY),  # Sums by hour are gone.
        ("?to=2026-11-10", _at(2026, 10, 12), _at(2026, 11, 11), DAY),
        ("?from=2027-01-01", _at(2027, 1, 1), _at(2027, 1, 2), HOUR),
    ],
)
def test_a_range_has_whole_steps_and_ends_with_the_current_one(address: str, start: int, end: int, step: int) -> None:
    query = _query(address)
    assert query.problems == []
    assert (query.range.start, query.range.end, query.range.step) == (start, end, step)
    axis = query.range.axis
    assert len(axis.times) == len(axis.labels) == len(query.range.times) == (end - start) // step
    if step != DAY:
        assert (query.filters.from_time, query.filters.to_time) == (start, end)
        assert not query.filters.from_day
    else:
        assert _at(*map(int, query.filters.from_day.split("-"))) == start
        assert _at(*map(int, query.filters.to_day.split("-"))) == end - DAY


def test_an_address_has_the_whole_state() -> None:
    address = f"/usage?range=24h&key={KEY}&model=a%2Fb+%26c&outcome=cut&surface=messages&by=outcome&live=off"
    query = _query(address)
    assert query.link() == address
    assert query.filters.model == "a/b &c"
    assert query.filters.surface is Surface.MESSAGES
    assert (query.breakdown, query.is_live, query.is_filtered) == (Breakdown.OUTCOME, False, True)
    assert _query(query.ranged("30d")).range.name == "30d"
    assert _query(query.link(by="")).breakdown is Breakdown.MODEL
    assert query.link("/usage.csv", by="", live="").startswith("/usage.csv?range=24h&key=")
    custom = _query("/usage?from=2026-11-01&to=2026-11-03")
    assert custom.link() == "/usage?from=2026-11-01&to=2026-11-03"
    assert custom.ranged("1h") == "/usage?range=1h"
    assert _query("/usage").link() == "/usage"
    assert not _query("/usage").is_filtered


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("?range=2h", "range"),
        ("?from=soon", "from"),
        ("?to=2026-02-30", "to"),
        ("?from=0001-01-01", "from"),
        ("?to=9999-12-31", "to"),
        ("?key=sk_stk_secret", "key"),
        ("?model=%00", "model"),
        (f"?model={'m' * 300}", "model"),
        ("?outcome=fine", "outcome"),
        ("?surface=unheard-of", "surface"),
        ("?by=weather", "by"),
        ("?before=req_1", "before"),
    ],
)
def test_what_cannot_be_used_is_ignored_and_named(address: str, name: str) -> None:
    query = _query(address)
    assert len(query.problems) == 1
    assert f"`{name}`" in query.problems[0]
    assert query.range.name == "30d"
    assert not query.is_filtered
    assert len(query.problems[0]) < 200


def test_a_range_of_too_many_days_shows_the_last_ones_and_says_so() -> None:
    query = _query("?from=2001-01-01&to=2026-11-30")
    assert query.range.end - query.range.start == DAYS_MAX * DAY
    assert query.range.to_day == "2026-11-30"
    assert f"at most {DAYS_MAX} days" in query.problems[0]
