"""Everything on one machine: `make run`.

The same four services as in a cluster, as four processes, over an embedded Valkey and SQLite files; without a Groq key,
over a local Groq stand-in. Only the addresses of the stores differ.
"""
