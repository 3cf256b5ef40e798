"""A profile attributes time to the code that ran, not to its caller."""

from collections import Counter

from bench.profiles import by_function, by_part

_RUN = "run (asyncio/runners.py:118)"
_STREAM = f"{_RUN};stream (services/gateway/requests/streaming.py:90)"
_STACKS = (
    (f"{_STREAM};send (uvicorn/protocols/http/httptools_impl.py:480)", 5),
    (_STREAM, 2),
    (f"{_RUN};stream (services/gateway/requests/streaming.py:97)", 1),
    (_RUN, 1),
    (f"{_RUN};__init__ (<string>:3)", 1),
)


def test_a_sample_counts_towards_the_part_that_ran() -> None:
    assert by_part(_STACKS) == Counter({"uvicorn": 5, "services/gateway": 3, "asyncio": 1, "<string>": 1})


def test_a_sample_counts_towards_the_function_that_ran_on_any_of_its_lines() -> None:
    counts = by_function(_STACKS)
    assert counts["stream (services/gateway/requests/streaming.py)"] == 3
    assert counts.total() == 10
