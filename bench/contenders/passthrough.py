"""A bare Python pass-through: the minimal cost of any Python gateway."""

import sys
from importlib.metadata import version
from pathlib import Path

from bench.contenders.contender import name_of
from bench.mock import MODEL
from bench.processes import Process, plain_environment
from tests.ports import free_port

_START_SECONDS = 15


class PassThrough:
    """uvicorn (uvloop, httptools, no access log) and aiohttp."""

    model = MODEL
    features = "none"
    surfaces: tuple[str, ...] = ()

    def __init__(self, folder: Path, *, upstream: str, workers: int = 1) -> None:
        """Create it with `workers` processes in front of `upstream`, the mock's chat URL."""
        self.name = name_of("pass-through", workers)
        self._folder = folder
        self._workers = workers
        self._upstream = upstream
        self.headers = {"Authorization": "Bearer anything"}
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/v1/chat/completions"

    @property
    def version(self) -> str:
        """Its packages."""
        return f"uvicorn {version('uvicorn')}, aiohttp {version('aiohttp')}, uvloop {version('uvloop')}"

    @property
    def parts(self) -> dict[str, int]:
        """Its process, or the one that started its workers."""
        return {"uvicorn": self._process.pid}

    def start(self) -> None:
        """Start it and return when it answers."""
        command = (sys.executable, "-m", "uvicorn", "bench.contenders.passthrough_app:app", "--port", str(self._port))
        loop = ("--loop", "uvloop", "--http", "httptools", "--workers", str(self._workers))
        quiet = ("--no-access-log", "--log-level", "warning")
        environment = plain_environment(UPSTREAM=self._upstream)
        log = self._folder / f"{self.name}.log"
        self._process = Process((*command, *loop, *quiet), log=log, environment=environment)
        self._process.until_answers(self.url, seconds=_START_SECONDS)

    def stop(self) -> None:
        """Stop it."""
        self._process.stop()

    def charged(self) -> None:
        """Return None: it does not count."""
        return
