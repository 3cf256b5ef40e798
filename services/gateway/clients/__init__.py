"""gRPC clients of auth, quota and inference."""
