"""`stackctl`, the command line for operators: a thin client of the services' gRPC APIs."""
