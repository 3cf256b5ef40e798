"""The four services of the Stack API, the operator's command line and the runner for one machine."""

import os

# What gRPC's core has to say stands in our own sentences. It reads this when it is imported, and never again.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
