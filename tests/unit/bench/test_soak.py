"""The soak reports growth, but not normal variation."""

from bench.soak import Sample, growth


def _samples(*rss: float, threads: int = 9, descriptors: int = 20) -> list[Sample]:
    return [Sample(10.0 * number, 100, "gateway", mb, threads, descriptors) for number, mb in enumerate(rss)]


def test_memory_that_settles_after_the_first_third_is_not_growth() -> None:
    assert growth(_samples(60, 80, 90, 91, 90, 92, 91, 90, 92)) == []


def test_memory_that_keeps_growing_is_reported() -> None:
    assert growth(_samples(*range(60, 150, 10))) == ["rss_mb of gateway from 100 to 130"]


def test_descriptors_that_are_not_closed_are_reported() -> None:
    before, after = _samples(*[80.0] * 6), _samples(*[80.0] * 3, descriptors=200)
    assert growth([*before, *after]) == ["descriptors of gateway from 20 to 200"]


def test_too_few_samples_report_nothing() -> None:
    assert growth(_samples(60, 90)) == []
