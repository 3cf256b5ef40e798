"""A mock of Groq in nginx with Lua, whose own cost is small compared to the measured programs."""

import subprocess
from pathlib import Path
from urllib.request import urlopen

from bench.processes import Process, plain_environment
from tests.ports import free_port

MODEL = "openai/gpt-oss-20b"
EVENTS_PER_STREAM = 100
"""Events of a stream before `[DONE]`, without the optional usage event."""

_HERE = Path(__file__).parent
_MODULES = Path("/usr/lib/nginx/modules")
_START_SECONDS = 5


class Mock:
    """The mock, which is also the baseline contender."""

    name = "direct"
    model = MODEL
    features = "none: this is the mock itself"
    surfaces: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        """Create a mock with its files in `folder`."""
        self._folder = folder
        self.headers = {"Authorization": "Bearer gsk_bench"}
        self._port = free_port()
        self.base_url = f"http://127.0.0.1:{self._port}"
        self.url = f"{self.base_url}/openai/v1/chat/completions"

    @property
    def version(self) -> str:
        """The version of nginx."""
        return nginx_version()

    @property
    def parts(self) -> dict[str, int]:
        """The process by name."""
        return {"nginx": self._process.pid}

    def start(self) -> None:
        """Start the mock and wait until it answers."""
        template = (_HERE / "mock.conf").read_text(encoding="utf-8")
        text = template.format(folder=self._folder, modules=_MODULES, here=_HERE, port=self._port)
        self._process = start_nginx(text, folder=self._folder, name="mock")
        self._process.until_answers(f"{self.base_url}/openai/v1/models", seconds=_START_SECONDS)

    def stop(self) -> None:
        """Stop the mock."""
        self._process.stop()

    def release(self) -> None:
        """End all `slow` streams, each within five seconds."""
        with urlopen(f"{self.base_url}/release", timeout=5) as answer:
            answer.read()

    def charged(self) -> None:
        """Return None: the mock does not charge requests."""
        return


def start_nginx(configuration: str, *, folder: Path, name: str) -> Process:
    """Write the configuration to `folder` as `name.conf` and start nginx with it."""
    path = folder / f"{name}.conf"
    path.write_text(configuration, encoding="utf-8")
    command = ("nginx", "-p", str(folder), "-e", "stderr", "-c", str(path))
    return Process(command, log=folder / f"{name}.log", environment=plain_environment())


def nginx_version() -> str:
    """Return the version of nginx, such as `nginx/1.22.1`."""
    output = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
    return output.strip().removeprefix("nginx version: ")
