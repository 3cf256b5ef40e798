"""The feed of key changes that gateways watch."""
