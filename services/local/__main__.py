"""Run everything on this machine: `python -m services.local`."""

from services.common import process
from services.local.run import run
from services.local.settings import LocalSettings

if __name__ == "__main__":
    process.run("stack", LocalSettings, run)
