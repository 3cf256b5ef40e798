"""gRPC clients of the console, each bound to one session."""
