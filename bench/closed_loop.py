"""Closed-loop load with h2load: a fixed number of connections with one request at a time on each."""

import json
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.contenders import Contender

_SYSTEM = "You are a careful assistant. Answer in plain words and short sentences. " * 3
_QUESTION = "Explain how a token quota works, and what a client sees when it is used up."
_TIMEOUT_SECONDS = 120


class NotAnswered(Exception):
    """Some requests were not answered with 200, so the measurement is invalid."""


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


def body(contender: Contender, word: str = "", **members: object) -> bytes:
    """Return the request body of the benchmark. `word` is appended to the question and selects the mock's stream."""
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": f"{_QUESTION} {word}"}]
    request = {"model": contender.model, "messages": messages, "temperature": 0.7, "max_completion_tokens": 256}
    return json.dumps(request | members).encode()


def run(contender: Contender, *, requests: int, connections: int) -> Answers:
    """Send exactly `requests` requests and wait for all responses.

    Raises:
        NotAnswered: A request was not answered, or had another status than 200.
    """
    with tempfile.TemporaryDirectory(prefix="bench-load-") as name:
        folder = Path(name)
        (folder / "body.json").write_bytes(body(contender))
        command = _command(contender, folder, requests=requests, connections=min(connections, requests))
        started = time.perf_counter()
        output = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True).stdout
        seconds = time.perf_counter() - started
        lines = (folder / "log").read_text(encoding="ascii").splitlines()
    return _read(lines, requests=requests, seconds=seconds, output=output)


def _command(contender: Contender, folder: Path, *, requests: int, connections: int) -> list[str]:
    headers: Mapping[str, str] = {"Content-Type": "application/json", **contender.headers}
    return [
        *("h2load", "--h1", "-t1", f"-c{connections}", f"-n{requests}", f"--log-file={folder / 'log'}"),
        *(f"-H{name}: {value}" for name, value in headers.items()),
        *("-d", str(folder / "body.json"), contender.url),
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
