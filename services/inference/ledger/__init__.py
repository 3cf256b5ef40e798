"""The usage ledger: schema, writer, store and queries."""
