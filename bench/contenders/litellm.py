"""LiteLLM's proxy, from PyPI in a separate environment, with its master key and otherwise default settings.

One worker is its default, and the recommendation of its documentation for most deployments (docs/proxy/server_tuning).

With limits on, it has what works without a database: a key whose requests and tokens per minute, tokens per day and
concurrent requests are limited and counted in Valkey, and Prometheus metrics. The key comes from LiteLLM's custom
authentication. Its own keys, budgets and spend log need Postgres through Prisma, whose engine no package contains.
"""

import json
import subprocess
from pathlib import Path

from bench.contenders.contender import name_of
from bench.mock import MODEL
from bench.processes import DidNotStart, Process, plain_environment
from services.local import valkey
from tests.ports import free_port

ENVIRONMENT = Path(".venv-bench/litellm").absolute()
_START_SECONDS = 120
_KEY = "sk-bench"
_AUTHENTICATION = Path(__file__).with_name("litellm_key.py")
_LIMITS = "requests and tokens per minute, tokens per day and concurrent requests of a key, in Valkey; metrics; costs"


class LiteLLM:
    """The proxy with one model, `groq/openai/gpt-oss-20b`."""

    model = "gpt-oss-20b"

    def __init__(self, folder: Path, *, groq_base_url: str, workers: int = 1, has_limits: bool = False) -> None:
        """Create it with `workers` processes in front of the mock at `groq_base_url`."""
        self.name = name_of("LiteLLM, limits" if has_limits else "LiteLLM", workers)
        self.features = _LIMITS if has_limits else "costs, which it computes and does not store"
        # Two workers would take minutes for what one shows.
        self.surfaces = ("responses", "messages", "completions") if workers == 1 else ()
        self._folder = folder / self.name.replace(", ", "-").replace(" ", "-")
        self._workers = workers
        self._has_limits = has_limits
        self._upstream = f"{groq_base_url}/openai/v1"
        self._port, self._valkey_port = free_port(), free_port()
        self._processes: dict[str, Process] = {}
        self.headers = {"Authorization": f"Bearer {_KEY}"}
        self.base_url = f"http://127.0.0.1:{self._port}"
        self.url = f"{self.base_url}/v1/chat/completions"

    @property
    def version(self) -> str:
        """Version of the package."""
        code = "from importlib.metadata import version; print(version('litellm'))"
        command = (str(ENVIRONMENT / "bin/python"), "-c", code)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    @property
    def parts(self) -> dict[str, int]:
        """Its process or the one that started its workers, and its Valkey."""
        return {name: process.pid for name, process in self._processes.items()}

    def start(self) -> None:
        """Start it and return when it answers.

        Raises:
            DidNotStart: It is not installed, or does not start.
        """
        program = ENVIRONMENT / "bin/litellm"
        if not program.exists():
            raise DidNotStart("it is not installed; the output of make says why")
        self._folder.mkdir()
        if self._has_limits:
            self._processes["valkey"] = self._start_valkey()
        # LiteLLM loads the module of the key from the folder of its configuration.
        (self._folder / _AUTHENTICATION.name).write_bytes(_AUTHENTICATION.read_bytes())
        configuration = self._folder / "litellm.yaml"
        configuration.write_text(json.dumps(self._configuration()), encoding="utf-8")
        command = (str(program), "--config", str(configuration), "--host", "127.0.0.1", "--port", str(self._port))
        # Loopback only: without this setting it would fetch its price list from GitHub.
        environment = plain_environment(LITELLM_LOCAL_MODEL_COST_MAP="True", PATH=f"{ENVIRONMENT}/bin:/usr/bin:/bin")
        # On a busy machine a worker may need longer to start than uvicorn's health check allows.
        workers = ("--num_workers", str(self._workers), "--timeout_worker_healthcheck", str(_START_SECONDS))
        self._processes["litellm"] = Process((*command, *workers), log=self._folder / "log", environment=environment)
        self._processes["litellm"].until_answers(f"{self.base_url}/health/liveliness", seconds=_START_SECONDS)

    def stop(self) -> None:
        """Stop it."""
        for process in reversed(self._processes.values()):
            process.stop()

    def charged(self) -> None:
        """Return None: without a database it does not count."""
        return

    def _start_valkey(self) -> Process:
        listen = ("--bind", "127.0.0.1", "--port", str(self._valkey_port), "--dir", str(self._folder))
        # Persistent, as the product's own.
        command = (valkey.find_server(""), *listen, "--save", "", "--appendonly", "yes")
        return Process(command, log=self._folder / "valkey.log", environment=plain_environment())

    def _configuration(self) -> dict[str, object]:
        parameters = {"model": f"groq/{MODEL}", "api_base": self._upstream, "api_key": "gsk_bench"}
        general: dict[str, object] = {"master_key": _KEY}
        settings: dict[str, object] = {"telemetry": False}
        if self._has_limits:
            general |= {"custom_auth": f"{_AUTHENTICATION.stem}.authenticate"}
            general |= {"coordination_redis": {"host": "127.0.0.1", "port": self._valkey_port}}
            settings |= {"callbacks": ["prometheus"]}
        return {
            "model_list": [{"model_name": self.model, "litellm_params": parameters}],
            "general_settings": general,
            "litellm_settings": settings,
        }
