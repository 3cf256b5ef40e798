"""A profile attributes time to the code that ran, not to its caller."""

from collections import Counter

from bench.profiles import by_function, by_part, shares

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


def test_a_table_of_several_processes_has_the_share_of_each_in_its_own_samples() -> None:
    lines = shares("requests", {"gateway": Counter({"grpc": 1, "uvicorn": 3}), "quota": Counter({"grpc": 10})})
    assert lines == [
        "| requests | gateway | quota |",
        "| --- | ---: | ---: |",
        "| `grpc` | 25.0% | 100.0% |",
        "| `uvicorn` | 75.0% | 0.0% |",
    ]
