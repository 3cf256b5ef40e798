"""Quota service: counters and holds of API keys and accounts.

The service owns the counters and holds in Redis. It never sees the content of a request.

Invariants:

- For every limit and window, charged + held ≤ the limit in force at each reserve, with any number of replicas. One Lua
  script checks all limits of a request, and holds all or none.
- The day is the UTC date of Redis' clock. The script reads it.
- A counter starts from the ledger's count of charged rows, so no request is granted twice after Redis loses its data.
- Only a verdict ends a hold. Age alone never does.

All Redis keys of an account carry the hash tag of its bucket, so a script touches one hash slot of a Redis Cluster:

    quota:{17}:account:acc_01…:20780         hash of a day, with the fields
        key_01…:requests                     counter of a key: charged requests; also `tokens` and `cost`
        acc_01…:requests                     counter of the account
        key_01…:requests_minute              counter of a minute; also `tokens_minute`
        …:held                               what the holds take of a counter
        …:limit                              the highest limit in force at a reserve
        …:minute                             the minute of a counter of a minute, in minutes since 1970-01-01
        key_01…:cost@month                   whether requests of the day are counted in the month; also of the account
        req_01…                              a hold: time of the reserve, account id, key id, tokens of output, then
                                             pairs of a counter and what the hold takes of it. A counter of a minute or
                                             a month is followed by `@` and its minute, or the first day of its month.
    quota:{17}:account:acc_01…:month:20758   hash of a month: counters with `held` and `limit`, and the holds that take
                                             of them
    quota:{17}:holds                         sorted set: the time at which each hold of the bucket is overdue, for the
                                             sweeper
    quota:{17}:refusals:acc_01…:key_01…:20780   hash of a key's refused requests on a day, with the fields
        13:429:rate_limit_exceeded           how many in the hour from 13:00, by status and `error.code`
        last:429:rate_limit_exceeded         Unix time of the last one

Days are in days since 1970-01-01; 20758 is the first day of the month. The part of a counter after the colon is its
unit.
"""
