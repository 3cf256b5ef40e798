"""Quota service: daily request counters and holds of API keys.

The service owns today's counters and holds in Redis. It never sees the content of a request.

Invariants:

- For every key and day, charged + held ≤ the limit in force at each reserve, with any number of replicas. One Lua
  script checks and writes atomically.
- The day is the UTC date of Redis' clock. The script reads it.
- A counter starts from the ledger's count of charged rows, so no request is granted twice after Redis loses its data.
- Only a verdict ends a hold. Age alone never does.

All Redis keys of an API key carry the hash tag of its bucket, so a script touches one hash slot of a Redis Cluster:

    quota:{17}:key_01…:20780   hash: `charged` is the counter, `limit` the highest limit in force at a reserve,
                               and every other field a hold: request id → time of the reserve, account id
    quota:{17}:deadlines       sorted set: the time at which each hold of the bucket is overdue, for the sweeper

20780 is the day, in days since 1970-01-01.
"""
