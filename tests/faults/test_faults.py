"""The fault suite: under load, with any process killed or any store losing data, every request is charged exactly
once or not at all.

Each seed is one run: its requests, its faults and their times are derived from it. `make test-faults SEEDS=200` runs
many, `make test-faults SEED=17` repeats one, each with a process for each service and with two workers that contain all
four; `make test` runs a few. See docs/fault-suite.md.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults import checks, record, report
from tests.faults.evidence import Evidence
from tests.faults.running import gather
from tests.faults.schedule import Layout, plan
from tests.faults.world import World, running_world

_SEEDS_IN_THE_SUITE = 2
"""All but the first are long."""
_SEED_SECONDS_MAX = 90

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.timeout(_SEED_SECONDS_MAX)]


def _layouts() -> list[Layout]:
    one = os.environ.get("FAULT_LAYOUT")
    return [Layout(one)] if one else list(Layout)


@pytest.fixture(scope="module", params=_layouts())
def layout(request: pytest.FixtureRequest) -> Layout:
    """Return how the services are spread over processes."""
    return Layout(request.param)


@pytest.fixture(scope="module")
def world(layout: Layout) -> Iterator[World]:
    """Return a running world; every seed repairs it first."""
    with running_world(layout) as running:
        yield running


def _seeds() -> list[Any]:
    if one := os.environ.get("FAULT_SEED"):
        return [int(one)]
    first = int(os.environ.get("FAULT_FIRST_SEED") or 1)
    count = int(os.environ.get("FAULT_SEEDS") or _SEEDS_IN_THE_SUITE)
    return [first, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(first + 1, first + count))]


@pytest.mark.long
@pytest.mark.parametrize("seed", _seeds())
async def test_every_request_is_charged_once_or_not_at_all(world: World, layout: Layout, seed: int) -> None:
    evidence, logged = Evidence(plan(seed, layout)), record.log_sizes(world)
    try:
        await gather(world, evidence)
    except BaseException as exc:
        folder = record.keep(world, evidence, report.failure(world, evidence, [f"the run ended with {exc!r}"]), logged)
        print(f"everything about this seed: {folder}")
        raise
    found = checks.problems(evidence)
    print(report.summary(evidence), *found[: report.PROBLEMS_SHOWN], sep="\n- ")
    if found:
        text = report.failure(world, evidence, found)
        pytest.fail(f"{text}\neverything about this seed: {record.keep(world, evidence, text, logged)}", pytrace=False)
