from services.auth.tables import metadata
from services.common import migration_environment

migration_environment.run(metadata)
