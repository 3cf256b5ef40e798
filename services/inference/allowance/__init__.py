"""Groq's rate limits: how much of each key's allowance is left, and which account gets it next."""
