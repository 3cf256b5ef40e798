"""The report lists ratios first and names what was not measured."""

from bench.contenders.stack import WORKER
from bench.machine import Machine
from bench.measure import Figures
from bench.report import Run, added, cores, markdown, ratio, targets
from bench.tables import number, table

_MACHINE = Machine("EPYC", 2, "Linux 6.1", "3.11.7", 0.5)


def _figures(rate: float, cpu: float, p50: float) -> Figures:
    return {
        "requests_per_second@32": rate,
        "requests_per_second@1": rate / 2,
        "cpu_ms_per_request@32": cpu,
        "cpu_ms_per_event@bursts": cpu / 10,
        "p50_ms@1": p50,
        "p50_ms@10 a second": p50,
        "first_event_p50_ms@1": p50 + 1,
        "rss_mb@idle/supervisor": 70.0,
        "rss_mb@idle/valkey": 10.0,
        "rss_mb@idle": 100.0,
    }


def _run(**skipped: str) -> Run:
    services = {f"rss_mb@{moment}/{name}": 100.0 for moment in ("idle", "load") for name in (WORKER, f"{WORKER}-2")}
    medians = {
        "direct": _figures(20_000, 0.01, 0.5),
        "pass-through": _figures(2_000, 0.25, 1.0),
        "stack": _figures(1_000, 1.0, 2.5) | services,
        "LiteLLM": _figures(40, 20.0, 20.5),
    }
    measured = {name: figures for name, figures in medians.items() if name not in skipped}
    return Run("2026-11-25", _MACHINE, dict.fromkeys(measured, "1.0"), skipped, measured, rounds=3, charged=1234)


def test_latency_is_the_difference_to_the_mock_alone() -> None:
    assert added(_run().medians, "stack", "p50_ms@1") == 2.0


def test_targets_are_ratios_of_the_same_run() -> None:
    found = {name: value for name, _, _, value in targets(_run().medians)}
    assert found["requests/s against LiteLLM, 32 connections"] == 25
    assert found["CPU per request against the pass-through"] == 4
    assert found["added latency p50, 1 connection, against LiteLLM"] == 0.1
    assert found["events per CPU second against LiteLLM, bursts"] == 20
    assert found["RSS of the four services idle, MB"] == 200


def test_cores_in_use_are_rate_times_cost_per_request() -> None:
    assert cores(_figures(500, 2.0, 1.0)) == 1.0


def test_an_unmeasured_figure_is_none_and_never_a_number() -> None:
    assert ratio(_run(LiteLLM="no network").medians, "stack", "LiteLLM", "requests_per_second@32") is None
    assert added(_run().medians, "stack", "p99_ms@1") is None


def test_the_page_names_skipped_contenders_and_the_reason() -> None:
    page = markdown(_run(LiteLLM="PyPI cannot be reached"))
    assert "- LiteLLM: **skipped**: PyPI cannot be reached" in page
    assert "| requests/s against LiteLLM, 32 connections | 25 | 40 | not measured |" in page


def test_the_page_shows_machine_versions_and_the_number_of_charges_that_agreed() -> None:
    page = markdown(_run())
    assert "2 x EPYC (Linux 6.1, Python 3.11.7)" in page
    assert "- stack: 1.0" in page
    assert "All 1,234 requests" in page


def test_every_row_of_a_table_has_the_same_number_of_cells() -> None:
    lines = table(["a", "b"], [["x", "1"], ["y", "2"]])
    assert lines == ["| a | b |", "| --- | ---: |", "| x | 1 |", "| y | 2 |"]


def test_numbers_keep_three_significant_digits() -> None:
    assert [number(value) for value in (0.01234, 12.345, 1234.5, None)] == ["0.0123", "12.3", "1,234", "-"]
