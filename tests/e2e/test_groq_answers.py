"""Every row of the tables "What Groq does" in docs/failure-modes.md is true, in one process and in four."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.stack import Key
from tests.e2e.upstream_world import (
    BREAKER_FAILURES,
    MODEL_WITH_FALLBACK,
    MODELS,
    REST_SECONDS,
    Layout,
    Seen,
    UpstreamWorld,
    upstream_world,
)

_PAGE = (Path(__file__).parents[2] / "docs" / "failure-modes.md").read_text(encoding="utf-8")
_AT_ONCE = 6
"""Rows that are tested at the same time."""
_CALLS = 3
"""Calls for a request that Groq fails."""
_LOG_SECONDS = 5.0
_OF_KEYS = ("limited", "key_refused")
"""Results of calls that affect concurrent requests."""


@dataclass(frozen=True)
class Row:
    """One row of the first table with one of its stand-in requests, streamed or not."""

    groq: str
    markers: str
    stream: bool
    client: str
    charged: str
    results: Counter[str]

    def __str__(self) -> str:
        return f"{self.groq}: {self.markers}{', streamed' if self.stream else ''}"

    @property
    def is_about_keys(self) -> bool:
        """Whether it affects the state of the Groq keys."""
        return any(self.results[one] for one in _OF_KEYS)

    @property
    def takes_long(self) -> bool:
        """Whether it waits for a time-out."""
        return any(word in self.markers for word in ("hang", "slow"))

    def differs(self, seen: Seen) -> str:
        """Return the differences between what was observed and the row; empty when there are none."""
        expected = (self.client, self.charged, self.results.total())
        return "" if expected == (found := (seen.client, seen.charged, seen.calls)) else f"{self}: {found}"


def _table(heading: str) -> list[list[str]]:
    """Return the cells of the table whose heading begins so."""
    lines = _PAGE.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {heading}"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("| "):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def _requests(cell: str) -> list[str]:
    """Return the markers of each request in a cell; `or` separates requests, `+` separates markers."""
    return [" ".join(map(_marker, re.findall("`([^`]+)`", one))) for one in cell.split(" or ")]


def _marker(text: str) -> str:
    return f"[[standin:{text} id=ID]]" if text.startswith("flaky") else f"[[standin:{text}]]"


def _either(cell: str, *, stream: bool) -> str:
    first, _, second = cell.partition(" / ")
    return second if stream and second else first


def _ended(before: Counter[str], after: Counter[str], expected: Counter[str]) -> dict[str, int]:
    """Return how the results of calls differ from those expected of chats; some calls also requested the models."""
    more = Counter(after)
    more.subtract(before)
    more.subtract(expected)
    lists = more.pop("lists", 0)
    if 0 <= more["answered"] <= lists:
        del more["answered"]
    return {result: count for result, count in more.items() if count}


def _counted(cell: str) -> Counter[str]:
    pairs = (one.split() for one in cell.split(", "))
    return Counter({result: int(count) for count, result in pairs})


_ROWS = [
    Row(
        groq,
        markers,
        stream,
        streamed if stream else whole,
        _either(charged, stream=stream),
        _counted(_either(calls, stream=stream)),
    )
    for groq, cell, whole, streamed, charged, calls in _table("Groq | stand-in | in one piece")
    for markers in _requests(cell)
    for stream in (False, True)
]


_in_both_layouts = pytest.mark.parametrize(
    "world",
    [
        pytest.param(Layout.WORKER, marks=pytest.mark.xdist_group("groq-answers-worker")),
        pytest.param(Layout.SERVICES, marks=[pytest.mark.xdist_group("groq-answers-services"), pytest.mark.long]),
    ],
    indirect=True,
    scope="module",
)


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[UpstreamWorld]:
    """Yield a stack with two Groq keys."""
    with upstream_world(Layout(request.param)) as running:
        yield running


def test_the_tables_can_be_parsed() -> None:
    assert len(_ROWS) > 100
    assert {len(row) for row in _table("call | ")} == {4}
    assert len(_table("Groq's list of models")) == 3


@_in_both_layouts
async def test_each_response_of_groq_is_reported_and_charged_as_in_the_table(world: UpstreamWorld) -> None:
    rows = [row for row in _ROWS if not row.is_about_keys]
    before, room = await world.results(), asyncio.Semaphore(_AT_ONCE)

    async def observe(row: Row, model: str) -> Seen:
        if row.takes_long:
            return await world.ask(row.markers, stream=row.stream, model=model)
        async with room:
            return await world.ask(row.markers, stream=row.stream, model=model)

    models = [MODEL_WITH_FALLBACK if "fallback" in row.groq else MODELS[number % 7] for number, row in enumerate(rows)]
    seen = await asyncio.gather(*map(observe, rows, models))

    assert [text for row, one in zip(rows, seen, strict=True) if (text := row.differs(one))] == []
    assert _ended(before, await world.results(), sum((row.results for row in rows), Counter())) == {}
    calls = await world.calls()
    assert {one.key.id: one.calls for one in seen} == {one.key.id: calls[one.key.id] for one in seen}


@pytest.mark.long
@_in_both_layouts
async def test_each_response_of_groq_about_its_keys_is_reported_and_charged_as_in_the_table(
    world: UpstreamWorld,
) -> None:
    wrong = []
    for row in (row for row in _ROWS if row.is_about_keys):
        model = MODEL_WITH_FALLBACK if "fallback" in row.groq else MODELS[0]
        await world.until_unaffected(model)
        before = await world.results()
        seen = await world.ask(row.markers, stream=row.stream, model=model)
        wrong += [text for text in (row.differs(seen),) if text]
        if others := _ended(before, await world.results(), row.results):
            wrong.append(f"{row}: calls ended otherwise: {others}")
    assert wrong == []
    await world.until_unaffected(MODELS[0])


@pytest.mark.long
@_in_both_layouts
async def test_the_result_of_a_call_affects_later_calls_as_in_the_table(world: UpstreamWorld) -> None:
    rows = _table("call | ")
    for model in MODELS:
        await world.until_unaffected(model)
    counting = [(row, model) for row, model in zip(rows, MODELS, strict=True) if row[2] == "counts"]
    for row, model in zip(rows, MODELS, strict=True):
        if (row, model) not in counting:
            await _check_that_it_counts_for_nothing(world, row, model)
    await asyncio.gather(*(_check_that_it_counts(world, row, model) for row, model in counting))


async def _check_that_it_counts(world: UpstreamWorld, row: list[str], model: str) -> None:
    """Check that enough calls with this result open a circuit of a model that no other test uses."""
    result, cell, _, _ = row
    (marker,) = _requests(cell)
    key, opened = await world.stack.create_key(), _openings(world, model)
    # One of the two keys gets more than half of the calls.
    calls = 2 * BREAKER_FAILURES + 4
    await _repeat(world, key, marker, calls if result == "timed_out" else calls // _CALLS, model)
    assert await _was_logged(lambda: _openings(world, model) > opened, is_expected=True), f"{row} does not count"


async def _check_that_it_counts_for_nothing(world: UpstreamWorld, row: list[str], model: str) -> None:
    """Check that calls with this result close a model's circuits or leave them unchanged, and check the state of the
    keys.
    """
    _, cell, breaker, key_state = row
    (marker,) = _requests(cell)
    key, opened, cooled = await world.stack.create_key(), _openings(world, model), _cool_downs(world, model)
    # Calls alternate between the keys: with this many failures neither opens its circuit, with twice as many both do.
    failures = (BREAKER_FAILURES + 2) // _CALLS
    await _repeat(world, key, _marker("500"), failures, model)
    assert _openings(world, model) == opened
    await _repeat(world, key, marker, 4, model)
    assert (await world.usable_keys() < 2) == key_state.startswith("is quarantined"), row
    cools_down = key_state.startswith("cools down")
    assert await _was_logged(lambda: _cool_downs(world, model) > cooled, is_expected=cools_down) == cools_down, row
    if breaker == "does not count":
        await asyncio.sleep(REST_SECONDS)
    await _repeat(world, key, _marker("500"), failures, model)
    opens = breaker == "does not count"
    assert await _was_logged(lambda: _openings(world, model) > opened, is_expected=opens) == opens, row


async def _repeat(world: UpstreamWorld, key: Key, marker: str, times: int, model: str) -> None:
    await asyncio.gather(*(world.send(key, marker, stream=True, model=model) for _ in range(times)))


async def _was_logged(condition: Callable[[], bool], *, is_expected: bool) -> bool:
    """Wait until a condition on the log holds, as a thread writes the log; return whether it does."""
    ends = time.monotonic() + (_LOG_SECONDS if is_expected else 0)
    while not condition() and time.monotonic() < ends:
        await asyncio.sleep(0.02)
    return condition()


def _cool_downs(world: UpstreamWorld, model: str) -> int:
    return world.logged("A Groq key is rate limited and cools down.", model=model)


def _openings(world: UpstreamWorld, model: str) -> int:
    return world.logged("The circuit of a Groq key and model opened after repeated failures.", model=model)


@pytest.mark.long
@_in_both_layouts
async def test_a_slow_or_failing_model_list_blocks_no_chat_and_is_shown_as_in_the_table(world: UpstreamWorld) -> None:
    key = await world.stack.create_key()
    full = await world.listed_models(key)
    shown = {
        "Groq's": full,
        "those that can be read": full | {"caf\N{REPLACEMENT CHARACTER} ok", "a\N{REPLACEMENT CHARACTER}b", "a🎉b"},
        "the built-in ones": {model for model in full if model.startswith(("openai/gpt-oss-1", "qwen/", "llama-3."))}
        | {"openai/gpt-oss-20b"},
    }
    for _, cell, expected in _table("Groq's list of models"):
        for kind in re.findall("`([^`]+)`", cell):
            await world.change_model_list(kind)
            await world.restart_inference()
            assert (await world.ask("hello", stream=False)).client == "200"
            assert await world.listed_models(key) == shown[expected], kind
