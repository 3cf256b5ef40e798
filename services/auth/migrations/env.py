from services.auth.db.tables import metadata
from services.common.db import migration_environment

migration_environment.run(metadata)
