"""A bare Python pass-through: the minimal cost of any Python gateway."""

import sys
from importlib.metadata import version
from pathlib import Path

from bench.mock import MODEL
from bench.processes import Process, plain_environment
from tests.ports import free_port

_START_SECONDS = 15


class PassThrough:
    """uvicorn (uvloop, httptools, no access log) and aiohttp in one process."""

    name = "pass-through"
    model = MODEL

    def __init__(self, folder: Path, *, upstream: str) -> None:
        """Create it in front of `upstream`, the mock's chat URL."""
        self._folder = folder
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
        """Its one process."""
        return {"uvicorn": self._process.pid}

    def start(self) -> None:
        """Start it and return when it answers."""
        command = (sys.executable, "-m", "uvicorn", "bench.contenders.passthrough_app:app", "--port", str(self._port))
        options = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
        environment = plain_environment(UPSTREAM=self._upstream)
        self._process = Process((*command, *options), log=self._folder / "pass-through.log", environment=environment)
        self._process.until_answers(self.url, seconds=_START_SECONDS)

    def stop(self) -> None:
        """Stop it."""
        self._process.stop()

    def charged(self) -> None:
        """Return None: it does not count."""
        return
