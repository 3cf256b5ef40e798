"""`make bench-profile`: profile a worker while it answers requests, and while it serves streams.

py-spy samples the worker that runs all four services, under the load of `make bench`. Prints the shares of time by
package and by function, and writes a flame graph of each load.

Samples are taken of the thread that holds the GIL and count for its current Python function. Time in built-in functions
counts for the caller. Work without the GIL, such as disk access and SQLite, is not included.
"""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import closed_loop, measure, streams
from bench.contenders.stack import WORKER, Stack, stack_alone
from bench.progress import say
from bench.tables import table

_FOLDER = Path("var/profiles")
_SECONDS = 10
_SAMPLES_PER_SECOND = 250
_CONNECTIONS = 32
_WARM_UP_REQUESTS = 2_000
_LOAD_PER_SAMPLED_SECOND = 1.5
"""Load lasts longer than the sampling, because sampling slows the worker down."""
_TOP = 12
_FRAME = re.compile(r"(?P<function>.+) \((?P<file>.+?)(?::\d+)?\)")

Load = Callable[[], object]


def main() -> None:
    """Sample both loads, print tables and write flame graphs."""
    with stack_alone() as (stack, _):
        for kind, load in _loads(stack).items():
            _sample(kind, load, stack.parts[WORKER])


def by_part(stacks: Iterable[tuple[str, int]]) -> Counter[str]:
    """Count samples by the package or service of the current function."""
    counts: Counter[str] = Counter()
    for stack, samples in stacks:
        counts[_part(stack.rpartition(";")[2])] += samples
    return counts


def by_function(stacks: Iterable[tuple[str, int]]) -> Counter[str]:
    """Count samples by the current function."""
    counts: Counter[str] = Counter()
    for stack, samples in stacks:
        frame = _FRAME.fullmatch(stack.rpartition(";")[2])
        counts[f"{frame['function']} ({frame['file']})" if frame else stack] += samples
    return counts


def _loads(stack: Stack) -> dict[str, Load]:
    rate = measure.warm_up(stack, requests=_WARM_UP_REQUESTS)
    requests = int(rate * _SECONDS * _LOAD_PER_SAMPLED_SECOND)
    rate = streams.read(stack, "bursts", streams=_CONNECTIONS * 4, at_once=_CONNECTIONS).per_second
    count = int(rate * _SECONDS * _LOAD_PER_SAMPLED_SECOND)
    return {
        "requests": lambda: closed_loop.run(stack, requests=requests, connections=_CONNECTIONS),
        "streams": lambda: streams.read(stack, "bursts", streams=count, at_once=_CONNECTIONS),
    }


def _sample(kind: str, load: Load, pid: int) -> None:
    _FOLDER.mkdir(parents=True, exist_ok=True)
    raw, picture = _FOLDER / f"{kind}.txt", _FOLDER / f"{kind}.svg"
    _record(load, pid, "raw", raw)
    stacks = [_counted(line) for line in raw.read_text(encoding="utf-8").splitlines()]
    say(f"{sum(samples for _, samples in stacks):,} samples of {kind}")
    for title, counts in ((kind, by_part(stacks)), ("function", by_function(stacks))):
        print("\n".join(["", *_shares(title, counts)]))
    _record(load, pid, "flamegraph", picture)
    say(f"{picture} drawn")


def _record(load: Load, pid: int, shape: str, out: Path) -> None:
    command = [
        *(str(Path(sys.executable).with_name("py-spy")), "record", "--gil", "--pid", str(pid), "--format", shape),
        *("--duration", str(_SECONDS), "--rate", str(_SAMPLES_PER_SECOND), "--output", str(out)),
    ]
    with ThreadPoolExecutor() as threads:
        running = threads.submit(load)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        running.result()
    if done.returncode:
        sys.exit(f"py-spy could not sample process {pid}: {done.stderr.strip()}. Run this command as root.")


def _counted(line: str) -> tuple[str, int]:
    stack, _, samples = line.rpartition(" ")
    return stack, int(samples)


def _part(frame: str) -> str:
    found = _FRAME.fullmatch(frame)
    folders = found["file"].split("/") if found else [frame]
    return "/".join(folders[:2]) if folders[0] == "services" and len(folders) > 2 else folders[0]


def _shares(title: str, counts: Counter[str]) -> list[str]:
    everything = counts.total()
    rows = [[f"`{name}`", f"{samples / everything:.1%}"] for name, samples in counts.most_common(_TOP)]
    return table([title, "share of samples"], rows)


if __name__ == "__main__":
    main()
