"""Closed loop: so many connections, one request at a time on each, by h2load, which is native and logs every answer."""

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
    """Some requests were not answered with 200, so that nothing was measured."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a load got; all of them were 200."""

    seconds: float
    latencies_ms: tuple[float, ...]

    @property
    def count(self) -> int:
        """How many."""
        return len(self.latencies_ms)

    @property
    def per_second(self) -> float:
        """How many a second."""
        return self.count / self.seconds


def body(contender: Contender, word: str = "", **members: object) -> bytes:
    """Return what everybody is asked; `word` ends the question and chooses the mock's stream."""
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": f"{_QUESTION} {word}"}]
    request = {"model": contender.model, "messages": messages, "temperature": 0.7, "max_completion_tokens": 256}
    return json.dumps(request | members).encode()


def run(contender: Contender, *, requests: int, connections: int) -> Answers:
    """Ask exactly so many times and return when all are answered.

    Raises:
        NotAnswered: One was answered with another status than 200, or not at all.
    """
    with tempfile.TemporaryDirectory(prefix="bench-load-") as name:
        folder = Path(name)
        (folder / "body.json").write_bytes(body(contender))
        command = _command(contender, folder, requests=requests, connections=min(connections, requests))
        started = time.perf_counter()
        said = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True).stdout
        seconds = time.perf_counter() - started
        lines = (folder / "log").read_text(encoding="ascii").splitlines()
    return _read(lines, requests=requests, seconds=seconds, said=said)


def _command(contender: Contender, folder: Path, *, requests: int, connections: int) -> list[str]:
    headers: Mapping[str, str] = {"Content-Type": "application/json", **contender.headers}
    return [
        *("h2load", "--h1", "-t1", f"-c{connections}", f"-n{requests}", f"--log-file={folder / 'log'}"),
        *(f"-H{name}: {value}" for name, value in headers.items()),
        *("-d", str(folder / "body.json"), contender.url),
    ]


def _read(lines: list[str], *, requests: int, seconds: float, said: str) -> Answers:
    """Read h2load's log: when each was sent, in µs since the epoch, its status, and how many µs it took."""
    answers = [tuple(int(cell) for cell in line.split("\t")) for line in lines]
    good = [microseconds / 1000 for _, status, microseconds in answers if status == 200]
    if len(good) != requests:
        raise NotAnswered(f"{len(good)} of {requests} requests were answered with 200: {said.strip()}")
    first = min(sent for sent, _, _ in answers)
    last = max(sent + microseconds for sent, _, microseconds in answers)
    return Answers(seconds=min(seconds, (last - first) / 1e6), latencies_ms=tuple(good))
