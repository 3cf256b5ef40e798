"""Sessions: log-in, devices, one-time tokens and rate limits."""
