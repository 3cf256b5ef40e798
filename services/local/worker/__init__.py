"""A worker of `make run`: all four services in one process."""
