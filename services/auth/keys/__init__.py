"""API keys: create, verify, rotate, limit and revoke."""
