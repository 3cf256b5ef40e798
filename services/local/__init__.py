"""Everything on one machine: `make run`.

The same four services as in a cluster, in one process or one for each core (`STACK_WORKERS`), over an embedded Valkey
and SQLite files; without a Groq key, over a local Groq stand-in.
"""
