"""Accounts, plans, registration, passwords and e-mail addresses."""
