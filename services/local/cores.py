"""The processor cores that this process may use."""

import os
from contextlib import suppress
from pathlib import Path

_UNIFIED = "0::"
"""Start of the line of /proc/self/cgroup with the group of version 2."""


def usable_cores(*, cgroups: Path = Path("/sys/fs/cgroup"), own_cgroup: Path = Path("/proc/self/cgroup")) -> int:
    """Return the number of cores, at least 1. A CPU limit of a container or a systemd unit counts, rounded up.

    Args:
        cgroups: Where control groups are mounted.
        own_cgroup: File that names the control group of this process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # Not Linux, or no limit (`max 100000`).
        lines = own_cgroup.read_text().splitlines()
        group = "".join(line.removeprefix(_UNIFIED).lstrip("/") for line in lines if line.startswith(_UNIFIED))
        quota, period = (cgroups / group / "cpu.max").read_text().split()
        cores = min(cores, -(-int(quota) // int(period)))
    return max(1, cores)
