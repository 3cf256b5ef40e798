"""Database schema, revisions and audit records."""
