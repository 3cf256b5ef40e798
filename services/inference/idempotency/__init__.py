"""Idempotency keys: requests that have one are remembered, and their answers are kept for repeats."""
