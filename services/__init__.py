"""The four services of the Stack API, the operator's command line and the runner for one machine."""

import os

# Silences the log of gRPC's core: the services log the same failures themselves. Must be set before gRPC is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
