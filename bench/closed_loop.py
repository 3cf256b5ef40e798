"""Closed-loop load with h2load: a fixed number of connections with one request at a time on each."""

import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.contenders import Contender
from bench.surfaces import CHAT, Surface
from bench.wire import NotAnswered

_TIMEOUT_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Answers:
    """The responses to a load, all with status 200."""

    seconds: float
    latencies_ms: tuple[float, ...]

    @property
    def count(self) -> int:
        """Number of responses."""
        return len(self.latencies_ms)

    @property
    def per_second(self) -> float:
        """Responses per second."""
        return self.count / self.seconds


def run(contender: Contender, *, requests: int, connections: int, surface: Surface = CHAT) -> Answers:
    """Send exactly `requests` requests and wait for all responses.

    Raises:
        NotAnswered: A request was not answered, or had another status than 200.
    """
    with tempfile.TemporaryDirectory(prefix="bench-load-") as name:
        folder = Path(name)
        (folder / "body.json").write_bytes(surface.body(contender))
        options = _options(contender, folder, requests=requests, connections=min(connections, requests))
        command = ["h2load", *options, surface.url(contender)]
        started = time.perf_counter()
        output = _output(command)
        seconds = time.perf_counter() - started
        lines = (folder / "log").read_text(encoding="ascii").splitlines()
    return _read(lines, requests=requests, seconds=seconds, output=output)


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True).stdout
    except subprocess.TimeoutExpired as exc:
        raise NotAnswered(f"requests were still unanswered after {_TIMEOUT_SECONDS} s") from exc


def _options(contender: Contender, folder: Path, *, requests: int, connections: int) -> list[str]:
    headers: Mapping[str, str] = {"Content-Type": "application/json", **contender.headers}
    return [
        *("--h1", "-t1", f"-c{connections}", f"-n{requests}", f"--log-file={folder / 'log'}"),
        *(f"-H{name}: {value}" for name, value in headers.items()),
        *("-d", str(folder / "body.json")),
    ]


def _read(lines: list[str], *, requests: int, seconds: float, output: str) -> Answers:
    """Parse h2load's log. Each line has the send time in µs since the epoch, the status and the duration in µs."""
    answers = [tuple(int(cell) for cell in line.split("\t")) for line in lines]
    good = [microseconds / 1000 for _, status, microseconds in answers if status == 200]
    if len(good) != requests:
        raise NotAnswered(f"{len(good)} of {requests} requests were answered with 200: {output.strip()}")
    first = min(sent for sent, _, _ in answers)
    last = max(sent + microseconds for sent, _, microseconds in answers)
    return Answers(seconds=min(seconds, (last - first) / 1e6), latencies_ms=tuple(good))
