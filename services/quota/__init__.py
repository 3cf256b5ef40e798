"""Quota service: daily request counters and holds of API keys and accounts.

The service owns today's counters and holds in Redis. It never sees the content of a request.

Invariants:

- For every key, account and day, charged + held ≤ the limit in force at each reserve, with any number of replicas. One
  Lua script checks all limits of a request, and holds all or none.
- The day is the UTC date of Redis' clock. The script reads it.
- A counter starts from the ledger's count of charged rows, so no request is granted twice after Redis loses its data.
- Only a verdict ends a hold. Age alone never does.

All Redis keys of an account carry the hash tag of its bucket, so a script touches one hash slot of a Redis Cluster:

    quota:{17}:account:acc_01…:20780   hash, with the fields
        key_01…:requests               counter of a key: charged requests
        acc_01…:requests               counter of the account
        …:requests:held                what the holds take of a counter
        …:requests:limit               the highest limit in force at a reserve
        req_01…                        a hold: time of the reserve, account id, key id, then pairs of a counter and what
                                       the hold takes of it
    quota:{17}:holds                   sorted set: the time at which each hold of the bucket is overdue, for the sweeper

20780 is the day, in days since 1970-01-01. The part of a counter after the colon is its unit.
"""
