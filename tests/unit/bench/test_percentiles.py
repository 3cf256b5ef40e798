"""Percentiles are values from the sample."""

import pytest

from bench.percentiles import medians, percentile


@pytest.mark.parametrize(("share", "wanted"), [(0.5, 50), (0.99, 99), (0.999, 100), (1, 100), (0.001, 1)])
def test_a_percentile_is_the_value_at_its_rank(share: float, wanted: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == wanted


def test_the_only_value_is_every_percentile() -> None:
    assert {percentile([7.0], share) for share in (0.01, 0.5, 0.999)} == {7.0}


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 0), ([1.0], 1.1)])
def test_there_is_no_percentile_of_an_empty_sample(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="no percentile"):
        percentile(values, share)


def test_one_noisy_round_does_not_move_the_median() -> None:
    assert medians([{"rate": 10.0}, {"rate": 900.0}, {"rate": 11.0}]) == {"rate": 11.0}


def test_a_figure_missing_in_some_rounds_is_the_median_of_the_others() -> None:
    assert medians([{"a": 1.0}, {"a": 3.0, "b": 5.0}]) == {"a": 2.0, "b": 5.0}
