"""Inference service: calls to Groq and the usage ledger.

The service owns the Groq client, the model catalogue and the usage ledger. It does not authenticate users.

Invariants:

- Each admitted request ends in exactly one ledger row under its request id. A request refused for lack of memory or
  room in the ledger's queue gets no row.
- A reply to an admitted request carries a verdict only if its row is committed. Without a verdict, the caller must not
  settle the hold.
- Usage is Groq's own count if Groq reported one, and marked as estimated otherwise.
- When a caller disconnects, a background task still reads Groq's answer to the end, within the total deadline.
"""
