"""Fixtures that start `make run`."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.make_run.runner import Runner, free_ports, refusal


@pytest.fixture
def ports() -> dict[str, int]:
    """Return free ports."""
    return free_ports()


@pytest.fixture
def start(tmp_path: Path, ports: dict[str, int]) -> Iterator[Callable[..., Runner]]:
    """Yield a function that starts a runner; all are stopped after the test."""
    runners: list[Runner] = []

    def begin(data_dir: Path = tmp_path / "var", **environment: str) -> Runner:
        runners.append(Runner(data_dir, ports, output=subprocess.PIPE, command=(), **environment))
        return runners[-1]

    yield begin
    for runner in runners:
        if runner.process.poll() is None:
            runner.stop()
        assert runner.process.stdout is not None
        runner.process.stdout.close()


@pytest.fixture
def refused(tmp_path: Path, ports: dict[str, int]) -> Callable[..., str]:
    """Return a function that runs a start that fails, and returns its one sentence."""

    def run(data_dir: Path = tmp_path / "var", **environment: str) -> str:
        return refusal(data_dir, ports, **environment)

    return run
