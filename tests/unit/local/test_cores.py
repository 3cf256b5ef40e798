"""The number of cores that `STACK_WORKERS=auto` uses."""

import os
from pathlib import Path

import pytest

from services.local.cores import usable_cores

_CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("100000 100000", 1), ("50000 100000", 1), ("9900000 100000", _CORES), ("max 100000", _CORES), ("", _CORES)],
)
def test_a_limit_of_the_control_group_bounds_the_cores_of_the_machine(tmp_path: Path, limit: str, cores: int) -> None:
    (tmp_path / "unit.slice").mkdir()
    (tmp_path / "unit.slice" / "cpu.max").write_text(f"{limit}\n")
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/other\n0::/unit.slice\n")
    assert usable_cores(cgroups=tmp_path, own_cgroup=own) == cores


def test_a_machine_without_control_groups_has_its_cores(tmp_path: Path) -> None:
    assert usable_cores(cgroups=tmp_path, own_cgroup=tmp_path / "missing") == _CORES
