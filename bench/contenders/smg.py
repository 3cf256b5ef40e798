"""SMG (Shepherd Model Gateway), a gateway in Rust from PyPI, in a separate environment.

One process, whose threads use all cores. Its token limits and its other surfaces exist only for engines that it starts
or reaches by gRPC, not in front of a provider with OpenAI's API.
"""

import subprocess
from pathlib import Path

from bench.mock import MODEL
from bench.processes import DidNotStart, Process, plain_environment
from tests.ports import free_port

ENVIRONMENT = Path(".venv-bench/smg").absolute()
_START_SECONDS = 60
_KEY = "sk-bench"


class SMG:
    """The gateway with its `openai` backend."""

    name = "SMG"
    model = MODEL
    features = "key of a tenant; concurrent requests and requests per second in all; metrics; log"
    surfaces: tuple[str, ...] = ()

    def __init__(self, folder: Path, *, groq_base_url: str) -> None:
        """Create it in front of the mock at `groq_base_url`."""
        self._folder = folder
        self._upstream = f"{groq_base_url}/openai"
        self._port, self._metrics_port = free_port(), free_port()
        self.headers = {"Authorization": f"Bearer {_KEY}"}
        self.base_url = f"http://127.0.0.1:{self._port}"
        self.url = f"{self.base_url}/v1/chat/completions"

    @property
    def version(self) -> str:
        """Version of the package."""
        code = "from importlib.metadata import version; print(version('smg'))"
        command = (str(ENVIRONMENT / "bin/python"), "-c", code)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    @property
    def parts(self) -> dict[str, int]:
        """Its one process."""
        return {"smg": self._process.pid}

    def start(self) -> None:
        """Start it and return when it answers.

        Raises:
            DidNotStart: It is not installed, or does not start.
        """
        program = ENVIRONMENT / "bin/smg"
        if not program.exists():
            raise DidNotStart("it is not installed; the output of make says why")
        command = (str(program), "launch", "--backend", "openai", "--worker-urls", self._upstream)
        listen = ("--host", "127.0.0.1", "--port", str(self._port), "--prometheus-port", str(self._metrics_port))
        limits = ("--tenant-api-key", f"bench:{_KEY}", "--rate-limit-tokens-per-second", "1000000")
        environment = plain_environment(OPENAI_API_KEY="gsk_bench")
        self._process = Process((*command, *listen, *limits), log=self._folder / "smg.log", environment=environment)
        self._process.until_answers(f"{self.base_url}/readiness", seconds=_START_SECONDS)

    def stop(self) -> None:
        """Stop it."""
        self._process.stop()

    def charged(self) -> None:
        """Return None: it does not count."""
        return
