"""The auth service: accounts, plans, API keys and sessions.

Only this service stores accounts, plans and API keys, and only this service has the pepper. Its invariants:

- A secret is returned once, in the response that creates it. Only its HMAC is stored, and no part of it is logged.
- Every change of a key takes the next revision in its own transaction, so revision order is commit order.
- A revoked key stays revoked.
- If the database cannot be read, the response is UNAVAILABLE, never a denial.
- WatchKeys sends heartbeats only while database reads succeed, so a missing heartbeat means that revocations may have
  been missed.
"""
