"""Identities of users at identity providers: log-in with OpenID Connect and GitHub, and links to accounts."""
