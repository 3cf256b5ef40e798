"""A Valkey whose clock is set while it runs, by Debian's libfaketime."""

import os
from pathlib import Path

from tests.valkey_backend import TCPValkey

_LIBRARIES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib*/faketime/libfaketime.so.1")


def library() -> Path | None:
    """Return the path of libfaketime; None where it is not installed."""
    return next((path for pattern in _LIBRARIES for path in Path("/").glob(pattern.lstrip("/"))), None)


def environment(folder: Path) -> dict[str, str]:
    """Return the environment with which a program's clock follows `folder`, where `set_clock` sets it."""
    found = library()
    assert found is not None, "libfaketime is not installed"
    return {
        "LD_PRELOAD": str(found),
        "FAKETIME_TIMESTAMP_FILE": str(folder / "faketime"),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def set_clock(folder: Path, seconds: float) -> None:
    """Set the clock of the programs that follow `folder` ahead of the machine's, or behind it."""
    draft = folder / "faketime.tmp"
    draft.write_text(f"{seconds:+.1f}\n")
    draft.replace(folder / "faketime")


class SteppingValkey(TCPValkey):
    """A server on a loopback port with a separate clock."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        set_clock(folder, 0)
        self._folder = folder
        super().__init__(folder, environment={**os.environ, **environment(folder)})

    def step(self, seconds: float) -> None:
        """Set its clock ahead of the machine's, or behind it."""
        set_clock(self._folder, seconds)
