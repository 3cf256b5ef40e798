"""gRPC and HTTP clients of the services."""
