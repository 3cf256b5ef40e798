"""Resource usage of processes: CPU time in nanosecond resolution, memory, threads and descriptors."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

_CPUCLOCK_SCHED = 2


@dataclass(frozen=True, slots=True)
class Usage:
    """Resource usage of a group of processes."""

    cpu_seconds: float
    """User and system time since the start of each process, including ended threads and children."""
    rss_bytes: int
    threads: int
    descriptors: int


def usage(pids: Iterable[int], *, with_children: bool = True) -> Usage:
    """Return the sum over these processes and, by default, all their descendants.

    Raises:
        psutil.NoSuchProcess: One of `pids` has ended, so the sum would be wrong.
    """
    group = _group(pids, with_children=with_children)
    return Usage(
        cpu_seconds=sum(_cpu_seconds(process) for process in group),
        rss_bytes=sum(process.memory_info().rss for process in group),
        threads=sum(process.num_threads() for process in group),
        descriptors=sum(process.num_fds() for process in group),
    )


def pss_bytes(pids: Iterable[int], *, with_children: bool = True) -> int:
    """Return the proportional memory of these processes: shared pages count in equal parts for those that share them.

    Raises:
        psutil.NoSuchProcess: One of `pids` has ended, so the sum would be wrong.
    """
    return sum(int(process.memory_full_info().pss) for process in _group(pids, with_children=with_children))


def _group(pids: Iterable[int], *, with_children: bool) -> list[psutil.Process]:
    group = {pid: psutil.Process(pid) for pid in pids}
    if with_children:
        for process in list(group.values()):
            group |= {child.pid: child for child in process.children(recursive=True)}
    return list(group.values())


def _cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time from the process's own clock. /proc has a resolution of 10 ms, which is too coarse."""
    times = process.cpu_times()
    clock = (~process.pid << 3) | _CPUCLOCK_SCHED
    return time.clock_gettime(clock) + float(times.children_user + times.children_system)
