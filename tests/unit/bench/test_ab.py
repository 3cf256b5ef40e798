"""Comparison of two trees: pairs, their median and its spread."""

from bench.ab import Comparison


def test_a_tree_that_costs_more_in_nearly_every_pair_is_a_regression() -> None:
    comparison = Comparison((1.10, 1.12, 1.08, 1.11, 1.09, 1.13, 1.07, 1.10, 0.99, 1.12))
    assert comparison.ratio == 1.10
    low, high = comparison.spread()
    assert 1 < low <= comparison.ratio <= high < 1.13
    assert comparison.is_regression


def test_noise_is_no_regression() -> None:
    assert not Comparison((0.80, 1.30, 0.90, 1.25, 1.00, 1.20, 0.95, 1.15)).is_regression


def test_a_tree_that_costs_a_little_more_is_no_regression() -> None:
    assert not Comparison((1.02, 1.03, 1.02, 1.03, 1.02, 1.03)).is_regression
