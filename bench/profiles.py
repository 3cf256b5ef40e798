"""`make bench-profile`: profile the product while it answers requests, and while it serves streams.

py-spy samples all processes of the request path at the same time, under the load of `make bench`: the worker that runs
all four services, or gateway, inference and quota if each service has a process. Prints the shares of time by package
and by function, and writes a flame graph of each process and load.

Samples are taken of the thread that holds the GIL and count for its current Python function. Time in built-in functions
and in Cython, such as gRPC's, counts for the caller; in gRPC's event loop that is the loop itself. Work without the
GIL, such as disk access, SQLite and gRPC's sockets, is not included.
"""

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import closed_loop, measure, streams
from bench.contenders.stack import WORKER, Stack, stack_alone
from bench.layouts import LAYOUTS, add_layout_option
from bench.progress import say
from bench.tables import table

_FOLDER = Path("var/profiles")
_SECONDS = 10
_SAMPLES_PER_SECOND = 250
_CONNECTIONS = 32
_WARM_UP_REQUESTS = 2_000
_LOAD_PER_SAMPLED_SECOND = 1.5
"""Load lasts longer than the sampling, because sampling slows the processes down."""
_TOP = 12
_SERVICES = ("gateway", "inference", "quota")
_FRAME = re.compile(r"(?P<function>.+) \((?P<file>.+?)(?::\d+)?\)")

Load = Callable[[], object]
Counts = Counter[str]


def main() -> None:
    """Sample both loads in each layout, print tables and write flame graphs."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_layout_option(parser)
    for layout in parser.parse_args().layout:
        with stack_alone(workers=LAYOUTS[layout]) as (stack, _):
            pids = {name: pid for name, pid in stack.parts.items() if name.startswith((WORKER, *_SERVICES))}
            for kind, load in _loads(stack).items():
                _sample(f"{kind} in {layout}", load, pids)


def by_part(stacks: Iterable[tuple[str, int]]) -> Counts:
    """Count samples by the package or service of the current function."""
    counts: Counts = Counter()
    for stack, samples in stacks:
        counts[_part(stack.rpartition(";")[2])] += samples
    return counts


def by_function(stacks: Iterable[tuple[str, int]]) -> Counts:
    """Count samples by the current function."""
    counts: Counts = Counter()
    for stack, samples in stacks:
        frame = _FRAME.fullmatch(stack.rpartition(";")[2])
        counts[f"{frame['function']} ({frame['file']})" if frame else stack] += samples
    return counts


def shares(title: str, columns: Mapping[str, Counts]) -> list[str]:
    """Return a table of the largest shares, with a column for each process and its own total."""
    totals = {name: max(1, counts.total()) for name, counts in columns.items()}
    largest: Counter[str] = Counter()
    for name, counts in columns.items():
        for row, samples in counts.items():
            largest[row] = max(largest[row], samples * 1_000_000 // totals[name])
    rows = [
        [f"`{row}`", *(f"{counts[row] / totals[name]:.1%}" for name, counts in columns.items())]
        for row, _ in largest.most_common(_TOP)
    ]
    return table([title, *columns], rows)


def _loads(stack: Stack) -> dict[str, Load]:
    rate = measure.warm_up(stack, requests=_WARM_UP_REQUESTS)
    requests = int(rate * _SECONDS * _LOAD_PER_SAMPLED_SECOND)
    rate = streams.read(stack, "bursts", streams=_CONNECTIONS * 4, at_once=_CONNECTIONS).per_second
    count = int(rate * _SECONDS * _LOAD_PER_SAMPLED_SECOND)
    return {
        "requests": lambda: closed_loop.run(stack, requests=requests, connections=_CONNECTIONS),
        "streams": lambda: streams.read(stack, "bursts", streams=count, at_once=_CONNECTIONS),
    }


def _sample(title: str, load: Load, pids: Mapping[str, int]) -> None:
    _FOLDER.mkdir(parents=True, exist_ok=True)
    raw = _record(load, pids, "raw", _files(title, pids, "txt"))
    stacks = {name: _counted(path) for name, path in raw.items()}
    parts = {name: by_part(found) for name, found in stacks.items()}
    print("\n".join(["", *shares(title, parts)]), flush=True)
    for name, found in stacks.items():
        print("\n".join(["", *shares("function", {name: by_function(found)})]), flush=True)
    pictures = _record(load, pids, "flamegraph", _files(title, pids, "svg"))
    say(f"drawn: {', '.join(map(str, pictures.values()))}")


def _files(title: str, names: Iterable[str], ending: str) -> dict[str, Path]:
    return {name: _FOLDER / f"{title} {name}.{ending}".replace(" ", "-") for name in names}


def _record(load: Load, pids: Mapping[str, int], shape: str, out: Mapping[str, Path]) -> Mapping[str, Path]:
    """Sample all processes during one load. Return `out`, the file of each."""
    with ThreadPoolExecutor() as threads:
        running = threads.submit(load)
        samplers = [threads.submit(_py_spy, pid, shape, out[name]) for name, pid in pids.items()]
        running.result()
        for sampler in samplers:
            sampler.result()
    return out


def _py_spy(pid: int, shape: str, out: Path) -> None:
    command = [
        *(str(Path(sys.executable).with_name("py-spy")), "record", "--gil", "--pid", str(pid), "--format", shape),
        *("--duration", str(_SECONDS), "--rate", str(_SAMPLES_PER_SECOND), "--output", str(out)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"py-spy could not sample process {pid}: {done.stderr.strip()}. Run this command as root.")


def _counted(path: Path) -> Sequence[tuple[str, int]]:
    lines = (line.rpartition(" ") for line in path.read_text(encoding="utf-8").splitlines())
    return [(stack, int(samples)) for stack, _, samples in lines]


def _part(frame: str) -> str:
    found = _FRAME.fullmatch(frame)
    folders = found["file"].split("/") if found else [frame]
    return "/".join(folders[:2]) if folders[0] == "services" and len(folders) > 2 else folders[0]


if __name__ == "__main__":
    main()
