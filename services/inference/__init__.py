"""Inference: Groq, and the account of every token.

It owns the Groq client, the model catalogue and the usage ledger. It never knows who is allowed.

Invariants:

- A request that arrives here ends in exactly one ledger row, under its request id, committed before the reply ends.
- A reply carries a verdict only when its row is committed; without a verdict the caller must leave the hold alone.
- Usage is Groq's own count where Groq said one, and marked as estimated where it did not.
- A caller that goes away changes nothing: Groq is read to the end in a task of its own, within the total deadline.
"""
