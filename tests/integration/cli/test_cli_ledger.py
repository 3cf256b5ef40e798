"""`stackctl ledger compare`: what either side lacks, whatever the file looks like."""

import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.cli import groq_file
from services.cli.failures import Failure
from services.cli.groq_file import Columns
from services.inference.chat import Usage, UsageSource
from services.inference.ledger.writer import LedgerRow
from tests.contracts.ledger_store import ROW
from tests.integration.cli.ledger_world import LedgerWorld, ledger_world

_DAY = "2026-08-02"
_MIDNIGHT = datetime(2026, 8, 2, tzinfo=UTC).timestamp()
_NOON = _MIDNIGHT + 43_200
_COLUMNS = "id=Request,time=When,tokens=Input+Output"
_HEADINGS = "When,Request,Input,Output,Model"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[LedgerWorld]:
    """Yield an empty ledger."""
    async with ledger_world(tmp_path) as world:
        yield world


def _row(number: int, *, at: float = _NOON, tokens: int = 30, **changes: object) -> LedgerRow:
    row = replace(
        ROW,
        request_id=f"req_{number}",
        upstream_id=f"groq_{number}",
        reserved_at=at,
        day=datetime.fromtimestamp(at, UTC).date().isoformat(),
        usage=Usage(10, tokens - 10, tokens, source=UsageSource.REPORTED) if tokens else Usage(),
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def _line(number: int, *, time: str = "2026-08-02T12:00:01Z", output: int = 20) -> str:
    return f"{time},groq_{number},10,{output},llama"


def _file(folder: Path, *lines: str, headings: str = _HEADINGS) -> Path:
    path = folder / "groq.csv"
    path.write_text("\n".join([headings, *lines, ""]), encoding="utf-8")
    return path


async def test_equal_sides_agree(world: LedgerWorld) -> None:
    await world.store.insert([_row(number) for number in range(3)])
    path = _file(world.folder, *map(_line, range(3)))

    code, printed, said = await world.stackctl("ledger", "compare", path, "--columns", _COLUMNS)

    assert (code, said) == (0, "")
    assert printed.startswith("2026-08-02 to 2026-08-02: 3 requests agree, 0 differ;")


async def test_what_either_side_lacks_and_other_tokens_are_listed(world: LedgerWorld) -> None:
    estimated = Usage(10, 20, 30, source=UsageSource.ESTIMATED)
    await world.store.insert([_row(1), _row(2), _row(3, attempts=2), _row(4, usage=estimated)])
    path = _file(world.folder, _line(1), _line(3, output=5), _line(4, output=7), _line(9))

    code, printed, said = await world.stackctl("ledger", "compare", path, "--columns", _COLUMNS)

    assert (code, said) == (1, "")
    assert printed.splitlines() == [
        "not in the file: groq_2 at 2026-08-02T12:00:00Z: req_2, 30 tokens in the ledger",
        "tokens differ: groq_3 at 2026-08-02T12:00:00Z: req_3, 15 tokens in the file, 30 tokens in the ledger, "
        "2 calls together",
        "tokens differ: groq_4 at 2026-08-02T12:00:00Z: req_4, 17 tokens in the file, 30 tokens in the ledger, "
        "estimated",
        "not in the ledger: groq_9 at 2026-08-02T12:00:01Z: 30 tokens in the file",
        "2026-08-02 to 2026-08-02: 1 requests agree, 4 differ; 0 requests were sent to Groq and have no id",
    ]


async def test_the_result_as_json(world: LedgerWorld) -> None:
    await world.store.insert([_row(1), _row(2, upstream_id="")])
    path = _file(world.folder, _line(9, output=1))

    code, printed, _ = await world.stackctl("ledger", "compare", path, "--columns", _COLUMNS, "--json")

    found = json.loads(printed)
    assert (code, found["ok"], found["differences_count"], found["without_id"]) == (1, False, 2, 1)
    assert found["differences"][1] == {
        "kind": "not_in_ledger",
        "upstream_id": "groq_9",
        "time": "2026-08-02T12:00:01Z",
        "request_id": None,
        "file_tokens": 11,
        "ledger_tokens": None,
        "attempts": None,
        "usage_source": None,
    }


async def test_a_file_without_tokens_is_compared_by_ids(world: LedgerWorld) -> None:
    await world.store.insert([_row(1), _row(2)])
    path = _file(world.folder, "1785672000,groq_1", headings="t,i")

    code, printed, _ = await world.stackctl("ledger", "compare", path, "--columns", "id=i,time=t")

    assert code == 1
    assert "1 requests agree, 1 differ" in printed


async def test_requests_that_groq_refused_or_never_got_are_not_expected_in_the_file(world: LedgerWorld) -> None:
    await world.store.insert([_row(1), _row(2, tokens=0), _row(3, tokens=0, upstream_id="", attempts=0)])

    code, printed, _ = await world.stackctl("ledger", "compare", _file(world.folder, _line(1)), "--columns", _COLUMNS)

    assert (code, printed.split(";")[0]) == (0, "2026-08-02 to 2026-08-02: 1 requests agree, 0 differ")


async def test_requests_at_midnight_are_matched_with_the_other_day_and_not_reported(world: LedgerWorld) -> None:
    before = _row(1, at=_MIDNIGHT - 1, duration_ms=5_000)
    across = _row(2, at=_MIDNIGHT + 86_399, duration_ms=5_000)
    after = _row(3, at=_MIDNIGHT + 86_410)
    await world.store.insert([before, across, after, _row(4)])
    path = _file(world.folder, _line(1, time="2026-08-02 00:00:03"), _line(4), _line(5, time="2026-08-02 23:59:59"))

    code, printed, _ = await world.stackctl("ledger", "compare", path, "--columns", _COLUMNS)

    assert (code, printed.split(";")[0]) == (0, "2026-08-02 to 2026-08-02: 2 requests agree, 0 differ")


async def test_the_period_can_be_longer_than_the_file_and_shorter(world: LedgerWorld) -> None:
    await world.store.insert([_row(1), _row(2, at=_NOON + 86_400)])
    path = _file(world.folder, _line(1), _line(9, time="2026-08-04T12:00:00+02:00"))

    longer = await world.stackctl("ledger", "compare", path, "--columns", _COLUMNS, "--from", "2026-08-01")
    shorter = await world.stackctl("ledger", "compare", path, "--columns", _COLUMNS, "--to", _DAY)

    assert [line.split(":")[0] for line in longer[1].splitlines()[:2]] == ["not in the file", "not in the ledger"]
    assert longer[1].splitlines()[2].startswith("2026-08-01 to 2026-08-04: 1 requests agree, 2 differ")
    assert (shorter[0], shorter[1].split(";")[0]) == (0, "2026-08-02 to 2026-08-02: 1 requests agree, 0 differ")


async def test_lines_of_one_request_are_added(world: LedgerWorld) -> None:
    await world.store.insert([_row(1)])
    path = _file(world.folder, _line(1, output=0), _line(1, output=10))

    assert (await world.stackctl("ledger", "compare", path, "--columns", _COLUMNS))[0] == 0


async def test_other_delimiters_quotes_a_byte_order_mark_and_standard_input_are_read(world: LedgerWorld) -> None:
    await world.store.insert([_row(1)])
    path = world.folder / "groq.csv"
    path.write_bytes(b'\xef\xbb\xbfthe id;"the; time";n\r\n"groq_1";1785672000123;30\r\n\r\n')

    done = await world.stackctl(
        "ledger", "compare", path, "--columns", "id=the id,time=the; time,tokens=n", "--delimiter", ";"
    )

    assert done[0] == 0, done


@pytest.mark.parametrize(
    ("lines", "columns", "code", "problem"),
    [
        (["x"], "id=Request,time=Time", 2, "The file has no column 'Time'. Its columns are: When, Request, Input,"),
        (["x"], "id=a,time=b,tokens=c+d", 2, "no column 'a', 'b', 'c', 'd'"),
        (["x"], "id=Request", 2, "expected id=COLUMN,time=COLUMN"),
        (["x"], "id=Request,time=When,cost=Cost", 2, "expected id=COLUMN,time=COLUMN"),
        (["yesterday,groq_1,1,2,m"], _COLUMNS, 1, "Line 2 of the file cannot be read: 'yesterday' is not a time"),
        ([_line(1), "2026-08-02,groq_2,many,2,m"], _COLUMNS, 1, "Line 3 of the file cannot be read: 'many' is not a"),
        (["2026-08-02,,1,2,m"], _COLUMNS, 1, "the id is empty"),
        (["nan,groq_1,1,2,m"], _COLUMNS, 1, "'nan' is not a time"),
        (["2026-08-02,groq_1"], _COLUMNS, 1, "expected 5 columns, got 2"),
        (["0001-01-01,groq_1,1,2,m"], _COLUMNS, 1, "'0001-01-01' is not a time"),
        (["0001-01-01T00:00:00+14:00,groq_1,1,2,m"], _COLUMNS, 1, "is not a time"),
        (["9999-12-31,groq_1,1,2,m"], _COLUMNS, 1, "'9999-12-31' is not a time"),
        (["0,groq_1,1,2,m", _line(2)], _COLUMNS, 2, "The period is 1970-01-01 to 2026-08-02; expected at most 3,660"),
        ([], _COLUMNS, 1, "The file has no requests."),
    ],
)
async def test_a_file_that_cannot_be_read_is_reported_with_its_line(
    world: LedgerWorld, lines: list[str], columns: str, code: int, problem: str
) -> None:
    done = await world.stackctl("ledger", "compare", _file(world.folder, *lines), "--columns", columns)

    assert (done[0], done[1]) == (code, "")
    assert problem in done[2]
    assert "Traceback" not in done[2]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--from", "0001-01-01"), "The period is 0001-01-01 to 2026-08-02; expected at most 3,660 days from 1970 on"),
        (("--to", "9999-12-31"), "The period is 2026-08-02 to 9999-12-31; expected"),
        (("--delimiter", '"'), "--delimiter: expected one character, which is no quotation mark"),
        (("--delimiter", "\n"), "--delimiter: expected one character"),
    ],
)
async def test_options_that_cannot_be_meant_are_reported(
    world: LedgerWorld, options: tuple[str, ...], problem: str
) -> None:
    done = await world.stackctl("ledger", "compare", _file(world.folder, _line(1)), "--columns", _COLUMNS, *options)

    assert (done[0], problem in done[2]) == (2, True), done


async def test_a_column_of_which_there_are_several_is_reported(world: LedgerWorld) -> None:
    path = _file(world.folder, "2026-08-02,groq_1,1,2", headings="When,Request,n,n")

    code, _, said = await world.stackctl("ledger", "compare", path, "--columns", "id=Request,time=When,tokens=n")

    assert (code, said) == (2, "stackctl: The file has several columns 'n'. Rename all but one of them.\n")


async def test_ids_cannot_control_the_terminal(world: LedgerWorld) -> None:
    path = _file(world.folder, "2026-08-02T12:00:00Z,\x1b[2J\x9bevil,1,2,m")

    code, printed, _ = await world.stackctl("ledger", "compare", path, "--columns", _COLUMNS)

    assert (code, printed.splitlines()[0]) == (
        1,
        "not in the ledger: \\x1b[2J\\x9bevil at 2026-08-02T12:00:00Z: 3 tokens in the file",
    )


def test_without_room_for_the_file_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groq_file, "_SCHEMA", groq_file._SCHEMA + "PRAGMA max_page_count = 3;")
    lines = ["t,i\n", *(f"1785672000,{number:032d}\n" for number in range(1_000))]

    with (
        pytest.raises(Failure, match=r"cannot be copied to a temporary database: database or disk is full"),
        groq_file.read(lines, Columns("i", "t")),
    ):
        pass


async def test_a_file_that_is_not_text_is_reported(world: LedgerWorld) -> None:
    path = world.folder / "groq.csv"
    path.write_bytes(_HEADINGS.encode() + b"\n\xff\xfe\x00\x01")

    code, _, said = await world.stackctl("ledger", "compare", path, "--columns", _COLUMNS)

    assert (code, "cannot be read" in said, "Traceback" in said) == (1, True, False)


async def test_without_inference_the_exit_code_is_3(world: LedgerWorld) -> None:
    path = _file(world.folder, _line(1))
    done = await world.stackctl(
        "ledger", "compare", path, "--columns", _COLUMNS, INFERENCE_TARGET=f"unix:{world.folder}/none.sock"
    )
    assert done[0] == 3


@pytest.mark.long
def test_a_large_file_is_not_kept_in_memory() -> None:
    def lines(count: int) -> Iterator[str]:
        yield "t,i,n\n"
        for number in range(count):
            yield f"{1_785_672_000 + number},{number:032d},{number}\n"

    tracemalloc.start()
    try:
        with groq_file.read(lines(200_000), Columns("i", "t", ("n",))) as file:
            assert file.span() == (1_785_672_000, 1_785_871_999)
            assert len(file.match([f"{number:032d}" for number in range(1_000)])) == 1_000
            assert sum(1 for _ in file.unmatched(0, 2e9)) == 199_000
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
