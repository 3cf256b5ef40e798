"""Accounts and plans: registration, passwords, e-mail addresses."""
