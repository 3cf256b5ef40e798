"""Batching, queues, byte budgets and timers."""
