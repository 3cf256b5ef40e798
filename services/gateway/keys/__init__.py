"""API keys in the gateway: cached authentication, rejected keys, revocation."""
