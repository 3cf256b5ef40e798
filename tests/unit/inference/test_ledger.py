"""The ledger's guarantee: a verdict only for a committed row, and no row lost while the process runs."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest

from services.common.errors import Unavailable
from services.common.verdict import RELEASED, RowVerdict, Verdict
from services.inference.ledger.writer import Ledger, LedgerRow, LedgerStore
from tests.contracts.ledger_store import ROW, rows
from tests.logs import service_records


class GatedStore:
    """A store whose commits wait for the test, and fail while it is down."""

    def __init__(self) -> None:
        self.groups: list[list[LedgerRow]] = []
        self.open = asyncio.Event()
        self.is_down = False
        self.attempts = 0

    @property
    def kept(self) -> list[str]:
        """Request ids of the committed rows."""
        return [row.request_id for group in self.groups for row in group]

    async def insert(self, rows: Sequence[LedgerRow]) -> list[Verdict]:
        """Commit when the gate is open."""
        self.attempts += 1
        if self.is_down:
            raise Unavailable("away")
        await self.open.wait()
        self.groups.append(list(rows))
        return [Verdict.CHARGED if row.charged else Verdict.RELEASED for row in rows]


@pytest.fixture
async def store() -> GatedStore:
    """A store whose gate is closed."""
    return GatedStore()


def open_ledger(store: GatedStore, *, wait_seconds: float = 5, rows_max: int = 100) -> Ledger:
    """Return a ledger over `store`, which needs only one method."""
    return Ledger(cast("LedgerStore", store), wait_seconds=wait_seconds, rows_max=rows_max)


CHARGED_ROW = RowVerdict(Verdict.CHARGED, ROW.amounts)


async def turns(count: int = 8) -> None:
    """Run the event loop for a few turns."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_verdict_comes_only_after_the_commit(store: GatedStore) -> None:
    recording = asyncio.create_task(open_ledger(store).record(ROW))
    await turns()
    assert not recording.done()

    store.open.set()

    assert await recording == CHARGED_ROW
    assert store.kept == ["req_1"]


async def test_a_row_that_is_not_charged_has_the_verdict_release(store: GatedStore) -> None:
    store.open.set()

    assert await open_ledger(store).record(replace(ROW, charged=False)) == RELEASED


async def test_rows_that_wait_for_a_commit_are_written_in_one_group(store: GatedStore) -> None:
    ledger = open_ledger(store)
    recording = [asyncio.create_task(ledger.record(row)) for row in rows(1)]
    await turns()
    recording += [asyncio.create_task(ledger.record(row)) for row in rows(20, start=1)]
    await turns()
    store.open.set()

    assert set(await asyncio.gather(*recording)) == {CHARGED_ROW}

    assert [len(group) for group in store.groups] == [1, 20]


async def test_an_unavailable_database_gives_no_verdict_in_time_and_the_row_is_written_later(
    store: GatedStore,
) -> None:
    store.is_down = True
    store.open.set()
    ledger = open_ledger(store, wait_seconds=0.05)

    assert await ledger.record(ROW) is None
    assert store.kept == []

    store.is_down = False
    await ledger.close(timeout_seconds=5)
    assert store.kept == ["req_1"]
    assert store.attempts == 2


async def test_a_hanging_database_gives_no_verdict_in_time(store: GatedStore) -> None:
    ledger = open_ledger(store, wait_seconds=0.05)

    assert await ledger.record(ROW) is None

    store.open.set()
    await ledger.close(timeout_seconds=5)
    assert store.kept == ["req_1"]


async def test_new_requests_are_refused_while_too_many_rows_wait(store: GatedStore) -> None:
    ledger = open_ledger(store, wait_seconds=0, rows_max=3)
    for row in rows(2):
        await ledger.record(row)
    ledger.check_room()
    await ledger.record(ROW)

    with pytest.raises(Unavailable) as raised:
        ledger.check_room()

    assert raised.value.reason == "ledger_unavailable"
    store.open.set()
    await ledger.close(timeout_seconds=5)
    ledger.check_room()


async def test_a_cancelled_caller_does_not_cancel_its_row(store: GatedStore) -> None:
    ledger = open_ledger(store)
    recording = asyncio.create_task(ledger.record(ROW))
    await turns()
    recording.cancel()
    await turns()
    store.open.set()

    await ledger.close(timeout_seconds=5)

    assert store.kept == ["req_1"]


async def test_a_close_that_cannot_write_reports_the_number_of_lost_rows(
    store: GatedStore, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = open_ledger(store, wait_seconds=0)
    for row in rows(2):
        await ledger.record(row)

    await ledger.close(timeout_seconds=0.02)

    (record,) = [record for record in service_records(caplog) if record.levelname == "ERROR"]
    assert record.message.startswith("Ledger rows were lost")
    assert record.__dict__["rows"] == 2
    store.open.set()
    await ledger.close(timeout_seconds=5)
