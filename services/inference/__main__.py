"""Run the inference service, or migrate its database: `python -m services.inference [migrate]`."""

import gc
import sys

if __name__ == "__main__":
    gc.disable()  # Imports create what lives until the end. Collections would take a tenth of their time.

    from services.common.runtime import process
    from services.inference.server import migrate, serve
    from services.inference.settings import InferenceSettings

    process.run("inference", InferenceSettings, migrate if sys.argv[1:] == ["migrate"] else serve)
