"""One request: concurrency limits, attempts, stream buffer and ledger record."""
