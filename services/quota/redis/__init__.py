"""Redis and Valkey store of holds and counters."""
