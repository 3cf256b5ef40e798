"""Usage webhooks: the usage of each day, sent to a URL of the account's owner (docs/usage-webhook.md)."""
