"""Runs the whole stack on one machine (`make run`).

It runs the same four services as a cluster, in one process or in several (`STACK_WORKERS`), with an embedded Valkey
server and SQLite files. Without a Groq API key, a local stand-in replaces Groq.
"""
