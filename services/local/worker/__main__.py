"""Run a worker: `python -m services.local.worker`. With `--preload`, wait for its environment after loading."""

import gc
import sys

if __name__ == "__main__":
    gc.disable()  # Imports create what lives until the end. Collections would take a tenth of their time.

    from services.common.runtime import process
    from services.local.worker import preload
    from services.local.worker.server import WorkerSettings, serve

    if sys.argv[1:] == ["--preload"]:
        preload.receive()
    process.run("stack", WorkerSettings, serve)
