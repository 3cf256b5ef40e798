"""Entry point: `python -m services.local` runs the whole stack."""

from services.common.runtime import process
from services.local.settings import LocalSettings
from services.local.supervisor.run import run

if __name__ == "__main__":
    process.run("stack", LocalSettings, run)
