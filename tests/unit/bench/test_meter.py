"""No figure is reported for a load whose charges do not match its answers."""

import os
from collections.abc import Iterator

import pytest

from bench.measure import Meter, Miscounted


class _Counting:
    """A contender whose counts are set by the test; this process stands in for its processes."""

    name = version = model = url = features = "counting"
    surfaces = ()

    def __init__(self, *counts: int) -> None:
        self.headers: dict[str, str] = {}
        self.parts = {"itself": os.getpid()}
        self._counts: Iterator[int] = iter(counts)

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def charged(self) -> int:
        return next(self._counts)


def test_cpu_is_reported_when_every_answer_was_charged_once() -> None:
    meter = Meter(_Counting(10, 15))
    assert sum(range(1_000_000)) > 0
    assert meter.cpu_ms(answers=5)[""] > 0


@pytest.mark.parametrize("charged", [14, 16])
def test_a_charge_too_few_or_too_many_fails_the_run(charged: int) -> None:
    meter = Meter(_Counting(10, charged))
    with pytest.raises(Miscounted, match="5 requests were answered"):
        meter.cpu_ms(answers=5)
