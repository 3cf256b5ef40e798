"""Run the inference service, or migrate its database: `python -m services.inference [migrate]`."""

import sys

from services.common.runtime import process
from services.inference.server import migrate, serve
from services.inference.settings import InferenceSettings

if __name__ == "__main__":
    process.run("inference", InferenceSettings, migrate if sys.argv[1:] == ["migrate"] else serve)
