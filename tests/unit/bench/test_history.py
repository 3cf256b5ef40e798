"""The guard against regressions holds a run to the best of its kind of machine."""

from dataclasses import replace
from pathlib import Path

from bench import history
from bench.history import Entry
from bench.machine import Machine

_RUN = Entry("2026-11-25T10:00:00+00:00", "abc1234", "2 x EPYC", "3.11.7", 0.1, 5.0, 1.0, 0.2, 0.3)


def test_a_run_within_a_quarter_of_the_best_is_good() -> None:
    verdict = history.judge(replace(_RUN, cpu_ratio=6.2), [_RUN, replace(_RUN, cpu_ratio=9.0)])
    assert verdict.is_good
    assert "+24 %" in verdict.sentence


def test_a_run_more_than_a_quarter_worse_than_the_best_is_a_regression() -> None:
    verdict = history.judge(replace(_RUN, cpu_ratio=6.3), [replace(_RUN, cpu_ratio=9.0), _RUN])
    assert not verdict.is_good
    assert "REGRESSION" in verdict.sentence


def test_runs_of_another_kind_of_machine_do_not_count() -> None:
    assert history.judge(replace(_RUN, cpu_ratio=50.0), [replace(_RUN, machine="64 x Xeon")]).is_good


def test_what_is_appended_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    other = replace(_RUN, cpu_ratio=4.5)
    history.append(_RUN, path)
    history.append(other, path)
    assert history.parse(path.read_text()) == [_RUN, other]


def test_the_ratio_is_ours_over_the_pass_throughs() -> None:
    machine = Machine("EPYC", 2, "Linux", "3.11.7", 0.5)
    figures = {
        "stack": {"cpu_ms_per_request@32": 1.2, "requests_per_second@32": 500.0},
        "pass-through": {"cpu_ms_per_request@32": 0.3, "requests_per_second@32": 2000.0},
    }
    entry = history.entry(figures, on=machine)
    assert (entry.cpu_ratio, entry.rate_ratio, entry.machine) == (4.0, 0.25, "2 x EPYC")
