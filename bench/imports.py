"""What loading a library takes of memory and time, each in a process of its own."""

import json
import subprocess
import sys

LIBRARIES = {
    "asyncio, with ssl": ("", "asyncio"),
    "pydantic, pydantic-settings": ("asyncio", "pydantic_settings"),
    "gRPC, with health and status": (
        "asyncio,pydantic_settings",
        "grpc.aio,grpc_health.v1.health,grpc_status.rpc_status",
    ),
    "gRPC's reflection": ("grpc.aio,grpc_health.v1.health", "grpc_reflection.v1alpha.reflection"),
    "prometheus-client": ("asyncio", "prometheus_client"),
    "SQLAlchemy": ("asyncio,pydantic_settings", "sqlalchemy.ext.asyncio,sqlalchemy.dialects.sqlite,aiosqlite"),
    "SQLAlchemy's Postgres dialect, asyncpg": ("sqlalchemy.ext.asyncio", "sqlalchemy.dialects.postgresql,asyncpg"),
    "Alembic": ("sqlalchemy.ext.asyncio", "alembic.command"),
    "redis-py": ("asyncio,pydantic_settings", "redis.asyncio.cluster,redis.asyncio.sentinel"),
    "aiohttp": ("asyncio,pydantic_settings", "aiohttp"),
    "Starlette, uvicorn, httptools": ("asyncio", "starlette.applications,uvicorn,httptools"),
    "Jinja": ("asyncio", "jinja2"),
    "cryptography": ("asyncio", "cryptography.hazmat.primitives.ciphers.aead,cryptography.hazmat.primitives.kdf.hkdf"),
    "the groq package": ("asyncio,pydantic_settings", "groq"),
    "our gateway": ("grpc.aio,starlette.applications,uvicorn,jinja2,pydantic_settings", "services.gateway.server"),
    "our auth": ("grpc.aio,sqlalchemy.ext.asyncio,pydantic_settings", "services.auth.server"),
    "our inference": ("grpc.aio,sqlalchemy.ext.asyncio,aiohttp,pydantic_settings", "services.inference.server"),
    "our quota": ("grpc.aio,redis.asyncio.cluster,pydantic_settings", "services.quota.server"),
}
"""By name, modules that are loaded before, and the measured ones."""

_PROGRAM = """
import gc, json, sys, time
gc.disable()
def held():
    lines = dict(line.split(":") for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
    return int(lines["Pss"].split()[0]) / 1024
for name in filter(None, sys.argv[1].split(",")):
    __import__(name)
before, started = held(), time.perf_counter()
for name in sys.argv[2].split(","):
    __import__(name)
taken = time.perf_counter() - started
print(json.dumps([held() - before, taken]))
"""


def imported(name: str) -> tuple[str, float, float]:
    """Return a name, the megabytes that loading it takes and the seconds."""
    command = (sys.executable, "-c", _PROGRAM, *LIBRARIES[name])
    held, taken = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return name, held, taken
