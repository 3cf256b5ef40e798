"""What each program loads: libraries take most of the memory and of the start of a Python process."""

import subprocess
import sys

import pytest

_MEGABYTE = 1024
_LOADED = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sys.modules)
"""
_RESIDENT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")))
"""
_SUPERVISOR = ("services.local.__main__", "services.local.supervisor.run")
_NEVER = frozenset({"openai", "aiohttp", "alembic", "asyncpg", "tools", "authlib", "joserfc", "segno"})
"""Loaded on use, or not at all."""
_STORES = frozenset({"sqlalchemy", "sqlite3"})
_HTTP = frozenset({"starlette", "uvicorn", "jinja2"})
_GROQ = frozenset({"groq", "httpx"})


def _output(program: str, *modules: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program, *modules], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_the_supervisor_loads_only_the_standard_library_and_the_product() -> None:
    loaded, started_with = (_packages(_output(_LOADED, *modules)) for modules in (_SUPERVISOR, ()))
    assert loaded - started_with - set(sys.stdlib_module_names) == {"services"}


def _packages(output: str) -> set[str]:
    return {name.partition(".")[0] for name in output.split()}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_supervisor_takes_less_than_25_mb() -> None:
    assert int(_output(_RESIDENT, *_SUPERVISOR)) < 25 * _MEGABYTE


@pytest.mark.long
@pytest.mark.parametrize(
    ("module", "others"),
    [
        ("services.gateway.server", _STORES | _GROQ | {"redis", "argon2", "aiosmtplib"}),
        ("services.auth.server", _HTTP | _GROQ | {"redis"}),
        ("services.quota.server", _HTTP | _STORES | _GROQ | {"argon2", "aiosmtplib"}),
        ("services.inference.server", _HTTP | {"redis", "argon2", "aiosmtplib"}),
        ("services.local.worker.server", frozenset()),
    ],
)
def test_a_service_loads_no_library_that_it_does_not_use(module: str, others: frozenset[str]) -> None:
    loaded = set(_output(_LOADED, module).split())
    assert loaded & {*others, *_NEVER} == set()
