"""Cached authentication of API keys, limits on unknown keys, and revocation."""
