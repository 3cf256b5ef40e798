"""The schema, and what every change of the database has in common."""
