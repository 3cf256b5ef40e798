"""Accounts that want more than Groq allows are served by weight, however many calls they make at the same time."""

import os
from pathlib import Path

import pytest

from tests.fairness.world import Account, Result, compete
from tests.valkey_backend import valkey_server, valkey_url

__all__ = ["valkey_server", "valkey_url"]

_IS_WHOLE = os.environ.get("FAIRNESS") == "whole"
WINDOWS, SECONDS = (20, 6.0) if _IS_WHOLE else (5, 2.0)
"""Number and length of the windows. The short form proves the shares only."""


def _accounts(*, heavy_weight: int = 1, weights: tuple[int, ...] = (1,)) -> list[Account]:
    light = [Account(f"acc_light_{number}", 1, weights[number % len(weights)]) for number in range(9)]
    return [*light, Account("acc_heavy", 50, heavy_weight)]


def _check(result: Result) -> None:
    print(f"\n{result}")
    if not _IS_WHOLE:
        # Served in order of arrival, the account with fifty calls would get most, and the index would be below 0.2.
        assert result.jain >= 0.7, result
        return
    assert result.jain >= 0.95, result
    assert result.limited < 0.01 * result.calls, result
    assert result.light_wait < 0.1 * result.heavy_wait, result
    assert result.kept >= 0.9, result


def _folders(path: Path, count: int) -> list[Path]:
    folders = [path / str(number) for number in range(count)]
    for folder in folders:
        folder.mkdir()
    return folders


@pytest.mark.timeout(300)
@pytest.mark.long
@pytest.mark.parametrize("replicas", [1, 3])
async def test_an_account_with_fifty_calls_gets_the_share_of_any_other(
    tmp_path: Path, valkey_url: str, replicas: int
) -> None:
    folders, redis_url = _folders(tmp_path, replicas), valkey_url if replicas > 1 else ""

    _check(await compete(_accounts(), folders, windows=WINDOWS, seconds=SECONDS, redis_url=redis_url))


@pytest.mark.timeout(300)
@pytest.mark.skipif(not _IS_WHOLE, reason="takes two minutes; run `make test-fairness`")
async def test_accounts_of_a_plan_with_three_times_the_weight_get_three_times_as_much(
    tmp_path: Path, valkey_url: str
) -> None:
    accounts = _accounts(weights=(1, 3))

    _check(await compete(accounts, _folders(tmp_path, 3), windows=WINDOWS, seconds=SECONDS, redis_url=valkey_url))
