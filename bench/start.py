"""`make bench-start BASE=HEAD~1`: the time of `make run` until it serves, and what its processes hold while idle.

Starts of two source trees alternate, so that noise affects both. Packages are installed and files are in the page
cache. A first start creates the databases and the first key; a later one has them.
"""

import argparse
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median

import psutil

from bench.ab import checked_out
from bench.imports import LIBRARIES, imported
from bench.processes import plain_environment
from bench.tables import table
from tests.ports import free_port

_ROOT = Path(__file__).parents[1]
_STARTED = "Press Ctrl-C"
_LISTENS = ("AUTH", "QUOTA", "INFERENCE")
_STOP_SECONDS = 20
_SETTLE_SECONDS = 5.0
_IDLE_SECONDS = 10.0
_LAYOUTS = {"four processes": "0", "one worker": "1", "two workers": "2", "four workers": "4"}
_MEGABYTE = 1024 * 1024
_numbers = count()


def main() -> None:
    """Print the times, the memory and what libraries hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="HEAD~1", help="commit to compare with")
    parser.add_argument("--starts", type=int, default=7, help="starts of each tree and kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-start-", dir="/tmp") as name, checked_out(options.base) as base:
        (base / ".venv").symlink_to(_ROOT / ".venv")
        trees = {options.base: base, "now": _ROOT}
        print(*_times(Path(name), trees, options.starts), sep="\n", flush=True)
        print("", *_memory(Path(name)), sep="\n", flush=True)
        print("", *_imports(), sep="\n")


def _times(folder: Path, trees: dict[str, Path], starts: int) -> list[str]:
    rows = []
    for kind in ("later starts", "first starts"):
        seconds: dict[str, list[float]] = {name: [] for name in trees}
        folders = {name: folder / f"{kind}-{number}" for number, name in enumerate(trees)}
        for turn in range(starts + 1):
            for name, tree in trees.items():
                data = folders[name] if kind == "later starts" else folder / f"first-{next(_numbers)}"
                with _running(tree, data) as (_, taken):
                    seconds[name] += [taken] if turn else []  # The first turn fills the page cache.
        medians = [median(taken) for taken in seconds.values()]
        shown = [f"{median(taken):.2f} s ({min(taken):.2f} to {max(taken):.2f})" for taken in seconds.values()]
        rows.append([kind, *shown, f"{medians[1] / medians[0]:.2f}"])
    return table(["`make run` until it serves", *trees, "ratio"], rows)


def _memory(folder: Path) -> list[str]:
    rows = []
    for layout, workers in _LAYOUTS.items():
        with _running(_ROOT, folder / layout, STACK_WORKERS=workers):
            pass  # Only a first start loads what migrates the databases.
        with _running(_ROOT, folder / layout, STACK_WORKERS=workers) as (process, _):
            time.sleep(_SETTLE_SECONDS)
            children = psutil.Process(process.pid).children(recursive=True)
            before = {child.pid: _cpu(child) for child in children}
            time.sleep(_IDLE_SECONDS)
            for child in children:
                held, cpu = child.memory_full_info(), (_cpu(child) - before[child.pid]) / _IDLE_SECONDS
                sizes = (f"{held.pss / _MEGABYTE:.0f} MB", f"{held.rss / _MEGABYTE:.0f} MB")
                rows.append([layout, _name(child), *sizes, f"{cpu:.1%}"])
    return table(["layout", "process", "PSS", "RSS", "idle, of a core"], rows)


def _imports() -> list[str]:
    rows = [[name, f"{held:.1f} MB", f"{seconds * 1000:.0f} ms"] for name, held, seconds in map(imported, LIBRARIES)]
    return table(["loading", "takes", "and"], rows)


@contextmanager
def _running(tree: Path, data: Path, **settings: str) -> Iterator[tuple["subprocess.Popen[str]", float]]:
    """Run `make run` in a tree; yield it when it serves, and the seconds that this took."""
    listens = {f"{name}_LISTEN": f"127.0.0.1:{free_port()}" for name in _LISTENS}
    environment = plain_environment(DATA_DIR=str(data), PYTHONPATH=f"{tree}:{tree / 'gen'}", **listens, **settings)
    started = time.monotonic()
    process = subprocess.Popen(
        ("make", "-o", ".venv/run.stamp", "run", f"PORT={free_port()}"),
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = list(_until(process.stdout, lambda line: _STARTED in line))
    taken = time.monotonic() - started
    try:
        if not lines or _STARTED not in lines[-1]:
            raise SystemExit(f"`make run` ended: {''.join(lines)}")
        yield process, taken
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=_STOP_SECONDS)


def _until(lines: Sequence[str] | Iterator[str], is_last: Callable[[str], bool]) -> Iterator[str]:
    for line in lines:
        yield line
        if is_last(line):
            return


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _name(process: psutil.Process) -> str:
    arguments = process.cmdline()
    return next((one for one in arguments if one.startswith(("services.", "tools."))), "valkey-server")


if __name__ == "__main__":
    main()
