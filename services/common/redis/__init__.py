"""Client of Redis for batches of commands."""
