"""`stackctl usage export`: all formats have all rows once, also after interruptions."""

import asyncio
import csv
import fcntl
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from services.cli.export_rows import COLUMNS
from services.common.errors import Unavailable
from services.common.limits import Scope, Slot
from services.common.rpc.types import Context
from services.inference.ledger.export_rpc import UsageExportService
from services.inference.ledger.store import SQLLedgerStore
from stack.inference.v1 import export_pb2
from tests.contracts.ledger_store import ROW, rows
from tests.integration.auth_process import environment
from tests.integration.cli.ledger_world import LedgerWorld, ledger_world

_PERIOD = ("--from", "2026-08-01", "--to", "2026-08-03")


class Failing(UsageExportService):
    """Fails from a call of the test's choice on, until the test resets it."""

    calls_max = 10**9

    async def ListDayRequests(
        self, request: export_pb2.ListDayRequestsRequest, context: Context
    ) -> export_pb2.ListDayRequestsResponse:
        Failing.calls_max -= 1
        if Failing.calls_max < 0:
            raise Unavailable("The ledger is away.")
        return await super().ListDayRequests(request, context)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[LedgerWorld]:
    """Yield a ledger with 2,501 rows on two of three days."""
    Failing.calls_max = 10**9
    async with ledger_world(tmp_path, wrapped=Failing) as world:
        await _fill(world.store)
        yield world


async def _fill(store: SQLLedgerStore) -> None:
    for start in range(0, 2_400, 800):
        await store.insert(rows(800, start=start, account_id="acc_2"))
    await store.insert(rows(100, start=5_000, day="2026-08-03"))
    odd = replace(
        ROW,
        request_id="5f3a",
        model='=HYPERLINK("x"),\n"y"',
        slot=Slot(3, 10, Scope.ACCOUNT),
        cost=None,
        surface=None,
        queue_ms=0,
    )
    await store.insert([odd, replace(ROW, request_id="other", day="2026-08-04")])


def _ids(lines: str) -> list[str]:
    return [json.loads(line)["request_id"] for line in lines.splitlines()]


def _expected() -> list[str]:
    return sorted([*(f"req_{n}" for n in range(2_400)), "5f3a"]) + sorted(f"req_{n}" for n in range(5_000, 5_100))


async def test_json_lines_have_every_row_of_the_period_in_order(world: LedgerWorld) -> None:
    code, printed, said = await world.stackctl("usage", "export", *_PERIOD)

    assert (code, said) == (0, "")
    assert _ids(printed) == _expected()
    assert json.loads(printed.splitlines()[0]) == {
        "request_id": "5f3a",
        "account_id": "acc_1",
        "key_id": "key_1",
        "day": "2026-08-02",
        "reserved_at": "2026-08-02T12:00:00.123Z",
        "model": '=HYPERLINK("x"),\n"y"',
        "upstream_model": "openai/gpt-oss-20b",
        "surface": None,
        "stream": True,
        "outcome": "answered",
        "charged": True,
        "refund_reason": "",
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "total_tokens": 30,
        "cached_tokens": 4,
        "reasoning_tokens": 5,
        "usage_source": "reported",
        "cost_microdollars": None,
        "slot_number": 3,
        "slot_limit": 10,
        "slot_scope": "account",
        "upstream_id": "req_upstream",
        "attempts": 1,
        "time_to_first_token_ms": 3,
        "duration_ms": 7,
        "queue_ms": 0,
    }


async def test_csv_has_the_same_rows_and_no_formulas(world: LedgerWorld) -> None:
    path = world.folder / "usage.csv"
    code, printed, said = await world.stackctl("usage", "export", *_PERIOD, "--format", "csv", "--output", path)

    assert (code, printed, said) == (0, "", "")
    found = list(csv.DictReader(io.StringIO(path.read_text(), newline="")))
    assert list(found[0]) == list(COLUMNS)
    assert [row["request_id"] for row in found] == _expected()
    assert found[0]["model"] == '\'=HYPERLINK("x"),\n"y"'
    assert (found[0]["charged"], found[0]["cost_microdollars"], found[1]["cost_microdollars"]) == ("true", "", "1234")


async def test_parquet_has_a_file_for_each_day(world: LedgerWorld) -> None:
    folder = world.folder / "usage"
    code, _, said = await world.stackctl("usage", "export", *_PERIOD, "--format", "parquet", "--output", folder)

    assert (code, said) == (0, "")
    names = [f"usage-2026-08-0{day}.parquet" for day in (1, 2, 3)]
    assert sorted(path.name for path in folder.iterdir()) == names
    tables = [parquet.read_table(folder / name) for name in names]
    assert [table.num_rows for table in tables] == [0, 2_401, 100]
    first = tables[1].slice(0, 1).to_pylist()[0]
    assert (first["request_id"], first["cost_microdollars"], first["slot_limit"]) == ("5f3a", None, 10)
    assert first["model"] == '=HYPERLINK("x"),\n"y"'
    assert first["reserved_at"].isoformat() == "2026-08-02T12:00:00.123000+00:00"


@pytest.mark.parametrize("format_name", ["csv", "jsonl"])
@pytest.mark.parametrize("calls", [2, *(pytest.param(calls, marks=pytest.mark.long) for calls in (0, 1, 3, 4))])
async def test_an_interrupted_file_is_continued_without_repeating_or_missing_a_row(
    world: LedgerWorld, format_name: str, calls: int
) -> None:
    whole, parts = world.folder / "whole", world.folder / "parts"
    options = ("usage", "export", *_PERIOD, "--format", format_name, "--output")
    await world.stackctl(*options, whole)
    Failing.calls_max = calls
    failed = await world.stackctl(*options, parts)
    # What a killed process has written after the last position.
    with parts.open("ab") as file:
        file.write(b"half a l")
    Failing.calls_max = 10**9

    assert failed[0] == 1, failed
    refused = await world.stackctl(*options, parts)
    assert refused[0] == 2
    assert "is not complete. Continue it with --resume" in refused[2]
    assert (await world.stackctl(*options, parts, "--resume"))[0] == 0
    assert parts.read_bytes() == whole.read_bytes()
    assert json.loads(parts.with_name("parts.position").read_text())["is_complete"] is True


async def test_an_interrupted_folder_keeps_its_complete_days(world: LedgerWorld) -> None:
    folder = world.folder / "usage"
    options = ("usage", "export", *_PERIOD, "--format", "parquet", "--output", folder)
    Failing.calls_max = 2
    assert (await world.stackctl(*options))[0] == 1
    assert [path.name for path in folder.iterdir()] == ["usage-2026-08-01.parquet"]
    Failing.calls_max = 10**9
    kept = (folder / "usage-2026-08-01.parquet").stat().st_mtime_ns

    assert (await world.stackctl(*options, "--resume"))[0] == 0
    assert (folder / "usage-2026-08-01.parquet").stat().st_mtime_ns == kept
    assert parquet.read_table(folder / "usage-2026-08-02.parquet").num_rows == 2_401
    assert len(list(folder.iterdir())) == 3


async def test_resume_begins_a_new_file_and_leaves_a_complete_one(world: LedgerWorld) -> None:
    path = world.folder / "usage.jsonl"
    options = ("usage", "export", *_PERIOD, "--output", path, "--resume")
    assert (await world.stackctl(*options))[0] == 0
    before = path.read_bytes()
    Failing.calls_max = 0

    code, _, said = await world.stackctl(*options)

    assert (code, "is complete" in said) == (0, True)
    assert _ids(path.read_text()) == _expected()
    assert path.read_bytes() == before


@pytest.mark.parametrize("other", [("--to", "2026-08-02"), ("--to", "2026-08-03", "--format", "csv")])
async def test_a_complete_file_is_not_taken_for_that_of_another_export(
    world: LedgerWorld, other: tuple[str, ...]
) -> None:
    path = world.folder / "usage.jsonl"
    await world.stackctl("usage", "export", *_PERIOD, "--output", path)
    before = path.read_bytes()

    code, _, said = await world.stackctl(
        "usage", "export", "--from", "2026-08-01", *other, "--output", path, "--resume"
    )

    assert (code, "is an export of jsonl 2026-08-01 to 2026-08-03, and not of" in said) == (2, True)
    assert path.read_bytes() == before
    assert (await world.stackctl("usage", "export", "--from", "2026-08-01", *other, "--output", path))[0] == 0
    assert path.read_bytes() != before, "without --resume, it is replaced"


async def test_a_file_of_something_else_is_not_taken_for_a_complete_export(world: LedgerWorld) -> None:
    path = world.folder / "notes.txt"
    path.write_text("mine")

    code, _, said = await world.stackctl("usage", "export", *_PERIOD, "--output", path, "--resume")

    assert (code, "was not written by an export" in said) == (2, True)
    assert path.read_text() == "mine"


async def test_a_file_that_lost_its_end_is_not_filled_with_zeros(world: LedgerWorld) -> None:
    path = world.folder / "usage.jsonl"
    options = ("usage", "export", *_PERIOD, "--output", path)
    Failing.calls_max = 3
    await world.stackctl(*options)
    Failing.calls_max = 10**9
    os.truncate(path, 100)

    code, _, said = await world.stackctl(*options, "--resume")

    assert (code, "is shorter than it was: 100 of " in said) == (1, True)
    path.unlink()
    assert (await world.stackctl(*options, "--resume"))[0] == 0, "a file that is gone begins again"
    assert _ids(path.read_text()) == _expected()


@pytest.mark.parametrize("format_name", ["jsonl", "parquet"])
async def test_of_two_exports_to_one_place_the_second_is_refused(world: LedgerWorld, format_name: str) -> None:
    path = world.folder / "usage"
    options = ("usage", "export", *_PERIOD, "--format", format_name, "--output", path, "--resume")
    if format_name == "parquet":
        path.mkdir()
    descriptor = os.open(path, os.O_RDONLY | (0 if path.is_dir() else os.O_CREAT))
    fcntl.flock(descriptor, fcntl.LOCK_EX)

    code, _, said = await world.stackctl(*options)

    os.close(descriptor)
    assert (code, "Another export is writing" in said) == (1, True)
    assert (await world.stackctl(*options))[0] == 0


@pytest.mark.parametrize("format_name", ["jsonl", "parquet"])
async def test_a_day_that_was_not_over_is_exported_again(world: LedgerWorld, format_name: str) -> None:
    path = world.folder / "usage"
    period = ("--from", "2026-08-02", "--to", "2026-08-02")
    options = ("usage", "export", *period, "--format", format_name, "--output", path, "--resume")
    assert (await world.stackctl(*options))[0] == 0
    file = path / "usage-2026-08-02.parquet" if format_name == "parquet" else path.with_name("usage.position")
    noon = datetime(2026, 8, 2, 12, tzinfo=UTC).timestamp()
    os.utime(file, (noon, noon))
    await world.store.insert([replace(ROW, request_id="0")])

    assert (await world.stackctl(*options))[0] == 0

    if format_name == "parquet":
        assert parquet.read_table(file).num_rows == 2_402
    else:
        assert len(path.read_text().splitlines()) == 2_402


async def test_a_file_of_another_period_is_not_continued(world: LedgerWorld) -> None:
    path = world.folder / "usage.jsonl"
    Failing.calls_max = 2
    await world.stackctl("usage", "export", *_PERIOD, "--output", path)
    before = path.read_bytes()

    code, _, said = await world.stackctl("usage", "export", "--from", "2026-08-02", "--output", path, "--resume")

    assert (code, "is an export of jsonl 2026-08-01 to 2026-08-03" in said) == (2, True)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        ((), 2, "--from"),
        (("--from", "2026-08-02", "--to", "2026-08-01"), 2, "--from 2026-08-02 is after --to 2026-08-01"),
        (("--from", "2026-8-2"), 2, "'2026-8-2' is not a day. Write it as YYYY-MM-DD"),
        (("--from", "2026-02-30"), 2, "is not a day"),
        ((*_PERIOD, "--resume"), 2, "--resume needs --output"),
        ((*_PERIOD, "--format", "parquet"), 2, "--format parquet needs --output"),
        ((*_PERIOD, "--output", "/nowhere/usage.jsonl"), 1, "/nowhere/usage.jsonl cannot be used: No such file"),
        ((*_PERIOD, "--output", "/dev/full"), 1, "cannot be used"),
    ],
)
async def test_a_mistake_is_reported_in_one_sentence(
    world: LedgerWorld, arguments: tuple[str, ...], code: int, problem: str
) -> None:
    done = await world.stackctl("usage", "export", *arguments)

    assert (done[0], done[1]) == (code, "")
    assert problem in done[2]
    assert len(done[2].splitlines()) == 1


async def test_an_export_that_reaches_today_says_that_it_is_not_complete(world: LedgerWorld) -> None:
    code, _, said = await world.stackctl("usage", "export", "--from", "2999-01-01", "--to", "2999-01-01")

    assert (code, said) == (0, "stackctl: today is not over, so its rows are not complete\n")


@pytest.mark.long
async def test_without_pyarrow_the_other_formats_work(world: LedgerWorld, tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "pyarrow.py").write_text("raise ModuleNotFoundError(name='pyarrow')")
    given = {"PYTHONPATH": str(tmp_path / "without")}

    code, _, said = await _process(world, *_PERIOD, "--format", "parquet", "--output", str(tmp_path / "x"), **given)
    assert (code, "Install it with `pip install pyarrow`" in said) == (1, True)
    assert (await _process(world, *_PERIOD, **given))[0] == 0


async def _process(world: LedgerWorld, *arguments: str, **settings: str) -> tuple[int, str, str]:
    """Run the command in a new Python process, unlike the world's."""
    given = environment(world.folder, {"INFERENCE_TARGET": world.target, **settings})
    command = [sys.executable, "-m", "services.cli", "usage", "export", *arguments]
    options: Any = {"env": given, "capture_output": True, "text": True, "timeout": 60, "check": False}
    done: Any = await asyncio.to_thread(lambda: subprocess.run(command, **options))
    return done.returncode, done.stdout, done.stderr


async def test_progress_is_shown_on_a_terminal_only(world: LedgerWorld) -> None:
    ours, theirs = pty.openpty()
    given = environment(world.folder, {"INFERENCE_TARGET": world.target})
    command = [sys.executable, "-m", "services.cli", "usage", "export", *_PERIOD]
    process = await asyncio.create_subprocess_exec(*command, env=given, stdout=asyncio.subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    printed, _ = await asyncio.wait_for(process.communicate(), 60)
    shown = await asyncio.to_thread(_drained, ours)

    assert process.returncode == 0
    assert len(printed.splitlines()) == 2_501
    assert "Exporting" in shown
    assert "2,501 rows" in shown
    assert "100%" in shown


def _drained(terminal: int) -> str:
    text = b""
    try:
        while part := os.read(terminal, 4_096):
            text += part
    except OSError:  # The other end is closed.
        pass
    os.close(terminal)
    return text.decode()
