"""Alembic environment shared by the services. It uses the connection that `services.common.db.database` opens."""

from alembic import context
from sqlalchemy import MetaData


def run(metadata: MetaData) -> None:
    """Run the requested migrations in the caller's transaction.

    Args:
        metadata: Tables of the service, for `alembic check` to compare with the migrations.
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
