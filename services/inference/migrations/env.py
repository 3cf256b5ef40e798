"""Alembic's entry point for the ledger."""

from services.common import migration_environment
from services.inference.tables import metadata

migration_environment.run(metadata)
