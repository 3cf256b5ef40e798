"""What processes have used: CPU seconds and resident memory, tasks and descriptors, each with all children."""

from collections.abc import Iterable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """What a group of processes has used until now, or holds now."""

    cpu_seconds: float
    """User and system time since each started, those of ended children included."""
    rss_bytes: int
    threads: int
    descriptors: int
    processes: int


def usage(pids: Iterable[int]) -> Usage:
    """Return the sum over these processes and all that they started.

    Raises:
        psutil.NoSuchProcess: One of `pids` has ended; a figure without it would be wrong.
    """
    group = _with_children(pids)
    return Usage(
        cpu_seconds=sum(_cpu_seconds(process) for process in group),
        rss_bytes=sum(process.memory_info().rss for process in group),
        threads=sum(process.num_threads() for process in group),
        descriptors=sum(process.num_fds() for process in group),
        processes=len(group),
    )


def _with_children(pids: Iterable[int]) -> list[psutil.Process]:
    found = {pid: psutil.Process(pid) for pid in pids}
    for process in list(found.values()):
        found |= {child.pid: child for child in process.children(recursive=True)}
    return list(found.values())


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)
