"""`stackctl`, the operator's command line: a client of the services' gRPC APIs that decides nothing itself."""
