"""Alembic environment of the ledger."""

from services.common.db import migration_environment
from services.inference.ledger.tables import metadata

migration_environment.run(metadata)
