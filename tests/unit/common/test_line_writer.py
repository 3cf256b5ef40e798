"""Writing lines to a reader that may be slow, stuck or closed."""

import os
import time
from collections.abc import Iterator

import pytest

from services.common.telemetry.line_writer import LineWriter


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Yield a pipe's read end and write end."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def _writer(descriptor: int, *, bytes_max: int = 1_000_000) -> LineWriter:
    return LineWriter(descriptor, bytes_max=bytes_max, on_drop=lambda lines: b"dropped %d\n" % lines)


def _fill(descriptor: int) -> int:
    """Fill a pipe; return the bytes that it accepted."""
    os.set_blocking(descriptor, False)
    filled = 0
    try:
        while True:
            filled += os.write(descriptor, b"x" * 1024)
    except BlockingIOError:
        os.set_blocking(descriptor, True)
        return filled


def _read(descriptor: int, *, until: bytes) -> bytes:
    data = b""
    while not data.endswith(until):
        data += os.read(descriptor, 65536)
    return data


def test_lines_arrive_whole_and_in_order(pipe: tuple[int, int]) -> None:
    writer = _writer(pipe[1])
    lines = [b"%d\n" % number for number in range(3_000)]
    for line in lines:
        assert writer.write(line)
    assert _read(pipe[0], until=b"2999\n") == b"".join(lines)
    assert writer.flush(timeout_seconds=5)


@pytest.mark.parametrize("is_blocking", [True, False])
def test_a_stuck_reader_blocks_nothing_and_later_learns_what_was_dropped(
    pipe: tuple[int, int], is_blocking: bool
) -> None:
    filled = _fill(pipe[1])
    os.set_blocking(pipe[1], is_blocking)  # Another process may have set the terminal or pipe that we share.
    writer = _writer(pipe[1], bytes_max=100)
    started = time.monotonic()
    written = [writer.write(b"%019d\n" % number) for number in range(10_000)]
    assert time.monotonic() - started < 2
    assert written == [True] * 5 + [False] * 9_995
    assert not writer.flush(timeout_seconds=0.05)
    text = _read(pipe[0], until=b"dropped 9995\n")[filled:]
    assert text == b"".join(b"%019d\n" % number for number in range(5)) + b"dropped 9995\n"
    assert writer.write(b"again\n")
    assert _read(pipe[0], until=b"again\n") == b"again\n"


def test_a_closed_reader_does_not_end_the_writer() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    writer = _writer(writing, bytes_max=100)
    for _ in range(100):
        assert writer.write(b"0123456789\n")
        assert writer.flush(timeout_seconds=5)
    os.close(writing)
