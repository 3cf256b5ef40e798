"""The fault suite: under load, whatever dies or forgets, every request is charged exactly once or not at all.

Each seed is one run: its requests, its faults and their moments come from it. `make test-faults SEEDS=200` runs many,
`make test-faults SEED=17` runs one again, each with a process for each service and with two workers that hold all four;
`make test` runs a few. See docs/fault-suite.md.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.faults import checks
from tests.faults.evidence import Evidence, gather
from tests.faults.schedule import Layout, plan
from tests.faults.world import World, running_world

_SEEDS_IN_THE_SUITE = 2
_SEED_SECONDS_MAX = 90
_PROBLEMS_SHOWN = 20
_LINES_SHOWN = 60

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.timeout(_SEED_SECONDS_MAX)]


def _layouts() -> list[Layout]:
    one = os.environ.get("FAULT_LAYOUT")
    return [Layout(one)] if one else list(Layout)


@pytest.fixture(scope="module", params=_layouts())
def layout(request: pytest.FixtureRequest) -> Layout:
    """Give how the services are spread over processes."""
    return Layout(request.param)


@pytest.fixture(scope="module")
def world(layout: Layout) -> Iterator[World]:
    """Give a running world; every seed mends it first."""
    with running_world(layout) as running:
        yield running


def _seeds() -> list[int]:
    if one := os.environ.get("FAULT_SEED"):
        return [int(one)]
    first = int(os.environ.get("FAULT_FIRST_SEED") or 1)
    return list(range(first, first + int(os.environ.get("FAULT_SEEDS") or _SEEDS_IN_THE_SUITE)))


@pytest.mark.parametrize("seed", _seeds())
async def test_every_request_is_charged_once_or_not_at_all(world: World, layout: Layout, seed: int) -> None:
    evidence = await gather(world, plan(seed, layout))
    found = checks.problems(evidence)
    print(_summary(evidence), *found[:_PROBLEMS_SHOWN], sep="\n- ")
    assert not found, _report(evidence, found, _log_lines(world, found))


def _summary(evidence: Evidence) -> str:
    """Return one line: what broke, what clients saw, how requests ended in the ledger."""
    faults = ", ".join(f"{fault.harm} {fault.target}" for fault in evidence.plan.faults)
    seen = Counter(str(result.status or "left or cut") for result in evidence.results)
    ends = Counter(row.outcome for row in evidence.rows)
    late = sum(row.refund_reason == "no_verdict" and row.outcome != "unknown" for row in evidence.rows)
    return f"{faults}: {_counts(seen)}; rows: {_counts(ends)}, {late} late "


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items()))


def _log_lines(world: World, found: list[str]) -> list[str]:
    """Return what the programs logged of the requests that the first problems name."""
    named = set(re.findall(r"req_\w+", " ".join(found[:_PROBLEMS_SHOWN])))
    lines = [(name, line) for name in world.stack.names for line in world.stack.log(name).splitlines()]
    return [f"{name}: {line}" for name, line in lines if any(one in line for one in named)][:_LINES_SHOWN]


def _report(evidence: Evidence, found: list[str], lines: list[str]) -> str:
    seed = evidence.plan.seed
    faults = [
        f"  {fault.at:.2f} s: {fault.harm} {fault.target} for {fault.seconds:.2f} s" for fault in evidence.plan.faults
    ]
    return "\n".join(
        [
            f"seed {seed}; again with: make test-faults SEED={seed} FAULT_LAYOUT={evidence.plan.layout}",
            f"limits {evidence.plan.limits}, {len(evidence.results)} requests, {len(evidence.rows)} rows; faults:",
            *faults,
            f"{len(found)} problems:",
            *(f"- {text}" for text in found[:_PROBLEMS_SHOWN]),
            "logged of these requests:",
            *lines,
        ]
    )
