"""Longer deadlines of the SQL stores, for tests of what they store instead of how long it takes."""

import asyncio
from collections.abc import Coroutine, Set
from typing import Any

import pytest

_FACTOR = 20


class LongDeadlines:
    """Base of contracts: a read has one second in production, which a busy machine can exceed."""

    @pytest.fixture(autouse=True)
    def deadlines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Give each call of a store twenty times its time."""
        monkeypatch.setattr("services.common.db.transactions.asyncio", _LongWaits())


class _LongWaits:
    """`asyncio`, with longer time-outs of `wait`."""

    @staticmethod
    def wait(tasks: Set["asyncio.Task[Any]"], *, timeout: float) -> Coroutine[Any, Any, Any]:
        return asyncio.wait(tasks, timeout=_FACTOR * timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)
