"""SQL databases: engines, transactions and migrations."""
