"""The auth service: who may call, and what each key may do.

It alone owns accounts, plans and API keys, and it alone knows the pepper. Its invariants:

- a secret is shown once, in the answer that creates it; only its HMAC is stored, nothing of it is logged;
- every change of a key takes the next revision in the transaction that makes it, so revision order is commit order;
- a revoked key stays revoked;
- when the database cannot be read the answer is UNAVAILABLE, never a denial;
- heartbeats of WatchKeys are sent only while the database is being read, so that silence means "nobody knows".
"""
