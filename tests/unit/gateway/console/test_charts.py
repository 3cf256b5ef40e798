"""Charts draw the given counts, and nothing that the page's content security policy forbids."""

import re
from xml.etree import ElementTree

import pytest

from services.gateway.console.charts import COLOURS, OTHER, Axis, colours, columns

DAYS = ["2026-11-01", "2026-11-02", "2026-11-03"]
AXIS = Axis.of_days(DAYS)
_SCRIPT = '"><script>alert(1)</script>'


def _heights(svg: str, name: str) -> list[float]:
    return [float(height) for height in re.findall(rf'class="{name}"[^/]*?height="([\d.]+)"', svg)]


def test_the_height_of_a_column_is_its_count() -> None:
    chart = columns("Requests", AXIS, {"a": {DAYS[0]: 10, DAYS[2]: 20}, "b": {DAYS[0]: 5}}, {"a": 0, "b": 1})

    low, high = _heights(chart.svg, "series-0")
    assert high == pytest.approx(2 * low, rel=0.02)
    assert _heights(chart.svg, "series-1")[0] == pytest.approx(low / 2, rel=0.02)
    assert chart.total == 35
    assert list(chart.legend) == [("series-0", "a"), ("series-1", "b")]


def test_a_chart_has_its_figures_as_text_for_screen_readers() -> None:
    chart = columns("Requests", AXIS, {"a": {DAYS[0]: 1_234}}, {"a": 0})

    root = ElementTree.fromstring(chart.svg)
    assert root.get("aria-label") == "Requests per day, 2026-11-01 to 2026-11-03: 1,234 in total"
    titles = [element.text for element in root.iter("title")]
    assert titles == ["2026-11-01. a: 1,234", "2026-11-02. none", "2026-11-03. none"]


def test_names_are_escaped() -> None:
    chart = columns("<b>", AXIS, {_SCRIPT: {DAYS[0]: 1}}, {_SCRIPT: 0})

    ElementTree.fromstring(chart.svg)
    assert "<script" not in chart.svg
    assert "style=" not in chart.svg


@pytest.mark.parametrize("count", [0, 1, 5, 7, 11, 19, 99, 100, 101, 4_999, 10**12])
def test_no_column_leaves_the_drawing_and_axis_marks_are_integers(count: int) -> None:
    chart = columns("Requests", AXIS, {"a": {DAYS[0]: count}}, {"a": 0})

    tops = [float(y) for y in re.findall(r' y="([\d.-]+)"', chart.svg)]
    assert all(0 <= y <= 220 for y in tops)
    marks = re.findall(r'class="axis end"[^>]*>([^<]+)<', chart.svg)
    assert len(set(marks)) == 5


def test_no_days_and_no_series_draw_an_empty_chart() -> None:
    assert columns("Requests", AXIS, {}, {}).total == 0
    assert columns("Requests", Axis.of_days([]), {}, {}).total == 0


def test_a_name_has_the_same_colour_in_all_charts_whatever_their_counts() -> None:
    colour_of = colours({"a": 5, "b": 9, "c": 1})
    requests = columns("Requests", AXIS, {"a": {DAYS[0]: 1}, "b": {DAYS[0]: 2}}, colour_of)
    tokens = columns("Tokens", AXIS, {"a": {DAYS[0]: 900}, "c": {DAYS[1]: 7}}, colour_of)

    assert {name: colour for colour, name in requests.legend} == {"b": "series-0", "a": "series-1"}
    assert {name: colour for colour, name in tokens.legend} == {"a": "series-1", "c": "series-2"}


def test_names_after_the_eighth_are_shown_together_and_nothing_is_lost() -> None:
    frequency = {f"model-{number:02}": 100 - number for number in range(11)} | {OTHER: 1_000}
    series = {name: {DAYS[0]: count} for name, count in frequency.items()}
    chart = columns("Requests", AXIS, series, colours(frequency))

    names = [name for _, name in chart.legend]
    assert names == [*sorted(frequency)[:COLOURS], OTHER]
    assert chart.legend[-1] == ("series-8", OTHER)
    assert chart.total == sum(frequency.values())
    assert f"other: {1_000 + 92 + 91 + 90:,}" in chart.svg


def test_series_without_counts_are_not_in_the_legend() -> None:
    chart = columns("Tokens", AXIS, {"a": {DAYS[0]: 0}, "b": {DAYS[0]: 1}, "c": {DAYS[1]: 0}}, {"a": 0, "b": 1})
    assert list(chart.legend) == [("series-1", "b")]
