"""Records of a key in the containers' Postgres and Redis, read directly."""

import asyncpg
from redis import Redis

from services.quota.redis.scripts import entries_of
from tests.containers.cluster import Cluster
from tests.e2e.stack import Key
from tests.faults.valkey import Entries, KeyDay, entries_in
from tests.faults.world import Row

"""Fields of a key's day other than holds: the charged count, and the limit."""


async def rows_of(cluster: Cluster, key: Key) -> list[Row]:
    """Return a key's ledger rows."""
    password, address = cluster.secret("INFERENCE_DATABASE_PASSWORD"), cluster.parts["postgres"].address
    connection = await asyncpg.connect(f"postgresql://inference:{password}@{address}:5432/inference", timeout=5)
    try:
        query = f"SELECT {', '.join(Row.__slots__)} FROM usage_ledger WHERE key_id = $1 ORDER BY request_id"
        return [Row(*one) for one in await connection.fetch(query, key.id, timeout=30)]
    finally:
        await connection.close()


def entries(cluster: Cluster, key: Key) -> dict[KeyDay, Entries]:
    """Return the charged and held slots of a key, by day."""
    with Redis(host=cluster.parts["redis"].address, password=cluster.secret("REDIS_PASSWORD")) as redis:
        days = {
            int(name.rpartition(b":")[2]): name for name in redis.scan_iter(match=f"{entries_of(key.account_id)}:*")
        }
        return {
            (key.id, day): found for day, name in days.items() if (found := entries_in(redis.hgetall(name), key.id))
        }
