"""A native mock of Groq: nginx with Lua, which answers at a cost that is small beside anything measured."""

import subprocess
from pathlib import Path
from urllib.request import urlopen

from bench.processes import Process, plain_environment
from tests.e2e.stack import free_port

MODEL = "openai/gpt-oss-20b"
EVENTS_PER_STREAM = 100
"""Events of a stream before `[DONE]`, without the one with usage that a request may ask for."""

_HERE = Path(__file__).parent
_MODULES = Path("/usr/lib/nginx/modules")
_START_SECONDS = 5


class Mock:
    """The running mock; itself the contender that adds nothing."""

    name = "direct"
    model = MODEL

    def __init__(self, folder: Path) -> None:
        """Prepare a mock that keeps its files in `folder`."""
        self._folder = folder
        self.headers = {"Authorization": "Bearer gsk_bench"}
        self._port = free_port()
        self.base_url = f"http://127.0.0.1:{self._port}"
        self.url = f"{self.base_url}/openai/v1/chat/completions"

    @property
    def version(self) -> str:
        """What nginx says of itself."""
        return nginx_version()

    @property
    def parts(self) -> dict[str, int]:
        """Its one process."""
        return {"nginx": self._process.pid}

    def start(self) -> None:
        """Start it and return when it answers."""
        template = (_HERE / "mock.conf").read_text(encoding="utf-8")
        text = template.format(folder=self._folder, modules=_MODULES, here=_HERE, port=self._port)
        self._process = start_nginx(text, folder=self._folder, name="mock")
        self._process.until_answers(f"{self.base_url}/openai/v1/models", seconds=_START_SECONDS)

    def stop(self) -> None:
        """End it."""
        self._process.stop()

    def release(self) -> None:
        """Let all patient streams end, each within five seconds."""
        with urlopen(f"{self.base_url}/release", timeout=5) as answer:
            answer.read()

    def charged(self) -> None:
        """It does not count."""
        return


def start_nginx(configuration: str, *, folder: Path, name: str) -> Process:
    """Start an nginx with this configuration, which lies in `folder` as `name.conf`."""
    path = folder / f"{name}.conf"
    path.write_text(configuration, encoding="utf-8")
    command = ("nginx", "-p", str(folder), "-e", "stderr", "-c", str(path))
    return Process(command, log=folder / f"{name}.log", environment=plain_environment())


def nginx_version() -> str:
    """Return what nginx says of itself, like `nginx/1.22.1`."""
    said = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
    return said.strip().removeprefix("nginx version: ")
