"""Quota: how many requests a key has used and holds today.

It owns today's counters and holds in Redis, and nothing else. It never learns what a request is.

Invariants:

- For every key and day, charged + held ≤ the limit in force at each reserve, with any number of replicas: one Lua
  script decides and writes in one step.
- The day is the UTC date by Redis' clock, decided inside the script.
- A counter starts from the ledger's count of charged rows, so that an emptied Redis grants nothing twice.
- A hold ends by a verdict, never by time alone.

In Redis, all entries of a key carry the hash tag of its bucket, so that a script touches one slot of a Redis Cluster:

    quota:{17}:key_01…:20780   hash; `charged` is the counter, `limit` the highest in force at a reserve,
                               every other field is a hold: request id → when, whose
    quota:{17}:deadlines       sorted set; when each hold of the bucket is overdue, for the sweeper

20780 is the day: days since 1970-01-01.
"""
