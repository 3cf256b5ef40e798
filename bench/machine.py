"""Description of the machine and the commit of a measurement."""

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """The hardware, system and load of a machine."""

    cpu: str
    cores: int
    system: str
    python: str
    load: float
    """Load average of the last minute before the run."""

    @property
    def kind(self) -> str:
        """The CPU and number of cores. Only results of the same kind are comparable."""
        return f"{self.cores} x {self.cpu}"


def machine() -> Machine:
    """Return the description of this machine."""
    return Machine(
        cpu=_cpu(Path("/proc/cpuinfo").read_text(encoding="utf-8")),
        cores=len(os.sched_getaffinity(0)),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        load=round(os.getloadavg()[0], 2),
    )


def commit() -> str:
    """Return the short hash of the current commit, followed by `+` if tracked files have changed."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    changed = subprocess.run(
        ["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
    ).stdout
    return head.strip() + ("+" if changed else "")


def _cpu(cpuinfo: str) -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else platform.machine()
