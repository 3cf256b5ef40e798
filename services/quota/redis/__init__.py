"""Holds and counters in Redis or Valkey."""
