"""The Alembic `env.py` of every service: migrate over the connection that `services.common.db.database` opens."""

from alembic import context
from sqlalchemy import MetaData


def run(metadata: MetaData) -> None:
    """Run the migrations that were asked for, in the caller's transaction.

    Args:
        metadata: The service's tables, which `alembic check` compares with the migrations.
    """
    attributes = context.config.attributes
    context.configure(
        connection=attributes["connection"],
        target_metadata=metadata,
        version_table=attributes["version_table"],
        render_as_batch=True,
    )
    with context.begin_transaction():
        context.run_migrations()
