"""Totals, breakdown and charts of the usage page agree, and colours stay."""

import random

from services.gateway.console.charts import COLOURS
from services.gateway.console.usage.overview import Reports, overview_of, stable_colours
from services.gateway.console.usage.query import usage_query
from services.gateway.console.usage.reports import Latency, Point, Report, Sums

NOW = 1_796_000_000.0


def _report(*points: Point, **latencies: Latency) -> Report:
    return Report(list(points), None, latencies, 10_000, is_latency_partial=False, is_partial=False)


def test_a_name_keeps_its_colour_in_all_ranges_and_eight_have_one() -> None:
    chance = random.Random(1)
    usual = {f"m{number:02}": 1_000 - number for number in range(20)}
    frequent = [f"m{number:02}" for number in range(COLOURS)]
    for _ in range(200):
        shown = {name: chance.randrange(3) for name in chance.sample(sorted(usual), 12)} | {"new": 5, "other": 9}
        colours = stable_colours(usual, shown)
        assert all(colours.get(name, number) == number for number, name in enumerate(frequent))
        assert len(set(colours.values())) == len(colours) == min(COLOURS, sum(map(bool, shown.values())) - 1)
        assert all(shown[name] for name in colours), "a colour for nothing"
    assert stable_colours({}, {}) == {}


def test_parts_totals_and_charts_have_the_same_sums() -> None:
    query = usage_query({"range": "24h", "by": "key"}, now=NOW)
    key, gone, times = "key_01KBC000000000000000000000", "key_01KBC000000000000000000001", query.range.times
    shown = _report(
        Point(times[0], key, Sums(requests=2, failed_requests=1, total_tokens=30, cost=5)),
        Point(times[0], "", Sums(released_requests=1, failed_requests=1)),
        Point(times[23], key, Sums(requests=1, total_tokens=7)),
        Point(times[23], gone, Sums(requests=9, total_tokens=1, cost=2)),
        Point(times[23], None, Sums(requests=100, total_tokens=100)),
        **{key: Latency(3, 10, 20, None, None)},
    )

    overview = overview_of(query, Reports(shown, shown, None, None), {key: "laptop"})

    assert overview is not None
    assert [(one.name, one.sums.all_requests) for one in overview.parts] == [
        (gone, 9),
        ("laptop", 3),
        ("(not recorded)", 1),
        ("other", 100),
    ]
    assert [bool(one.link) for one in overview.parts] == [True, True, False, False]
    assert overview.parts[1].link == f"/usage?range=24h&key={key}&by=key"
    assert overview.parts[1].latency == Latency(3, 10, 20, None, None)
    assert overview.totals == Sums(112, 1, 2, 0, 0, 138, 0, 0, 7)
    assert overview.totals.error_rate == "1.8"
    assert {name: chart.total for name, chart in overview.charts.items()} == {
        "requests": 113,
        "tokens": 138,
        "errors": 2,
    }
    assert "laptop: 2" in overview.charts["requests"].svg
    legend = {name: colour for colour, name in overview.charts["requests"].legend}
    assert legend == {one.name: f"series-{one.colour}" for one in overview.parts}
    assert ("series-8", "other") in overview.charts["tokens"].legend
    assert {name for _, name in overview.charts["errors"].legend} == {"laptop", "(not recorded)"}, "an empty entry"
    assert len(overview.lines) == 5


def test_a_model_named_other_is_drawn_with_all_others() -> None:
    query = usage_query({"range": "24h"}, now=NOW)
    time = query.range.times[0]
    shown = _report(Point(time, "other", Sums(requests=5)), Point(time, None, Sums(requests=100)))

    overview = overview_of(query, Reports(shown, shown, None, None), {})

    assert overview is not None
    assert overview.charts["requests"].total == overview.totals.all_requests == 105


def test_without_a_report_there_is_no_overview_and_without_requests_an_empty_one() -> None:
    query = usage_query({}, now=NOW)
    assert overview_of(query, Reports(None, None, None, None), {}) is None
    empty = overview_of(query, Reports(_report(), None, None, None), {})
    assert empty is not None
    assert (empty.parts, empty.totals, empty.totals.error_rate) == ([], Sums(), "0")
