"""What processes have used and hold: CPU time to the nanosecond, memory, threads and descriptors."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

_CPUCLOCK_SCHED = 2


@dataclass(frozen=True, slots=True)
class Usage:
    """What a group of processes has used until now, or holds now."""

    cpu_seconds: float
    """User and system time since each started, ended threads and children included."""
    rss_bytes: int
    threads: int
    descriptors: int


def usage(pids: Iterable[int], *, with_children: bool = True) -> Usage:
    """Return the sum over these processes and, unless told otherwise, all that they started.

    Raises:
        psutil.NoSuchProcess: One of `pids` has ended; a figure without it would be wrong.
    """
    group = {pid: psutil.Process(pid) for pid in pids}
    if with_children:
        for process in list(group.values()):
            group |= {child.pid: child for child in process.children(recursive=True)}
    return Usage(
        cpu_seconds=sum(_cpu_seconds(process) for process in group.values()),
        rss_bytes=sum(process.memory_info().rss for process in group.values()),
        threads=sum(process.num_threads() for process in group.values()),
        descriptors=sum(process.num_fds() for process in group.values()),
    )


def _cpu_seconds(process: psutil.Process) -> float:
    """Read the process's own clock: /proc counts in hundredths of a second, too coarse for a fast contender."""
    times = process.cpu_times()
    clock = (~process.pid << 3) | _CPUCLOCK_SCHED
    return time.clock_gettime(clock) + float(times.children_user + times.children_system)
