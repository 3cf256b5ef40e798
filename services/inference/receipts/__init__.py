"""Signed receipts: the receipt of a ledger row as a JWS, and the public keys to verify it with (docs/receipts.md)."""
