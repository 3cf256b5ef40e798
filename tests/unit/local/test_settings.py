"""The settings of `make run`."""

import os
from pathlib import Path

import pytest

from services.common.errors import StartError
from services.common.runtime.read_settings import read
from services.local.settings import LocalSettings


def _workers(monkeypatch: pytest.MonkeyPatch, **environment: str) -> int:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return read(LocalSettings).configuration().workers


def test_one_worker_per_core_runs_by_default_and_at_most_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STACK_WORKERS", raising=False)
    monkeypatch.setattr("services.local.settings.usable_cores", lambda: 3)
    assert _workers(monkeypatch) == 3
    monkeypatch.setattr("services.local.settings.usable_cores", lambda: 64)
    assert _workers(monkeypatch) == 4
    assert _workers(monkeypatch, STACK_WORKERS="auto") == 4


def test_a_unix_socket_which_several_processes_cannot_share_means_one_worker_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert _workers(monkeypatch, STACK_WORKERS="auto", QUOTA_LISTEN=f"unix:{tmp_path}/quota.sock") == 1
    assert _workers(monkeypatch, STACK_WORKERS="2") == 2


@pytest.mark.parametrize("value", ["-1", "65", "2.5", "two", "²"])
def test_another_number_of_workers_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    with pytest.raises(StartError, match="Setting STACK_WORKERS: expected auto, or a number from 0 to 64"):
        _workers(monkeypatch, STACK_WORKERS=value)


def test_the_configuration_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACK_ADMIN_TOKEN", "a-secret-token")
    monkeypatch.setenv("QUOTA_REDIS_URL", "redis://:a-secret-password@nowhere")
    assert "secret" not in repr(read(LocalSettings).configuration())
    assert os.environ["STACK_ADMIN_TOKEN"] == read(LocalSettings).configuration().admin_token
