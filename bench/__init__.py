"""Benchmarks of the product. Each is a command. Nothing in services/ depends on this package."""
