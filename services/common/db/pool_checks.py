"""Checks whether a pooled Postgres connection still works before it is used.

SQLAlchemy's `pool_pre_ping` asks the server at each use, in a transaction: three round trips. Here a connection that
was used a moment ago is not asked. The driver learns without asking that the server has closed it, a moment later.
"""

import time
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine

IDLE_SECONDS_MAX = 1.0
"""How long a connection may be idle and still be used without asking the server."""
_USED_AT = "used_at"


def check_connections(engine: AsyncEngine) -> None:
    """Make a Postgres engine check each pooled connection before it is used.

    If a connection is closed, the engine replaces it and all others that it has opened before.
    """
    dialect: Any = engine.dialect

    def remember(_: Any, record: Any) -> None:
        record.info[_USED_AT] = time.monotonic()

    def check(connection: Any, record: Any, _: Any) -> None:
        if connection.driver_connection.is_closed():
            raise InvalidatePoolError
        if time.monotonic() - record.info[_USED_AT] <= IDLE_SECONDS_MAX:
            return
        try:
            dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error as exc:
            raise InvalidatePoolError from exc

    event.listen(engine.sync_engine, "connect", remember)
    event.listen(engine.sync_engine, "checkin", remember)
    event.listen(engine.sync_engine, "checkout", check)
