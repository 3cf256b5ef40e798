"""The results show every target with its mark, name what was not measured, and replace only their place in the page."""

from pathlib import Path

import pytest

from bench.machine import Machine
from bench.measure import Figures
from bench.report import BEGIN, END, Run, cores, markdown, write
from bench.tables import number, table
from bench.targets import TARGETS, added, ratio

_MACHINE = Machine("EPYC", 2, "Linux 6.1", "3.11.7", 0.5)


def _figures(rate: float, cpu: float, p50: float) -> Figures:
    return {
        "requests_per_second@32": rate,
        "requests_per_second@1": rate / 2,
        "requests_per_second@responses": rate / 4,
        "cpu_ms_per_request@32": cpu,
        "cpu_ms_per_event@bursts": cpu / 10,
        "p50_ms@1": p50,
        "first_event_p50_ms@1": p50 + 1,
        "pss_mb@idle": 100.0,
        "pss_mb@idle/worker": 90.0,
        "cpu_ms_per_request@32/worker": cpu * 0.9,
    }


def _run(**skipped: str) -> Run:
    medians = {
        "direct": _figures(20_000, 0.01, 0.5),
        "pass-through": _figures(2_000, 0.25, 1.0),
        "stack": _figures(1_000, 1.0, 2.5),
        "stack, 2 workers": _figures(1_100, 1.1, 3.0),
        "stack, 4 processes": _figures(500, 2.0, 5.0),
        "LiteLLM": _figures(40, 20.0, 20.5),
    }
    measured = {name: figures for name, figures in medians.items() if name not in skipped}
    contenders = dict.fromkeys(measured, ("1.0", "limits"))
    return Run("2026-11-25", _MACHINE, contenders, skipped, measured, rounds=3, charged=1234)


def _page(**skipped: str) -> str:
    return markdown(_run(**skipped), chart="chart.png")


def test_latency_is_the_difference_to_the_mock_alone() -> None:
    assert added(_run().medians, "stack", "p50_ms@1") == 2.0


def test_each_target_has_its_figure_bound_and_mark_in_every_layout() -> None:
    cells = {target.name: target.cells(_run().medians) for target in TARGETS}
    assert cells["requests/s, times LiteLLM's, 32 connections"] == ["25 (≥ 21) ✓", "27.5 (≥ 30) ✗", "12.5 (≥ 15) ✗"]
    assert cells["CPU per request, times the pass-through's"] == ["4 (≤ 4) ✓", "4.4 (≤ 4.3) ✗", "8 (≤ 8) ✓"]
    assert cells["added latency, p50, 1 connection, times LiteLLM's"][0] == "0.1 (≤ 0.1) ✓"
    assert cells["events per CPU second, times LiteLLM's, bursts"][0] == "20 (≥ 22) ✗"
    assert cells["added time to the first event, p50, ms"] == ["2 (≤ 1.5) ✗", "2.5 (≤ 1.5) ✗", "4.5 (≤ 3) ✗"]


def test_a_figure_that_was_not_measured_meets_no_target() -> None:
    cells = {target.name: target.cells(_run().medians) for target in TARGETS}
    assert cells["requests/s, times Portkey's, 32 connections"][0] == "not measured (≥ 1.6)"
    assert ratio(_run(LiteLLM="no network").medians, "stack", "LiteLLM", "requests_per_second@32") is None
    assert added(_run().medians, "stack", "p99_ms@1") is None


def test_cores_in_use_are_rate_times_cost_per_request() -> None:
    assert cores(_figures(500, 2.0, 1.0)) == 1.0


def test_the_results_name_skipped_contenders_and_the_reason() -> None:
    assert "- LiteLLM was **skipped**: PyPI cannot be reached" in _page(LiteLLM="PyPI cannot be reached")


def test_the_results_show_machine_versions_features_and_the_number_of_charges_that_agreed() -> None:
    page = _page()
    assert "2 x EPYC (Linux 6.1, Python 3.11.7)" in page
    assert "| stack | 1.0 | limits |" in page
    assert "All 1,234 requests" in page


def test_programs_with_two_workers_are_compared_with_each_other() -> None:
    one, _, rest = _page().partition("### Two workers each")
    assert "| requests/s, 32 connections | 20,000 | 2,000 | 1,000 | 500 | 40 |" in one
    assert rest.strip().startswith("|  | stack |\n| --- | ---: |\n| requests/s, 32 connections | 1,100 |")


def test_the_processes_of_the_product_have_their_own_costs() -> None:
    assert "| stack: worker | 0.9 | - | - | 90 | - |" in _page()


def test_the_results_replace_only_their_place_in_the_page(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"# Benchmarks\n\n{BEGIN}\nolder\n{END}\n\n## Method\n", encoding="utf-8")
    write(_run(), page, chart="chart.png")
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# Benchmarks\n\n{BEGIN}\n")
    assert text.endswith(f"{END}\n\n## Method\n")
    assert "All 1,234 requests" in text
    assert "older" not in text


def test_a_page_of_results_alone_is_replaced_by_the_next_run(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    write(_run(), page, chart="older.png")
    write(_run(), page, chart="chart.png")
    text = page.read_text(encoding="utf-8")
    assert text == f"{BEGIN}\n\n{_page()}\n{END}\n"


def test_a_page_without_a_place_for_results_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("# Benchmarks\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no lines"):
        write(_run(), page, chart="chart.png")
    assert page.read_text(encoding="utf-8") == "# Benchmarks\n"


def test_every_row_of_a_table_has_the_same_number_of_cells() -> None:
    lines = table(["a", "b"], [["x", "1"], ["y", "2"]])
    assert lines == ["| a | b |", "| --- | ---: |", "| x | 1 |", "| y | 2 |"]


def test_numbers_keep_three_significant_digits() -> None:
    assert [number(value) for value in (0.01234, 12.345, 1234.5, None)] == ["0.0123", "12.3", "1,234", "-"]
