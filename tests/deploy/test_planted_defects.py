"""Each check detects its defect, planted in an otherwise correct rendering."""

import copy
from typing import Any

import pytest

from tests.deploy import defects_outside, defects_pods, defects_policies, defects_wiring
from tests.deploy.world import World
from tools.manifests.__main__ import problems
from tools.manifests.checks import CHECKS
from tools.manifests.objects import Objects
from tools.manifests.render import K8S, refined, render, render_combination

_WITH_STORES = refined(("network-policy", "mtls", "autoscaling", "monitoring", "ingress", "stored-responses"))
"""The components that add objects, over a base that keeps its stores."""
_DEFECTS = defects_pods.DEFECTS | defects_wiring.DEFECTS | defects_policies.DEFECTS | defects_outside.DEFECTS


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, Any]]:
    """The rendering, shared by all tests."""
    return Objects.parse(render_combination(_WITH_STORES)).all


@pytest.fixture
def world(rendered: list[dict[str, Any]]) -> World:
    """A copy for one test."""
    return World(copy.deepcopy(rendered))


@pytest.mark.long
def test_the_rendering_has_no_fault_before_a_defect_is_planted(world: World) -> None:
    assert problems(Objects(world.objects)) == []


@pytest.mark.long
@pytest.mark.parametrize("defect", _DEFECTS)
def test_a_planted_defect_is_detected(world: World, defect: str) -> None:
    plant, expected = _DEFECTS[defect]
    plant(world)

    found = problems(Objects(world.objects))

    assert any(expected in problem for problem in found), found


@pytest.mark.long
def test_every_check_detects_some_defect(rendered: list[dict[str, Any]]) -> None:
    """A check that detects none of the planted defects may detect nothing at all."""
    idle = set(CHECKS)
    for plant, expected in _DEFECTS.values():
        world = World(copy.deepcopy(rendered))
        plant(world)
        objects = Objects(world.objects)
        idle -= {check for check in idle if any(expected in problem for problem in check(objects))}
    assert {check.__name__ for check in idle} == set()


def test_a_rendering_error_is_reported_in_kubectls_words() -> None:
    with pytest.raises(RuntimeError, match="does not render cleanly"):
        render(K8S / "nowhere")
