"""Runs the whole stack on one machine (`make run`).

It runs the same four services as a cluster, in workers with all four of them or as separate processes
(`STACK_WORKERS`), with an embedded Valkey server and SQLite files. Without a Groq API key, a local stand-in replaces
Groq.

The supervisor (`supervisor`) starts and restarts the processes. It loads only the standard library, and leaves to
processes that end what needs more: reading the settings (`settings.py`) and creating the first account
(`account_setup.py`).
"""
